"""Parse a column of cells as times: dates in many formats, or plain counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...tokenizers._scales import Values
from .table import Table, is_number
from .times import has_single_frequency

DIGIT_FORMATS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d"}
DAY_OR_MONTH_FIRST = re.compile(r"\d{1,2}([-/.])\d{1,2}\1(\d{4}|\d{2})([T ].*)?")


def times_of(table: Table, column: int, groups: Iterable[list[int]]) -> Any:
    """A column as a pandas DatetimeIndex in UTC, without a time zone. Digits are read by their
    length: 2024, 202401, 20240131, Unix seconds or milliseconds. None for plain counts: numbers
    with one step within each of the `groups` of rows."""
    import pandas as pd

    cells = [cell.strip().removesuffix(".0") for cell in table.cells[column]]
    known = [cell for cell in cells if cell]
    try:
        if all(cell.isdigit() for cell in known):
            size = max(map(len, known), default=0)
            if size in DIGIT_FORMATS and min(map(len, known)) == size and _are_dates(known, size):
                return pd.DatetimeIndex(pd.to_datetime(cells, format=DIGIT_FORMATS[size]))
            if size in (10, 13):
                numbers = pd.to_numeric(pd.Series(cells))
                unit = "s" if size == 10 else "ms"
                return pd.DatetimeIndex(pd.to_datetime(numbers, unit=unit))
        if len(known) == len(cells) and all(map(is_number, cells)):
            counts = np.array(cells, np.float64)
            if all(_has_equal_steps(counts[rows]) for rows in groups):
                return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mixed formats: pandas parses each cell or raises
            if all(DAY_OR_MONTH_FIRST.fullmatch(cell) for cell in known):
                rows = next((rows for rows in groups if len(rows) > 2), [0])
                return _parse_day_or_month_first(
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


def _are_dates(cells: list[str], size: int) -> bool:
    """Whether cells of digits are dates, judged by plausible years and months."""
    return all(1678 <= int(cell[:4]) <= 2261 for cell in cells) and (
        size == 4 or all(1 <= int(cell[4:6]) <= 12 for cell in cells)
    )


def _has_equal_steps(counts: Values) -> bool:
    steps = np.diff(counts)
    return not len(steps) or bool(steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3))


def _parse_day_or_month_first(cells: list[str], rows: list[int], where: str) -> Any:
    """Times whose year comes last. Dates with dots (31.12.2024) have the day first. Otherwise day
    or month is first such that all cells parse, or else such that `rows` have a single
    frequency."""
    import pandas as pd

    parsed = {}
    for first in ("day", "month"):
        try:
            times = pd.to_datetime(pd.Series(cells), utc=True, dayfirst=first == "day")
            parsed[first] = pd.DatetimeIndex(times).tz_localize(None)
        except ValueError as error:
            if first == "month" and not parsed:
                raise error
    if "." in cells[0].split()[0] and "day" in parsed:
        return parsed["day"]
    if len(parsed) == 2 and not parsed["day"].equals(parsed["month"]):
        regular = {key: t for key, t in parsed.items() if has_single_frequency(t[rows])}
        if len(regular) == 2:
            raise DataError(
                f"{where} may have the day first or the month ({cells[0]}); write times as "
                "2024-01-31"
            )
        parsed = regular or parsed
    return parsed.get("month", parsed.get("day"))
