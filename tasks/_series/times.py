"""Times of points: the step between them, gaps, seasons."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from ...core.errors import ConfigError, DataError
from ...core.protocols import Ids
from ...tokenizers.bins import Values

# points in a season, and the usual horizon (those of the M competitions), by the kind of step
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
SEARCHED = (4, 5, 6, 7, 8, 12, 13, 24, 48, 52, 60, 96, 144, 168, 288, 336, 365)
WORDS = {
    "yearly": "YS",
    "quarterly": "QS",
    "monthly": "MS",
    "weekly": "W",
    "daily": "D",
    "hourly": "h",
    "half_hourly": "30min",
    "minutely": "min",
}
UNITS = {
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "D",
    "week": "W",
    "month": "MS",
    "year": "YS",
}
STEPS = {"W": ("weeks", 1), "M": ("months", 1), "Q": ("months", 3), "Y": ("years", 1)}
NUMBERED = re.compile(r"(\d+)_(second|minute|hour|day|week|month|year)s?")  # of .tsf files
EXAMINED = 200  # series that a season is looked for in


def word(freq: str) -> str | None:
    """The frequency that a word of the Monash archive's stands for (half_hourly, 15_minutes)."""
    if freq.lower() in WORDS:
        return WORDS[freq.lower()]
    found = NUMBERED.fullmatch(freq.lower())
    return found and found[1] + UNITS[found[2]]


def offset(freq: str, flag: str = "--freq") -> Any:
    """A step of time from a pandas frequency (h, D, W-SAT, MS, 15min ...) or a word."""
    import pandas as pd

    try:
        return pd.tseries.frequencies.to_offset(word(freq) or freq)
    except ValueError:
        raise ConfigError(
            f"{flag} {freq}: no such frequency; such as h, D, W, MS, QS, YS, 15min"
        ) from None


def kind(freq: str) -> tuple[str, int]:
    """(kind of step, how many of it) of a frequency: ('min', 15)."""
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


