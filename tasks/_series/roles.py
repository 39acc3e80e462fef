"""Which column of a table holds the times, the ids and the values, and which are left out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.protocols import Ids
from . import forms
from .numbers import WORDS, Numbers, decimal_comma, is_missing, is_number, not_a_number, numbers
from .reading import Columns
from .table import Column, Table

ID_NAMES = {"id", "unique_id", "item_id", "series_id", "series", "series_name", "name"}
STRONG_TIME_NAMES = ("ds", "datetime", "date_time", "timestamp", "date", "time", "period")
TIME_WORDS = (
    "date",
    "datum",
    "time",
    "zeit",
    "fecha",
    "stamp",
)  # in the name of a column of digits
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
ROW_NUMBER = re.compile(r"-?\d+(\.0)?")
REPEATED = 0.05  # the share of repeated times in a table of several series
SAMPLE = 50


@dataclass
class Roles:
    """The columns of a table by their role."""

    time: Column | None
    ids: list[Column]
    targets: list[tuple[Column, Numbers]]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    time_name: str | None = None


def key(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def sample(column: Column) -> list[str]:
    """Some distinct cells that are not missing."""
    return [cell for cell in column.cells[: 4 * SAMPLE] if not is_missing(cell)][:SAMPLE]


def is_time(column: Column) -> bool:
    """Whether most cells (of a sample) look like times and not like numbers."""
    cells = sample(column)
    return bool(cells) and 2 * sum(map(forms.looks_like_time, cells)) > len(cells)


def is_time_of_day(cell: str) -> bool:
    return bool(forms.TIME_OF_DAY.fullmatch(cell))


def is_numeric(column: Column) -> bool:
    return all(map(is_number, sample(column)))


def find_roles(table: Table, columns: Columns) -> Roles:
    """The roles of all columns. DataError where the table can be read in two ways."""
    left_out: list[tuple[str, str]] = []
    table = _without_row_numbers(table, left_out, columns)
    time, time_name, rest = _find_time(table, columns, left_out)
    numbering = _row_ids(table, columns, time, rest)
    left_out += [(column.name, "a different one in each row") for column in numbering]
    rest = [column for column in rest if column not in numbering]
    ids = _find_ids(table, columns, time, rest)
    rest = [column for column in rest if column not in ids]
    targets = _find_targets(table, columns, rest, left_out)
    return Roles(time, ids, targets, left_out, time_name)


# -- row numbers ---------------------------------------------------------------------------------


def _without_row_numbers(table: Table, left_out: list[tuple[str, str]], columns: Columns) -> Table:
    """The table without the unnamed index that pandas writes with a data frame."""
    if len(table.columns) < 2 or not table.has_heading:
        return table
    kept = list(table.columns)
    named = {columns.time, columns.id, columns.target}
    while len(kept) > 1:
        first = kept[0]
        unnamed = key(first.name) in ("", "index", "level_0") or first.name.startswith("Unnamed:")
        counts = first.cells and all(ROW_NUMBER.fullmatch(cell) for cell in first.cells if cell)
        if not unnamed or not counts or first.name in named:
            break
        if key(first.name) == "index" and not any(map(is_time, kept[1:])):
            break
        left_out.append((first.name, "row numbers"))
        kept = kept[1:]
    return replace(table, columns=kept)


# -- times ---------------------------------------------------------------------------------------


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


def _find_time(
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
    if not clocks and len(dates) == 1 and hours and len(dates[0].cells) < len(dates[0]):
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
        return replace(part, cells=cells)

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
    candidates = [c for c in columns if is_time(c) and not (len(c.cells) == 1 < size)]
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
                f"--time {_quoted(a.name)} or --time {_quoted(b.name)}"
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
    cells = [cell for cell in column.cells if not is_missing(cell)]
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError:
        return False
    steps = np.diff(values)
    dates = all(len(cell) in (6, 8) and forms.forms_of(cell) for cell in cells)
    return dates or len(cells) > 12 and bool((steps > 0).all() and np.allclose(steps, steps[0]))


def _quoted(name: str) -> str:
    return f"'{name}'" if not name.replace("_", "").replace("-", "").isalnum() else name


# -- ids -----------------------------------------------------------------------------------------


def _repeats(parts: Sequence[Column]) -> int:
    """The number of rows whose cells in these columns all equal those of an earlier row."""
    if len(parts) == 1:
        return len(parts[0]) - len(parts[0].cells)
    codes = parts[0].codes.astype(np.int64)
    for part in parts[1:]:
        _, codes = np.unique(codes * len(part.cells) + part.codes, return_inverse=True)
    return len(codes) - len(np.unique(codes))


def _row_ids(
    table: Table, columns: Columns, time: Column | None, rest: list[Column]
) -> list[Column]:
    """The columns named as ids that number the rows of a table with times, not its series."""
    if columns.id or columns.target or time is None:
        return []
    size = len(table.lines)
    return [c for c in rest if key(c.name) in ID_NAMES and len(c.cells) == size > 1]


def _find_ids(
    table: Table, columns: Columns, time: Column | None, rest: list[Column]
) -> list[Column]:
    """The columns whose cells name the series."""
    if columns.id:
        return table.find_all(columns.id, "--id")
    targets = table.find_all(columns.target, "--target") if columns.target else []
    rest = [column for column in rest if column not in targets]
    size = len(table.lines)
    named = [column for column in rest if key(column.name) in ID_NAMES]
    words = [c for c in rest if sample(c) and not any(map(is_number, sample(c)))]
    if time is None:
        words = [column for column in words if column not in named]
        if named and len(named[0].cells) == size:
            return named[:1]
        return [*named[:1], *_names_without_times(words, rest, size)]
    repeated = _repeats([time])
    if named and (not _repeats([named[0], time]) or not repeated):
        return named[:1]
    if repeated < REPEATED * size:
        return named[:1]
    for some in (named + [w for w in words if w not in named], rest):
        found = _distinguishing(time, some, repeated)
        if found:
            break
    if not found:
        return named[:1]
    if all(column in words or column in named for column in found):
        return found
    names = ",".join(column.name for column in found)
    row = table.lines[_first_repeat(time)]
    raise DataError(
        f"{table.where}: row {row} has a time that appeared before: several series? Then use "
        f"--id {_quoted(names)}"
    )


def _first_repeat(time: Column) -> int:
    _, first = np.unique(time.codes, return_index=True)
    later = np.ones(len(time.codes), bool)
    later[first] = False
    return int(np.flatnonzero(later)[0])


def _distinguishing(time: Column, some: list[Column], repeated: int) -> list[Column]:
    """The fewest columns that tell rows of the same time apart: none of the pairs of their cells
    and the time, or few, appears twice."""
    some = [c for c in some if 1 < len(c.cells) <= max(1, len(time) // 2) or len(c.cells) == 2]
    for count in (1, 2, 3):
        for parts in itertools.combinations(some[:12], count):
            if not _repeats([*parts, time]):
                return list(parts)
    words = [part for part in some if not is_numeric(part)]
    if len(words) > 3 and not _repeats([*words, time]):
        for part in list(words):  # those that are not needed
            others = [other for other in words if other is not part]
            words = others if not _repeats([*others, time]) else words
        return words
    for part in some:
        if not is_numeric(part) and _repeats([part, time]) < repeated / 2:
            return [part]
    return []


def _names_without_times(words: list[Column], rest: list[Column], size: int) -> list[Column]:
    """In a table without times: a column of words with a different one in each row, beside values,
    or one whose words repeat."""
    others = [c for c in rest if c not in words]
    for column in words:
        if len(column.cells) == size and (len(others) > 1 or size == 1):
            return [column]
    return [column for column in words if 3 * len(column.cells) <= size]


# -- values --------------------------------------------------------------------------------------


def _find_targets(
    table: Table, columns: Columns, rest: list[Column], left_out: list[tuple[str, str]]
) -> list[tuple[Column, Numbers]]:
    if columns.target:
        chosen = table.find_all(columns.target, "--target")
        left_out += [(c.name, "not a --target") for c in rest if c not in chosen]
    else:
        chosen = rest
    comma = decimal_comma(chosen)
    found = []
    for column in chosen:
        values = numbers(table, column, columns.decimal, comma)
        if values.wrong and columns.target:
            raise not_a_number(table, column, values)
        if values.wrong_share >= WORDS or (values.wrong and not np.isfinite(values.values).any()):
            left_out.append((column.name, "words" if values.wrong_share == 1 else
                             f"no number in {values.wrong_share:.0%} of its rows"))  # fmt: skip
        elif values.wrong:
            raise not_a_number(table, column, values)
        elif column.name or not values.is_empty:
            found.append((column, values))
    if not found:
        odd = next((cell for column in chosen for cell in sample(column)), "")
        example = f" ({odd!r} is no number)" if odd and not is_number(odd) else ""
        raise DataError(f"{table.where}: no column with values{example}; name it with --target")
    return found


def calendar_columns(targets: list[tuple[Column, Numbers]], stamps: Any) -> list[Column]:
    """The columns that only repeat a part of the time, such as its month; never all of them."""
    found = []
    for column, numbers_ in targets:
        name, values = key(column.name), numbers_.values
        if name in CALENDAR and np.isfinite(values).all() and _follows(name, values, stamps):
            found.append(column)
    return found if len(found) < len(targets) else []


def _follows(name: str, values: Any, stamps: Any) -> bool:
    part = {"weekofyear": "week", "week_of_year": "week", "weeknum": "week", "isoweek": "week",
            "dow": "weekday", "dayofweek": "weekday", "day_of_week": "weekday",
            "doy": "dayofyear", "day_of_year": "dayofyear"}.get(name, name)  # fmt: skip
    part = {"weekday": "day_of_week", "dayofyear": "day_of_year"}.get(part, part)
    if part == "week":
        weeks = stamps.isocalendar()["week"].to_numpy().astype(np.int64)
        return bool((np.abs(values - weeks) <= 1).mean() > 0.9)
    actual = np.asarray(getattr(stamps, part))
    if part == "day_of_week":  # counted from any day, from 0 or 1
        return len({(int(a), float(v)) for a, v in zip(actual, values, strict=True)}) <= 7
    return bool((values == actual).all())


def looks_named_as_time(table: Table) -> Column | None:
    """The first column whose name speaks of times."""
    words = (*TIME_WORDS, *STRONG_TIME_NAMES, "month", "year", "week", "period")
    return next((c for c in table.columns if any(w in key(c.name) for w in words)), None)


def group_rows(ids: list[Column], size: int) -> list[tuple[str, Ids]]:
    """(id, rows) of each series, in the order of their first rows; one unnamed without ids."""
    if not ids:
        return [("", np.arange(size))]
    name = ids[0] if len(ids) == 1 else join(ids, "/", "")
    if len(ids) > 1 and len(name.cells) < size - _repeats(ids):
        raise DataError(
            f"ids of {', '.join(column.name for column in ids)} are equal when joined by /; rename "
            "some, or join them in another column"
        )
    order = np.argsort(name.codes, kind="stable")
    codes, first = np.unique(name.codes[order], return_index=True)
    groups = np.split(order, first[1:])
    pairs = sorted(zip(codes, groups, strict=True), key=lambda pair: int(pair[1][0]))
    return [(name.cells[code], rows) for code, rows in pairs]
