"""Which columns of a table hold the ids of its series."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ...core.errors import DataError
from ...core.protocols import Ids
from .numbers import is_number
from .reading import Columns
from .table import Column, Table
from .time_columns import is_numeric, join, key, quoted, sample

ID_NAMES = {"id", "unique_id", "item_id", "series_id", "series", "series_name", "name"}
REPEATED = 0.05  # the share of repeated times in a table of several series


def _repeats(parts: Sequence[Column]) -> int:
    """The number of rows whose cells in these columns all equal those of an earlier row."""
    if len(parts) == 1:
        return parts[0].repeats()
    codes, bound = parts[0].codes.astype(np.int64), len(parts[0].cells)
    for part in parts[1:]:
        if bound * len(part.cells) >= 1 << 62:
            _, codes = np.unique(codes, return_inverse=True)
            bound = len(codes)
        codes, bound = codes * len(part.cells) + part.codes, bound * len(part.cells)
    codes = np.sort(codes)  # faster than np.unique
    return int((codes[1:] == codes[:-1]).sum())


def row_ids(
    table: Table, columns: Columns, time: Column | None, rest: list[Column]
) -> list[Column]:
    """The columns named as ids that number the rows of a table with times, not its series."""
    if columns.id or columns.target or time is None:
        return []
    size = len(table.lines)
    return [c for c in rest if key(c.name) in ID_NAMES and size > 1 and not c.repeats()]


def find_ids(
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
        if named and not named[0].repeats():
            return named[:1]
        return [*named[:1], *_names_without_times(words, rest, size)]
    repeated = _repeats([time])
    if named and (not _repeats([named[0], time]) or not repeated):
        return named[:1]
    if repeated < REPEATED * size:
        found = _distinguishing(time, words, repeated) if repeated else []
        if found and not named and columns.resample and not columns.target:
            names = quoted(",".join(column.name for column in found))
            value = next((c.name for c in rest if c not in words), "COLUMN")
            raise DataError(
                f"{table.where}: row {table.lines[_first_repeat(time)]} has a time that appeared "
                f"before; use --id {names} if these are several series, or --target "
                f"{quoted(value)} to average them"
            )
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
        f"--id {quoted(names)}"
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
        if not column.repeats() and (len(others) > 1 or size == 1):
            return [column]
    return [column for column in words if 3 * len(column.cells) <= size]


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
    begins = np.r_[0, np.flatnonzero(name.codes[1:] != name.codes[:-1]) + 1]
    if len(begins) == len(name.cells):  # the rows of each series follow one another
        rows = np.split(np.arange(size), begins[1:])
        cells = list(name.cells)
        return [(cells[code], some) for code, some in zip(name.codes[begins], rows, strict=True)]
    order = np.argsort(name.codes, kind="stable")
    codes, first = np.unique(name.codes[order], return_index=True)
    groups = np.split(order, first[1:])
    pairs = sorted(zip(codes, groups, strict=True), key=lambda pair: int(pair[1][0]))
    cells = list(name.cells)
    return [(cells[code], rows) for code, rows in pairs]
