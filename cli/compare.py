"""`tfm compare`: a paired bootstrap test of whether one run is worse than another."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import AnswerNo, UsageError
from . import kernels
from . import options as opt
from .names import complete_run
from .render import columns, loops_shown, say

if TYPE_CHECKING:
    from ..core.protocols import Tokenizer
    from ..core.runs.run import Run
    from ..core.task import Task


@click.command("compare", cls=opt.Command)
@click.argument("a", metavar="A", shell_complete=complete_run)
@click.argument("b", metavar="B", shell_complete=complete_run)
@opt.part_option
@opt.option("--data", multiple=True, metavar="PATH", help="Data instead of held-out data.")
@opt.option("--column", help="The column of a table with the items.  [default: the run's]")
@opt.data_holdout_option
@opt.option(
    "--metric",
    metavar="NAME",
    help="A metric of the task, such as mase, accuracy.  [default: bits]",
)
@opt.option("--protocol", metavar="NAME", help="With --metric: last, rolling (series).")
@opt.option(
    "--stride",
    type=click.IntRange(1),
    metavar="N",
    help="With --metric: windows N points apart.  [default: they do not overlap]",
)
@opt.option(
    "--margin",
    type=opt.Real(0),
    default=0.0,
    show_default=True,
    help="Tolerated difference, in bits per unit or in the metric.",
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
    holdout: float | None,
    metric: str | None,
    protocol: str | None,
    stride: int | None,
    margin: float,
    seed: int,
    device: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare runs A and B on their common held-out items: the difference in bits per unit, or in a
    metric, with a 95 % interval by paired bootstrap over items (for text: over blocks of at most
    1,024 bytes; for a metric of series: over series, or over windows where series are few).

    Exit code 5 if B is worse: the whole interval lies beyond --margin.
    """
    from ..core.runs.catalogue import open_run

    kernels.compile_in_background()
    for flag, value in (("--protocol", protocol), ("--stride", stride)):
        if value is not None and metric is None:
            raise UsageError(f"{flag}: needs --metric")
    if holdout is not None and not data:
        raise UsageError("--holdout: a part of --data")
    opened = [open_run(opt.part_of(name, part), Path(runs)) for name in (a, b)]
    for run in opened:
        run.check()
    source = _Data(data, column, holdout, stride)
    both = _Both((a, b), opened, device, source, lambda text: say(text, quiet))

    from ..core.score.paired_bootstrap import CONFIDENCE, RESAMPLES, difference

    with loops_shown(quiet):
        blocks = both.bits() if metric is None else both.metric(metric, protocol)
    total = blocks.under
    if len(total) < 2 or not total.sum():
        more = ""
        if metric and protocol is None:
            more = "; --protocol rolling has more windows"
        elif data and holdout is None:
            more = "; --holdout 0.2 scores a fifth of --data"
        raise UsageError(
            f"{a} and {b} hold out {len(total)} item; a comparison needs at least 2{more}"
        )
    found = difference(*blocks.over, total, seed)
    worse = found.high < -margin if blocks.higher else found.low > margin
    result = {
        "schema": 1,
        "a": str(opened[0].path),
        "b": str(opened[1].path),
        "metric": blocks.name,
        **blocks.about,
        "blocks": len(total),
        f"{blocks.name}_a": float(blocks.over[0].sum() / total.sum()),
        f"{blocks.name}_b": float(blocks.over[1].sum() / total.sum()),
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "margin": margin,
        "worse": worse,
    }
    click.echo(json.dumps(result) if as_json else _table(result, blocks.higher))
    if worse:
        least = -found.high if blocks.higher else found.low
        raise AnswerNo(
            f"{b} is worse than {a} by at least {least:.4f} {_words(blocks.name)} (95 %)"
            + (f", more than the margin of {margin}" if margin else "")
        )


@dataclass(frozen=True)
class Blocks:
    """A metric as ratios of sums over blocks, which are resampled: numerators (N,) of both runs and
    their common denominators (N,). higher: whether more is better; about: fields of the result."""

    name: str
    over: tuple[Any, Any]
    under: Any
    about: dict[str, Any]
    higher: bool = False


@dataclass(frozen=True)
class _Data:
    """What is scored: data instead of held-out data, or a part of it; windows some points apart."""

    paths: tuple[str, ...]
    column: str | None
    holdout: float | None
    stride: int | None


