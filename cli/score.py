"""`tfm score`: how unlikely each line, file, picture or series is to a run."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import DataError, TfmError, UsageError
from . import options as opt
from .names import of_run
from .prompts import Arriving
from .render import printable

if TYPE_CHECKING:
    from ..core.data.source import Source
    from ..core.protocols import ByteTokenizer, Sequence, Tokenizer
    from ..core.runs.run import Run
    from ..core.task import Task

PIECE = 1 << 18  # bytes of a line that are scored as one, as of a running text
TOGETHER = 1 << 17  # bytes of lines that are scored together
PAUSE = 0.1  # seconds after which what has arrived is scored, though more may follow


@dataclass(frozen=True)
class Item:
    """An item or, of a long one, a piece."""

    name: str
    sequence: Sequence
    ends: bool = True


@dataclass
class Total:
    """What the pieces of an item come to."""

    name: str
    nll: float = 0.0
    tokens: int = 0
    units: float = 0
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)


# Not TFM_TOKENS, nor `tokens` of a config file: they say how long to train.
by_token_option = click.option("--tokens", "by_token", is_flag=True, help="With each token's nats.")


@click.command("score", cls=opt.Command)
@click.argument("names", nargs=-1, metavar="[RUN] [FILE]...", shell_complete=of_run)
@opt.option("--heldout", is_flag=True, help="Score what the run holds out.")
@opt.option("--split", help="valid or test, with --heldout.  [default: the final score's]")
@by_token_option
@opt.option("--tsv", is_flag=True, help="nll, bits per unit, item: for sort.")
@opt.option("-0", "--null", is_flag=True, help="NUL between the items of standard input.")
@opt.option("--column", help="The column of a table that holds the items; default: the run's.")
@opt.checkpoint_option
@opt.device_option
@opt.runs_option
@opt.option("--json", "as_json", is_flag=True, envvar="TFM_JSON", help="JSON lines: the default.")
def command(
    names: tuple[str, ...],
    heldout: bool,
    split: str | None,
    by_token: bool,
    tsv: bool,
    null: bool,
    column: str | None,
    checkpoint: str,
    device: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Score items by RUN (the newest by default): nats and bits per unit, an item a line.

    Without FILE each line of standard input is an item (of pictures and series: all of it is one
    file). A FILE is one item, or as many as the run's task sees in it: lines where it was trained
    with --each line, pictures, series. Where lines are, the unlikeliest first:

    \b
        tfm score RUN --tsv < FILE | sort -r
    """
    if by_token and tsv:
        raise UsageError("--tokens: goes with JSON, not with --tsv")
    if heldout and len(names) > 1:
        raise UsageError("--heldout: scores what the run keeps; leave FILE away")
    if split is not None and not heldout:
        raise UsageError("--split: goes with --heldout")

    from ..core.runs.catalogue import open_run

    run = open_run(names[0] if names else None, Path(runs))
    run.check()
    task = run.task()
    tokenizer = run.tokenizer()
    of_bytes = task.byte_tokenizer(tokenizer)
    items: Iterator[Item | None]
    if heldout:
        items = _held(run, task, tokenizer, split)
    elif len(names) > 1 or of_bytes is None:
        paths = names[1:] or ("-",)
        items = _files(task, tokenizer, [run.source_like((path,), column) for path in paths])
    else:
        end = b"\0" if null else b"\n"
        items = _lines(task, of_bytes, Arriving(sys.stdin.buffer, end, PIECE))

    from ..core.ops.device import pick_device, use_threads

    use_threads(0)
    model = run.load_model(checkpoint, pick_device(device))
    on_terminal = sys.stdout.isatty()
    form = _Form(task, tokenizer, by_token, tsv)
    for total, pause in _scored(task, tokenizer, model, items, by_token):
        line = form.line(total)
        sys.stdout.buffer.write((printable(line) if on_terminal else line).encode() + b"\n")
        if pause:
            sys.stdout.buffer.flush()


# -- items ---------------------------------------------------------------------------------------


def _lines(task: Task, tokenizer: ByteTokenizer, arriving: Arriving) -> Iterator[Item | None]:
    """Each line; none where none has come for a while, or enough have."""
    number, wait, name, size = 1, None, None, 0
    while True:
        record = arriving.take(wait)
        if record is None:
            if arriving.over:
                return
            wait, size = None, 0
            yield None
            continue
        data, ends = record
        size += len(data)
        if size > TOGETHER:
            size = 0
            yield None
        wait = PAUSE
        try:
            sequence = task.encode_bytes(data, tokenizer, ends)
        except DataError as error:
            raise DataError(f"standard input, line {number}: {error}") from None
        if name is None:  # of a very long line, its beginning
            name = data.decode("utf-8", "replace")
        yield Item(name, sequence, ends)
        if ends:
            number, name = number + 1, None


