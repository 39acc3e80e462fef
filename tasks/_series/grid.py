"""The points of a series at even steps: its frequency is found, gaps are refused or filled."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.protocols import Ids
from ...tokenizers._scales import Values
from .clock import COUNT, Clock
from .frequency import offset
from .inference import (
    approximate_frequency,
    first_gap,
    infer_frequency,
    most_common,
    most_common_step,
    per_second,
)
from .phase import aligned_start, ends_period
from .stamps import Times
from .zones import tz

ADVICE = "correct it, or use --resample to sort, average and mark gaps as missing"
MAX_GAP = 1000  # steps; a longer gap, that is also ten times the series, is a typing error


@dataclass
class Group:
    """The rows of one series: their indices in the table (N,), and a name for messages. key: equal
    for groups of equal times; found by a Gridder."""

    rows: Ids
    where: str
    key: bytes = b""

    def of(self, column: Any) -> Any:
        """The rows of an array or an index (rows of the table,); a view where they follow one
        another."""
        rows = self.rows
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:  # indices ascend, or descend
            return column[rows[0] : rows[-1] + 1]
        return column[rows]


@dataclass
class Gridder:
    """Brings the series of a table to even steps. lines (rows of the table,): line numbers for
    messages; freq, resample: of the flags."""

    times: Times
    lines: Ids | range
    freq: str | None
    resample: bool
    averaged: int = 0  # points that share a step with another
    filled: int = 0  # steps without a point, marked as missing

    def __post_init__(self) -> None:
        self._inferred: dict[bytes, Any] = {}  # by times: series of a panel often have the same
        self._clocks: dict[bytes, Clock] = {}
        self._ticks = None if self.times.stamps is None else self.times.stamps.asi8
        self.common: str | None = None  # the frequency of most series

    # -- the frequency of the whole table ------------------------------------------------------

    def find_common(self, groups: list[Group]) -> None:
        """Finds the frequency of most series, or the step of the longest one that counts, which
        short ones take."""
        if self.times.counts is not None:
            longest = max(groups, key=lambda group: len(group.rows))
            step = most_common(np.diff(np.sort(self.times.counts[longest.rows])))
            self.common = f"{Decimal(repr(step)).normalize():f}" if step else None
            return
        if self.freq:
            return
        found: Counter[str] = Counter()
        known: dict[bytes, str | None] = {}
        for group in groups:
            if len(group.rows) > 2:
                key = self._key(group)
                if key not in known:
                    known[key] = self._step_of(group)
                if (name := known[key]) is not None:
                    found[name] += len(group.rows)
        if found:
            self.common = found.most_common(1)[0][0]

    def _step_of(self, group: Group) -> str | None:
        try:
            stamps = self._stamps(group)
        except DataError:
            return None  # `regular` says so, unless the series is skipped
        if self.resample:
            stamps = stamps.sort_values()
        step = self._infer(stamps)
        if step is None and self.resample:
            step = approximate_frequency(stamps)
        return None if step is None else str(step.freqstr)

    def _key(self, group: Group) -> bytes:
        if not group.key:
            group.key = _digest(group.of(self._ticks))
        return group.key

    def _stamps(self, group: Group) -> Any:
        """The times of a series, in their zone. DataError for a row without one."""
        stamps = group.of(self.times.stamps)
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
        name = _digest(stamps.asi8)
        if name not in self._inferred:
            self._inferred[name] = infer_frequency(stamps)
        return self._inferred[name]

    # -- one series ----------------------------------------------------------------------------

    def regular(self, group: Group, values: Values) -> tuple[Values, Clock]:
        """(values at even steps, their clock). values (N,): of the rows of the group. DataError
        names the first time that is not one step after the one before it."""
        if self.times.stamps is None:
            return self._counted(group, values)
        times = self._key(group)
        if times in self._clocks and not self.resample:
            return values, self._clocks[times]
        stamps = self._stamps(group)
        where, rows = group.where, np.arange(len(stamps))
        if self.resample:
            rows = np.argsort(stamps.asi8, kind="stable")
            stamps, values = stamps[rows], values[rows]
        else:
            self._check_order(group, stamps)
        step = self._frequency(stamps)
        if step is None and len(stamps) > 1:
            at = first_gap(stamps)
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
        self._clocks[times] = self._clock(stamps[0], step.freqstr)
        return values, self._clocks[times]

    def _check_order(self, group: Group, stamps: Any) -> None:
        """DataError for a time that appears twice, or before the one of the row above."""
        steps = np.diff(stamps.asi8)
        if len(steps) > 1 and (steps < 0).all():
            raise DataError(
                f"{group.where}: the newest row comes first; sort the rows by time, or use "
                "--resample, which does"
            )
        for wrong, what in ((steps == 0, "appears twice"), (steps < 0, "goes back in time")):
            if wrong.any():
                at = int(np.flatnonzero(wrong)[0]) + 1
                alone = at == 1 or stamps[at] > stamps[at - 2]  # without the row above, all is well
                if steps[at - 1] < 0 and alone and stamps[at - 1] > stamps[at:].max():
                    at, what = at - 1, "is later than all rows below"
                raise DataError(
                    f"{group.where}: {stamps[at]} (row {self._line(group, at)}) {what}; "
                    f"{self._advice(stamps)}"
                )

    def _advice(self, stamps: Any) -> str:
        """How to correct a gap: an hour may be missing where clocks are set forward."""
        steps = np.diff(stamps.asi8)
        hour = per_second(stamps) * 3600
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
            fits = len(stamps) < 3 or (self.resample and (found is None or len(stamps) < 5))
            clock = self._clock(stamps[0], self.common)
            if fits or (clock.stamps(0, len(stamps)) == stamps).all():
                return offset(self.common)
        if found is None and self.resample and len(stamps) > 1:
            return approximate_frequency(stamps)
        return found

    def _counted(self, group: Group, values: Values) -> tuple[Values, Clock]:
        counts = self.times.counts
        assert counts is not None
        numbers = group.of(counts)
        if np.isnan(numbers).any():
            at = int(np.flatnonzero(np.isnan(numbers))[0])
            raise DataError(f"{group.where}: row {self._line(group, at)} has no readable time")
        if self.resample:
            return self._resampled_counts(group, numbers, values)
        steps = np.diff(numbers)
        usual = most_common(steps)
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
        return values, Clock(f"{first:f}", f"{step:f}", form=COUNT)

    def _resampled_counts(
        self, group: Group, numbers: Values, values: Values
    ) -> tuple[Values, Clock]:
        order = np.argsort(numbers, kind="stable")
        sorted_ = numbers[order]
        step = most_common(np.diff(sorted_)) or float(self.common or 1)
        at = np.round((sorted_ - sorted_[0]) / step).astype(np.int64)
        if len(at) and at[-1] > max(MAX_GAP, 10 * len(at)):
            raise DataError(
                f"{group.where}: row {self._line(group, int(order[-1]))}: {sorted_[-1]:g} is "
                f"{at[-1]:,} steps from the first; correct it"
            )
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
        start = aligned_start(stamps, step)
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
        if ends_period(step):
            at = np.searchsorted(points.asi8, stamps.normalize().asi8, "left")
        else:
            at = np.searchsorted(points.asi8, stamps.asi8, "right") - 1
        at = np.maximum(at, 0)
        return self._means(at, values), clock


def _digest(ticks: Any) -> bytes:
    data: Any = np.ascontiguousarray(ticks)
    return hashlib.blake2b(data, digest_size=16).digest()
