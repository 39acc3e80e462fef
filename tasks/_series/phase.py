"""Where the steps of a resampled series begin: in phase with most of its times."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np

from .frequency import DATE_STEPS, frequency_unit
from .inference import DAY, PER_SECOND, UNITS, per_second


def ends_period(step: Any) -> bool:
    """Whether a frequency names the last day of months, quarters or years."""
    unit, _ = frequency_unit(step.freqstr)
    return unit in ("M", "Q", "Y") and step.rule_code.split("-")[0].endswith("E")


def aligned_start(stamps: Any, step: Any) -> Any:
    """The first step of a grid that holds the first time, in phase with most of the times."""
    import pandas as pd

    unit, multiple = frequency_unit(step.freqstr)
    first = stamps[0]
    if unit in DATE_STEPS and unit != "W":
        days = Counter(zip(stamps.day, stamps.strftime("%H:%M:%S.%f"), strict=True))
        (day, clock), number = days.most_common(1)[0]
        if step.is_on_offset(first) or ends_period(step) or number * 2 < len(stamps):
            start = first.normalize()
            if step.is_on_offset(start):
                return start
            return step.rollforward(start) if ends_period(step) else step.rollback(start)
        same = [t for t in stamps[:400] if t.day == day and f"{t:%H:%M:%S.%f}" == clock]
        months = {"M": 1, "Q": 3, "Y": 12}[unit] * multiple
        start = same[0]
        while start > first:
            start -= pd.DateOffset(months=months)
        return start
    seconds = _step_seconds(unit, multiple)
    if seconds is None:  # business days and the like: at the time of day of most times
        return step.rollback(first)
    in_days = stamps.tz is not None and seconds % DAY == 0
    local = stamps.tz_localize(None) if in_days else stamps
    if seconds * per_second(local) % 1:
        local = local.as_unit("ns")
    second, ticks = per_second(local), local.asi8
    size, day = int(seconds * second), DAY * second
    phases, numbers = np.unique(ticks % size, return_counts=True)
    shared = 2 * numbers.max() >= len(ticks)
    phase = int(phases[numbers.argmax()]) if shared else 0
    if not shared and size % (7 * day) == 0:
        phase = int(ticks[0] // day * day % size)
    back = int((ticks[0] - phase) % size)
    start = local[0] - pd.Timedelta(back, local.unit)
    if local.tz is None and stamps.tz is not None:
        start = start.tz_localize(stamps.tz)
    if unit == "W" and not step.is_on_offset(start):
        return step.rollback(start)
    return start


def _step_seconds(unit: str, multiple: int) -> Fraction | None:
    """The length of a frequency; None where it varies."""
    small = {name: Fraction(1, size) for name, size in PER_SECOND.items() if name != "s"}
    known = {"W": Fraction(7 * DAY), **{name: Fraction(n) for name, n in UNITS}, **small}
    return known[unit] * multiple if unit in known else None
