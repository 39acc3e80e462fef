"""The times of a series' points: frequency, gaps, season."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from ...core.errors import ConfigError, DataError
from ...core.protocols import Ids
from ...tokenizers._scales import Values

# by unit of the frequency: points in a season, and the usual horizon (of the M competitions)
SEASONS = {
    "Y": (1, 6),
    "Q": (4, 8),
    "M": (12, 18),
    "W": (52, 52),
    "B": (5, 30),
    "D": (7, 14),
    "h": (24, 48),
    "min": (1440, 60),
    "s": (3600, 60),
}
SEASON_CANDIDATES = (4, 5, 6, 7, 8, 12, 13, 24, 48, 52, 60, 96, 144, 168, 288, 336, 365)
MONASH_WORDS = {
    "yearly": "YS",
    "quarterly": "QS",
    "monthly": "MS",
    "weekly": "W",
    "daily": "D",
    "hourly": "h",
    "half_hourly": "30min",
    "minutely": "min",
}
MONASH_UNITS = {
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "D",
    "week": "W",
    "month": "MS",
    "year": "YS",
}
DATE_STEPS = {"W": ("weeks", 1), "M": ("months", 1), "Q": ("months", 3), "Y": ("years", 1)}
MONASH_STEP = re.compile(r"(\d+)_(second|minute|hour|day|week|month|year)s?")  # in .tsf files
MAX_EXAMINED_SERIES = 200  # by `find_season`


def monash_frequency(freq: str) -> str | None:
    """The pandas frequency of a Monash archive word (half_hourly, 15_minutes); None if unknown."""
    if freq.lower() in MONASH_WORDS:
        return MONASH_WORDS[freq.lower()]
    found = MONASH_STEP.fullmatch(freq.lower())
    return found and found[1] + MONASH_UNITS[found[2]]


def offset(freq: str, flag: str = "--freq") -> Any:
    """A pandas offset from a pandas frequency (h, D, W-SAT, MS, 15min ...) or a Monash word."""
    import pandas as pd

    try:
        return pd.tseries.frequencies.to_offset(monash_frequency(freq) or freq)
    except ValueError:
        raise ConfigError(
            f"{flag} {freq}: not a pandas frequency such as h, D, W, MS, QS, YS, 15min"
        ) from None


def frequency_unit(freq: str) -> tuple[str, int]:
    """(unit, multiple) of a frequency: ('min', 15) for 15min."""
    step = offset(freq)
    name = step.rule_code.split("-")[0]
    for short, names in (
        ("Y", ("Y", "YS", "YE", "BYE", "BYS")),
        ("Q", ("Q", "QS", "QE", "BQE")),
        ("M", ("M", "MS", "ME", "BME", "BMS")),
    ):
        if name in names:
            return short, step.n
    return name, step.n


def season_and_horizon(freq: str | None) -> tuple[int, int] | None:
    """The usual (season, horizon) of a frequency in points; None where there is none."""
    if freq is None:
        return None
    unit, multiple = frequency_unit(freq)
    if unit in ("min", "s"):  # a day of minutes, an hour of seconds, if the steps fill it
        season = SEASONS[unit][0] // multiple
        return (season, min(48, max(1, season))) if season > 1 else (24, 48)
    if unit == "h" and multiple > 1:
        return max(1, 24 // multiple), max(1, 48 // multiple)
    if unit == "D" and multiple == 7:
        return SEASONS["W"]
    return SEASONS.get(unit) if multiple == 1 else None


def find_season(series: list[Values]) -> int:
    """The shortest candidate season within 0.1 of the best score; 1 where no season is evident. The
    score of a season is the mean absolute seasonal difference divided by the mean absolute
    difference at half that lag, averaged over the series: lower is better."""
    scores: dict[int, list[float]] = {}
    for values in series[:: -(-len(series) // MAX_EXAMINED_SERIES)]:
        known = values[np.isfinite(values)]
        known = known / (np.abs(known).max(initial=0) or 1.0)
        for lag in SEASON_CANDIDATES:
            if len(known) < 3 * lag:
                break
            near = np.abs(known[lag // 2 :] - known[: len(known) - lag // 2]).mean()
            far = np.abs(known[lag:] - known[:-lag]).mean()
            if near > 0:
                scores.setdefault(lag, []).append(float(far / near))
    enough = len(series) ** 0.5 / 2
    means = {lag: float(np.mean(s)) for lag, s in scores.items() if len(s) >= enough}
    if not means or min(means.values()) > 0.8:
        return 1
    best = min(means.values())
    return next(lag for lag in sorted(means) if means[lag] <= best + 0.1)


def to_regular_times(
    times: Any, values: Values, freq: str | None, resample: bool, where: str, rows: Ids
) -> tuple[Values, str, str | None]:
    """(values, start, frequency) of a series whose times (a pandas DatetimeIndex) must be one step
    of the frequency apart. DataError names the first time that is not, with its row number from
    `rows`. `resample` sorts the times, averages the values within one step and marks gaps as
    missing (NaN)."""
    import pandas as pd

    if times.hasnans:
        row = int(np.flatnonzero(times.isna())[0])
        raise DataError(f"{where}: row {rows[row]} has no readable time")
    advice = "correct it, or use --resample to sort, average and mark gaps as missing"
    if not resample:
        steps = np.diff(times.asi8)
        for wrong, what in ((steps == 0, "appears twice"), (steps < 0, "goes back in time")):
            if wrong.any():
                at = int(np.flatnonzero(wrong)[0]) + 1
                raise DataError(f"{where}: {times[at]} (row {rows[at]}) {what}; {advice}")
    else:
        order = np.argsort(times.asi8, kind="stable")
        times, values = times[order], values[order]
    known = offset(freq) if freq else _infer_frequency(times)
    if known is None and resample and len(times) > 1:
        known = _approximate_frequency(times)
    if known is None and len(times) > 1:
        at = _first_gap(times)
        raise DataError(
            f"{where}: {times[at + 1]} (row {rows[at + 1]}) is {times[at + 1] - times[at]} after "
            f"the point before, unlike the usual {_most_common_step(times)}; {advice}"
        )
    if known is None:
        return values, times[0].isoformat(), None
    if resample:
        series = pd.Series(values, index=times).resample(known).mean()
        return series.to_numpy(np.float64), series.index[0].isoformat(), known.freqstr
    wanted = pd.date_range(times[0], periods=len(times), freq=known)
    if len(wanted) and wanted[0] != times[0]:
        raise DataError(
            f"{where}: {times[0]} (row {rows[0]}) is not on the grid of --freq {known.freqstr}"
        )
    if (wanted != times).any():
        at = int(np.flatnonzero(wanted != times)[0])
        raise DataError(
            f"{where}: {times[at]} (row {rows[at]}) where {wanted[at]} is expected at a "
            f"frequency of {known.freqstr}; {advice}"
        )
    return values, times[0].isoformat(), known.freqstr


def has_single_frequency(times: Any) -> bool:
    """Whether times follow one frequency; always true for fewer than three."""
    return len(times) < 3 or _infer_frequency(times) is not None


def _infer_frequency(times: Any) -> Any:
    """The frequency of times; None where they have no single one. Two times are one step apart."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer pandas versions return the offset, not its name
        found = pd.infer_freq(times) if len(times) >= 3 else None
    if found is not None:
        return offset(getattr(found, "freqstr", found))
    return _step_frequency(times[1] - times[0]) if len(times) == 2 else None


