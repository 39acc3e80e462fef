"""Frequencies found from times: exact ones, and the usual one of times with gaps."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ...core.protocols import Ids
from ...tokenizers._scales import Values
from .clock import Clock
from .frequency import offset

DAY = 86_400  # seconds
UNITS = (("D", DAY), ("h", 3600), ("min", 60), ("s", 1))
USUAL_SECONDS = tuple(
    n * size
    for size in (0.001, 0.01, 0.1, 1, 60, 3600, DAY)
    for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def per_second(stamps: Any) -> int:
    """The ticks of a second in `stamps.asi8`."""
    return PER_SECOND[stamps.unit]


def infer_frequency(stamps: Any) -> Any:
    """The frequency of increasing times as a pandas offset; None where they have no single one.
    Days and longer steps are judged in local time. Two times are one step apart."""
    if len(stamps) < 2:
        return None
    if stamps.tz is None:
        return _infer_naive(stamps)
    local = _infer_naive(stamps.tz_localize(None))
    if local is not None and local.rule_code not in ("h", "min", "s", "ms", "us", "ns"):
        return local
    return _infer_naive(stamps.tz_convert("UTC").tz_localize(None))


def _infer_naive(stamps: Any) -> Any:
    import pandas as pd

    if len(stamps) == 2:
        return _step_frequency(stamps[1] - stamps[0])
    steps = np.diff(stamps.asi8)
    if (steps <= 0).any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer pandas versions return the offset, not its name
        found = pd.infer_freq(stamps)
    if found is not None:
        found = offset(getattr(found, "freqstr", found))
        if (pd.date_range(stamps[0], periods=len(stamps), freq=found) == stamps).all():
            return found
    return _months_apart(stamps)


def _months_apart(stamps: Any) -> Any:
    """Steps of whole months from any day of a month, such as the 15th."""
    months = np.diff(np.asarray(stamps.year) * 12 + np.asarray(stamps.month))
    step = int(months[0])
    if step < 1 or (months != step).any():
        return None
    name = next(f"{step // n}{unit}" for n, unit in ((12, "YS"), (3, "QS"), (1, "MS"))
                if step % n == 0)  # fmt: skip
    name = name.removeprefix("1") if name[:2] in ("1Y", "1Q", "1M") else name
    found = offset(name)
    same = Clock(stamps[0].isoformat(), found.freqstr).stamps(0, len(stamps)) == stamps
    return found if same.all() and not found.is_on_offset(stamps[0]) else None


def _step_frequency(step: Any) -> Any:
    """A time difference as a frequency, in the largest unit that it is a multiple of."""
    import pandas as pd

    for unit, _ in UNITS:
        if step % pd.Timedelta(1, unit) == pd.Timedelta(0) and step >= pd.Timedelta(1, unit):
            return offset(f"{step // pd.Timedelta(1, unit)}{unit}")
    return pd.tseries.frequencies.to_offset(step)


def approximate_frequency(stamps: Any) -> Any:
    """The most common frequency of sorted times with gaps or duplicates; months vary in days."""
    if stamps.tz is not None and most_common_step(stamps).total_seconds() >= 82_800:
        stamps = stamps.tz_localize(None)
    import pandas as pd

    steps = np.diff(stamps.asi8)
    if not (steps > 0).any():
        return offset("D")
    days = float(np.median(steps[steps > 0]) / pd.Timedelta(1, "D").as_unit(stamps.unit)._value)
    at_end = bool(stamps.is_month_end.mean() > 0.5)
    for low, high, unit in ((28, 31, "M"), (89, 93, "Q"), (365, 366, "Y")):
        if low <= days <= high and not (unit == "M" and _most_are(steps, 28, stamps)):
            name = unit + ("E" if at_end else "S")
            if unit == "M":
                business = [offset(f"B{name}") for name in ("ME", "MS")]
                share = {o.freqstr: np.mean([o.is_on_offset(t) for t in stamps]) for o in business}
                best = max(share, key=lambda key: float(share[key]))
                plain = np.mean([offset(name).is_on_offset(t) for t in stamps])
                return offset(best if share[best] > max(0.5, plain) else name)
            months = Counter(stamps.month)
            span = 3 if unit == "Q" else 12
            phase = Counter(int(m) % span for m in months.elements()).most_common(1)[0][0]
            month = phase or span
            return offset(f"{name}-{pd.Timestamp(2000, month, 1).strftime('%b').upper()}")
    step = most_common_step(stamps)
    if step == pd.Timedelta(7, "D"):
        weekday = Counter(stamps.strftime("%a").str.upper()).most_common(1)[0][0]
        return offset(f"W-{weekday}")
    if step == pd.Timedelta(1, "D") and (stamps.day_of_week < 5).all() and len(stamps) > 5:
        return offset("B")
    if (steps[steps > 0] == step.as_unit(stamps.unit)._value).mean() < 0.5:
        step = _usual_near(float(np.median(steps[steps > 0])) / per_second(stamps)) or step
    return _step_frequency(step)


def _usual_near(seconds: float) -> Any:
    """The usual step nearest to a median one, of a logger that is not exact; None where none is
    within a tenth."""
    import pandas as pd

    nearest = min(USUAL_SECONDS, key=lambda usual: abs(usual - seconds))
    return pd.Timedelta(nearest, "s") if abs(nearest - seconds) <= 0.1 * nearest else None


def most_common(steps: Values) -> float:
    """The most common of positive steps; 0 where there is none."""
    known, counts = np.unique(np.round(steps[steps > 0], 9), return_counts=True)
    return float(known[counts.argmax()]) if len(known) else 0.0


def _most_are(steps: Any, days: int, stamps: Any) -> bool:
    import pandas as pd

    return bool((steps == pd.Timedelta(days, "D").as_unit(stamps.unit)._value).mean() > 0.5)


def most_common_step(stamps: Any) -> Any:
    import pandas as pd

    steps = np.diff(stamps.asi8)
    known, counts = np.unique(steps[steps > 0], return_counts=True)
    if not len(known):
        return pd.Timedelta(0)
    return pd.Timedelta(known[counts.argmax()], unit=stamps.unit)


def first_gap(stamps: Any) -> int:
    usual = most_common_step(stamps).as_unit(stamps.unit)._value
    return int(np.flatnonzero(np.diff(stamps.asi8) != usual)[0])


def is_regular(stamps: Any) -> bool:
    """Whether times follow one frequency; always true for fewer than three."""
    return not stamps.hasnans and (len(stamps) < 3 or infer_frequency(stamps) is not None)


def spaced(groups: Iterable[Ids]) -> Callable[[Any], bool]:
    """Whether the times of the rows of a table are regular within the first groups of rows."""
    chosen = [rows for rows in groups if len(rows) > 2][:5]
    return lambda stamps: all(is_regular(stamps[rows]) for rows in chosen)
