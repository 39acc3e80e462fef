"""`tfm bench`: the speed of training and decoding on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..core.errors import ConfigError
from . import kernels
from . import options as opt
from .render import columns, say

DECODING_TOKENS = {1: 64, 32: 48}  # batch rows -> tokens decoded in each
BUSY = 0.3  # cores that other processes use: what is measured is then not the machine's speed


@click.command("bench", cls=opt.Command)
@opt.option("--size", default="tiny", show_default=True, help="nano, tiny, small, base, large.")
@opt.option(
    "--arch",
    default="transformer",
    show_default=True,
    metavar="NAME,NAME...",
    help="Architecture; several are compared at each context length.",
)
@opt.option(
    "--context",
    metavar="N,N...",
    help="Context lengths.  [default: that of the size; 64,256,1024,4096 to compare]",
)
@opt.option(
    "--rows",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Sequences of the training step whose time is compared across lengths.",
)
@opt.option(
    "--vocab", type=click.IntRange(1), default=1024, show_default=True, help="Vocabulary size."
)
@opt.option("--dtype", help="float32 or bfloat16.  [default: that of tfm train]")
@opt.option("--threads", type=click.IntRange(0), default=0, help="CPU threads.  [default: all]")
@opt.option(
    "--seconds",
    type=opt.Real(0),
    default=4.0,
    show_default=True,
    help="Time to train at each context length.",
)
@opt.option("--plot", metavar="FILE", help="Draw the comparison into FILE: .png, .svg or .pdf.")
@opt.device_option
@opt.json_option
def command(quiet: bool, as_json: bool, **flags: Any) -> None:
    """Measure this machine: matrix products, training and decoding of a model on random ids.

    Utilisation is the model's FLOP/s (6 FLOPs per parameter and token, plus attention) over the
    FLOP/s of a large matrix product in the same dtype.

    Several architectures, or --plot, compare times against the context length: of a training step
    of a fixed number of tokens, of a training step of --rows sequences, and of a decoding step
    after a prompt of that length; each with the exponent of a power law fitted to them.
    """
    contexts = _contexts(flags["context"])
    archs = list(dict.fromkeys(opt.listed(flags["arch"], "--arch")))
    compares = len(archs) > 1 or bool(flags["plot"])
    if flags["plot"]:
        from ..core.chart_file import check_plot

        check_plot(Path(flags["plot"]))
    import torch

    from ..core import bench
    from ..core.architectures import model_config
    from ..core.config import TrainConfig, with_fields
    from ..core.cores import Usage, allowed_cores
    from ..core.ops import native_calls
    from ..core.ops.device import default_dtype, pick_device, use_threads
    from ..core.train.backend import can_compile
    from ..core.train.sizing import SHAPES

    for arch in archs:
        shape = model_config(arch, flags["size"])  # fails early for unknown names
        if shape.encoder_layers:
            raise ConfigError(f"--arch {arch}: has an encoder; tfm bench measures decoders")
    device = pick_device(flags["device"])
    threads = use_threads(flags["threads"])
    default_context, batch_tokens = SHAPES[flags["size"]]
    shape = model_config(archs[0], flags["size"], vocab_size=flags["vocab"])
    compiled = kernels.compiled()
    native_calls.load(compiled)
    dtype = flags["dtype"] or default_dtype(device, shape)
    config = TrainConfig(steps=1_000_000, threads=threads, compile=can_compile(device))
    config = with_fields(config, "train", {"dtype": dtype})

    say("matrix products ...", quiet)
    usage = Usage()
    peaks = {
        name: bench.matmul_peak(device, getattr(torch, name), min(0.5, flags["seconds"]))
        for name in ("float32", "bfloat16")
    }
    read_bytes, others = bench.memory_bandwidth(device), usage.by_others()
    if others > BUSY:
        say(
            f"other processes use {others:.1f} of {allowed_cores()} cores: this machine alone is "
            "faster than what follows; measure again when it is quiet",
            quiet,
        )
    found: dict[str, Any] = {
        "schema": 1,
        "device": device.type,
        "threads": threads,
        "torch": torch.__version__,
        "arch": ",".join(archs),
        "size": flags["size"],
        "vocab_size": flags["vocab"],
        "dtype": dtype,
        "compile": config.compile,
        "matmul_flops_per_second": peaks,
        "read_bytes_per_second": read_bytes,
        "cores_used_by_others": others,
        "training": [],
        "decoding": [],
    }
    if compares:
        from . import bench_lengths

        bench_lengths.measure(found, archs, contexts, config, device, flags, compiled, quiet)
        bench_lengths.write(found, _heading(found), flags["plot"], as_json)
        return
    for context in contexts or [default_context]:
        say(f"training, context {context:,} ...", quiet)
        model = model_config(archs[0], flags["size"], vocab_size=flags["vocab"], context=context)
        rows = with_fields(config, "train", {"batch": max(1, batch_tokens // context)})
        ran = bench.measure_training_in_process(model, rows, device, flags["seconds"], compiled)
        rate = ran.tokens_per_second * ran.flops_per_token
        found["training"].append(
            {
                "context": context,
                "batch": ran.batch,
                "tokens_per_second": ran.tokens_per_second,
                "flops_per_token": ran.flops_per_token,
                "utilisation": rate / peaks[dtype],
                "peak_bytes": ran.peak_bytes,
            }
        )
    for draws, count in DECODING_TOKENS.items():
        say(f"decoding, batch of {draws} ...", quiet)
        model = model_config(
            archs[0],
            flags["size"],
            vocab_size=flags["vocab"],
            context=max(default_context, bench.PROMPT_TOKENS + count),
        )
        measured = bench.measure_decoding(model, device, draws, count, read_bytes, compiled)
        found["decoding"].append(asdict(measured))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(_tables(found))


def _contexts(text: str | None) -> list[int]:
    try:
        contexts = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        contexts = [0]
    if any(context < 1 for context in contexts):
        raise ConfigError(f"--context {text}: must be whole numbers such as 256,1024")
    return contexts


def _heading(found: dict[str, Any]) -> str:
    """The machine and the model."""
    peaks = found["matmul_flops_per_second"]
    rows = [
        ["device", f"{found['device']}, {found['threads']} threads, torch {found['torch']}"],
        [
            "matrix products",
            ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in peaks.items()),
        ],
        ["memory bandwidth", f"{found['read_bytes_per_second'] / 1e9:.1f} GB/s"],
        [
            "model",
            f"{found['arch']} {found['size']}, vocabulary {found['vocab_size']:,}, "
            f"{found['dtype']}",
        ],
    ]
    return columns(rows)


def _tables(found: dict[str, Any]) -> str:
    training = [["context", "batch", "tokens/s", "utilisation", "peak memory"]]
    for row in found["training"]:
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f} MB"
        training.append(
            [
                f"{row['context']:,}",
                str(row["batch"]),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['utilisation']:.0%}",
                memory,
            ]
        )
    decoding = [["batch", "weights", "tokens/s", "of the bandwidth limit", "first token"]]
    for row in found["decoding"]:
        decoding.append(
            [
                str(row["draws"]),
                row["dtype"],
                f"{row['tokens_per_second']:,.0f}",
                f"{row['tokens_per_second'] / row['limit']:.0%}",
                f"{1000 * row['first_token_seconds']:.1f} ms",
            ]
        )
    parts = [_heading(found)]
    parts += [
        f"{name}\n{columns(rows, numbers=True)}"
        for name, rows in (("training", training), ("decoding", decoding))
    ]
    return "\n\n".join(parts)
