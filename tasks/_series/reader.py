"""Series from files: CSV wide or long, one series a row, .tsf (Monash), parquet and hub tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.data.source import Source, unpacked
from ...core.errors import DataError
from .collection import Series
from .dates import times_of
from .table import ID_COLUMN_NAMES, THOUSANDS, Columns, Table, is_number
from .times import to_regular_times
from .tsf import from_tsf

TIME_COLUMN_NAMES = {
    "time",
    "date",
    "datetime",
    "timestamp",
    "ds",
    "t",
    "day",
    "week",
    "month",
    "year",
    "quarter",
    "date_time",
}
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
MIN_REPEATED_TIMES = 0.05  # the share of repeated times in a table of several series
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
LOOKS_LIKE_TIME = re.compile(r"\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?([T ].*)?|\d{4}\s?-?[QM]\d{1,2}")


# -- files ---------------------------------------------------------------------------------------


def read(source: Source, columns: Columns) -> list[Series]:
    """Every series of the source. DataError where one cannot be read or has no values."""
    if any(path.startswith("hf:") for path in source.paths):
        return _check_series(from_table(_from_rows(source.rows(), source.describe()), columns))
    files = source.files()
    series: list[Series] = []
    for path in files:
        found = parse(unpacked(path).read_bytes(), str(path), columns)
        if len(files) > 1:
            stem = path.name.split(".")[0]
            found = [Series(f"{stem}/{s.id}", s.values, s.start, s.freq) for s in found]
        series += found
    return _check_series(series)


def _check_series(series: list[Series]) -> list[Series]:
    if not series:
        raise DataError("--data: no series in it")
    seen: set[str] = set()
    for one in series:
        if not np.isfinite(one.values).any():
            raise DataError(f"series {one.id}: no value in it; leave it out with --target or --id")
        if one.id in seen:
            raise DataError(f"series {one.id} appears twice; give each an id of its own")
        seen.add(one.id)
    return series


def parse(data: bytes, where: str, columns: Columns) -> list[Series]:
    """The series in the bytes of one file; its format is detected from its content. `where` names
    the file in messages. DataError as for `read`."""
    if data[:4] == b"PAR1":
        import pandas as pd

        try:
            frame = pd.read_parquet(io.BytesIO(data))
        except Exception as error:  # pyarrow raises exceptions of its own
            raise DataError(f"{where}: not readable as parquet ({error})") from error
        return _check_series(from_table(_from_frame(frame, where), columns))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text at byte {error.start}") from None
    if re.search(r"^@data\s*$", text, re.MULTILINE | re.IGNORECASE):
        return _check_series(from_tsf(text, where, columns))
    return _check_series(from_table(_from_text(text, where), columns))


def _from_text(text: str, where: str) -> Table:
    """The table in a text file. The first row is a header where it has fewer numbers and times than
    the second, or none at all."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise DataError(f"{where}: empty, need at least 2 points")
    delimiter = max(";\t,", key=lambda c: min(line.count(c) for line in lines[:20]))
    if delimiter in lines[0]:
        rows = [list(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
    else:
        rows = [line.split() for line in lines]
    forms = [LOOKS_LIKE_TIME] if delimiter == "," else [LOOKS_LIKE_TIME, DECIMAL_COMMA]
    first_count, second_count = (
        sum(is_number(c) or any(form.fullmatch(c.strip()) for form in forms) for c in row)
        for row in (rows[0], rows[1] if len(rows) > 1 else [])
    )
    header = first_count < second_count or (not first_count and len(rows) > 1)
    width = max(map(len, rows))
    names = [name.strip() for name in rows[0]] if header else []
    names += [f"column {at + 1}" for at in range(len(names), width)]
    body = rows[1:] if header else rows
    columns = [[row[at] if at < len(row) else "" for row in body] for at in range(width)]
    if delimiter != ",":
        columns = [_with_decimal_points(cells) for cells in columns]
    kept = [at for at in range(width) if any(cell.strip() for cell in columns[at])]
    return Table(
        [names[at] for at in kept], [columns[at] for at in kept], where, 2 if header else 1
    )


def _with_decimal_points(cells: list[str]) -> list[str]:
    """A column with decimal points for decimal commas, unless all its commas may be thousands
    separators."""
    with_comma = [cell.strip() for cell in cells if DECIMAL_COMMA.fullmatch(cell)]
    if all(map(THOUSANDS.fullmatch, with_comma)):
        return cells
    return [c.replace(",", ".") if DECIMAL_COMMA.fullmatch(c) else c for c in cells]


def _from_frame(frame: Any, where: str) -> Table:
    """A data frame's columns as text. A list in a cell (one series a row) is expanded into rows."""
    import pandas as pd

    if frame.index.name or isinstance(frame.index, pd.DatetimeIndex):
        frame = frame.reset_index()
    listed = [c for c in frame.columns if len(frame) and np.ndim(frame[c].iloc[0]) == 1]
    if listed:
        frame = frame.explode(listed, ignore_index=True)
    cells = [
        ["" if pd.isna(v) else v.isoformat() if hasattr(v, "isoformat") else str(v) for v in column]
        for _, column in frame.items()
    ]
    return Table([str(name) for name in frame.columns], cells, where)


def _from_rows(rows: Iterable[dict[str, Any]], where: str) -> Table:
    import pandas as pd

    return _from_frame(pd.DataFrame(list(rows)), where)


# -- tables --------------------------------------------------------------------------------------


def from_table(table: Table, columns: Columns) -> list[Series]:
    """The series of a table: wide, long (with an id column), or one series a row (no times)."""
    table = _without_row_numbers(table)
    if not columns.time:
        table = _merge_date_columns(table)
    time = table.column(columns.time, "--time") if columns.time else _find_time(table)
    name = table.column(columns.id, "--id") if columns.id else _find_id(table, time)
    rest = [at for at in range(len(table.names)) if at not in (time, name)]
    if columns.target:
        rest = [table.column(part.strip(), "--target") for part in columns.target.split(",")]
    elif name is not None or time is not None:
        numeric = [at for at in rest if all(map(is_number, table.cells[at][:200]))]
        rest = numeric or rest
    if not rest:
        raise DataError(f"{table.where}: no column with values; name it with --target")
    is_one_series_a_row = (
        name is not None and time is None and len(set(table.cells[name])) == len(table.cells[name])
    )
    if is_one_series_a_row and name is not None and (len(rest) > 1 or len(table.cells[name]) == 1):
        return _one_series_a_row(table, name, rest)
    all_rows = list(range(len(table.cells[rest[0]])))
    groups = {"": all_rows}
    if name is not None:
        groups = {}
        for row, cell in enumerate(table.cells[name]):
            groups.setdefault(cell.strip(), []).append(row)
    stamps = times_of(table, time, groups.values()) if time is not None else None
    series = []
    for at in rest:
        values = table.numbers(at)
        for group, rows in groups.items():
            label = "/".join(
                part
                for part in (group, table.names[at] if len(rest) > 1 or not group else "")
                if part
            )
            points, start, freq = values[rows], None, columns.freq
            if stamps is not None:
                where = f"{table.where}: series {group}" if group else table.where
                numbers = np.array(rows) + table.first_row
                points, start, freq = to_regular_times(
                    stamps[rows], points, freq, columns.resample, where, numbers
                )
            series.append(Series(label, points, start, freq))
    return series


def _without_row_numbers(table: Table) -> Table:
    """The table without the unnamed index column that pandas writes with a data frame."""
    index_columns = [
        at
        for at, name in enumerate(table.names)
        if name.strip().lower() in ("", "unnamed: 0")
        and table.cells[at] == [str(row) for row in range(len(table.cells[at]))]
    ]
    kept = [at for at in range(len(table.names)) if at not in index_columns[:1]]
    if not index_columns or not kept:
        return table
    return replace(
        table, names=[table.names[at] for at in kept], cells=[table.cells[at] for at in kept]
    )


def _merge_date_columns(table: Table) -> Table:
    """The table with its columns year, month and (optionally) day merged into one time column."""
    at = {name.lower(): number for number, name in enumerate(table.names)}
    parts = [at[part] for part in ("year", "month", "day") if part in at]
    if "year" not in at or "month" not in at:
        return table
    times = []
    for year, month, *day in zip(*(table.cells[part] for part in parts), strict=True):
        name = month.strip()[:3].lower()
        number = MONTHS.index(name) + 1 if name in MONTHS else month.strip().removesuffix(".0")
        cells = [year.strip().removesuffix(".0"), str(number), *(d.strip() for d in day)]
        if not all(cell.isdigit() for cell in cells):
            return table
        times.append("-".join(cell.zfill(2) for cell in cells))
    kept = [number for number in range(len(table.names)) if number not in parts]
    return replace(
        table,
        names=["time", *(table.names[number] for number in kept)],
        cells=[times, *(table.cells[number] for number in kept)],
    )


def _one_series_a_row(table: Table, name: int, rest: list[int]) -> list[Series]:
    """The M4 format: an id, then the values. Empty cells after the last value are not points."""
    columns = np.stack([table.numbers(at) for at in rest], axis=1)
    series = []
    for label, values in zip(table.cells[name], columns, strict=True):
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            series.append(Series(label.strip(), values[: known[-1] + 1]))
    return series


def _find_time(table: Table) -> int | None:
    """The first column with the name of a time column, else the first that looks like times."""
    for at, name in enumerate(table.names):
        if name.lower().replace(" ", "_") in TIME_COLUMN_NAMES:
            return at
    for at, cells in enumerate(table.cells):
        filled = [c.strip() for c in cells[:50] if c.strip()]
        if filled and all(LOOKS_LIKE_TIME.fullmatch(c) and not is_number(c) for c in filled):
            return at
    return None


def _find_id(table: Table, time: int | None) -> int | None:
    """The first column with the name of an id column, else the first of neither numbers nor times;
    in a table with times only if many of them are repeated and it distinguishes most of these."""
    for at, name in enumerate(table.names):
        if at != time and name.lower().replace(" ", "_") in ID_COLUMN_NAMES:
            return at
    for at, cells in enumerate(table.cells):
        if at == time or any(is_number(c) for c in cells[:50]):
            continue
        if time is None:
            return at
        times = table.cells[time]
        repeated = len(times) - len(set(times))
        still_repeated = len(times) - len(set(zip(cells, times, strict=True)))
        if repeated >= MIN_REPEATED_TIMES * len(times) and still_repeated < repeated / 2:
            return at
    return None
