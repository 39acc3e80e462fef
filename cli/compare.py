"""`tfm compare`: a paired bootstrap test of whether one run is worse than another."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import AnswerNo, UsageError
from . import options as opt
from .names import complete_run
from .render import columns, say

if TYPE_CHECKING:
    from ..core.protocols import Tokenizer


@click.command("compare", cls=opt.Command)
@click.argument("a", metavar="A", shell_complete=complete_run)
@click.argument("b", metavar="B", shell_complete=complete_run)
@opt.part_option
@opt.option("--data", multiple=True, metavar="PATH", help="Data instead of held-out data.")
@opt.option("--column", help="The column of a table with the items.  [default: the run's]")
@opt.option(
    "--margin",
    type=opt.Real(0),
    default=0.0,
    show_default=True,
    help="Tolerated difference, in bits per unit.",
)
@opt.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@opt.device_option
@opt.runs_option
@opt.json_option
def command(
    a: str,
    b: str,
    part: str | None,
    data: tuple[str, ...],
    column: str | None,
    margin: float,
    seed: int,
    device: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare runs A and B on their common held-out items: the difference in bits per unit, with a
    95 % interval by paired bootstrap over items (for text: over blocks of at most 1,024 bytes).

    Exit code 5 if B is worse: the whole interval of B - A lies above --margin.
    """
    from ..core.runs.catalogue import open_run

    opened = [open_run(opt.part_of(name, part), Path(runs)) for name in (a, b)]
    for run in opened:
        run.check()
    tasks = [run.task() for run in opened]
    unit = tasks[0].unit
    if tasks[1].unit != unit:
        raise UsageError(
            f"{a} is scored in bits per {unit}, {b} in bits per {tasks[1].unit}: not comparable"
        )
    tokenizers = [run.tokenizer() for run in opened]
    same_tokens = _tokenizer_hash(tokenizers[0]) == _tokenizer_hash(tokenizers[1])
    if not same_tokens and not all(tokenizer.lossless for tokenizer in tokenizers):
        raise UsageError(
            f"{a} and {b} have different tokenizers that are not lossless: their likelihoods are "
            "not comparable"
        )

    why = tasks[0].incomparable(*tokenizers) if tasks[0].name == tasks[1].name else None
    if why:
        raise UsageError(f"{a} and {b} are not comparable: {why}")

    import numpy as np

    from ..core.ops.device import pick_device, use_threads
    from ..core.score.paired_bootstrap import CONFIDENCE, RESAMPLES, difference, scored

    use_threads(0)
    torch_device = pick_device(device)
    streams = []
    for run, task, tokenizer in zip(opened, tasks, tokenizers, strict=True):
        sequences: Any = run.heldout(run.config["final_split"])
        if data:
            read = task.items(run.source_like(data, column))
            read = task.conform(read, tokenizer, lambda text: say(text, quiet))
            sequences = task.sequences(read, tokenizer)
        model = run.load_model("last", torch_device)
        of_bytes = task.byte_tokenizer(tokenizer)
        pieces = of_bytes.pieces if of_bytes is not None else None
        streams.append(scored(model, tokenizer, sequences, _units_of(task), same_tokens, pieces))
    nats: list[list[Any]] = [[], []]
    sizes: list[Any] = []
    items = 0
    for one, other in zip_longest(*streams):
        if (
            one is None
            or other is None
            or one.content != other.content
            or (one.units.tolist() != other.units.tolist())
        ):
            if data:
                raise UsageError(
                    f"{a} and {b} read other items in --data: train both with the same --each, and "
                    "the same form of data"
                )
            raise UsageError(
                f"{a} and {b} do not hold out the same items; train both with the same data and "
                "--holdout, or compare on other data with --data"
            )
        items += 1
        nats[0].append(one.nats)
        nats[1].append(other.nats)
        sizes.append(one.units)
    by = [np.concatenate(each) if each else np.zeros(0) for each in nats]
    total = np.concatenate(sizes) if sizes else np.zeros(0)
    if len(total) < 2 or not total.sum():
        raise UsageError(f"{a} and {b} hold out {len(total)} item; a comparison needs at least 2")
    found = difference(by[0], by[1], total, seed)
    worse = found.low > margin
    bits = [float(each.sum() / math.log(2) / total.sum()) for each in by]
    result = {
        "schema": 1,
        "a": str(opened[0].path),
        "b": str(opened[1].path),
        "unit": unit,
        "units": float(total.sum()),
        "items": items,
        "blocks": len(total),
        f"bits_per_{unit}_a": bits[0],
        f"bits_per_{unit}_b": bits[1],
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "margin": margin,
        "worse": worse,
    }
    click.echo(json.dumps(result) if as_json else _table(result))
    if worse:
        raise AnswerNo(
            f"{b} is worse than {a} by at least {found.low:.4f} bits per {unit} (95 %)"
            + (f", more than the margin of {margin}" if margin else "")
        )


def _units_of(task: Any) -> Any:
    return lambda sequence: task.units([sequence])[task.unit]


def _tokenizer_hash(tokenizer: Tokenizer) -> str:
    """The SHA-256 of a tokenizer's kind and state."""
    state, arrays = tokenizer.state()
    digest = hashlib.sha256(json.dumps([type(tokenizer).__name__, state], sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def _table(result: dict[str, Any]) -> str:
    unit = result["unit"]
    head = columns(
        [
            ["", f"bits per {unit}"],
            [f"A  {result['a']}", f"{result[f'bits_per_{unit}_a']:.4f}"],
            [f"B  {result['b']}", f"{result[f'bits_per_{unit}_b']:.4f}"],
            ["B - A", f"{result['difference']:+.4f}"],
            ["95 % interval from", f"{result['low']:+.4f}"],
            ["to", f"{result['high']:+.4f}"],
        ],
        numbers=True,
    )
    verdict = (
        "B is worse"
        if result["worse"]
        else ("B is better" if result["high"] < 0 else "B is not significantly worse")
    )
    return f"{head}\n\n{verdict} ({result['blocks']:,} items or blocks)"
