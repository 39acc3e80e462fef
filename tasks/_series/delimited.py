"""Tables from delimited text, read strictly.

Own code where pandas would be faster: pandas fills or drops what does not fit, and here a row that
does not fit its heading, or an unbalanced quote, must be an error with its row.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from ...core.errors import DataError
from .encoding import Content
from .table import ColumnBuilder, Table

IsHeading = Callable[[list[list[str]]], bool]

DELIMITERS = (";", "\t", "|", ",")  # in the order in which they are preferred
DELIMITER_NAMES = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", "": "blanks"}
SAMPLE_ROWS = 50  # from which the delimiter is found
CHUNK_ROWS = 65_536
FAST_CHARACTERS = 1 << 20  # bytes: a smaller text is read before pyarrow is imported
FIRST_BYTES = 1 << 22  # the most from which the delimiter and the heading are found
MAX_CELL = 1 << 20  # characters: a longer cell is an unbalanced quote


@dataclass
class _Start:
    """What the first rows say of a table. names: one a column; skipped: lines before `body`, the
    text from the heading on; first, rows: (line number, cells) of the first rows below the heading,
    and an iterator of the others."""

    names: list[str]
    delimiter: str
    heading: bool
    skipped: int
    body: str
    first: list[tuple[int, list[str]]]
    rows: Iterator[tuple[int, list[str]]]


def read_table(content: Content, where: str, is_heading: IsHeading) -> Table:
    """The table in delimited text in UTF-8. Empty lines are skipped, and lines that begin with #
    before the heading. `is_heading` decides from the first rows whether the first is one. DataError
    for a row with more cells than the first, and for an unbalanced quote."""
    if content.size() >= FAST_CHARACTERS:
        table = _fast_table(content, where, is_heading)
        if table:
            return table
    return _plain_table(content.text(), where, is_heading)


def _fast_table(content: Content, where: str, is_heading: IsHeading) -> Table | None:
    """A large table, by pyarrow; None where it must be read row by row."""
    head = content.head(FIRST_BYTES)
    is_whole = len(head) == content.size()
    text = (head if is_whole else head[: head.rfind(b"\n") + 1]).decode()
    if "\n" not in text:
        return None
    try:
        start = _start(text, where, is_heading)
    except DataError:
        return None
    enough = start.body.count("\n") > SAMPLE_ROWS and len(start.first) >= SAMPLE_ROWS - 1
    if not start.delimiter or not (is_whole or enough):
        return None
    from .fast_table import columns_of

    above = len(text[: len(text) - len(start.body)].encode())
    body = content.after(above)
    columns = columns_of(body, start.delimiter, start.names, start.heading)
    if columns is None:
        return None
    line = start.skipped + start.heading + 1
    rows = range(line, line + len(columns[0]))
    return Table([*columns], where, rows, start.delimiter, start.heading, _notes(start))


def _start(text: str, where: str, is_heading: IsHeading) -> _Start:
    if "\n" not in text:
        text = text.replace("\r", "\n")  # as Macintosh computers once wrote
    skipped, text = _skip_comments(text)
    delimiter = _find_delimiter(text)
    rows = _rows(text, delimiter, skipped, where)
    first = list(islice(rows, SAMPLE_ROWS))
    if not first:
        raise DataError(f"{where}: empty, need at least 2 points")
    heading = is_heading([cells for _, cells in first])
    names: list[str] = []
    if heading:
        names = [cell.strip() for cell in first.pop(0)[1]]
        if not delimiter and first and all(len(cells) == len(names) + 1 for _, cells in first):
            names.insert(0, "")  # R's write.table: row names have no heading
    elif delimiter != ",":  # without a heading, rows may differ in length
        names = [""] * max(len(cells) for _, cells in first)
    if not heading:
        names = [f"column {at + 1}" for at in range(len(names) or len(first[0][1]))]
    return _Start(names, delimiter, heading, skipped, text, first, rows)


def _notes(start: _Start) -> list[str]:
    return [f"{start.skipped:,} lines before the heading were skipped"] if start.skipped else []


def _plain_table(text: str, where: str, is_heading: IsHeading) -> Table:
    """A table row by row."""
    start = _start(text, where, is_heading)
    names, delimiter, heading = start.names, start.delimiter, start.heading
    width, notes = len(names), _notes(start)
    builders = [ColumnBuilder() for _ in range(width)]
    lines, short, blank = [np.zeros(0, np.int64)], list[int](), 0
    rows = chain(start.first, start.rows)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        full = [(line, cells) for line, cells in chunk if any(map(str.strip, cells))]
        blank, chunk = blank + len(chunk) - len(full), full
        for line, cells in chunk:
            if len(cells) != width:
                extra = [cell for cell in cells[width:] if cell.strip()]
                if extra:
                    raise _too_many(where, line, cells, width, delimiter, heading)
                if len(cells) < width:
                    short.append(line)
                cells[width:] = [""] * max(0, width - len(cells))
                del cells[width:]
        for at, builder in enumerate(builders):
            builder.extend(cells[at] for _, cells in chunk)
        lines.append(np.array([line for line, _ in chunk], np.int64))
    if blank:
        notes.append(f"{blank:,} rows without any cell were skipped")
    if short:
        notes.append(
            f"{len(short):,} rows have fewer cells than the {'heading' if heading else 'first'} "
            f"(first: row {short[0]}); what they lack is missing"
        )
    columns = [b.column(name) for b, name in zip(builders, names, strict=True)]
    return Table(columns, where, np.concatenate(lines), delimiter, heading, notes)


def _too_many(
    where: str, line: int, cells: list[str], width: int, delimiter: str, heading: bool
) -> DataError:
    advice = "put cells that contain the separator in quotes"
    pairs = zip(cells, cells[1:], strict=False)
    if delimiter == "," and any(
        re.fullmatch(r"[-+]?\d+", a.strip()) and re.fullmatch(r"\d+", b.strip()) for a, b in pairs
    ):
        advice = "if commas are decimal, separate cells by ; or put the numbers in quotes"
    first = "the heading" if heading else "the first row"
    if width == 1 or 2 * width < len(cells):
        advice = "if lines of text stand above the heading, delete them"
    return DataError(f"{where}: row {line} has {len(cells)} cells, {first} has {width}; {advice}")


def _skip_comments(text: str) -> tuple[int, str]:
    """(number of lines, the text without them): empty lines and comments before the heading."""
    skipped = at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end + 1
        line = text[at:end].strip()
        if line and not line.startswith("#") and not re.fullmatch(r"sep=.", line):
            break
        skipped, at = skipped + 1, end
    return skipped, text[at:]


def _find_delimiter(text: str) -> str:
    """The delimiter that splits the first rows into most cells; blanks ("") where none splits."""
    sample = "".join(islice(_lines(text), SAMPLE_ROWS))[: 1 << 20]
    best, most, first = "", 1, 0
    for delimiter in DELIMITERS:
        try:
            widths = [len(r) for r in csv.reader(io.StringIO(sample), delimiter=delimiter) if r]
        except csv.Error:
            continue
        # rows may be cut short, but a delimiter that the first row lacks is none
        least = min(widths, default=0)
        if widths and least > most:
            best, most = delimiter, least
        first = first or (widths[0] if widths else 0)
    if best:
        return best
    if all(len(line.split()) > 1 for line in sample.splitlines() if line.strip()):
        return ""
    lines = sample.splitlines()
    return next((d for d in DELIMITERS if lines and d in lines[0]), ",")


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, one at a time: io.StringIO would hold it at four bytes a character."""
    at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        yield text[at:end]
        at = end


def _rows(text: str, delimiter: str, skipped: int, where: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row that is not empty."""
    if not delimiter:
        for number, line in enumerate(_lines(text), skipped + 1):
            if '"' in line:
                line = re.sub(r"\s+", " ", line.strip())
                yield number, next(csv.reader([line], delimiter=" ", skipinitialspace=True))
            elif line.strip():
                yield number, line.split()
        return
    limit = csv.field_size_limit(MAX_CELL)
    reader = csv.reader(
        _lines(text), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True
    )
    end = 0
    try:
        for cells in reader:
            if cells and (len(cells) > 1 or cells[0].strip()):
                yield skipped + end + 1, cells
            end = reader.line_num
    except csv.Error as error:
        what = "a quote without its end" if "limit" in str(error) else str(error)
        if "unexpected end" in str(error):
            what = "a quote without its end"
        raise DataError(
            f"{where}: row {skipped + end + 1}: {what}; write a quote inside a cell twice"
        ) from None
    finally:
        csv.field_size_limit(limit)
