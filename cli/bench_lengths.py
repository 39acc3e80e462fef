"""`tfm bench` of several architectures: times of training and decoding against the length."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.architectures import ARCHS
from ..core.chart import Axis, Chart, Line
from ..core.chart_layout import number
from .data_text import MAX_WIDTH, colours
from .render import columns, say

if TYPE_CHECKING:
    from ctypes import CDLL

    import torch

    from ..core.bench_lengths import Timed
    from ..core.config import ModelConfig, TrainConfig

LENGTHS = (64, 256, 1024, 4096)
LOOKS_BACK = ("attention", "attention-rnn")  # layers that read all past positions


@dataclass(frozen=True)
class Measure:
    """A time that is compared. key: of the JSON; scale: of the seconds, to `unit`; claim: the title
    of its chart."""

    key: str
    what: str
    unit: str
    scale: float
    claim: str


MEASURES = (
    Measure(
        "training",
        "training, in steps of {tokens:,} tokens",
        "µs per token",
        1e6,
        "At a fixed number of tokens a step, length costs only what attention adds",
    ),
    Measure(
        "sequences",
        "training step of {rows}",
        "ms",
        1e3,
        "A transformer trains on all tokens of a sequence in parallel; "
        "a recurrent network takes them one after another",
    ),
    Measure(
        "decoding",
        "decoding step after a prompt",
        "ms",
        1e3,
        "A decoded token takes longer after a longer prompt only where attention looks back",
    ),
)


def measure(
    found: dict[str, Any],
    archs: Sequence[str],
    contexts: Sequence[int],
    config: TrainConfig,
    device: torch.device,
    flags: Mapping[str, Any],
    library: CDLL | None,
    quiet: bool,
) -> None:
    """Adds to the object of `tfm bench --json` what is measured of each architecture at each
    length, the fitted exponents, and what was left out and why."""
    from ..core.architectures import model_config
    from ..core.bench_lengths import LengthBench
    from ..core.config import with_fields
    from ..core.errors import TfmError
    from ..core.ops.device import default_dtype
    from ..core.train.sizing import SHAPES

    lengths = sorted(set(contexts or LENGTHS))
    tokens = max(SHAPES[flags["size"]][1], lengths[-1])
    found |= {"lengths": lengths, "tokens_per_step": tokens, "rows": flags["rows"]}
    found |= {"sequences": [], "exponents": [], "left_out": []}
    for arch in archs:

        def model_of(context: int, arch: str = arch) -> ModelConfig:
            return model_config(arch, flags["size"], vocab_size=flags["vocab"], context=context)

        dtype = flags["dtype"] or default_dtype(device, model_of(lengths[0]))
        bench = LengthBench(
            with_fields(config, "train", {"dtype": dtype}),
            tokens,
            flags["rows"],
            device,
            flags["seconds"] / 2,
            found["read_bytes_per_second"],
            library,
        )
        done: list[Timed] = []
        for length in lengths:
            say(f"{arch}, length {length:,} ...", quiet)
            reason = bench.reason_against(done, length)
            try:
                done += [] if reason else [bench.measure(model_of, length)]
            except TfmError as error:  # out of memory
                reason = str(error)
            if reason:
                found["left_out"].append({"arch": arch, "context": length, "reason": reason})
        _add(found, arch, dtype, done)


def _add(found: dict[str, Any], arch: str, dtype: str, done: Sequence[Timed]) -> None:
    from ..core.bench_lengths import fitted_exponent, step_seconds

    peak = found["matmul_flops_per_second"][dtype]
    for timed in done:
        for key, speed in (("training", timed.training), ("sequences", timed.sequences)):
            utilisation = speed.tokens_per_second * speed.flops_per_token / peak
            more = {"utilisation": utilisation, "dtype": dtype, "seconds": step_seconds(speed)}
            found[key].append({"arch": arch, **asdict(speed), **more})
        seconds = timed.decoding_seconds
        found["decoding"].append(
            {"arch": arch, "context": timed.length, **asdict(timed.decoding), "seconds": seconds}
        )
    lengths = [timed.length for timed in done]
    compared = {
        "training": [timed.seconds_per_token for timed in done],
        "sequences": [timed.sequences_seconds for timed in done],
        "decoding": [timed.decoding_seconds for timed in done],
    }
    for key, times in compared.items():
        fit = fitted_exponent(lengths, times)
        if fit is not None:
            found["exponents"].append({"arch": arch, "of": key, **asdict(fit)})


def write(found: dict[str, Any], heading: str, plot: str | None, as_json: bool) -> None:
    """Prints the JSON, or heading, tables and charts, and draws the figure."""
    if as_json:
        click.echo(json.dumps(found))
    else:
        from ..core.chart_terminal import in_terminal

        width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
        drawn = [in_terminal(chart, width, colours()) for chart in charts(found)]
        click.echo("\n\n".join([heading, tables(found), *drawn]))
    if plot:
        from ..core.chart_file import to_file

        to_file(charts(found), Path(plot))


def _times(found: dict[str, Any], measure: Measure, arch: str) -> dict[int, float]:
    """Length -> the time of a measure, in its unit."""
    rows = [row for row in found[measure.key] if row["arch"] == arch]
    if measure.key == "training":
        return {row["context"]: measure.scale / row["tokens_per_second"] for row in rows}
    return {row["context"]: measure.scale * row["seconds"] for row in rows}


def _exponent(found: dict[str, Any], measure: Measure, arch: str) -> dict[str, Any] | None:
    wanted = (arch, measure.key)
    return next((e for e in found["exponents"] if (e["arch"], e["of"]) == wanted), None)


def _archs(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(found["arch"].split(",")))


def _what(found: dict[str, Any], measure: Measure) -> str:
    rows = "one sequence" if found["rows"] == 1 else f"{found['rows']} sequences"
    return measure.what.format(tokens=found["tokens_per_step"], rows=rows)


def _with_interval(fit: dict[str, Any] | None) -> str:
    if fit is None:
        return "–"
    interval = "" if fit["low"] is None else f" [{fit['low']:.2f}, {fit['high']:.2f}]"
    return f"{fit['value']:.2f}{interval}"


def tables(found: dict[str, Any]) -> str:
    """A table for each measure: a row an architecture, a column a length, then the exponent."""
    parts = []
    for measure in MEASURES:
        rows = [["length", *(f"{length:,}" for length in found["lengths"]), "exponent"]]
        for arch in _archs(found):
            times = _times(found, measure, arch)
            cells = [number(times[n], 3) if n in times else "–" for n in found["lengths"]]
            rows.append([arch, *cells, _with_interval(_exponent(found, measure, arch))])
        parts.append(f"{_what(found, measure)}: {measure.unit}\n{columns(rows, numbers=True)}")
    notes = ["exponent: the slope of log time on log length over these lengths [95 % interval]"]
    notes += [
        f"{o['arch']} at {o['context']:,}: left out, {o['reason']}" for o in found["left_out"]
    ]
    return "\n\n".join([*parts, "\n".join(notes)])


def charts(found: dict[str, Any]) -> list[Chart]:
    """The measured times of each measure and the power laws fitted to them."""
    return [_chart(found, measure) for measure in MEASURES if found[measure.key]]


def _chart(found: dict[str, Any], measure: Measure) -> Chart:
    lines = []
    for arch in _archs(found):
        times = _times(found, measure, arch)
        lines.append(Line(arch, list(times), list(times.values()), points=True, style="none"))
        fit = _exponent(found, measure, arch)
        if fit is not None:
            ends = [fit["shortest"], fit["longest"]]
            ys = [measure.scale * fit["scale"] * end ** fit["value"] for end in ends]
            lines.append(Line(arch, ends, ys, style="dashed"))
    return Chart(
        measure.claim,
        _verdict(found, measure),
        Axis("length (tokens)", log=True),
        Axis(f"{_what(found, measure)} ({measure.unit})", log=True),
        lines,
    )


def _verdict(found: dict[str, Any], measure: Measure) -> str:
    """The exponents, and the times at the longest length that all have in units of the first."""
    fits = {arch: _exponent(found, measure, arch) for arch in _archs(found)}
    said = []
    ranges = {(fit["shortest"], fit["longest"]) for fit in fits.values() if fit}
    for arch, fit in fits.items():
        if fit is not None:
            own = f" over {fit['shortest']:,} to {fit['longest']:,}" if len(ranges) > 1 else ""
            said.append(f"{arch} {_with_interval(fit)}{own}")
    text = ""
    if said:
        known = any(fit is not None and fit["low"] is not None for fit in fits.values())
        over = "" if len(ranges) > 1 else " over {:,} to {:,} tokens".format(*next(iter(ranges)))
        note = " [95 % interval]" if known else ", without an interval as there are two lengths"
        text = f"Exponent of time against length{over}{note}: {', '.join(said)}. "
    first, *others = _archs(found)
    times = {arch: _times(found, measure, arch) for arch in fits}
    common = set.intersection(*(set(each) for each in times.values()))
    if others and common:
        longest = max(common)
        ratios = [f"{a} {times[a][longest] / times[first][longest]:.2g}" for a in others]
        text += f"At {longest:,} tokens, in times of {first}: {', '.join(ratios)}."
    return f"{_decision(found, measure)}{text}".strip()


def _decision(found: dict[str, Any], measure: Measure) -> str:
    """Whether the claim of a measure held; empty where no architecture or interval tells."""
    from ..core.model.rnn import CELLS

    archs = _archs(found)
    if measure.key == "sequences":
        times = {arch: _times(found, measure, arch) for arch in archs}
        pairs = [
            (times[one], times[other])
            for one in _with_layers(archs, ("attention",))
            for other in _with_layers(archs, (*CELLS, "attention-rnn"))
        ]
        lengths = sorted({n for one, other in pairs for n in one.keys() & other.keys()})
        held = [n for n in lengths if all(a[n] < b[n] for a, b in pairs if n in a and n in b)]
        if not lengths:
            return ""
        if held in ([], lengths):
            return "Held. " if held else "Did not hold. "
        return f"Held at {', '.join(f'{n:,}' for n in held)} tokens only. "
    looking = _with_layers(archs, LOOKS_BACK)
    growing, flat = list[str](), list[str]()
    for arch in archs:
        fit = _exponent(found, measure, arch)
        if fit is not None and fit["low"] is not None:
            (growing if fit["low"] > 0 else flat).append(arch)
    wrong = [arch for arch in growing if arch not in looking]
    if measure.key == "decoding":  # where attention looks back, it must take longer
        wrong += [arch for arch in flat if arch in looking]
    if not (growing or flat):
        return ""
    return f"Did not hold for {', '.join(wrong)}. " if wrong else "Held. "


def _with_layers(archs: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The architectures that have layers of these kinds."""
    layers = {arch: str(ARCHS[arch].model.get("mixers", "attention")).split(",") for arch in archs}
    return [arch for arch in archs if set(layers[arch]) & set(kinds)]
