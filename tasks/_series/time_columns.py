"""Which columns of a table hold the times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.errors import DataError
from ...tokenizers._scales import Values
from . import forms
from .arrow_columns import ArrowColumn
from .numbers import is_missing, is_number
from .reading import Columns
from .table import Column, Table

STRONG_TIME_NAMES = ("ds", "datetime", "date_time", "timestamp", "date", "time", "period")
# in the names of columns whose times are digits
TIME_WORDS = ("date", "datum", "time", "zeit", "fecha", "stamp")
DIGITS_OF_TIMES = (5, 8, 10, 12, 13, 14, 16, 19)
WEAK_TIME_NAMES = ("t", "year", "quarter", "month", "week", "day", "hour", "index", "step")
CALENDAR = {
    "year", "month", "day", "hour", "minute", "quarter", "week", "weekofyear", "week_of_year",
    "weeknum", "isoweek", "weekday", "dayofweek", "day_of_week", "dow", "dayofyear",
    "day_of_year", "doy",
}  # fmt: skip
MERGED = (
    ("year", "month", "day", "hour", "minute"),
    ("year", "month", "day", "hour"),
    ("year", "month", "day"),
    ("year", "month"),
    ("year", "quarter"),
    ("year", "week"),
)
SAMPLE = 50  # of the first distinct cells, those from which the kind of a column is found


def key(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def sample(column: Column) -> list[str]:
    """Some distinct cells that are not missing."""
    return [cell for cell in column.head() if not is_missing(cell)][:SAMPLE]


def is_time(column: Column) -> bool:
    """Whether most cells (of a sample) look like times and not like numbers."""
    cells = sample(column)
    return bool(cells) and 2 * sum(map(forms.looks_like_time, cells)) > len(cells)


def is_time_of_day(cell: str) -> bool:
    return bool(forms.TIME_OF_DAY.fullmatch(cell))


def is_numeric(column: Column) -> bool:
    return all(map(is_number, sample(column)))


def join(parts: Sequence[Column], separator: str, name: str) -> Column:
    """Columns joined cell by cell; empty parts are left out."""
    codes = np.stack([column.codes for column in parts], axis=1)
    distinct, inverse = np.unique(codes, axis=0, return_inverse=True)
    texts = [
        separator.join(t for t in (c.cells[i] for c, i in zip(parts, row, strict=True)) if t)
        for row in distinct
    ]
    text = Column.of(name, texts)
    return Column(name, text.codes[inverse.reshape(-1)], text.cells)


def find_time(
    table: Table, columns: Columns, left_out: list[tuple[str, str]]
) -> tuple[Column | None, str | None, list[Column]]:
    """(the times, the names of their columns, the other columns)."""
    if columns.time:
        parts = table.find_all(columns.time, "--time")
        rest = [column for column in table.columns if column not in parts]
        chosen = _merged(table, parts) if len(parts) > 1 else parts[0]
        return chosen, columns.time, rest
    parts = _parts_of_time(table)
    if parts:
        rest = [column for column in table.columns if column not in parts]
        merged = _merged(table, parts)
        return merged, ", ".join(part.name for part in parts), rest
    clocks = [c for c in table.columns if sample(c) and all(map(is_time_of_day, sample(c)))]
    left_out += [(column.name, "times of day without a date") for column in clocks]
    rest = [column for column in table.columns if column not in clocks]
    time = _one_time(rest, table)
    rest = [column for column in rest if column is not time]
    if time is None:
        return None, None, rest
    if is_numeric(time):
        return time, time.name, rest
    others = [column for column in rest if is_time(column)]
    for column in others:
        left_out.append((column.name, "other times"))
    rest = [column for column in rest if column not in others]
    return time, time.name or "(unnamed)", rest


def _parts_of_time(table: Table) -> list[Column]:
    """The columns of a time that is written in several: a date and a time of day; year, month, day,
    hour; year and week or quarter."""
    by_name = {key(column.name): column for column in table.columns}
    whole = [column for column in table.columns if is_time(column)]
    clocks = [
        column
        for column in table.columns
        if sample(column) and all(map(forms.TIME_OF_DAY.fullmatch, sample(column)))
    ]
    dates = [c for c in whole if not any(":" in cell for cell in sample(c))]
    hours = [by_name[name] for name in ("hour", "hr") if name in by_name]
    if not clocks and len(dates) == 1 and hours and dates[0].repeats() > 0:
        clocks = [column for column in hours if _is_calendar_number(column)]
    if len(clocks) == 1 and len(dates) == 1:
        return [dates[0], clocks[0]]
    if whole and not all(key(column.name) in CALENDAR for column in whole):
        return []
    for names in MERGED:
        if all(name in by_name for name in names):
            parts = [by_name[name] for name in names]
            if all(_is_calendar_number(part) for part in parts):
                return parts
    return []


def _is_calendar_number(column: Column) -> bool:
    cells = [cell.removesuffix(".0") for cell in sample(column)]
    months = [month[:3].lower() for month in forms.MONTHS]
    word = key(column.name)
    return bool(cells) and all(
        cell.lstrip("QqWw").isdigit() or (word == "month" and cell[:3].lower() in months)
        for cell in cells
    )


def _merged(table: Table, parts: list[Column]) -> Column:
    """Parts of a time as one column of text."""
    name = ", ".join(part.name for part in parts)
    names = [key(part.name) for part in parts]
    if names[0] != "year" or len(parts) < 2:
        return join(parts, " ", name)
    months = [month[:3].lower() for month in forms.MONTHS]

    def padded(part: Column) -> Column:
        cells = []
        for cell in part.cells:
            text = cell.removesuffix(".0").lstrip("QqWw")
            if key(part.name) == "month" and text[:3].lower() in months:
                text = str(months.index(text[:3].lower()) + 1)
            width = {"year": 4, "quarter": 1}.get(key(part.name), 2)
            cells.append(text.zfill(width) if text else "")
        return part.with_cells(cells)

    parts = [padded(part) for part in parts]
    if names[1] in ("quarter", "week"):
        return join(parts, "Q" if names[1] == "quarter" else "-W", name)
    date = join(parts[:3], "-", name)
    if len(parts) <= 3:
        return date
    clock = join([*parts[3:], *([] if len(parts) > 4 else [_constant(parts[3], "00")])], ":", name)
    return join([date, clock], " ", name)


def _constant(like: Column, cell: str) -> Column:
    return Column("", np.zeros(len(like), np.int64), [cell])


def _one_time(columns: list[Column], table: Table) -> Column | None:
    size = len(table.lines)
    candidates = [c for c in columns if is_time(c) and not (c.repeats() == size - 1 > 0)]
    strong = [c for c in columns if key(c.name) in STRONG_TIME_NAMES]
    if len(candidates) > 1:
        named = [c for c in candidates if c in strong or not c.name]
        whole = [c for c in candidates if key(c.name) not in CALENDAR]
        chosen = named if len(named) == 1 else whole if len(whole) == 1 else []
        if not chosen:
            a, b = candidates[:2]
            if a.name == b.name:
                raise DataError(f"{table.where}: two columns are named {a.name!r}; rename one")
            raise DataError(
                f"{table.where}: columns {a.name!r} and {b.name!r} both hold times; use "
                f"--time {quoted(a.name)} or --time {quoted(b.name)}"
            )
        return chosen[0]
    if candidates:
        return candidates[0]
    if strong:
        return strong[0]
    for column in columns:
        cells = [cell.split(",")[0] for cell in sample(column)]
        if any(word in key(column.name) for word in TIME_WORDS) and cells:
            if all(cell.isdigit() and len(cell) in DIGITS_OF_TIMES for cell in cells):
                return column
    for name in WEAK_TIME_NAMES:
        for column in columns:
            if key(column.name) == name and sample(column) and is_numeric(column):
                if name in ("t", "year") or _counts(column):
                    return column
    return None


def _counts(column: Column) -> bool:
    """Whether the cells are distinct numbers with one step, or digits of dates."""
    if not _are_dates(column.head()):
        values = _distinct_numbers(column)
        if values is not None:
            steps = np.diff(values)
            return bool((steps > 0).all() and np.allclose(steps, steps[0]))
    cells = [cell for cell in column.cells if not is_missing(cell)]
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError:
        return False
    steps = np.diff(values)
    return (
        _are_dates(cells)
        or len(cells) > 12
        and bool((steps > 0).all() and np.allclose(steps, steps[0]))
    )


def _are_dates(cells: Sequence[str]) -> bool:
    return all(len(cell) in (6, 8) and forms.forms_of(cell) for cell in cells)


def _distinct_numbers(column: Column) -> Values | None:
    """The numbers of a large table's column without missing and repeated ones; None for others."""
    found = column.plain() if isinstance(column, ArrowColumn) else None
    if not found or not np.isfinite(found[0]).all() or column.repeats():
        return None
    return found[0]


def quoted(name: str) -> str:
    return f"'{name}'" if not name.replace("_", "").replace("-", "").isalnum() else name


def looks_named_as_time(table: Table) -> Column | None:
    """The first column whose name speaks of times."""
    words = (*TIME_WORDS, *STRONG_TIME_NAMES, "month", "year", "week", "period")
    return next((c for c in table.columns if any(w in key(c.name) for w in words)), None)
