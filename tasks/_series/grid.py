"""The points of a series at even steps: its frequency is found, gaps are refused or filled."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.protocols import Ids
from ...tokenizers._scales import Values
from .clock import COUNT, Clock
from .frequency import DATE_STEPS, frequency_unit, offset
from .stamps import Times, tz

ADVICE = "correct it, or use --resample to sort, average and mark gaps as missing"
MAX_GAP = 1000  # steps; a longer gap, that is also ten times the series, is a typing error
DAY = 86_400  # seconds
UNITS = (("D", DAY), ("h", 3600), ("min", 60), ("s", 1))
USUAL_SECONDS = tuple(
    n * size
    for size in (0.001, 0.01, 0.1, 1, 60, 3600, DAY)
    for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Group:
    """The rows of one series: their indices in the table (N,), and a name for messages."""

    rows: Ids
    where: str


@dataclass
class Gridder:
    """Brings the series of a table to even steps. lines (rows of the table,): line numbers for
    messages; freq, resample: of the flags."""

    times: Times
    lines: Ids
    freq: str | None
    resample: bool
    averaged: int = 0  # points that share a step with another
    filled: int = 0  # steps without a point, marked as missing

    def __post_init__(self) -> None:
        self._inferred: dict[bytes, Any] = {}
        self.common: str | None = None  # the frequency of most series

    # -- the frequency of the whole table ------------------------------------------------------

    def find_common(self, groups: Iterable[Group]) -> None:
        """Finds the frequency of most series, which short ones take."""
        if self.times.stamps is None or self.freq:
            return
        found: Counter[str] = Counter()
        for group in groups:
            if len(group.rows) > 2:
                stamps = self._stamps(group)
                if self.resample:
                    stamps = stamps.sort_values()
                step = self._infer(stamps)
                if step is not None:
                    found[step.freqstr] += len(stamps)
        if found:
            self.common = found.most_common(1)[0][0]

    def _stamps(self, group: Group) -> Any:
        """The times of a series, in their zone. DataError for a row without one."""
        stamps = self.times.stamps[group.rows]
        if stamps.hasnans:
            row = int(np.flatnonzero(stamps.isna())[0])
            raise DataError(f"{group.where}: row {self._line(group, row)} has no readable time")
        if self.times.zone and stamps.tz is None:
            stamps = self._localised(group, stamps)
        return stamps

    def _localised(self, group: Group, stamps: Any) -> Any:
        """Times in `--zone`. An hour that comes twice is told apart by the order of the rows; a
        midnight that does not exist is one o'clock."""
        zone, days = tz(str(self.times.zone)), bool((stamps == stamps.normalize()).all())
        missing = "shift_forward" if days else "raise"
        first = np.ones(len(stamps), bool)  # of two hours of one name, where rows do not tell
        for ambiguous in ("infer", first):
            try:
                return stamps.tz_localize(zone, ambiguous=ambiguous, nonexistent=missing)
            except ValueError as error:
                reason = str(error)
        at = next((at for at, t in enumerate(stamps) if str(t) in reason), 0)
        raise DataError(
            f"{group.where}: row {self._line(group, at)}: {stamps[at]} is no time of the zone "
            f"{self.times.zone}: clocks are set forward there"
        )

    def _line(self, group: Group, at: int) -> int:
        return int(self.lines[group.rows[at]])

    def _infer(self, stamps: Any) -> Any:
        name = stamps.asi8.tobytes()
        if name not in self._inferred:
            self._inferred[name] = infer_frequency(stamps)
        return self._inferred[name]

    # -- one series ----------------------------------------------------------------------------

    def regular(self, group: Group, values: Values) -> tuple[Values, Clock]:
        """(values at even steps, their clock). values (N,): of the rows of the group. DataError
        names the first time that is not one step after the one before it."""
        if self.times.stamps is None:
            return self._counted(group, values)
        stamps = self._stamps(group)
        where, rows = group.where, np.arange(len(stamps))
        if self.resample:
            rows = np.argsort(stamps.asi8, kind="stable")
            stamps, values = stamps[rows], values[rows]
        else:
            steps = np.diff(stamps.asi8)
            for wrong, what in ((steps == 0, "appears twice"), (steps < 0, "goes back in time")):
                if wrong.any():
                    at = int(np.flatnonzero(wrong)[0]) + 1
                    advice = self._advice(stamps)
                    if (steps < 0).all() and len(steps) > 1:
                        raise DataError(
                            f"{where}: the newest row comes first; sort the rows by time, or use "
                            "--resample, which does"
                        )
                    lone = at > 1 and stamps[at] > stamps[at - 2] or at == 1
                    if (
                        wrong[at - 1]
                        and lone
                        and stamps[at - 1] > stamps[at:].max()
                        and (what == "goes back in time")
                    ):
                        at, what = at - 1, "is later than all rows below"
                    raise DataError(
                        f"{where}: {stamps[at]} (row {self._line(group, at)}) {what}; {advice}"
                    )
        step = self._frequency(stamps)
        if step is None and len(stamps) > 1:
            at = _first_gap(stamps)
            raise DataError(
                f"{where}: {stamps[at + 1]} (row {self._line(group, int(rows[at + 1]))}) is "
                f"{stamps[at + 1] - stamps[at]} after the point before, unlike the usual "
                f"{most_common_step(stamps)}; {self._advice(stamps)}"
            )
        if step is None:
            return values, self._clock(stamps[0], None)
        if self.resample:
            return self._resampled(group, stamps, rows, values, step)
        wanted = self._clock(stamps[0], step.freqstr).stamps(0, len(stamps))
        if wanted[0] != stamps[0]:
            raise DataError(
                f"{where}: {stamps[0]} (row {self._line(group, 0)}) is not on the grid of "
                f"--freq {step.freqstr}"
            )
        if (wanted != stamps).any():
            at = int(np.flatnonzero(wanted != stamps)[0])
            raise DataError(
                f"{where}: {stamps[at]} (row {self._line(group, at)}) where {wanted[at]} is "
                f"expected at a frequency of {step.freqstr}; {self._advice(stamps)}"
            )
        return values, self._clock(stamps[0], step.freqstr)

    def _advice(self, stamps: Any) -> str:
        """How to correct a gap: an hour may be missing where clocks are set forward."""
        steps = np.diff(stamps.asi8)
        hour = _per_second(stamps) * 3600
        if self.times.zone is None and len(steps) and 0 < np.median(steps) <= hour:
            odd = np.flatnonzero((steps == np.median(steps) + hour) | (steps <= 0))
            if any(stamps[at].month in (3, 4, 9, 10, 11) for at in odd):
                return f"{ADVICE}; if clocks change there, use --zone with the time zone"
        return ADVICE

    def _clock(self, start: Any, freq: str | None) -> Clock:
        return Clock(start.isoformat(), freq, self.times.zone, self.times.form)

    def _frequency(self, stamps: Any) -> Any:
        if self.freq:
            return offset(self.freq)
        found = self._infer(stamps)
        if self.common and (found is None or found.freqstr != self.common):
            if len(stamps) < 3 or self.resample:
                fits = len(stamps) < 2 or bool((np.diff(stamps.asi8) > 0).all())
            else:
                fits = False
            clock = self._clock(stamps[0], self.common)
            if fits or (clock.stamps(0, len(stamps)) == stamps).all():
                return offset(self.common)
        if found is None and self.resample and len(stamps) > 1:
            return approximate_frequency(stamps)
        return found

    def _counted(self, group: Group, values: Values) -> tuple[Values, Clock]:
        counts = self.times.counts
        assert counts is not None
        numbers = counts[group.rows]
        if np.isnan(numbers).any():
            at = int(np.flatnonzero(np.isnan(numbers))[0])
            raise DataError(f"{group.where}: row {self._line(group, at)} has no readable time")
        if self.resample:
            return self._resampled_counts(group, numbers, values)
        steps = np.diff(numbers)
        usual = _most_common(steps)
        if len(steps) and not (usual > 0 and np.allclose(steps, usual, rtol=1e-3)):
            at = int(np.flatnonzero(~np.isclose(steps, usual, rtol=1e-3))[0]) + 1
            raise DataError(
                f"{group.where}: row {self._line(group, at)}: {self.times.cells[group.rows[at]]} "
                f"is not {usual:g} after the row before; {ADVICE}"
            )
        first = Decimal(self.times.cells[group.rows[0]])
        if len(steps):
            last = Decimal(self.times.cells[group.rows[-1]])
            step = (last - first) / len(steps)
            shown = Decimal(self.times.cells[group.rows[1]]) - first
            step = shown if abs(shown - step) <= abs(shown) * Decimal("1e-3") else step
        else:
            step = Decimal(self.common or 1)
        if self.common is None and len(steps):
            self.common = f"{step:f}"
        return values, Clock(f"{first:f}", f"{step:f}", form=COUNT)

    def _resampled_counts(
        self, group: Group, numbers: Values, values: Values
    ) -> tuple[Values, Clock]:
        order = np.argsort(numbers, kind="stable")
        sorted_ = numbers[order]
        step = _most_common(np.diff(sorted_)) or float(self.common or 1)
        at = np.round((sorted_ - sorted_[0]) / step).astype(np.int64)
        if len(at) and at[-1] > max(MAX_GAP, 10 * len(at)):
            raise DataError(
                f"{group.where}: row {self._line(group, int(order[-1]))}: {sorted_[-1]:g} is "
                f"{at[-1]:,} steps from the first; correct it"
            )
        self.common = self.common or f"{Decimal(repr(step)):f}"
        out = self._means(at, values[order])
        first = Decimal(self.times.cells[group.rows[order[0]]])
        return out, Clock(f"{first:f}", f"{Decimal(repr(step)).normalize():f}", form=COUNT)

    def _means(self, at: Ids, values: Values) -> Values:
        """The means of the values of each step `at` (N,); NaN for steps without one."""
        size = int(at.max()) + 1
        known = np.isfinite(values)
        numbers = np.bincount(at[known], minlength=size)
        sums = np.bincount(at[known], values[known], minlength=size)
        self.averaged += len(at) - len(np.unique(at))
        self.filled += size - len(np.unique(at))
        out: Values = np.divide(sums, numbers, out=np.full(size, np.nan), where=numbers > 0)
        return out

    # -- resampling ----------------------------------------------------------------------------

    def _resampled(
        self, group: Group, stamps: Any, rows: Ids, values: Values, step: Any
    ) -> tuple[Values, Clock]:
        """The means of the values within each step, NaN for steps without a value. Steps begin
        where most of the times do; those of month ends and other ends end there."""
        start = _aligned_start(stamps, step)
        clock = self._clock(start, step.freqstr)
        usual = max(1, int(np.median(np.diff(clock.stamps(0, 3).asi8))))
        gaps = np.diff(stamps.asi8) / usual
        limit = max(MAX_GAP, 10 * len(stamps))
        if len(gaps) and gaps.max() > limit:
            at = int(gaps.argmax())
            lone = at + 1 if at + 1 >= len(stamps) / 2 else at
            raise DataError(
                f"{group.where}: {stamps[lone]} (row {self._line(group, int(rows[lone]))}) is "
                f"{round(gaps.max()):,} steps from its neighbour; if that is no typing error, give "
                "a longer step with --freq"
            )
        count = int((stamps.asi8[-1] - start.as_unit(stamps.unit)._value) / usual * 1.1) + 3
        points = clock.stamps(0, count).as_unit(stamps.unit)
        if _ends_period(step):
            at = np.searchsorted(points.asi8, stamps.normalize().asi8, "left")
        else:
            at = np.searchsorted(points.asi8, stamps.asi8, "right") - 1
        at = np.maximum(at, 0)
        return self._means(at, values), clock


