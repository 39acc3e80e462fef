"""Reads text and bytes: files as they stand, and a column of tables."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.data.byte_stream import ByteStream
from ...core.data.compressed import plain_name
from ...core.data.scratch import scratch_file, shown
from ...core.data.source import Source
from ...core.data.tables import TableSource, as_text, column_of, table_kind
from ...core.errors import DataError, UsageError, writing
from ...core.task import Description
from .spans import Spans, lines

NEEDS_ROWS = "needs rows (.jsonl, .json, .csv, .tsv, .parquet or hf:)"
SHOWN = 3  # names in a message


def read(source: Source, each: str, rows_unasked: bool = True) -> Spans:
    """All items of a source. each: a value of `--each`; rows_unasked: whether tables are read by
    rows even if neither a column nor `record` is asked for.

    Tables give the values of a column, one item each. Among other files, a table without a column
    `text` is read as it stands. DataError or UsageError.
    """
    named = parts = source.parts()
    if each == "record":  # what has no name that says so can be a table, too
        parts = [
            _as_table(part, source.column) if isinstance(part, Path) else part for part in parts
        ]
    elif not rows_unasked and source.column is None:
        parts = [_as_file(part) for part in parts]
    tables = [part for part in parts if isinstance(part, TableSource)]
    if len(tables) < len(parts):
        _check_rows_are_not_needed(source, parts, each)
        tables = [t for t in tables if t.kind == "hub" or _has_column(t, source.column)]
    if len(tables) == len(parts):
        return _records(source, tables, each)
    chosen = set(tables)
    plain = [part for part in parts if part not in chosen]
    files = [Path(part.path) if isinstance(part, TableSource) else part for part in plain]
    rows = _values(source, tables) if tables else None
    stream = ByteStream([*files, *([rows.path] if rows else [])], rows.starts if rows else None)
    if not len(stream):
        raise DataError(f"--data {source.describe()}: empty, need at least 2 bytes")
    spans, fingerprint = _file_spans(stream, len(files), each), source.fingerprint(files)
    if rows is not None:
        spans = np.concatenate((spans, rows.spans() + stream.starts[len(files)]))
        fingerprint += f"/{rows.digest}"
    return Spans(
        stream,
        spans,
        each == "stream",
        fingerprint,
        source.describe(),
        0 if each == "line" else stream.starts[len(files)],
        _description(rows, plain if rows is not None else named),
    )


def _as_table(path: Path, column: str | None) -> Path | TableSource:
    """A file as the table that its content is, if it has the column (None: `text`)."""
    kind = table_kind(path, "text" if column is None else column)
    return path if kind is None else TableSource(path, kind)


def _as_file(part: Path | TableSource) -> Path | TableSource:
    """A table as the file that it is in; a hub dataset as it is."""
    return Path(part.path) if isinstance(part, TableSource) and part.kind != "hub" else part


def _check_rows_are_not_needed(source: Source, parts: list[Path | TableSource], each: str) -> None:
    other = next(shown(part) for part in parts if isinstance(part, Path))
    if each == "record":
        raise UsageError(f"--each record: {NEEDS_ROWS}; {other} is none; use --each line or file")
    if source.column is not None:
        raise UsageError(f"--column {source.column}: {NEEDS_ROWS}; {other} is none")


def _has_column(table: TableSource, column: str | None) -> bool:
    """Whether the first row of a table, if there is one, has the column of the items. DataError if
    it cannot be read."""
    for _, row in table.rows():
        return column_of(row, column) in row
    return True


def _file_spans(stream: ByteStream, count: int, each: str) -> npt.NDArray[np.int64]:
    """The items in the first `count` files of a stream: each of them, or its lines."""
    ends = np.array(stream.starts[: count + 1], np.int64)
    spans = np.stack((ends[:-1], ends[1:]), axis=1)
    spans = spans[spans[:, 1] > spans[:, 0]]
    return lines(stream, spans) if each == "line" and len(spans) else spans


# -- tables --------------------------------------------------------------------------------------


@dataclass
class _Rows:
    """The values of tables, one after another in a temporary file."""

    path: Path
    ends: array[int] = field(default_factory=lambda: array("q", [0]))
    starts: list[tuple[str, int]] = field(default_factory=list)  # (name, start) of each table
    without: int = 0  # rows without a value
    columns: dict[str, None] = field(default_factory=dict)  # in order
    digest: str = ""

    def spans(self) -> npt.NDArray[np.int64]:
        ends = np.array(self.ends, np.int64)
        spans = np.stack((ends[:-1], ends[1:]), axis=1)
        return spans[spans[:, 1] > spans[:, 0]]


def _values(source: Source, tables: list[TableSource]) -> _Rows:
    """The column of the items of all tables. DataError for a row that lacks the column."""
    rows, digest = _Rows(scratch_file("records", source.describe())), hashlib.sha256()
    with rows.path.open("wb") as out, writing(rows.path):
        for table in tables:
            rows.starts.append((table.name, rows.ends[-1]))
            column = source.column
            for number, row in table.rows(literal=True):
                column = column_of(row, column)  # of the first row, for all
                if source.column is None and column != "text" and len(row) > 1:
                    raise DataError(
                        f"--data {table.name}: row {number} has other columns than the first row; "
                        f"choose one with --column: {', '.join(map(str, row))}"
                    )
                if column not in row:
                    raise DataError(
                        f"--data {table.name}: no column {column!r} in row {number}; choose one "
                        f"with --column: {', '.join(map(str, row))}"
                    )
                rows.columns[column] = None
                if row[column] is None:
                    rows.without += 1
                    continue
                data = as_text(row[column], f"{table.name}, row {number}")
                digest.update(data + b"\0")
                out.write(data)
                rows.ends.append(rows.ends[-1] + len(data))
    rows.digest = digest.hexdigest()
    return rows


def _records(source: Source, tables: list[TableSource], each: str) -> Spans:
    """Items from the chosen column of tables."""
    rows = _values(source, tables)
    spans = rows.spans()
    if not len(spans):
        raise DataError(f"--data {source.describe()}: contains no text")
    stream = ByteStream([rows.path], rows.starts)
    about = source.describe()
    description = _description(rows, [])
    return Spans(stream, spans, each == "stream", rows.digest, about, 0, description)


# -- what was found ------------------------------------------------------------------------------


def _description(rows: _Rows | None, plain: list[Path | TableSource]) -> Description | None:
    """What a reader would not expect: which column, and which tables stand as text. None where
    plain files are read as they are."""
    said, record = list[str](), dict[str, Any]()
    if rows is not None:
        columns, count = " and ".join(rows.columns), len(rows.ends) - 1
        said.append(
            f"{count:,} rows: the column {columns} of {_listed([name for name, _ in rows.starts])}"
        )
        if rows.without:
            said[-1] += f" ({rows.without:,} rows more have no value there)"
        record |= {"column": columns, "rows": count, "rows_without_value": rows.without}
    tables = [
        part.name if isinstance(part, TableSource) else shown(part)
        for part in plain
        if _could_be_rows(part)
    ]
    if tables:
        said.append(f"read as text, not as rows: {_listed(tables)} (--column NAME reads rows)")
    if rows is not None and plain:
        said.append(f"{len(plain):,} files beside the tables are read as they stand")
    record |= {"files_as_text": len(plain)}
    return Description(tuple(said), record) if said else None


def _could_be_rows(part: Path | TableSource) -> bool:
    """Whether a user could expect that rows are read: of a table, of JSON, of JSON lines that were
    piped."""
    if isinstance(part, TableSource):
        return True
    piped = shown(part) != str(part)
    return plain_name(part).endswith(".json") or (piped and table_kind(part, "text") is not None)


def _listed(names: list[str]) -> str:
    """a, b, c; of many: a, b, c and 7 more."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
