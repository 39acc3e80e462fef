"""A column of text as times: their form, their time zone, or plain counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.protocols import Ids
from ...tokenizers._scales import Values
from . import fast_times, forms
from .arrow_columns import ArrowCells, ArrowColumn
from .numbers import PLAIN, is_missing, where
from .table import HEAD, Column, RowCells, Table
from .zones import offset_minutes, tz, zone_of

SAMPLE = 200  # cells from which a form is found
YEARS = (1600, 2261)
DAY_ORDERS = {"day-first": "%d", "month-first": "%m"}
UNREADABLE = "write times as 2024-01-31 or 2024-01-31T12:00:00, or name another column with --time"


@dataclass(frozen=True)
class Times:
    """The times of the rows of a table. stamps: a pandas DatetimeIndex (N,), NaT where missing,
    naive or in a time zone; None for plain counts, whose numbers are `counts` (N,), and whose cells
    are `cells`. form: see forms.py, or "count". zone: an IANA name or an offset such as +02:00;
    zone_from: how it is known."""

    stamps: Any
    form: str
    zone: str | None = None
    zone_from: str | None = None
    counts: Values | None = None
    cells: Sequence[str] = ()


def read_times(
    table: Table,
    column: Column,
    dates: str | None,
    zone: str | None,
    is_regular: Callable[[Any], bool],
    has_equal_steps: Callable[[Values], bool],
) -> Times:
    """A column as times. dates, zone: of `--dates` and `--zone`; is_regular, has_equal_steps: of
    stamps or numbers (N,), whether the rows of each series are evenly spaced. DataError names a
    cell that is no time."""
    found = _of_many(table, column, dates, is_regular, has_equal_steps)
    if found is not None:
        return found if found.stamps is None else _in_zone(found, column, zone)
    if any(not cell.isascii() for cell in column.cells):
        column = column.with_cells([forms.normal(cell) for cell in column.cells])
    cells = [cell for cell in column.cells if not is_missing(cell)]
    if not cells:
        raise DataError(f"{table.where}: column {column.name} has no times in it")
    begins = [forms.begin(cell) for cell in cells[:SAMPLE]]
    if all(begins):
        table.notes.append(f"{column.name} has intervals: a point stands at the begin of each")
        column = column.with_cells([forms.begin(cell) or cell for cell in column.cells])
        cells = [cell for cell in column.cells if not is_missing(cell)]
    if all(re.fullmatch(r"\d{5}(,\d+)?", cell) for cell in cells):  # days of a spreadsheet
        column = column.with_cells([cell.replace(",", ".") for cell in column.cells])
        cells = [cell.replace(",", ".") for cell in cells]
    if all(map(forms.TIME_OF_DAY.fullmatch, cells)):
        raise DataError(
            f"{table.where}: column {column.name} has times of day without dates; name the column "
            f"of the dates too, as in --time DATE,{column.name}"
        )
    if all(map(PLAIN.fullmatch, cells)):
        found = _of_numbers(table, column, cells, is_regular, has_equal_steps)
    else:
        found = _of_text(table, column, cells, dates, is_regular)
    if found.stamps is None:
        return found
    return _in_zone(found, column, zone)


def _of_many(
    table: Table,
    column: Column,
    dates: str | None,
    is_regular: Callable[[Any], bool],
    has_equal_steps: Callable[[Values], bool],
) -> Times | None:
    """The times of a large table where all are written in one form. None for others, and where one
    is missing or is no time."""
    if not isinstance(column, ArrowColumn):
        return None
    head = column.head()
    if len(head) < HEAD or any(map(is_missing, head)) or not column.is_ascii():
        return None
    others = (forms.begin, re.compile(r"\d{5}(,\d+)?").fullmatch, forms.TIME_OF_DAY.fullmatch)
    if any(all(map(test, head)) for test in others):
        return None
    if all(map(PLAIN.fullmatch, head)):
        return _of_many_numbers(column, has_equal_steps)
    cells = column.cells
    sample = cells[:: max(1, len(cells) // SAMPLE)]
    found = _readings(cells, sample, fast_times.parse)
    return _of_form(table, column, cells, sample, found, dates, is_regular) if found else None


def _of_many_numbers(
    column: ArrowColumn, has_equal_steps: Callable[[Values], bool]
) -> Times | None:
    """The same for numbers."""
    plain = column.plain()
    if plain is None or not np.isfinite(plain[0]).all():
        return None
    column.keep_text()
    low, high = column.lengths()
    if column.all_match(r"\d+"):
        form = forms.DIGITS.get(high) if low == high else None
        if form and not forms.parse(list(column.head()), form).hasnans:
            parsed = fast_times.parse(column.cells, form)
            if parsed.hasnans or not YEARS[0] <= parsed.year.min() <= parsed.year.max() <= YEARS[1]:
                return None
            return Times(_spread(column, column.cells, parsed), form)
        if high in forms.EPOCHS:
            unit = forms.EPOCHS[high]
            if low < high - 1 or plain[0].max() * forms.NANOSECONDS[unit] >= forms.MAX_NANOSECONDS:
                return None
            parsed = fast_times.epochs(column.cells, unit)
            return Times(_spread(column, column.cells, parsed), f"epoch:{unit}")
    elif high >= min(forms.EPOCHS) or column.any_match(r".*\.0"):
        return None
    low_day, high_day = forms.EXCEL_DAYS
    if low_day <= plain[0].min() and plain[0].max() <= high_day:
        if _is_named_as_days(column) or not has_equal_steps(plain[0]):
            return None
    return Times(None, "count", counts=plain[0], cells=RowCells(column))


def _is_named_as_days(column: Column) -> bool:
    return any(word in column.name.lower() for word in ("date", "day", "datum", "fecha"))


def _spread(column: Column, cells: Sequence[str], parsed: Any) -> Any:
    """(N,) times of the rows from those of `cells`, the distinct cells that are not missing."""
    if isinstance(cells, ArrowCells) and len(cells) == len(column):
        return parsed  # all are distinct: in the order of their rows
    if len(cells) == len(column.cells):
        return parsed[column.codes]
    at = {cell: number for number, cell in enumerate(cells)}
    order = np.array([at.get(cell, -1) for cell in column.cells])[column.codes]
    return parsed.take(order, allow_fill=True)


def _of_numbers(
    table: Table,
    column: Column,
    cells: list[str],
    is_regular: Callable[[Any], bool],
    has_equal_steps: Callable[[Values], bool],
) -> Times:
    whole = [cell.removesuffix(".0") for cell in cells]
    digits = [len(cell) for cell in whole]
    size = max(digits)
    if all(cell.isdigit() for cell in whole) and min(digits) == size:
        form = forms.DIGITS.get(size)
        if form and all(YEARS[0] <= int(cell[:4]) <= YEARS[1] for cell in whole):
            parsed = forms.parse(whole, form)
            if not parsed.hasnans:
                return Times(_spread(column, cells, parsed), form)
    integers = [cell.split(".")[0].lstrip("+-") for cell in whole]
    size = max(map(len, integers))
    if size in forms.EPOCHS and min(map(len, integers)) >= size - 1:
        unit = forms.EPOCHS[size]
        if max(map(float, whole)) * forms.NANOSECONDS[unit] >= forms.MAX_NANOSECONDS:
            raise DataError(
                f"{table.where}: column {column.name}: {max(whole, key=float)} is too late for a "
                f"time in {unit} since 1970; name another column with --time"
            )
        return Times(_spread(column, cells, forms.epochs(whole, unit)), f"epoch:{unit}")
    numbers = np.array([float(cell) for cell in cells])
    if not np.isfinite(numbers).all():
        cell = cells[int(np.flatnonzero(~np.isfinite(numbers))[0])]
        row = where(table, column, list(column.cells).index(cell))
        raise DataError(f"{row}: {cell} is too large for a time")
    order = {cell: number for cell, number in zip(cells, numbers, strict=True)}
    rows = np.array([order.get(cell, np.nan) for cell in column.cells])[column.codes]
    low, high = forms.EXCEL_DAYS
    steady = has_equal_steps(rows)
    named = _is_named_as_days(column)
    if low <= numbers.min() and numbers.max() <= high and (named or not steady):
        parsed = forms.parse(whole, "excel")
        stamps = _spread(column, cells, parsed)
        if named or is_regular(stamps):
            return Times(stamps, "excel")
    return Times(None, "count", counts=rows, cells=RowCells(column))


def _of_text(
    table: Table,
    column: Column,
    cells: list[str],
    dates: str | None,
    is_regular: Callable[[Any], bool],
) -> Times:
    sample = cells[:: max(1, len(cells) // SAMPLE)]
    found = _readings(cells, sample, forms.parse)
    if dates is not None or found:
        return _of_form(table, column, cells, sample, found, dates, is_regular)
    form, parsed = _mixed(table, column, cells)
    return Times(_spread(column, cells, parsed), form)


def _readings(
    cells: Sequence[str], sample: list[str], parse: Callable[[Any, str], Any]
) -> dict[str, Any]:
    """form -> different times, of the forms that all cells fit. parse: see `forms.parse`."""
    found: dict[str, Any] = {}
    for form in forms.matching_forms(sample):
        parsed = parse(cells, form)
        if not parsed.hasnans and not any(parsed.equals(other) for other in found.values()):
            found[form] = parsed
    return found


def _of_form(
    table: Table,
    column: Column,
    cells: Sequence[str],
    sample: list[str],
    found: dict[str, Any],
    dates: str | None,
    is_regular: Callable[[Any], bool],
) -> Times:
    """The times of the likely one of the readings that are `found`."""
    found = _day_or_month_first(table, column, cells, found, dates, is_regular)
    form, parsed = next(iter(found.items()))
    form = forms.exact_form(form, sample, _as_written(forms.parse(sample, form), sample))
    return Times(_spread(column, cells, parsed), form)


def _as_written(times: Any, cells: list[str]) -> Any:
    """Times in UTC as a list in the offsets of their cells, so that they can be written again."""
    if times.tz is None:
        return times
    return [t.astimezone(timezone(timedelta(minutes=m))) if m else t
            for t, m in zip(times, map(offset_minutes, cells), strict=True)]  # fmt: skip


def _day_or_month_first(
    table: Table,
    column: Column,
    cells: Sequence[str],
    found: dict[str, Any],
    dates: str | None,
    is_regular: Callable[[Any], bool],
) -> dict[str, Any]:
    """`found` without the readings that have day and month exchanged. Days come first in dates with
    dots (31.12.2024); else that order is taken with which the times are evenly spaced."""
    first = {form: form[:2] for form in found if form.startswith(("%d", "%m")) and "%b" not in form}
    if len(set(first.values())) < 2 and dates is None:
        return found
    wanted = DAY_ORDERS[dates] if dates else "%d" if "." in next(iter(first))[:3] else None
    if wanted:
        kept = {form: times for form, times in found.items() if first.get(form, wanted) == wanted}
        if not kept:
            raise DataError(f"{table.where}: column {column.name}: not all are dates {dates}")
        return kept
    regular = {
        form: times for form, times in found.items() if is_regular(_spread(column, cells, times))
    }
    if len(regular) == 1:
        return regular
    raise DataError(
        f"{table.where}: column {column.name} may have the day first or the month ({cells[0]}); "
        "use --dates day-first or --dates month-first"
    )


def _mixed(table: Table, column: Column, cells: list[str]) -> tuple[str, Any]:
    """Times in several forms: ISO 8601, or others that dateutil completes without guessing."""
    import pandas as pd
    from dateutil import parser

    try:
        times = pd.DatetimeIndex(pd.to_datetime(cells, format="ISO8601", utc=True))
        if (times.year < 1).any():  # such as -0, which pandas cannot write
            raise ValueError
        aware = [offset_minutes(cell) is not None for cell in cells]
        longest = max(cells, key=len)
        form = next(iter(forms.forms_of(longest)), "%Y-%m-%d")
        form = forms.exact_form(
            form, [longest], _as_written(forms.parse([longest], form), [longest])
        )
        if all(aware):
            return form, times
        if not any(aware):
            return form, times.tz_localize(None)
        wrong = cells[aware.index(not aware[0])]
        raise DataError(
            f"{where(table, column, column.cells.index(wrong))}: {wrong!r}: some times have an "
            "offset from UTC and some have none; write all in one form"
        )
    except (ValueError, OverflowError):
        pass
    odd = _odd_one(cells)
    stamps = []
    for cell in cells:
        if odd is not None and cell != odd:
            continue  # the message is about the odd one
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                readings = {
                    parser.parse(cell, default=default, dayfirst=day_first)
                    for default in (datetime(2001, 1, 1), datetime(2004, 10, 1))
                    for day_first in (False, True)
                }
        except (ValueError, OverflowError, TypeError, Warning):
            readings = set()
        if len(readings) != 1 or not any(char.isdigit() for char in cell):
            code = column.cells.index(cell)
            what = "can be read in several ways" if len(readings) > 1 else "is no time"
            raise DataError(
                f"{where(table, column, code)}: not readable as times: {cell!r} {what}; "
                f"{UNREADABLE}"
            ) from None
        stamps.append(readings.pop())
    if odd is not None:
        code = column.cells.index(odd)
        raise DataError(
            f"{where(table, column, code)}: {odd!r} is written in another form than {cells[0]!r}; "
            "write all times in one form"
        )
    table.notes.append(f"{column.name} has a form of its own: forecasts are written as 2024-01-31")
    if any(stamp.tzinfo for stamp in stamps):
        raise DataError(
            f"{table.where}: column {column.name}: times of several forms, some with a time zone; "
            "write all in one form"
        )
    return "%Y-%m-%d", pd.DatetimeIndex(stamps)


def _odd_one(cells: list[str]) -> str | None:
    """The first cell that does not fit the form of most others; None if there is no such form."""
    sample = cells[:SAMPLE]
    for form in forms.forms_of(sample[0]) or forms.forms_of(sample[-1]):
        fits = [cell for cell in sample if forms.pattern(form).fullmatch(cell)]
        if 2 * len(fits) > len(sample):
            return next((c for c in cells if not forms.pattern(form).fullmatch(c)), None)
    return None


def _in_zone(found: Times, column: Column, zone: str | None) -> Times:
    """The times in their zone: of `--zone`, of the file, or found from their offsets."""
    stamps = found.stamps
    zone_from = "--zone" if zone else None
    if stamps.tz is None:
        if zone:
            tz(zone)
            if found.form.startswith("epoch:"):  # instants, whatever the zone
                stamps = stamps.tz_localize("UTC").tz_convert(tz(zone))
        return Times(stamps, found.form, zone, zone_from)
    if zone is None and column.zone:
        zone, zone_from = column.zone, "the file"
    if zone is None:
        offsets = _offsets(column.cells)[column.codes]
        zone, zone_from = zone_of(stamps, offsets), "the offsets of its times"
    return Times(stamps.tz_convert(tz(zone)), found.form, zone, zone_from)


def _offsets(cells: Sequence[str]) -> Ids:
    found = fast_times.offsets(cells) if isinstance(cells, ArrowCells) else None
    return np.array([offset_minutes(c) or 0 for c in cells]) if found is None else found