class _Both:
    """Two runs and the items on which they are compared."""

    def __init__(
        self,
        names: tuple[str, str],
        runs: list[Run],
        device: str,
        data: _Data,
        note: Callable[[str], None],
    ) -> None:
        self.a, self.b = names
        self.runs, self.data, self.note = runs, data, note
        self.tasks = [run.task() for run in runs]
        self.tokenizers = [run.tokenizer() for run in runs]
        self.device = device

    def models(self) -> Iterator[tuple[Task, Tokenizer, Any, Any]]:
        """(task, tokenizer, model, sequences to score) of each run, one after the other."""
        from ..core.ops.device import pick_device, use_threads

        use_threads(0)
        kernels.use_kernels()
        device = pick_device(self.device)
        for run, task, tokenizer in zip(self.runs, self.tasks, self.tokenizers, strict=True):
            sequences: Any = run.heldout(run.config["final_split"])
            if self.data.paths:
                read = task.items(run.source_like(self.data.paths, self.data.column))
                read = task.conform(read, tokenizer, self.note)
                part = self.data.holdout
                read = read if part is None else task.split(read, part)[1]
                sequences = task.sequences(read, tokenizer)
            if self.data.stride is not None:
                if not task.slides:
                    raise UsageError(f"--stride: the {task.name} task has no windows of its own")
                sequences = task.slide(sequences, tokenizer, self.data.stride)
            yield task, tokenizer, run.load_model("last", device), sequences

    def bits(self) -> Blocks:
        """Bits per unit. UsageError where the runs predict other things, or other items."""
        import numpy as np

        from ..core.score.paired_bootstrap import scored

        a, b, unit = self.a, self.b, self.tasks[0].unit
        if self.tasks[1].unit != unit:
            raise UsageError(
                f"{a} is scored in bits per {unit}, {b} in bits per {self.tasks[1].unit}: not "
                "comparable"
            )
        same_tokens = _tokenizer_hash(self.tokenizers[0]) == _tokenizer_hash(self.tokenizers[1])
        if not same_tokens and not all(tokenizer.lossless for tokenizer in self.tokenizers):
            known = self._measures()
            instead = f"; compare them by --metric {', '.join(known)}" if known else ""
            raise UsageError(
                f"{a} and {b} have different tokenizers that are not lossless: their likelihoods "
                f"are not comparable{instead}"
            )
        same_task = self.tasks[0].name == self.tasks[1].name
        why = self.tasks[0].incomparable(*self.tokenizers) if same_task else None
        if why:
            raise UsageError(f"{a} and {b} are not comparable: {why}")
        streams = []
        for task, tokenizer, model, sequences in self.models():
            of_bytes = task.byte_tokenizer(tokenizer)
            pieces = of_bytes.pieces if of_bytes is not None else None
            units = _units_of(task)
            streams.append(scored(model, tokenizer, sequences, units, same_tokens, pieces))
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
                raise self._other_items()
            items += 1
            nats[0].append(one.nats)
            nats[1].append(other.nats)
            sizes.append(one.units)
        bits = [np.concatenate([*each, np.zeros(0)]) / math.log(2) for each in nats]
        total = np.concatenate([*sizes, np.zeros(0)])
        about = {"unit": unit, "units": float(total.sum()), "items": items}
        return Blocks(f"bits_per_{unit}", (bits[0], bits[1]), total, about)

    def _measures(self) -> list[str]:
        """The metrics that both tasks measure with these tokenizers."""
        pairs = zip(self.tasks, self.tokenizers, strict=True)
        one, other = (task.measures(tokenizer) for task, tokenizer in pairs)
        return [name for name in one if name in other]

    def metric(self, name: str, protocol: str | None) -> Blocks:
        """A metric of the task. UsageError where the runs lack it, or predict other items."""
        import numpy as np

        from ..core.score.paired_bootstrap import MIN_BLOCKS

        known = self._measures()
        if name not in known:
            bits = f"without --metric, bits per {self.tasks[0].unit} are compared"
            raise UsageError(
                f"--metric {name}: {self.a} and {self.b} have {', '.join(known) or 'none'}; {bits}"
            )
        one, other = (
            task.terms(model, tokenizer, sequences, protocol)
            for task, tokenizer, model, sequences in self.models()
        )
        if list(one.contents) != list(other.contents):
            raise self._other_items()
        same = one.basis.get(name) == other.basis.get(name)
        if not same or not np.array_equal(one.ratios[name][1], other.ratios[name][1]):
            raise UsageError(
                f"{self.a} and {self.b} measure {name} by other standards: train both with the "
                "same data and --season"
            )
        by_group = len(set(one.groups)) >= MIN_BLOCKS
        over, under = zip(
            *(t.by_group(name) if by_group else t.ratios[name] for t in (one, other)), strict=True
        )
        about = {"items": len(one.contents), "block": "group" if by_group else "item"}
        higher = self.tasks[0].measures(self.tokenizers[0])[name]
        return Blocks(name, (over[0], over[1]), under[0], about, higher)

    def _other_items(self) -> UsageError:
        if self.data.paths:
            return UsageError(
                f"{self.a} and {self.b} read other items in --data: train both with the same "
                "--each, and the same form of data"
            )
        return UsageError(
            f"{self.a} and {self.b} do not hold out the same items; train both with the same data "
            "and --holdout, or compare on other data with --data"
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


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _table(result: dict[str, Any], higher: bool) -> str:
    name = result["metric"]
    head = columns(
        [
            ["", _words(name)],
            [f"A  {result['a']}", f"{result[f'{name}_a']:.4f}"],
            [f"B  {result['b']}", f"{result[f'{name}_b']:.4f}"],
            ["B - A", f"{result['difference']:+.4f}"],
            ["95 % interval from", f"{result['low']:+.4f}"],
            ["to", f"{result['high']:+.4f}"],
        ],
        numbers=True,
    )
    better = result["low"] > 0 if higher else result["high"] < 0
    verdict = "B is better" if better else "B is not significantly worse"
    verdict = "B is worse" if result["worse"] else verdict
    return f"{head}\n\n{verdict} ({result['blocks']:,} items or blocks)"
