"""What `tfm data` prints: the findings of each domain as text or as JSON."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .render import columns, printable

if TYPE_CHECKING:
    from ..core.inspection.inspect import Domain, Findings
    from ..core.inspection.samples import Shown
    from ..core.task import DataWarning
    from ..core.train.examine import Examined

MAX_WIDTH = 100  # columns of an item in a pipe or a wide terminal


def colours() -> bool:
    """Whether stdout shows colours: NO_COLOR, FORCE_COLOR and TERM=dumb are honoured."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True)
class Printed:
    """The findings of one domain; name: of a part of several, else empty."""

    name: str
    part: Domain
    findings: Findings
    warnings: list[DataWarning]

    def record(self) -> dict[str, Any]:
        """The figures, the shown items and the warnings for JSON."""
        task, tokenizer = self.part.task, self.part.tokenizer
        return {
            "task": task.name,
            "unit": task.unit,
            "vocab_size": tokenizer.vocab_size,
            "splits": self.findings.splits,
            "sampled": self.findings.sampled,
            "items": [
                {
                    "split": shown.split,
                    "number": shown.number,
                    "id": shown.sequence.side.get("id"),
                    "label": task.label(shown.sequence, tokenizer),
                    "given": shown.sequence.given,
                    "ids": shown.sequence.ids.tolist(),
                }
                for shown in self.findings.shown
            ],
            "warnings": [asdict(warning) for warning in self.warnings],
        }


def as_text(examined: Examined, printed: list[Printed], width: int, colour: bool) -> Iterator[str]:
    """The lines for people: what was read, a table a domain, items, and at last the warnings."""
    task = examined.domain.task
    read = examined.description.lines if examined.description else ()
    for line in (f"{task.name}: {examined.source}", *read):
        yield from textwrap.wrap(printable(line), width)
    for each in printed:
        tokenizer = each.part.tokenizer
        spec = "" if each.name else f"{printable(examined.tokenizer_spec)}, "
        title = f"{each.name}: " if each.name else ""
        yield ""
        yield f"{title}tokenizer: {spec}{tokenizer.vocab_size:,} ids"
        yield _table(each)
        for shown in each.findings.shown:
            yield ""
            yield _heading(each, shown, colour)
            item = each.part.task.show(shown.sequence, tokenizer, min(width, MAX_WIDTH), colour)
            yield item
    yield ""
    count = 0
    for each in printed:
        for warning in each.warnings:
            count += 1
            yield _warning(each.name, warning, colour)
    if not count:
        yield "no warnings"


def _table(each: Printed) -> str:
    """The figures of each split."""
    unit = each.part.task.unit
    units = [] if unit == "token" else [f"{unit}s"]
    names = ["items", *units, "tokens", "shortest", "median", "longest"]
    splits = each.findings.splits
    with_bytes = any(figures.get("bytes_per_token") for figures in splits.values())
    rows = [["", *names, *(["bytes a token"] if with_bytes else [])]]
    for split, figures in splits.items():
        keys = ["items", *(["units"] if units else []), *names[1 + len(units) :]]
        cells = [_number(figures[key]) for key in keys]
        if with_bytes:
            cells.append(_number(figures.get("bytes_per_token")))
        rows.append([split, *cells])
    return columns(rows, numbers=True)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"


def _heading(each: Printed, shown: Shown, colour: bool) -> str:
    """Which item it is."""
    task, sequence = each.part.task, shown.sequence
    if task.running:
        last = shown.number + len(sequence) - 1
        text = f"{shown.split}, tokens {shown.number:,} to {last:,}"
    else:
        id, label = sequence.side.get("id"), task.label(sequence, each.part.tokenizer)
        name = f" ({printable(str(id))})" if id is not None else ""
        text = f"{shown.split}, item {shown.number:,}{name}, {len(sequence):,} tokens"
        text += f", label {printable(label)}" if label is not None else ""
    text = f"{each.name}: {text}" if each.name else text
    return f"\x1b[1m{text}\x1b[0m" if colour else text


def _warning(name: str, warning: DataWarning, colour: bool) -> str:
    """One line: where, what, which, what to do."""
    named = ""
    if warning.items:
        more = warning.count - len(warning.items)
        named = f" ({'; '.join(map(printable, warning.items))}"
        named += f" and {more:,} more)" if more > 0 and warning.listed else ")"
    where = f"{name}, {warning.split}" if name else warning.split
    head = "\x1b[1;33mwarning\x1b[0m" if colour else "warning"
    return f"{head}: {where}: {printable(warning.message)}{named}; {warning.advice}"
