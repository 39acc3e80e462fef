"""A table as columns of text, read strictly from delimited text.

Own code where pandas would be faster: pandas fills or drops what does not fit, and here a row that
does not fit its heading, or an unbalanced quote, must be an error with its row.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.protocols import Ids

DELIMITERS = (";", "\t", "|", ",")  # in the order in which they are preferred
DELIMITER_NAMES = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", "": "blanks"}
SAMPLE_ROWS = 50  # from which the delimiter is found
CHUNK_ROWS = 65_536
FAST_CHARACTERS = 1 << 20  # a smaller text is read before pyarrow is imported
MAX_CELL = 1 << 20  # characters: a longer cell is an unbalanced quote


@dataclass(eq=False)
class Column:
    """A column of N cells: `cells[codes]`. Equal cells are stored, and later parsed, only once."""

    name: str
    codes: Ids  # (N,)
    cells: list[str]  # distinct, without white space around them
    zone: str | None = None  # of the times in a parquet file

    def __len__(self) -> int:
        return len(self.codes)

    def text(self) -> list[str]:
        return [self.cells[code] for code in self.codes]

    def row_of(self, code: int) -> int:
        """The first row with this cell."""
        return int(np.flatnonzero(self.codes == code)[0])

    def counts(self) -> Ids:
        """(len(cells),) rows of each distinct cell."""
        return np.bincount(self.codes, minlength=len(self.cells))

    @classmethod
    def of(cls, name: str, cells: Iterable[str], zone: str | None = None) -> Column:
        builder = _Builder()
        builder.extend(cells)
        return builder.column(name, zone)


class _Builder:
    """A column that grows by chunks of rows."""

    def __init__(self, skipped: int = 0) -> None:
        self.index: dict[str, int] = {"": 0} if skipped else {}
        self.codes = [np.zeros(skipped, np.int64)]

    def extend(self, cells: Iterable[str]) -> None:
        index = self.index
        self.codes.append(np.array([index.setdefault(cell, len(index)) for cell in cells], "i8"))

    def column(self, name: str, zone: str | None = None) -> Column:
        codes, index = np.concatenate(self.codes), dict[str, int]()
        stripped = np.array([index.setdefault(c.strip(), len(index)) for c in self.index], "i8")
        return Column(name, stripped[codes] if len(stripped) else codes, list(index), zone)


@dataclass
class Table:
    """Columns of equal length. For messages: `where`, the name of the file, and `lines` (N,), the
    line number of each row in it."""

    columns: list[Column]
    where: str
    lines: Ids
    delimiter: str = ","
    has_heading: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def find_all(self, names: str, flag: str) -> list[Column]:
        """The columns that `flag` names, separated by commas."""
        listed = [names] if names in self.names else names.split(",")
        return [self.find(name, flag) for name in listed]

    def find(self, name: str, flag: str) -> Column:
        """The column that `flag` names. DataError where there is none or there are several."""
        found = [column for column in self.columns if column.name == name.strip()]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{self.where}: {len(found)} columns are named {name!r}; rename them")
        names = ", ".join(self.names[:20])
        raise DataError(f"{self.where}: no column {name!r}; {flag} must be one of {names}")


# -- characters ----------------------------------------------------------------------------------


def decode(data: bytes, where: str) -> tuple[str, str]:
    """(text, name of the encoding): by its byte order mark, else UTF-8, else cp1252 (Latin-1, as
    Windows extends it). DataError for data that is not text."""
    if data[:4] == b"PK\x03\x04":
        raise DataError(f"{where}: a ZIP archive or an Excel workbook; save the table as CSV")
    if data[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise DataError(f"{where}: an Excel workbook; save the table as CSV")
    if data.lstrip()[:1] in (b"{", b"[") and b'"' in data[:1000]:
        raise DataError(f"{where}: JSON; write the series as CSV, .tsf or parquet")
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return _decoded(data, name, where), name.removesuffix("-sig")
    head = data[:1000]
    if b"\0" in head:  # UTF-16 without a mark: most characters of a table have a zero byte
        for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros.count(0) > 0.7 * len(zeros):
                return _decoded(data, name, where), name
        raise DataError(f"{where}: not text (a zero byte at byte {data.index(0)})")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        controls = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in head)
        if controls > 0:
            raise DataError(f"{where}: not text (not UTF-8 at byte {error.start})") from None
    try:
        return data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _decoded(data: bytes, name: str, where: str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: damaged {name} text at byte {error.start}") from None


# -- rows ----------------------------------------------------------------------------------------


def read_table(
    text: str, where: str, is_heading: Callable[[list[list[str]]], bool], no_fill: bool = True
) -> Table:
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
    builders = [_Builder() for _ in range(width)]
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
    """The columns of a large text without quotes and empty lines, whose rows all have one cell a
    name, by pyarrow: the same as those of `read_table`, five times as fast. Else None."""
    if not delimiter or '"' in text or re.search(r"\n\s*\n|\r(?!\n)", text):
        return None
    import pyarrow
    from pyarrow import compute, csv

    keys = [str(number) for number in range(len(names))]
    kind = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    try:
        table = csv.read_csv(
            io.BytesIO(text.encode()),
            csv.ReadOptions(column_names=keys, skip_rows=int(heading)),
            csv.ParseOptions(delimiter=delimiter, quote_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(keys, kind), strings_can_be_null=False),
        )
    except (pyarrow.ArrowInvalid, UnicodeEncodeError):
        return None  # the slow path says what is wrong, and where
    columns = []
    for name, column in zip(names, table.columns, strict=True):
        whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(whole, pyarrow.ChunkedArray):
            whole = whole.unify_dictionaries().combine_chunks()
        cells = compute.utf8_trim_whitespace(whole.dictionary)
        codes = whole.indices.to_numpy().astype(np.int64)
        merged = cells.dictionary_encode()
        codes = merged.indices.to_numpy()[codes].astype(np.int64)
        columns.append(Column(name, codes, merged.dictionary.to_pylist()))
    return columns


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
    sample = "".join(islice(io.StringIO(text[: 1 << 20], newline=""), SAMPLE_ROWS))
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


def _rows(text: str, delimiter: str, skipped: int, where: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row that is not empty."""
    stream = io.StringIO(text, newline="")
    if not delimiter:
        for number, line in enumerate(stream, skipped + 1):
            if '"' in line:
                line = re.sub(r"\s+", " ", line.strip())
                yield number, next(csv.reader([line], delimiter=" ", skipinitialspace=True))
            elif line.strip():
                yield number, line.split()
        return
    limit = csv.field_size_limit(MAX_CELL)
    reader = csv.reader(
        stream, delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True
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


def from_frame(frame: Any, where: str) -> Table:
    """A data frame as a table of text. A list in a cell (one series a row) is expanded to rows."""
    import pandas as pd

    index = frame.index
    if isinstance(index, pd.MultiIndex) or index.name or not pd.api.types.is_numeric_dtype(index):
        frame = frame.reset_index()
    listed = [c for c in frame.columns if len(frame) and np.ndim(frame[c].iloc[0]) == 1]
    if listed:
        frame = frame.explode(listed, ignore_index=True)
    columns = []
    for name, values in frame.items():
        if isinstance(name, tuple):
            name = "/".join(str(part) for part in name if str(part))
        zone = getattr(values.dtype, "tz", None)
        if isinstance(values.dtype, pd.PeriodDtype):
            coarse = values.dtype.freq.name[:1] in "MQY"
            values = values.astype(str) if coarse else values.dt.start_time
        codes, unique = pd.factorize(values)
        missing = codes < 0
        days = (
            zone is None and hasattr(unique, "normalize") and (unique == unique.normalize()).all()
        )
        cells = [f"{day:%Y-%m-%d}" for day in unique] if days else [_cell(one) for one in unique]
        cells.append("")
        codes = np.where(missing, len(cells) - 1, codes).astype(np.int64)
        text = Column.of(str(name), cells)  # equal texts of unequal values, 1 and 1.0, are one
        zone = None if zone is None else str(zone)
        columns.append(Column(str(name), text.codes[codes], text.cells, zone))
    rows = np.arange(1, len(frame) + 1)
    return Table(columns, where, rows)


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
