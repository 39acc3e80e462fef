"""What a column of cells says of time: dates of many forms, or mere counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...tokenizers.bins import Values
from .table import Table, is_number
from .times import has_step

DIGITS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d"}
DAY_OR_MONTH_FIRST = re.compile(r"\d{1,2}([-/.])\d{1,2}\1(\d{4}|\d{2})([T ].*)?")


def times_of(table: Table, column: int, groups: Iterable[list[int]]) -> Any:
    """A column as a pandas DatetimeIndex in UTC without a zone; digits by their number: 2024,
    202401, 20240131, Unix seconds or milliseconds. None where they merely count, each of the
    groups of rows by itself, by steps of one length."""
    import pandas as pd

    cells = [cell.strip().removesuffix(".0") for cell in table.cells[column]]
    known = [cell for cell in cells if cell]
    try:
        if all(cell.isdigit() for cell in known):
            size = max(map(len, known), default=0)
            if size in DIGITS and min(map(len, known)) == size and _is_date(known, size):
                return pd.DatetimeIndex(pd.to_datetime(cells, format=DIGITS[size]))
            if size in (10, 13):
                numbers = pd.to_numeric(pd.Series(cells))
                unit = "s" if size == 10 else "ms"
                return pd.DatetimeIndex(pd.to_datetime(numbers, unit=unit))
        if len(known) == len(cells) and all(map(is_number, cells)):
            counts = np.array(cells, np.float64)
            if all(_is_even(counts[rows]) for rows in groups):
                return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mixed formats are read cell by cell, or refused
            if all(DAY_OR_MONTH_FIRST.fullmatch(cell) for cell in known):
                rows = next((rows for rows in groups if len(rows) > 2), [0])
                return _day_or_month_first(
                    cells, rows, f"{table.where}: column {table.names[column]}"
                )
            times = pd.to_datetime(pd.Series(cells), utc=True, format=None if known else "ISO8601")
        return pd.DatetimeIndex(times).tz_localize(None)
    except (ValueError, OverflowError) as error:
        line = str(error).splitlines()[0].removesuffix(" You might want to try:")
        raise DataError(
            f"{table.where}: column {table.names[column]} is not readable as times ({line}); "
            "write them as 2024-01-31 or 2024-01-31T12:00:00, or name another with --time"
        ) from None


def _is_date(cells: list[str], size: int) -> bool:
    """Whether digits are dates, by their years: what else may count, from any number on."""
    return all(1678 <= int(cell[:4]) <= 2261 for cell in cells) and (
        size == 4 or all(1 <= int(cell[4:6]) <= 12 for cell in cells)
    )


def _is_even(counts: Values) -> bool:
    steps = np.diff(counts)
    return not len(steps) or bool(steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3))


def _day_or_month_first(cells: list[str], rows: list[int], where: str) -> Any:
    """Times whose year comes last: the order that all can be read by, else the one by which those
    of `rows` lie a step apart; between points, as in 31.12.2024, the day is first."""
    import pandas as pd

    read = {}
    for first in ("day", "month"):
        try:
            times = pd.to_datetime(pd.Series(cells), utc=True, dayfirst=first == "day")
            read[first] = pd.DatetimeIndex(times).tz_localize(None)
        except ValueError as error:
            if first == "month" and not read:
                raise error
    if "." in cells[0].split()[0] and "day" in read:
        return read["day"]
    if len(read) == 2 and not read["day"].equals(read["month"]):
        even = {first: times for first, times in read.items() if has_step(times[rows])}
        if len(even) == 2:
            raise DataError(
                f"{where} may have the day first or the month ({cells[0]}); write times as "
                "2024-01-31"
            )
        read = even or read
    return read.get("month", read.get("day"))
