"""Tables from delimited text, read strictly.

Own code where pandas would be faster: pandas fills or drops what does not fit, and here a row that
does not fit its heading, or an unbalanced quote, must be an error with its row.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice

import numpy as np

from ...core.errors import DataError
from .table import ArrowCells, Column, ColumnBuilder, Table

DELIMITERS = (";", "\t", "|", ",")  # in the order in which they are preferred
DELIMITER_NAMES = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", "": "blanks"}
SAMPLE_ROWS = 50  # from which the delimiter is found
CHUNK_ROWS = 65_536
FAST_CHARACTERS = 1 << 20  # a smaller text is read before pyarrow is imported
MAX_CELL = 1 << 20  # characters: a longer cell is an unbalanced quote


def read_table(text: str, where: str, is_heading: Callable[[list[list[str]]], bool]) -> Table:
    """The table in delimited text. Empty lines are skipped, and lines that begin with # before the
    heading. `is_heading` decides from the first rows whether the first is one. DataError for a row
    with more cells than the first, and for an unbalanced quote."""
    if "\n" not in text:
        text = text.replace("\r", "\n")  # as Macintosh computers once wrote
    skipped, text = _skip_comments(text)
    delimiter = _find_delimiter(text)
    rows = _rows(text, delimiter, skipped, where)
    first = list(islice(rows, SAMPLE_ROWS))
    if not first:
        raise DataError(f"{where}: empty, need at least 2 points")
    heading = is_heading([cells for _, cells in first])
    notes = [f"{skipped:,} lines before the heading were skipped"] if skipped else []
    names: list[str] = []
    if heading:
        names = [cell.strip() for cell in first.pop(0)[1]]
        if not delimiter and first and all(len(cells) == len(names) + 1 for _, cells in first):
            names.insert(0, "")  # R's write.table: row names have no heading
    elif delimiter != ",":  # without a heading, rows may differ in length
        names = [""] * max(len(cells) for _, cells in first)
    width, unnamed = len(names) or len(first[0][1]), not heading
    if unnamed:
        names = [f"column {at + 1}" for at in range(width)]
    if len(text) >= FAST_CHARACTERS:
        columns = _fast_columns(text, delimiter, names, heading)
        if columns:
            rows_above = skipped + heading + 1
            numbers = np.arange(rows_above, rows_above + len(columns[0]))
            return Table(columns, where, numbers, delimiter, heading, notes)
    builders = [ColumnBuilder() for _ in range(width)]
    lines, short, blank = [np.zeros(0, np.int64)], list[int](), 0
    rows = chain(first, rows)
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


def _fast_columns(
    text: str, delimiter: str, names: list[str], heading: bool
) -> list[Column] | None:
    """The columns of a large text without empty lines and lines inside cells, whose rows all have
    one cell a name, by pyarrow: the same as those of `read_table`, faster. Else None."""
    text = text.rstrip("\r\n")
    if not delimiter or "\n\n" in text or "\n\r\n" in text:
        return None
    if "\r" in text and text.count("\r") != text.count("\r\n"):
        return None
    quoted = '"' in text
    if quoted:  # pyarrow does not refuse a quote without its end, or inside a cell
        edge = re.escape(delimiter)
        cell = rf'(?<![^{edge}\n])"(?:[^"\n]|"")*"(?=[{edge}\r\n]|\Z)'
        if '"' in re.sub(cell, "", text):
            return None
    import pyarrow
    from pyarrow import compute, csv

    keys = [str(number) for number in range(len(names))]
    kind = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    try:
        table = csv.read_csv(
            io.BytesIO(text.encode()),
            csv.ReadOptions(column_names=keys, skip_rows=int(heading)),
            csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False),
            csv.ConvertOptions(column_types=dict.fromkeys(keys, kind), strings_can_be_null=False),
        )
    except (pyarrow.ArrowInvalid, UnicodeEncodeError):
        return None  # the slow path says what is wrong, and where
    columns, blank = [], np.ones(len(table), bool)
    for name, column in zip(names, table.columns, strict=True):
        whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(whole, pyarrow.ChunkedArray):
            whole = whole.unify_dictionaries().combine_chunks()
        cells = compute.utf8_trim_whitespace(whole.dictionary)
        codes = whole.indices.to_numpy().astype(np.int64)
        merged = cells.dictionary_encode()
        codes = merged.indices.to_numpy()[codes].astype(np.int64)
        columns.append(Column(name, codes, ArrowCells(merged.dictionary)))
        blank &= codes == compute.index(merged.dictionary, "").as_py()
    return None if blank.any() else columns


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
