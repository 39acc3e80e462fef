"""Which column of a table holds the times, the ids and the values, and which are left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...core.errors import DataError
from .arrow_columns import ArrowColumn
from .id_columns import find_ids, row_ids
from .numbers import WORDS, Numbers, decimal_comma, is_number, not_a_number, numbers
from .reading import Columns
from .side_columns import SideColumn, side_columns
from .table import Column, Table
from .time_columns import CALENDAR, find_time, is_time, key, sample

PARTS_OF_TIME = {  # names of calendar columns -> attributes of times
    **dict.fromkeys(("weekofyear", "week_of_year", "weeknum", "isoweek"), "week"),
    **dict.fromkeys(("dow", "dayofweek", "weekday"), "day_of_week"),
    **dict.fromkeys(("doy", "dayofyear"), "day_of_year"),
}
ROW_NUMBER = re.compile(r"-?\d+(\.0)?")


@dataclass
class Roles:
    """The columns of a table by their role."""

    time: Column | None
    ids: list[Column]
    targets: list[tuple[Column, Numbers]]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    time_name: str | None = None
    sides: list[SideColumn] = field(default_factory=list)


def find_roles(table: Table, columns: Columns) -> Roles:
    """The roles of all columns. DataError where the table can be read in two ways."""
    left_out: list[tuple[str, str]] = []
    sides, table = side_columns(table, columns)
    table = _without_row_numbers(table, left_out, columns)
    time, time_name, rest = find_time(table, columns, left_out)
    numbering = row_ids(table, columns, time, rest)
    left_out += [(column.name, "a different one in each row") for column in numbering]
    rest = [column for column in rest if column not in numbering]
    ids = find_ids(table, columns, time, rest)
    rest = [column for column in rest if column not in ids]
    if columns.future:
        targets = [(Column.of("", []), Numbers(np.full(len(table.lines), np.nan), (), (), 0.0))]
    else:
        targets = _find_targets(table, columns, rest, left_out)
    return Roles(time, ids, targets, left_out, time_name, sides)


def _without_row_numbers(table: Table, left_out: list[tuple[str, str]], columns: Columns) -> Table:
    """The table without the unnamed index that pandas writes with a data frame."""
    if len(table.columns) < 2 or not table.has_heading:
        return table
    kept = list(table.columns)
    named = {columns.time, columns.id, columns.target}
    while len(kept) > 1:
        first = kept[0]
        unnamed = key(first.name) in ("", "index", "level_0") or first.name.startswith("Unnamed:")
        if not unnamed or first.name in named or not _are_row_numbers(first):
            break
        if key(first.name) == "index" and not any(map(is_time, kept[1:])):
            break
        left_out.append((first.name, "row numbers"))
        kept = kept[1:]
    return replace(table, columns=kept)


def _are_row_numbers(column: Column) -> bool:
    if isinstance(column, ArrowColumn) and column.all_match(f"({ROW_NUMBER.pattern})?"):
        return True
    return bool(column.cells) and all(ROW_NUMBER.fullmatch(cell) for cell in column.cells if cell)


def _find_targets(
    table: Table, columns: Columns, rest: list[Column], left_out: list[tuple[str, str]]
) -> list[tuple[Column, Numbers]]:
    if columns.target:
        chosen = table.find_all(columns.target, "--target")
        left_out += [(c.name, "not a --target") for c in rest if c not in chosen]
    else:
        chosen = rest
    comma = decimal_comma(table, chosen)
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
    part = PARTS_OF_TIME.get(name, name)
    if part == "week":
        weeks = stamps.isocalendar()["week"].to_numpy().astype(np.int64)
        return bool((np.abs(values - weeks) <= 1).mean() > 0.9)
    actual = np.asarray(getattr(stamps, part))
    if part == "day_of_week":  # counted from any day, from 0 or 1
        return len({(int(a), float(v)) for a, v in zip(actual, values, strict=True)}) <= 7
    return bool((values == actual).all())
