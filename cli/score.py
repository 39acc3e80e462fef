"""`tfm score`: the negative log-likelihood of each line, file, image or series under a run."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import DataError, TfmError, UsageError
from . import options as opt
from .launch import nproc_option
from .names import complete_run
from .predictions import check_predictions, predictions_option
from .processes import together
from .prompts import RecordReader
from .render import printable, say
from .tokenize import run_and_files

if TYPE_CHECKING:
    from ..core.data.source import Source
    from ..core.protocols import ByteTokenizer, Sequence, Tokenizer
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.request import Note

MAX_PIECE_BYTES = 1 << 18  # a longer line is scored in several pieces
MAX_GROUP_BYTES = 1 << 17  # of lines that are scored together
MAX_WAIT_SECONDS = 0.1  # for more lines, before those that have arrived are scored


@dataclass(frozen=True)
class Item:
    """An item, or a piece of a long item."""

    name: str
    sequence: Sequence
    is_last: bool = True  # piece of its item


@dataclass
class Total:
    """The sums over all pieces of an item."""

    name: str
    nll: float = 0.0
    tokens: int = 0
    units: float = 0
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)


# Does not read TFM_TOKENS or `tokens` of a config file: those set the length of training.
by_token_option = click.option("--tokens", "by_token", is_flag=True, help="Add each token's nats.")


@click.command("score", cls=opt.Command)
@click.argument("names", nargs=-1, metavar="[RUN] [FILE]...", shell_complete=complete_run)
@opt.part_option
@opt.option("--heldout", is_flag=True, help="Score the held-out items of the run.")
@opt.option("--split", help="With --heldout: valid or test.  [default: that of the final score]")
@by_token_option
@opt.option("--tsv", is_flag=True, help="Print nll, bits per unit and item as sortable TSV.")
@opt.option("-0", "--null", is_flag=True, help="NUL, not newline, ends the items of stdin.")
@opt.option("--column", help="The column of a table with the items.  [default: the run's]")
@predictions_option
@opt.checkpoint_option
@nproc_option("Score")
@opt.device_option
@opt.runs_option
@opt.option("--json", "as_json", is_flag=True, envvar="TFM_JSON", help="JSON lines (the default).")
def command(
    names: tuple[str, ...],
    part: str | None,
    heldout: bool,
    split: str | None,
    by_token: bool,
    tsv: bool,
    null: bool,
    column: str | None,
    predictions: str | None,
    checkpoint: str,
    nproc: int,
    device: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Print the negative log-likelihood of items under RUN (the newest by default), in nats and
    in bits per unit, one item per line.

    Without FILE, each line of standard input is an item (for images and series, standard input is
    one file). A FILE is one item, or several: its lines for a run trained with --each line, the
    rows of a table, its images, its series. To list the least likely lines first:

    \b
        tfm score RUN --tsv < FILE | sort -r
    """
    if by_token and tsv:
        raise UsageError("--tokens: needs JSON output, not --tsv")
    name, files = run_and_files(names, runs)
    if heldout and files:
        raise UsageError("--heldout: scores the run's held-out items; omit FILE")
    if predictions == "-":
        raise UsageError("--predictions -: the scores go to stdout; name a file")
    check_predictions(predictions)
    if split is not None and not heldout:
        raise UsageError("--split: needs --heldout")
    with together(nproc, device) as team:
        from ..core.ops.device import pick_device, use_threads
        from ..core.runs.catalogue import open_run

        run = open_run(opt.part_of(name, part), Path(runs))
        run.check()
        task = run.task()
        tokenizer = run.tokenizer()
        of_bytes = task.byte_tokenizer(tokenizer)
        items: Iterator[Item | None]
        if heldout:
            items = _heldout_items(run, task, tokenizer, split)
        elif files or of_bytes is None or column is not None:
            paths = files or ("-",)

            def source_of(path: str) -> Source:
                return run.source_like((path,), column)

            items = _files(task, tokenizer, paths, source_of, lambda text: say(text, quiet))
        else:
            separator = b"\0" if null else b"\n"
            reader = RecordReader(sys.stdin.buffer, separator, MAX_PIECE_BYTES)
            items = _lines(task, of_bytes, reader)

        use_threads(0)
        team.tell(run, checkpoint)
        model = run.load_model(checkpoint, pick_device(team.device))
        on_terminal = sys.stdout.isatty()
        formatter = _Formatter(task, tokenizer, by_token, tsv)
        scored: list[tuple[str, Sequence]] = []
        if predictions is not None:
            task.predict(model, tokenizer, ())  # fails before anything is scored
            items = _kept(items, scored)
        with team.lead(model, tokenizer, task):
            for total, flush in _totals(task, tokenizer, model, items, by_token):
                line = formatter.line(total)
                sys.stdout.buffer.write(_bytes(printable(line) if on_terminal else line))
                if flush:
                    sys.stdout.buffer.flush()
            if predictions is not None:
                from .predictions import write_predictions

                found = list(task.predict(model, tokenizer, (sequence for _, sequence in scored)))
                write_predictions(Path(predictions), [name for name, _ in scored], found)


def _bytes(line: str) -> bytes:
    """A line as bytes; names of files that are not UTF-8 are the bytes that they are."""
    return line.encode("utf-8", "surrogateescape") + b"\n"