def _files(task: Task, tokenizer: Tokenizer, sources: Iterable[Source]) -> Iterator[Item | None]:
    """The items of each file, by the task; a running text is one item."""
    for source in sources:
        try:
            held: Item | None = None
            for item in _of(task, tokenizer, source):
                if held is not None:
                    same = task.running and item.name == held.name
                    yield Item(held.name, held.sequence, not same)
                held = item
            if held is not None:
                yield held
        except DataError as error:
            raise DataError(str(error).replace("--data ", "", 1)) from error


def _of(task: Task, tokenizer: Tokenizer, source: Source) -> Iterator[Item]:
    from ..core.data.source import standard_input

    items = task.items(source)
    names = task.names(items)
    for sequence in task.sequences(items, tokenizer):
        name = next(names) if names else sequence.side.get("id", source.describe())
        yield Item(
            "-" if source.paths == ("-",) and name == str(standard_input()) else name, sequence
        )


def _held(run: Run, task: Task, tokenizer: Tokenizer, split: str | None) -> Iterator[Item | None]:
    """What the run holds out, by what it says where that is a text, by number otherwise."""
    of_bytes = task.byte_tokenizer(tokenizer)
    for number, sequence in enumerate(run.heldout(split or run.config["final_split"]), 1):
        name = sequence.side.get("id", str(number))
        if of_bytes is not None and not task.running:
            name = of_bytes.decode_bytes(sequence.ids).decode("utf-8", "replace")
        yield Item(name, sequence)


# -- scores --------------------------------------------------------------------------------------


def _scored(
    task: Task, tokenizer: Tokenizer, model: Any, items: Iterator[Item | None], each: bool
) -> Iterator[tuple[Total, bool]]:
    """The total of each item, and whether the next may take a while. What is given together, up
    to a pause, is scored together; an error comes after the scores of what came before it."""
    from ..core.score.likelihood import evaluate

    waiting: deque[Item] = deque()
    more, failed = True, None

    def until_pause() -> Iterator[Sequence]:
        nonlocal more, failed
        try:
            for item in items:
                if item is None:
                    return
                waiting.append(item)
                yield item.sequence
        except TfmError as error:
            failed = error
        more = False

    total: Total | None = None
    while more:
        for score in evaluate(model, tokenizer, until_pause()):
            item = waiting.popleft()
            total = total or Total(item.name)
            total.nll += score.nll
            total.tokens += score.tokens
            total.units += task.units([score.sequence])[task.unit]
            if each:
                given = score.sequence.given
                total.ids += score.sequence.ids[given:].tolist()
                total.nats += (score.nats * score.sequence.target_weight()[given:]).tolist()
            if item.ends:
                yield total, not waiting
                total = None
    if failed is not None:
        raise failed


class _Form:
    """How a score is written."""

    def __init__(self, task: Task, tokenizer: Tokenizer, each: bool, tsv: bool) -> None:
        self.unit, self.lossless, self.each, self.tsv = task.unit, tokenizer.lossless, each, tsv
        self.of_bytes = task.byte_tokenizer(tokenizer)

    def line(self, total: Total) -> str:
        exact = self.lossless and total.units > 0
        bits = total.nll / math.log(2) / total.units if exact else None
        if self.tsv:  # of one width, so that the order of letters is that of numbers
            name = total.name.replace("\r", "\\r").replace("\n", "\\n")
            return f"{total.nll:014.4f}\t{'-' if bits is None else f'{bits:.4f}'}\t{name}"
        record = {
            "schema": 1,
            "item": total.name,
            "unit": self.unit,
            "units": total.units,
            "tokens": total.tokens,
            "nll": total.nll,
            f"bits_per_{self.unit}": bits,
        }
        if self.each:
            record |= {"ids": total.ids, "nats": total.nats}
            if self.of_bytes is not None:
                pieces = self.of_bytes.pieces
                shown = [pieces[i] if i < len(pieces) else b"" for i in total.ids]
                record["pieces"] = [piece.decode("utf-8", "replace") for piece in shown]
        return json.dumps(record)
