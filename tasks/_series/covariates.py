"""The covariates of series: found in the training data, and known of the points to forecast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...core.errors import DataError
from ...tokenizers._covariates import Column, Covariate, Covariates
from ...tokenizers._scales import Values
from .calendar import calendar_columns, name_of, useful_parts
from .clock import COUNT, Clock
from .collection import Series, at_frequency


def fit_covariates(
    series: Iterable[Series], past: Sequence[str], known: Sequence[str], calendar: bool
) -> Covariates:
    """The covariates that the flags name, from the training series."""
    found = list(series)
    names = [("past", name) for name in past] + [("known", name) for name in known]
    if calendar:
        parts = useful_parts([one.clock for one in found])
        names += [("calendar", name_of(part)) for part in parts]
    return Covariates(
        tuple(
            Covariate.fit(name, kind, [one.columns[name][: len(one)] for one in found])
            for kind, name in names
        )
    )


def with_calendar(series: Series) -> Series:
    """The series with the parts of its times as columns."""
    parts = calendar_columns(series.id, series.clock, 0, len(series))
    return replace(series, columns={**series.columns, **parts})


def without_future(series: Series, known: Sequence[str]) -> Series:
    """The series up to its last value, where the rows after it say what is known of the future."""
    values = np.flatnonzero(np.isfinite(series.values))
    end = int(values[-1]) + 1 if len(values) else 0
    if not end or end == len(series) or not any(_has_any(series.columns[n][end:]) for n in known):
        return series
    return replace(series, values=series.values[:end])


def _has_any(column: Column) -> bool:
    """Whether a cell is not missing."""
    return bool((np.isfinite(column) if column.dtype.kind == "f" else column != "").any())


def codes_ahead(
    codes: Mapping[str, Values], series: Series, first: int, count: int, covariates: Covariates
) -> dict[str, Values]:
    """The codes of a prompt and of `count` points after its last value; first: the index of the
    series' first point on its clock. What is not known of these points is NaN."""
    length = len(series)
    out = {}
    for one in covariates.each:
        own = codes[one.name][: length if one.kind != "known" else length + count]
        out[one.name] = np.pad(own, (0, length + count - len(own)), constant_values=np.nan)
    if any(one.kind == "calendar" for one in covariates.each):
        parts = calendar_columns(series.id, series.clock, first, length + count)
        for one in covariates.each:
            if one.kind == "calendar":
                out[one.name] = one.codes(parts[one.name])
    return out


# -- --known-data --------------------------------------------------------------------------------


def add_known(
    codes: Mapping[str, Values],
    series: Series,
    first: int,
    table: Mapping[str, Series],
    covariates: Covariates,
) -> dict[str, Values]:
    """The codes of a prompt with those that `table` (series by id) has of the points after it.
    DataError where it has no rows of this series."""
    found = _rows_of(series.id, table)
    if found is None:
        raise DataError(f"--known-data: no rows for series {series.id}")
    if len(found) < 3:
        found = at_frequency(found, series.clock)
    wanted = _keys(series.clock, first + len(series), len(found))
    number = {key: at for at, key in enumerate(_keys(found.clock, 0, len(found)))}
    rows = np.array([number.get(key, -1) for key in wanted])
    if rows[0] < 0:
        (due,) = series.clock.times(first + len(series), 1)
        raise DataError(f"--known-data: no row for series {series.id} at {due}")
    out = dict(codes)
    for one in covariates.each:
        if one.kind == "known":
            new = np.where(rows < 0, np.nan, one.codes(found.columns[one.name])[rows])
            out[one.name] = np.concatenate((codes[one.name][: len(series)], new))
    return out


def _rows_of(name: str, table: Mapping[str, Series]) -> Series | None:
    """The rows of a series: of its id, of the id of a table of several columns of values, or those
    of a table without ids."""
    for known in (name, name.rpartition("/")[0]):
        if known in table:
            return table[known]
    return next(iter(table.values())) if len(table) == 1 and _is_only(table) else None


def _is_only(table: Mapping[str, Series]) -> bool:
    return next(iter(table)) == ""


def _keys(clock: Clock, first: int, count: int) -> list[object]:
    """The times of points, comparable between tables."""
    if clock.start is None or clock.freq is None or clock.form == COUNT:
        return list(clock.times(first, count))
    stamps = clock.stamps(first, count)
    in_utc = stamps.tz_convert("UTC") if stamps.tz is not None else stamps
    return list(in_utc.as_unit("us").asi8)


def missing_ahead(
    codes: Mapping[str, Values], length: int, count: int, covariates: Covariates
) -> list[str]:
    """The known covariates without a code at one of the `count` points after the first `length`."""
    return [
        one.name
        for one in covariates.each
        if one.kind == "known" and np.isnan(codes[one.name][length : length + count]).any()
    ]
