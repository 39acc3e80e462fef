"""A column of text as times: their form, their time zone, or plain counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...tokenizers._scales import Values
from . import forms
from .numbers import PLAIN, is_missing, where
from .table import Column, Table
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
    cells: tuple[str, ...] = ()


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
    if any(not cell.isascii() for cell in column.cells):
        column = replace(column, cells=[forms.normal(cell) for cell in column.cells])
    cells = [cell for cell in column.cells if not is_missing(cell)]
    if not cells:
        raise DataError(f"{table.where}: column {column.name} has no times in it")
    begins = [forms.begin(cell) for cell in cells[:SAMPLE]]
    if all(begins):
        table.notes.append(f"{column.name} has intervals: a point stands at the begin of each")
        column = replace(column, cells=[forms.begin(cell) or cell for cell in column.cells])
        cells = [cell for cell in column.cells if not is_missing(cell)]
    if all(re.fullmatch(r"\d{5}(,\d+)?", cell) for cell in cells):  # days of a spreadsheet
        column = replace(column, cells=[cell.replace(",", ".") for cell in column.cells])
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


def _spread(column: Column, cells: list[str], parsed: Any) -> Any:
    """(N,) times of the rows from those of `cells`, the distinct cells that are not missing."""
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
    order = {cell: number for cell, number in zip(cells, numbers, strict=True)}
    rows = np.array([order.get(cell, np.nan) for cell in column.cells])[column.codes]
    low, high = forms.EXCEL_DAYS
    steady = has_equal_steps(rows)
    named = any(word in column.name.lower() for word in ("date", "day", "datum", "fecha"))
    if low <= numbers.min() and numbers.max() <= high and (named or not steady):
        parsed = forms.parse(whole, "excel")
        stamps = _spread(column, cells, parsed)
        if named or is_regular(stamps):
            return Times(stamps, "excel")
    return Times(None, "count", counts=rows, cells=tuple(column.text()))


def _of_text(
    table: Table,
    column: Column,
    cells: list[str],
    dates: str | None,
    is_regular: Callable[[Any], bool],
) -> Times:
    sample = cells[:: max(1, len(cells) // SAMPLE)]
    found: dict[str, Any] = {}
    for form in forms.matching_forms(sample):
        parsed = forms.parse(cells, form)
        if not parsed.hasnans and not any(parsed.equals(other) for other in found.values()):
            found[form] = parsed
    found = _day_or_month_first(table, column, cells, found, dates, is_regular)
    if found:
        form, parsed = next(iter(found.items()))
        form = forms.exact_form(form, sample, _as_written(forms.parse(sample, form), sample))
    else:
        form, parsed = _mixed(table, column, cells)
    stamps = _spread(column, cells, parsed)
    return Times(stamps, form)


def _as_written(times: Any, cells: list[str]) -> Any:
    """Times in UTC as a list in the offsets of their cells, so that they can be written again."""
    if times.tz is None:
        return times
    return [t.astimezone(timezone(timedelta(minutes=m))) if m else t
            for t, m in zip(times, map(offset_minutes, cells), strict=True)]  # fmt: skip


def _day_or_month_first(
    table: Table,
    column: Column,
    cells: list[str],
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
        offsets = np.array([offset_minutes(cell) or 0 for cell in column.cells])[column.codes]
        zone, zone_from = zone_of(stamps, offsets), "the offsets of its times"
    return Times(stamps.tz_convert(tz(zone)), found.form, zone, zone_from)