def _step_frequency(step: Any) -> Any:
    """A time difference as a frequency, in days or hours where it is a multiple of them."""
    import pandas as pd

    for unit in ("D", "h"):
        if step % pd.Timedelta(1, unit) == pd.Timedelta(0):
            return offset(f"{step // pd.Timedelta(1, unit)}{unit}")
    return pd.tseries.frequencies.to_offset(step)


def _approximate_frequency(times: Any) -> Any:
    """The most common frequency of times with gaps or duplicates; months vary in their days."""
    import pandas as pd

    steps = np.diff(times.asi8)
    days = float(np.median(steps[steps > 0]) / pd.Timedelta(1, "D").as_unit(times.unit)._value)
    end = bool(times.is_month_end.mean() > 0.5)
    for low, high, unit in ((28, 31, "M"), (89, 93, "Q"), (365, 366, "Y")):
        if low <= days <= high:
            return offset(unit + ("E" if end else "S"))
    return _step_frequency(_most_common_step(times))


def _most_common_step(times: Any) -> Any:
    steps = np.diff(times.asi8)
    known, counts = np.unique(steps[steps > 0], return_counts=True)
    import pandas as pd

    return pd.Timedelta(known[counts.argmax()], unit=times.unit)


def _first_gap(times: Any) -> int:
    usual_step = _most_common_step(times).as_unit(times.unit)._value
    return int(np.flatnonzero(np.diff(times.asi8) != usual_step)[0])


def point_times(start: str | None, freq: str | None, first: int, count: int) -> list[str]:
    """The ISO 8601 times of points first ... first + count - 1; indices if the series has no times.
    If `start` is not on the frequency's grid (months from the 15th), steps are added to `start`."""
    if start is None or freq is None:
        return [str(first + number) for number in range(count)]
    import pandas as pd

    first_time, step = pd.Timestamp(start), offset(freq)
    unit, multiple = frequency_unit(freq)
    if step.is_on_offset(first_time) or unit not in DATE_STEPS:
        times = pd.date_range(first_time, periods=first + count, freq=step)[first:]
    else:
        key, each = DATE_STEPS[unit]
        steps = range(first, first + count)
        times = pd.DatetimeIndex(
            [first_time + pd.DateOffset(**{key: each * multiple * at}) for at in steps]
        )
    whole_days = all(t == t.normalize() for t in (*times[:1], first_time))
    form = "%Y-%m-%d" if whole_days and times[-1] == times[-1].normalize() else "%Y-%m-%dT%H:%M:%S"
    return [str(t.strftime(form)) for t in times]
