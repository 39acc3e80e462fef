"""Tables with a series a row, whose heading holds the times: 1960, 1961 ... or 1/22/20, 1/23/20."""

from __future__ import annotations

import itertools
import re

import numpy as np

from ...core.errors import DataError
from ...tokenizers._scales import Values
from . import forms
from .inference import is_regular
from .numbers import decimal_comma, is_missing, is_number, not_a_number, numbers
from .reading import Columns
from .stamps import YEARS, Times, read_times
from .table import Column, Table
from .time_columns import is_time, join, sample

MIN_TIMES = 3  # in a heading


def is_heading(rows: list[list[str]]) -> bool:
    """Whether the first row is a heading: its end holds times, or it has fewer numbers and times
    than the second, or none at all."""
    first = [cell.strip() for cell in rows[0]]
    if len(rows) > 1 and _times_at_end(first):
        return True

    def count(cells: list[str]) -> int:
        return sum(
            bool(c.strip()) and (is_number(c) or forms.looks_like_time(c.strip())) for c in cells
        )

    second = count(rows[1]) if len(rows) > 1 else 0
    return count(first) < second or (not count(first) and len(rows) > 1)


def _times_at_end(names: list[str]) -> tuple[int, list[str]] | None:
    """(index of the first, cells) of the longest run of times in a heading that begins with a word;
    None where there are fewer than three."""
    cells = [heading_time(name) for name in names]
    runs = []
    for found, group in itertools.groupby(enumerate(cells), lambda pair: pair[1] is not None):
        if found:
            at = list(group)
            runs.append((at[0][0], [cell or "" for _, cell in at]))
    first, run = max(runs, key=lambda run: len(run[1]), default=(0, []))
    if not first or len(run) < MIN_TIMES or len(set(run)) < len(run):
        return None
    return (first, run) if all(map(_is_year, run)) or forms.matching_forms(run) else None


def heading_time(name: str) -> str | None:
    """The time in a cell of a heading: 1960, 1960 [YR1960] of the World Bank, X1960 of R."""
    name = re.sub(r"\s*\[YR\d{4}\]$", "", name.strip())
    name = re.sub(r"^X(?=\d)", "", name)
    return name if _is_year(name) or forms.looks_like_time(name) else None


def _is_year(name: str) -> bool:
    return len(name) == 4 and name.isdigit() and YEARS[0] <= int(name) <= YEARS[1]


def times_of_heading(table: Table) -> tuple[int, list[str]] | None:
    """(index of the first time, the times) in the heading of a table with a series a row; None for
    any other table. DataError where rows and columns both are times."""
    found = _times_at_end(table.names) if table.has_heading else None
    if found is None:
        return None
    first, cells = found
    months = [month[:3].lower() for month in forms.MONTHS]
    for column in table.columns[:first]:
        words = sample(column)
        in_months = words and all(word[:3].lower() in months for word in words)
        if is_time(column) or in_months:
            raise DataError(
                f"{table.where}: its rows ({column.name}: {words[0]}) and its columns ({cells[0]} "
                "to " + f"{cells[-1]}) both are times; write one time a row, or name the column "
                "of the times with --time"
            )
    return found


def series_rows(
    table: Table, columns: Columns, first: int, cells: list[str]
) -> tuple[Times, list[Column], Values, list[tuple[str, str]], set[str]]:
    """(times, columns of the ids, values (rows, times), columns left out, marks of missing values)
    of a table whose times begin at column `first` of the heading."""
    labels = [column for column in table.columns[:first] if sample(column)]
    body = table.columns[first : first + len(cells)]
    after = [column for column in table.columns[first + len(cells) :] if sample(column)]
    heading = Column.of("the heading", cells)
    lines = np.ones(len(cells), np.int64)
    times = read_times(
        Table([heading], table.where, lines), heading, columns.dates, columns.zone,
        is_regular, lambda counts: True,
    )  # fmt: skip
    comma = decimal_comma(table, body)
    parsed = [numbers(table, column, columns.decimal, comma) for column in body]
    for column, found in zip(body, parsed, strict=True):
        if found.wrong:
            raise not_a_number(table, column, found)
    matrix = np.stack([found.values for found in parsed], axis=1)
    ids = _ids(table, columns, labels)
    left_out = [(c.name, "not needed to tell rows apart") for c in labels if c not in ids]
    left_out += [(column.name, "after the times of the heading") for column in after]
    marks = {mark for found in parsed for mark in found.marks}
    return times, ids, matrix, left_out, marks


def _ids(table: Table, columns: Columns, labels: list[Column]) -> list[Column]:
    """The columns of `--id`, or the fewest that tell the rows apart, words first."""
    if columns.id:
        return table.find_all(columns.id, "--id")
    words = [c for c in labels if not all(map(is_number, sample(c)))]
    for some in (words, labels):
        for count in range(1, min(3, len(some)) + 1):
            for parts in itertools.combinations(some, count):
                whole = join(parts, "/", "")
                if len(whole.cells) == len(whole) and not any(map(is_missing, whole.cells)):
                    return list(parts)
    return words or labels