def usual(freq: str | None) -> tuple[int, int] | None:
    """(season, horizon) of a frequency, none where nothing is usual."""
    if freq is None:
        return None
    name, many = kind(freq)
    if name in ("min", "s"):  # a day of minutes, an hour of seconds, if the steps fill it
        season = SEASONS[name][0] // many
        return (season, min(48, max(1, season))) if season > 1 else (24, 48)
    if name == "h" and many > 1:
        return max(1, 24 // many), max(1, 48 // many)
    if name == "D" and many == 7:
        return SEASONS["W"]
    return SEASONS.get(name) if many == 1 else None


def find_season(many: list[Values]) -> int:
    """The shortest of the usual seasons that nearly explains as much as the best one, judged from
    how far seasonal differences stay below those of neighbours; 1 where none does."""
    scores: dict[int, list[float]] = {}
    for values in many[:: -(-len(many) // EXAMINED)]:
        known = values[np.isfinite(values)]
        known = known / (np.abs(known).max(initial=0) or 1.0)
        for lag in SEARCHED:
            if len(known) < 3 * lag:
                break
            near = np.abs(known[lag // 2 :] - known[: len(known) - lag // 2]).mean()
            far = np.abs(known[lag:] - known[:-lag]).mean()
            if near > 0:
                scores.setdefault(lag, []).append(float(far / near))
    means = {lag: float(np.mean(s)) for lag, s in scores.items() if 2 * len(s) >= len(many) ** 0.5}
    if not means or min(means.values()) > 0.8:
        return 1
    best = min(means.values())
    return next(lag for lag in sorted(means) if means[lag] <= best + 0.1)


def regular(
    times: Any, values: Values, freq: str | None, resample: bool, where: str, rows: Ids
) -> tuple[Values, str, str | None]:
    """(values, start, frequency) of times (a pandas DatetimeIndex) that must lie one step apart.

    DataError names the first that does not by its number in `rows`. `resample` sorts, takes means
    of what falls into one step and leaves gaps as missing.
    """
    import pandas as pd

    if times.hasnans:
        row = int(np.flatnonzero(times.isna())[0])
        raise DataError(f"{where}: row {rows[row]} has no readable time")
    advice = "put it right, or --resample to sort, average and leave gaps as missing"
    if not resample:
        steps = np.diff(times.asi8)
        for wrong, what in ((steps == 0, "appears twice"), (steps < 0, "goes back in time")):
            if wrong.any():
                at = int(np.flatnonzero(wrong)[0]) + 1
                raise DataError(f"{where}: {times[at]} (row {rows[at]}) {what}; {advice}")
    else:
        order = np.argsort(times.asi8, kind="stable")
        times, values = times[order], values[order]
    known = offset(freq) if freq else _step(times)
    if known is None and resample and len(times) > 1:
        known = _roughly(times)
    if known is None and len(times) > 1:
        at = _first_gap(times)
        raise DataError(
            f"{where}: {times[at + 1]} (row {rows[at + 1]}) is {times[at + 1] - times[at]} after "
            f"the point before, unlike the usual {_usual_step(times)}; {advice}"
        )
    if known is None:
        return values, times[0].isoformat(), None
    if resample:
        series = pd.Series(values, index=times).resample(known).mean()
        return series.to_numpy(np.float64), series.index[0].isoformat(), known.freqstr
    wanted = pd.date_range(times[0], periods=len(times), freq=known)
    if len(wanted) and wanted[0] != times[0]:
        raise DataError(
            f"{where}: {times[0]} (row {rows[0]}) is no point of --freq {known.freqstr}"
        )
    if (wanted != times).any():
        at = int(np.flatnonzero(wanted != times)[0])
        raise DataError(
            f"{where}: {times[at]} (row {rows[at]}) stands where {wanted[at]} is due at a "
            f"frequency of {known.freqstr}; {advice}"
        )
    return values, times[0].isoformat(), known.freqstr


def has_step(times: Any) -> bool:
    """Whether times go on by one frequency; fewer than three may."""
    return len(times) < 3 or _step(times) is not None


def _step(times: Any) -> Any:
    """The frequency of times, none where they have no single one; where some are left out, that
    of most."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a later pandas gives the offset, not its name
        found = pd.infer_freq(times) if len(times) >= 3 else None
    if found is not None:
        return offset(getattr(found, "freqstr", found))
    return _named(times[1] - times[0]) if len(times) == 2 else None


def _named(step: Any) -> Any:
    """A time between points as a frequency: days and hours where it is whole ones."""
    import pandas as pd

    for unit in ("D", "h"):
        if step % pd.Timedelta(1, unit) == pd.Timedelta(0):
            return offset(f"{step // pd.Timedelta(1, unit)}{unit}")
    return pd.tseries.frequencies.to_offset(step)


def _roughly(times: Any) -> Any:
    """The usual step where some points are left out or doubled: months and years are uneven."""
    import pandas as pd

    steps = np.diff(times.asi8)
    days = float(np.median(steps[steps > 0]) / pd.Timedelta(1, "D").as_unit(times.unit)._value)
    end = bool(times.is_month_end.mean() > 0.5)
    for low, high, word in ((28, 31, "M"), (89, 93, "Q"), (365, 366, "Y")):
        if low <= days <= high:
            return offset(word + ("E" if end else "S"))
    return _named(_usual_step(times))


def _usual_step(times: Any) -> Any:
    steps = np.diff(times.asi8)
    known, counts = np.unique(steps[steps > 0], return_counts=True)
    import pandas as pd

    return pd.Timedelta(known[counts.argmax()], unit=times.unit)


def _first_gap(times: Any) -> int:
    usual_step = _usual_step(times).as_unit(times.unit)._value
    return int(np.flatnonzero(np.diff(times.asi8) != usual_step)[0])


def following(start: str | None, freq: str | None, first: int, count: int) -> list[str]:
    """The times of points first ... first + count - 1, or their numbers. Where the first time is
    no point of the frequency (months counted from the 15th), whole steps from it on."""
    if start is None or freq is None:
        return [str(first + number) for number in range(count)]
    import pandas as pd

    began, step = pd.Timestamp(start), offset(freq)
    name, many = kind(freq)
    if step.is_on_offset(began) or name not in STEPS:
        times = pd.date_range(began, periods=first + count, freq=step)[first:]
    else:
        unit, each = STEPS[name]
        steps = range(first, first + count)
        times = pd.DatetimeIndex(
            [began + pd.DateOffset(**{unit: each * many * at}) for at in steps]
        )
    whole_days = all(t == t.normalize() for t in (*times[:1], began))
    form = "%Y-%m-%d" if whole_days and times[-1] == times[-1].normalize() else "%Y-%m-%dT%H:%M:%S"
    return [str(t.strftime(form)) for t in times]
