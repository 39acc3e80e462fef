"""Tables of forecasts beside the actual values, and of sample paths: CSV and parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.files import write_out
from .clock import COUNT
from .output import Forecast, escape_formula

Columns = dict[str, Any]  # of the points of one forecast, by name


def write_forecasts(path: Path, items: Iterable[Forecast], guard: bool) -> None:
    """A row a point: the id of the series, cutoff (the time of the last point of the history),
    time, the actual value (empty or null where it is missing), the mean and the quantiles."""
    _write(path, (item for item in items), _forecast_columns, ("cutoff", "time"), guard)


def write_paths(path: Path, items: Iterable[Forecast], guard: bool) -> None:
    """A row a point: the id of the series, time, and the value of each path, numbered from 1."""
    _write(path, items, _path_columns, ("time",), guard)


def _forecast_columns(item: Forecast) -> Columns:
    actual = np.full(item.paths.shape[1], np.nan) if item.actual is None else item.actual
    figures = dict(zip(("mean", *item.quantiles), item.figures, strict=True))
    return {"actual": actual, **figures}


def _path_columns(item: Forecast) -> Columns:
    return {str(number): path for number, path in enumerate(item.paths, 1)}


def _write(
    path: Path, items: Iterable[Forecast], columns: Any, times: Sequence[str], guard: bool
) -> None:
    write = _write_parquet if path.suffix == ".parquet" else _write_csv
    write(path, items, columns, times, guard)


def _write_csv(
    path: Path, items: Iterable[Forecast], columns: Any, times: Sequence[str], guard: bool
) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for number, item in enumerate(items):
        found = columns(item)
        if not number:
            table.writerow(["id", *times, *found])
        horizon, digits = item.paths.shape[1], item.digits
        (cutoff,) = item.clock.times(item.first - 1, 1)
        before = {"cutoff": [cutoff] * horizon, "time": item.times}
        cells = [[_cell(value, digits) for value in line] for line in found.values()]
        name = escape_formula(item.id) if guard else item.id
        table.writerows(zip([name] * horizon, *(before[t] for t in times), *cells, strict=True))
    write_out(path, text.getvalue().encode())


def _cell(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}g}"


def _write_parquet(
    path: Path, items: Iterable[Forecast], columns: Any, times: Sequence[str], guard: bool
) -> None:
    import pandas as pd

    frames = []
    for item in items:
        before = {"cutoff": _stamps(item, item.first - 1, 1), "time": _stamps(item, item.first)}
        horizon = item.paths.shape[1]
        before["cutoff"] = before["cutoff"].repeat(horizon)
        name = escape_formula(item.id) if guard else item.id
        named = {"id": [name] * horizon, **{t: before[t] for t in times}}
        frames.append(pd.DataFrame({**named, **columns(item)}))
    whole = pd.concat(frames, ignore_index=True)
    for name in times:
        if whole[name].dtype == object:  # several zones, or times beside numbers
            zoned = all(getattr(time, "tzinfo", None) is not None for time in whole[name])
            whole[name] = pd.to_datetime(whole[name], utc=True) if zoned else whole[name].map(str)
    out = io.BytesIO()
    whole.to_parquet(out, index=False)
    write_out(path, out.getvalue())


def _stamps(item: Forecast, first: int, count: int | None = None) -> Any:
    """The times of points as a pandas index: of timestamps, or of numbers."""
    import pandas as pd

    clock, count = item.clock, item.paths.shape[1] if count is None else count
    if clock.start is None or clock.freq is None:
        return pd.Index(np.arange(first, first + count))
    if clock.form == COUNT:
        return pd.Index([float(time) for time in clock.times(first, count)])
    return clock.stamps(first, count)