def _ends_period(step: Any) -> bool:
    """Whether a frequency names the last day of months, quarters or years."""
    unit, _ = frequency_unit(step.freqstr)
    return unit in ("M", "Q", "Y") and step.rule_code.split("-")[0].endswith("E")


def _aligned_start(stamps: Any, step: Any) -> Any:
    """The first step of a grid that holds the first time, in phase with most of the times."""
    unit, multiple = frequency_unit(step.freqstr)
    first = stamps[0]
    if unit in DATE_STEPS and unit != "W":
        days = Counter(zip(stamps.day, stamps.strftime("%H:%M:%S.%f"), strict=True))
        (day, clock), number = days.most_common(1)[0]
        if step.is_on_offset(first) or _ends_period(step) or number * 2 < len(stamps):
            start = first.normalize()
            if step.is_on_offset(start):
                return start
            return step.rollforward(start) if _ends_period(step) else step.rollback(start)
        same = [t for t in stamps[:400] if t.day == day and f"{t:%H:%M:%S.%f}" == clock]
        months = {"M": 1, "Q": 3, "Y": 12}[unit] * multiple
        start = same[0]
        while start > first:
            start -= _months(months)
        return start
    seconds = _step_seconds(unit, multiple)
    if seconds is None:  # business days and the like: at the time of day of most times
        return step.rollback(first)
    in_days = stamps.tz is not None and seconds % DAY == 0
    local = stamps.tz_localize(None) if in_days else stamps
    if seconds * _per_second(local) % 1:
        local = local.as_unit("ns")
    per_second, ticks = _per_second(local), local.asi8
    size, day = int(seconds * per_second), DAY * per_second
    phases, numbers = np.unique(ticks % size, return_counts=True)
    shared = 2 * numbers.max() >= len(ticks)
    phase = int(phases[numbers.argmax()]) if shared else 0
    if not shared and size % (7 * day) == 0:
        phase = int(ticks[0] // day * day % size)
    back = int((ticks[0] - phase) % size)
    import pandas as pd

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


def _per_second(stamps: Any) -> int:
    """The ticks of a second in `stamps.asi8`."""
    return PER_SECOND[stamps.unit]


def _months(number: int) -> Any:
    import pandas as pd

    return pd.DateOffset(months=number)


# -- frequencies of times ------------------------------------------------------------------------


def infer_frequency(stamps: Any) -> Any:
    """The frequency of increasing times as a pandas offset; None where they have no single one.
    Days and longer steps are judged in local time. Two times are one step apart."""
    if len(stamps) < 2:
        return None
    readings = [stamps]
    if stamps.tz is not None:
        readings = [stamps.tz_convert("UTC").tz_localize(None)]
        local = stamps.tz_localize(None)
        step = _infer_naive(local)
        if step is not None and (step.rule_code not in ("h", "min", "s", "ms", "us", "ns")):
            return step
    return _infer_naive(readings[0])


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
        step = _usual_near(float(np.median(steps[steps > 0])) / _per_second(stamps)) or step
    return _step_frequency(step)


def _usual_near(seconds: float) -> Any:
    """The usual step nearest to a median one, of a logger that is not exact; None where none is
    within a tenth."""
    import pandas as pd

    nearest = min(USUAL_SECONDS, key=lambda usual: abs(usual - seconds))
    return pd.Timedelta(nearest, "s") if abs(nearest - seconds) <= 0.1 * nearest else None


def _most_common(steps: Values) -> float:
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


def _first_gap(stamps: Any) -> int:
    usual = most_common_step(stamps).as_unit(stamps.unit)._value
    return int(np.flatnonzero(np.diff(stamps.asi8) != usual)[0])


def is_regular(stamps: Any) -> bool:
    """Whether times follow one frequency; always true for fewer than three."""
    return not stamps.hasnans and (len(stamps) < 3 or infer_frequency(stamps) is not None)


def spaced(groups: Iterable[Ids]) -> Callable[[Any], bool]:
    """Whether the times of the rows of a table are regular within the first groups of rows."""
    chosen = [rows for rows in groups if len(rows) > 2][:5]
    return lambda stamps: all(is_regular(stamps[rows]) for rows in chosen)
