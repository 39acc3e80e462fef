"""Tables: rows of .jsonl, .ndjson, .json, .csv, .tsv, .parquet and hub datasets.

Values are as they stand in the file: a cell of a CSV file is text (007, 1e5, NA), and a string of
JSON stays a string whatever it looks like. This is why CSV and JSON are not read by `datasets`,
which guesses types.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, TfmError
from .compressed import plain_name, unpacked
from .scratch import shown

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
SEPARATORS = ",;\t|"
HEAD_BYTES = 1 << 16  # of a file, to see what it is

Row = dict[str, Any]


@dataclass(frozen=True)
class TableSource:
    """A table by its kind (a value of KINDS, or `hub`). path: of the file; the name of a hub
    dataset. split: of a hub dataset."""

    path: Path | str
    kind: str
    split: str = "train"

    @property
    def name(self) -> str:
        """The name for messages."""
        return shown(self.path) if isinstance(self.path, Path) else f"hf:{self.path}"

    def rows(self, literal: bool = False) -> Iterator[tuple[int, Row]]:
        """(number from 1 on, values by column) of each row. literal: numbers of JSON are `Literal`
        text. DataError if a row cannot be read."""
        try:
            if isinstance(self.path, str):
                yield from enumerate(_hub_rows(self.path, self.split), 1)
            else:
                yield from READERS[self.kind](unpacked(self.path), self.name, literal)
        except TfmError:
            raise
        except UnicodeDecodeError as error:
            raise DataError(
                f"--data {self.name}: not UTF-8 text ({error.reason}); convert it, as by iconv -f "
                "latin1 -t utf-8"
            ) from error
        except MemoryError:
            raise DataError(
                f"--data {self.name}: too large to be read whole; write it as .jsonl"
            ) from None
        except Exception as error:  # the readers raise many types
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            what = "not readable as a table" if self.kind in READERS else "cannot be loaded"
            raise DataError(f"--data {self.name}: {what} ({line})") from error


def table_kind(path: Path, column: str | None) -> str | None:
    """The kind of a table by the suffix of its name. Where a column is asked for, a file of another
    name is one by its content: lines of JSON, parquet, or CSV with this column. A .json file is a
    table if it holds a list of objects or lines of objects; else None."""
    kind = KINDS.get(Path(plain_name(path)).suffix)
    if kind not in (None, "json") or (kind is None and column is None):
        return kind
    with unpacked(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
        while len(head) % HEAD_BYTES == 0 and b"\n" not in head and (more := file.read(len(head))):
            head += more  # a long first line
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return "json" if text[1:].lstrip()[:1] in (b"{", b"]") else None
    if text.startswith(b"{"):
        line, _, rest = text.partition(b"\n")
        if _is_object(line) and (kind is None or rest.strip()):
            return "jsonl"
        wanted = column is not None or (_is_object(text) and "text" in json.loads(text))
        return "json" if kind == "json" and wanted else None
    if kind == "json":
        return None
    if head.startswith(b"PAR1"):
        return "parquet"
    heading = text.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
    try:
        names = next(csv.reader([heading], delimiter=_separator(heading)), [])
    except csv.Error:
        return None
    return "csv" if column in names else None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


# -- readers -------------------------------------------------------------------------------------


def _json_lines(path: Path, name: str, literal: bool) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                found = _parsed(line, f"{name}, line {number}", literal)
                yield number, _object(found, name, number)


def _json_list(path: Path, name: str, literal: bool) -> Iterator[tuple[int, Row]]:
    found = _parsed(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), name, literal)
    for number, row in enumerate([found] if isinstance(found, dict) else found, 1):
        yield number, _object(row, name, number)


def _parsed(data: bytes, where: str, literal: bool) -> Any:
    kind: Any = Literal if literal else None
    try:
        return json.loads(data, parse_float=kind, parse_int=kind)
    except RecursionError:
        raise DataError(f"--data {where}: JSON that is nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        raise DataError(f"--data {where}: not JSON ({error.msg}, column {error.colno})") from None
    except ValueError as error:
        raise DataError(f"--data {where}: not JSON ({error})") from None


def _object(value: Any, name: str, number: int) -> Row:
    if isinstance(value, dict):
        return value
    raise DataError(
        f"--data {name}, row {number}: {_kind_of(value)}, not a JSON object with columns"
    )


def _kind_of(value: Any) -> str:
    kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _csv_rows(path: Path, name: str, literal: bool) -> Iterator[tuple[int, Row]]:
    """Every cell is text as it stands; an empty one is None. The separator is the one of , ; tab |
    that the heading has most of. DataError for a row with more cells than the heading."""
    csv.field_size_limit(sys.maxsize)
    with path.open(newline="", encoding="utf-8-sig") as file:
        skipped = heading = ""
        while line := file.readline():
            heading += line
            if not heading.strip():
                skipped, heading = skipped + heading, ""
            elif heading.count('"') % 2 == 0 or len(heading) > HEAD_BYTES:
                break
        separator = _separator(heading)
        file.seek(0)
        file.read(len(skipped))
        rows = csv.DictReader(file, strict=True, delimiter=separator)
        read = 0  # lines of sound rows
        sign = "comma" if separator == "," else repr(separator)
        try:
            _refuse_twice(name, rows.fieldnames or ())
            read = rows.line_num
            for number, row in enumerate(rows, 1):
                if None in row:
                    raise DataError(
                        f"--data {name}, line {rows.line_num + skipped.count(chr(10))}: more cells "
                        f"than the heading; quote cells that contain a {sign}"
                    )
                read = rows.line_num
                yield number, {column: cell or None for column, cell in row.items()}
        except csv.Error as error:
            line_number = read + 1 + skipped.count("\n")
            raise DataError(
                f"--data {name}, line {line_number}: not readable as a table "
                f"({str(error).replace(chr(9), 'tab')}); quotes around a cell must be balanced, "
                "and doubled inside it"
            ) from error


def _refuse_twice(name: str, columns: Sequence[str]) -> None:
    """DataError if two columns have one name."""
    for number, column in enumerate(columns):
        if column in columns[:number]:
            raise DataError(f"--data {name}: two columns have the name {column!r}")


def _separator(heading: str) -> str:
    outside = "".join(heading.split('"')[::2])  # what is not in quotes
    return max(SEPARATORS, key=lambda each: (outside.count(each), each == ","))


def _parquet_rows(path: Path, name: str, literal: bool) -> Iterator[tuple[int, Row]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(str(path)) as file:
        _refuse_twice(name, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row


READERS = {"jsonl": _json_lines, "json": _json_list, "csv": _csv_rows, "parquet": _parquet_rows}


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    from .hub import dataset

    yield from dataset(name, split)


def _as_json(value: Any) -> str:
    """JSON with numbers as they are spelled in the file."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k, ensure_ascii=False)}: {_as_json(v)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_as_json, value))}]"
    if isinstance(value, Literal):
        return value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, default=str)


# -- values --------------------------------------------------------------------------------------


def column_of(row: Row, column: str | None) -> str:
    """The column of the items: `column`, else `text`, else the only one."""
    if column is not None:
        return column
    return "text" if "text" in row or len(row) > 1 else next(iter(row), "text")


class Literal(str):
    """A number of JSON as it is spelled in the file: 1.10, 1e5, -0."""


def as_text(value: Any, where: str) -> bytes:
    """A value of a table as the bytes of an item: text and bytes as they stand, what JSON has as
    JSON, dates and other types of parquet as they are printed. DataError for text that is no
    Unicode."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bool, int, float, list, tuple, dict)) or value is None:
        value = _as_json(value)
    try:
        return str(value).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise DataError(
            f"--data {where}: half a character (\\u{code:04x}), which no text has"
        ) from None
