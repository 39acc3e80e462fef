"""On one GPU: training steps against nanoGPT's, and sampling against its `generate`.

python benchmarks/gpu.py [--nanogpt CLONE] [--steps 20] [--rounds 3] [--only SHAPE|decoding]

GPT-2's 124M at 12 x 1024 tokens of 50,304 ids is the setting of nanoGPT's bench.py; 32 x 1024 is
tfm's batch for `large`; 10.65M at 64 x 256 is nanoGPT's recipe for Shakespeare on a GPU.
tfm runs as in a long training (bfloat16, torch.compile of blocks, CUDA graphs of passes), once with
its default architecture and Muon, once with GPT-2's architecture and AdamW as in bench.py, without
biases and clipping; nanoGPT runs with torch.compile. The programs take turns: `--steps` steps after
warm-up and compilation, `--rounds` times. Utilisation is the model FLOP/s over that of a product
of two 8192 x 8192 matrices in bfloat16. Memory is torch's peak of allocated memory.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import numpy as np
import torch
from _common import heading, table

from tfm.core import bench
from tfm.core.architectures import model_config
from tfm.core.config import ModelConfig, SampleConfig, TrainConfig
from tfm.core.decode.batch_decoder import Decoder, for_decoding
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence
from tfm.core.train.loop import train
from tfm.core.train.optim import make_optimizers

GPU = torch.device("cuda")
# name -> layers, heads, width, vocabulary, context, batch
SHAPES = {
    "124M at 12 x 1024": (12, 12, 768, 50304, 1024, 12),
    "124M at 32 x 1024": (12, 12, 768, 50304, 1024, 32),
    "10.65M at 64 x 256": (6, 6, 384, 65, 256, 64),
}
WARMUP_STEPS = 8  # not timed
LENGTH = 240  # tokens sampled


def ours(
    shape: tuple[int, ...], arch: str, wiring: dict[str, Any] | None = None, **settings: Any
) -> tuple[Callable[[], object], float]:
    """(a function that runs one step, FLOPs per token)."""
    layers, heads, width, vocab, context, batch = shape
    config = TrainConfig(steps=1_000_000, batch=batch, dtype="bfloat16", **settings)
    model = SequenceModel(
        model_config(
            arch,
            "tiny",
            vocab_size=vocab,
            context=context,
            layers=layers,
            width=width,
            heads=heads,
            **(wiring or {}),
        )
    ).to(GPU)
    data: Any = bench.RandomRows(vocab, context)
    steps = train(model, data, config, make_optimizers(model, config))
    return lambda: next(steps), model.flops_per_token()


def gpt(clone: Path, *dims: int) -> Any:
    return _common.nanogpt(clone, *dims).to(GPU)


def nanogpt(clone: Path, shape: tuple[int, ...]) -> Callable[[], object]:
    """As in its bench.py: batches already on the device, torch.compile, fused AdamW."""
    *dims, batch = shape
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = gpt(clone, *dims)
    optimizer = model.configure_optimizers(1e-2, 1e-4, (0.9, 0.95), "cuda")
    compiled = torch.compile(model)
    ids = torch.randint(0, dims[3], (batch, dims[4] + 1), device=GPU)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            _, loss = compiled(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def timed(step: Callable[[], object], steps: int, rounds: int) -> tuple[list[float], float, float]:
    """(seconds per step of each round, seconds of warm-up, peak gigabytes)."""
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(WARMUP_STEPS):
        step()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / steps)
    return times, first, torch.cuda.max_memory_allocated() / 1e9


def training(name: str, peak: float, args: argparse.Namespace) -> None:
    shape = SHAPES[name]
    makers: dict[str, Callable[[], tuple[Callable[[], object], float]]] = {
        "tfm, the default": lambda: ours(shape, "transformer", compile=True),
        "tfm, the default, not compiled": lambda: ours(shape, "transformer"),
        "tfm, GPT-2, AdamW": lambda: ours(
            shape, "gpt2", {"bias": False}, optimizer="adamw", clip=0.0, compile=True
        ),
    }
    if shape[-1] * shape[-2] > 20_000:  # shown for the others
        del makers["tfm, the default, not compiled"]
    if args.nanogpt:
        makers["nanoGPT, compiled"] = lambda: (nanogpt(args.nanogpt, shape), 0.0)
    tokens = shape[4] * shape[5]
    rows: list[list[object]] = [
        [name, "ms a step", "least", "most", "tokens/s", "utilisation", "GB", "s to begin"]
    ]
    gpt_flops = 0.0
    for kind, make in makers.items():
        step, flops = make()
        gpt_flops = flops if "GPT-2" in kind else gpt_flops
        times, first, peak_gb = timed(step, args.steps, args.rounds)
        second = statistics.median(times)
        rows.append(
            [
                kind,
                *(f"{1e3 * t:.2f}" for t in (second, min(times), max(times))),
                f"{tokens / second:,.0f}",
                f"{tokens / second * (flops or gpt_flops) / peak:.1%}",
                f"{peak_gb:.1f}",
                f"{first:.1f}",
            ]
        )
        del step
        gc.collect()
        torch.cuda.empty_cache()
    table(rows)


def drawing(shape: tuple[int, ...], rows: int) -> Callable[[], object]:
    layers, heads, width, vocab, context, _ = shape
    model = SequenceModel(
        ModelConfig(vocab_size=vocab, context=context, layers=layers, width=width, heads=heads)
    )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    ready, _ = for_decoding(model.to(GPU).eval(), rows)
    tokenizer: Any = bench._AnyIdTokenizer(vocab)

    def draw() -> None:
        decoder = Decoder(ready, tokenizer, SampleConfig(), rows, LENGTH + 1)
        for number in range(rows):
            decoder.begin(Sequence(np.zeros(1, np.int64)), LENGTH, draw=number)
        for _ in range(LENGTH):
            decoder.step()

    return draw


def decoding(args: argparse.Namespace) -> None:
    for name in ("10.65M at 64 x 256", "124M at 12 x 1024"):
        shape = SHAPES[name]
        for rows in (1, 32):
            calls = {"tfm": drawing(shape, rows)}
            if args.nanogpt:
                model = gpt(args.nanogpt, *shape[:5]).eval().to(torch.bfloat16)
                ids = torch.zeros(rows, 1, dtype=torch.long, device=GPU)
                calls["nanoGPT, bfloat16"] = lambda model=model, ids=ids: model.generate(
                    ids, LENGTH
                )
            lines: list[list[object]] = [
                [f"{name.split()[0]}, {LENGTH} new tokens x {rows}", "tokens/s", "least", "most"]
            ]
            for kind, call in calls.items():
                call()
                times = []
                for _ in range(args.rounds):
                    began = time.perf_counter()
                    call()
                    torch.cuda.synchronize()
                    times.append(time.perf_counter() - began)
                median = statistics.median(times)
                rates = (f"{rows * LENGTH / t:,.0f}" for t in (median, max(times), min(times)))
                lines.append([kind, *rates])
            table(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nanogpt", type=Path, metavar="CLONE")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*SHAPES, "decoding"])
    args = parser.parse_args()
    heading()
    peak = bench.matmul_peak(GPU, torch.bfloat16, 1.0)
    read = bench.memory_bandwidth(GPU)
    print(
        f"{torch.cuda.get_device_name()}: bfloat16 {peak / 1e12:,.0f} TFLOP/s, "
        f"reads {read / 1e9:,.0f} GB/s\n"
    )
    for name in SHAPES:
        if args.only in (None, name):
            training(name, peak, args)
    if args.only in (None, "decoding"):
        decoding(args)


if __name__ == "__main__":
    main()