def _kept(items: Iterator[Item | None], kept: list[tuple[str, Sequence]]) -> Iterator[Item | None]:
    """The same items, whose names and sequences are appended to `kept`."""
    for item in items:
        if item is not None:
            kept.append((item.name, item.sequence))
        yield item


# -- items ---------------------------------------------------------------------------------------


def _lines(task: Task, tokenizer: ByteTokenizer, reader: RecordReader) -> Iterator[Item | None]:
    """The lines as items. None ends a group to score together: when no line has arrived for
    MAX_WAIT_SECONDS, or the group has MAX_GROUP_BYTES."""
    number, wait, name, size = 1, None, None, 0
    while True:
        record = reader.take(wait)
        if record is None:
            if reader.at_end:
                return
            wait, size = None, 0
            yield None
            continue
        data, is_last = record
        size += len(data)
        if size > MAX_GROUP_BYTES:
            size = 0
            yield None
        wait = MAX_WAIT_SECONDS
        try:
            sequence = task.encode_bytes(data, tokenizer, is_last)
        except DataError as error:
            kind = "line" if reader.separator == b"\n" else "record"
            raise DataError(f"standard input, {kind} {number}: {error}") from None
        if name is None:  # the first piece names a very long line
            name = data.decode("utf-8", "replace")
        yield Item(name, sequence, is_last)
        if is_last:
            number, name = number + 1, None


def _files(
    task: Task,
    tokenizer: Tokenizer,
    paths: Iterable[str],
    source_of: Callable[[str], Source],
    note: Note,
) -> Iterator[Item | None]:
    """The items that the task finds in each file; a running text is one item."""
    for path in paths:
        try:
            source = source_of(path)
            previous: Item | None = None
            for name, sequence in _source_items(task, tokenizer, source, note):
                if previous is not None:
                    yield replace(previous, is_last=name is not None)
                    name = name or previous.name
                previous = Item(name or source.describe(), sequence)
            if previous is not None:
                yield previous
        except DataError as error:
            raise DataError(str(error).replace("--data ", "", 1)) from error


def _source_items(
    task: Task, tokenizer: Tokenizer, source: Source, note: Note
) -> Iterator[tuple[str | None, Sequence]]:
    """(name, sequence) of each; the name is None where a sequence goes on with the item before."""
    items = task.conform(task.items(source), tokenizer, note)
    names = task.names(items)
    for sequence in task.sequences(items, tokenizer):
        name = next(names) if names else sequence.side.get("id", source.describe())
        yield "-" if source.paths == ("-",) and name == "standard input" else name, sequence


def _heldout_items(
    run: Run, task: Task, tokenizer: Tokenizer, split: str | None
) -> Iterator[Item | None]:
    """The held-out items of a run. A text item is named by its text, another one by its id or
    number."""
    of_bytes = task.byte_tokenizer(tokenizer)
    for number, sequence in enumerate(run.heldout(split or run.config["final_split"]), 1):
        name = sequence.side.get("id", str(number))
        if of_bytes is not None and not task.running:
            name = of_bytes.decode_bytes(sequence.ids).decode("utf-8", "replace")
        yield Item(name, sequence)


# -- scores --------------------------------------------------------------------------------------


def _totals(
    task: Task, tokenizer: Tokenizer, model: Any, items: Iterator[Item | None], by_token: bool
) -> Iterator[tuple[Total, bool]]:
    """(the total of an item, whether it is the last one of its group). The items up to a None in
    `items` are a group, which is scored together. An error in `items` is raised after the totals
    of the items before it."""
    from ..core.score.likelihood import evaluate

    waiting: deque[Item] = deque()
    more, failed = True, None

    def next_group() -> Iterator[Sequence]:
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
        for score in evaluate(model, tokenizer, next_group()):
            item = waiting.popleft()
            total = total or Total(item.name)
            total.nll += score.nll
            total.tokens += score.tokens
            total.units += task.units([score.sequence])[task.unit]
            if by_token:
                given = score.sequence.given
                total.ids += score.sequence.ids[given:].tolist()
                total.nats += (score.nats * score.sequence.target_weight()[given:]).tolist()
            if item.is_last:
                yield total, not waiting
                total = None
    if failed is not None:
        raise failed


class _Formatter:
    """Formats totals as JSON or TSV."""

    def __init__(self, task: Task, tokenizer: Tokenizer, by_token: bool, tsv: bool) -> None:
        self.unit, self.lossless = task.unit, tokenizer.lossless
        self.by_token, self.tsv = by_token, tsv
        self.of_bytes = task.byte_tokenizer(tokenizer)

    def line(self, total: Total) -> str:
        exact = self.lossless and total.units > 0
        bits = total.nll / math.log(2) / total.units if exact else None
        if self.tsv:  # a fixed width, so that a plain `sort` sorts by number
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
        if self.by_token:
            record |= {"ids": total.ids, "nats": total.nats}
            if self.of_bytes is not None:
                pieces = self.of_bytes.pieces
                found = [pieces[i] if i < len(pieces) else b"" for i in total.ids]
                record["pieces"] = [piece.decode("utf-8", "replace") for piece in found]
        return json.dumps(record)
