"""The times of a series' points, as they are read and as forecasts continue them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from . import forms
from .frequency import DATE_STEPS, frequency_unit, offset
from .zones import tz

COUNT = "count"


@dataclass(frozen=True)
class Clock:
    """The times of a series. start: of the first point, in ISO 8601, with an offset where there is
    a zone; freq: a pandas frequency; zone: an IANA name or an offset; form: how times are written
    (forms.py), None for ISO 8601. Where the form is "count", start and freq are decimal numbers. A
    series without times has no start; one whose frequency is unknown has no freq."""

    start: str | None = None
    freq: str | None = None
    zone: str | None = None
    form: str | None = None

    @classmethod
    def of(cls, side: Mapping[str, Any]) -> Clock:
        """The clock in a sequence's side information."""
        return cls(side["start"], side["freq"], side.get("zone"), side.get("form"))

    def side(self) -> dict[str, str | None]:
        """The clock as side information."""
        optional = {"zone": self.zone, "form": self.form}
        named = {name: value for name, value in optional.items() if value is not None}
        return {"start": self.start, "freq": self.freq, **named}

    def times(self, first: int, count: int) -> list[str]:
        """The times of points first ... first + count - 1 in the form of the series; the indices of
        the points if it has no times."""
        if not count:
            return []
        if self.start is None or self.freq is None:
            return [str(first + number) for number in range(count)]
        if self.form == COUNT:
            start, step = Decimal(self.start), Decimal(self.freq)
            return [f"{start + step * (first + number):f}" for number in range(count)]
        stamps = self.stamps(first, count)
        days = "%Y-%m-%d"
        form = self.form
        if form is None:
            whole = bool((stamps == stamps.normalize()).all())
            begins = self.start[11:19] in ("", "00:00:00")
            form = days if whole and begins else f"{days}T%H:%M:%S"
        return forms.write(stamps, forms.sufficient(form, stamps))

    def stamps(self, first: int, count: int) -> Any:
        """The same times as a pandas DatetimeIndex, for a clock with a start and a frequency that
        does not count. From a start that is not on the frequency's grid (months from the 15th),
        steps are added to the start."""
        import pandas as pd

        assert self.start is not None and self.freq is not None
        begin, step = pd.Timestamp(self.start), offset(self.freq)
        if self.zone is not None:
            zone = tz(self.zone)
            begin = begin.tz_localize(zone) if begin.tz is None else begin.tz_convert(zone)
        unit, multiple = frequency_unit(self.freq)
        if step.is_on_offset(begin) or unit not in DATE_STEPS:
            if unit != "D" and isinstance(step, pd.tseries.offsets.Tick):
                begin = begin + first * step
                return pd.date_range(begin, periods=count, freq=step)
            return pd.date_range(begin, periods=first + count, freq=step)[first:]
        key, each = DATE_STEPS[unit]
        steps = range(first, first + count)
        return pd.DatetimeIndex(
            [begin + pd.DateOffset(**{key: each * multiple * at}) for at in steps]
        )

    def positions(self, first: int, count: int) -> Any:
        """The same times as positions on the axis of a plot: numbers, or a DatetimeIndex."""
        if self.start is None or self.freq is None:
            return np.arange(first, first + count, dtype=np.float64)
        if self.form == COUNT:
            return np.array([float(time) for time in self.times(first, count)])
        stamps = self.stamps(first, count)
        return stamps.tz_localize(None) if stamps.tz is not None else stamps
