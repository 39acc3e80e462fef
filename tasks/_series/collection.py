"""Series in memory, and their split by time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...core.errors import DataError
from ...core.task import Description
from ...tokenizers._covariates import Column
from ...tokenizers._scales import Values
from .clock import COUNT, Clock
from .frequency import offset

MIXED_POINTS = 200_000  # training data with more is repeated too rarely to need mixed windows


@dataclass(frozen=True)
class Series:
    """values (N,), NaN where missing, and the times of its points; its covariates by name, of N
    points, or of more where the future is known."""

    id: str
    values: Values
    clock: Clock = Clock()
    columns: Mapping[str, Column] = field(default_factory=dict)
    season: int = 0  # points; 0: that of the collection
    file: int = 0  # the number of the file that it was read from

    def __len__(self) -> int:
        return len(self.values)

    def followed_by(self, other: Series) -> Series:
        """This series and the points after it. What is known of the future is what `other` says."""
        columns = {
            name: np.concatenate((self.columns[name][: len(self)], column))
            for name, column in other.columns.items()
        }
        values = np.concatenate((self.values, other.values))
        return replace(self, values=values, columns=columns)

    def until(self, end: int) -> Series:
        """The points before `end`."""
        cut = {name: column[:end] for name, column in self.columns.items()}
        return replace(self, values=self.values[:end], columns=cut)


@dataclass(frozen=True)
class Collection:
    """Series, and the index `starts` from which each is held out (its length: nothing is held out).
    `trained`: numbers of training points; empty if equal to `starts`."""

    series: tuple[Series, ...]
    starts: tuple[int, ...]
    season: int
    horizon: int
    fingerprint: str
    about: str
    description: Description | None = None  # of what was read
    trained: tuple[int, ...] = ()
    weights: tuple[
        float, ...
    ] = ()  # shares of the training windows by file; empty: by their number

    @property
    def train_lengths(self) -> tuple[int, ...]:
        """The number of training points of each series."""
        return self.trained or self.starts

    @property
    def is_small(self) -> bool:
        return sum(map(len, self.series)) <= MIXED_POINTS

    @property
    def size(self) -> int:
        """The number of held-out points, or of all points before a split."""
        return sum(len(one) - start for one, start in zip(self.series, self.starts, strict=True))


def at_frequency(short: Series, own: Clock) -> Series:
    """A series of one or two points with the frequency of the run's series, if its times fit it.
    So few points do not determine a frequency: 31 days apart may be a month."""
    clock = short.clock
    if own.freq is None or clock.start is None or (own.form == COUNT) != (clock.form == COUNT):
        return short
    fitting = replace(clock, freq=own.freq if own.form == COUNT else offset(own.freq).freqstr)
    if len(short) > 1 and fitting.times(1, 1) != clock.times(1, 1):
        return short
    return replace(short, clock=fitting)


def fingerprint(series: Iterable[Series]) -> str:
    digest = hashlib.sha256()
    for one in series:
        digest.update(repr((one.id, one.clock.start, one.clock.freq, len(one))).encode())
        digest.update(np.ascontiguousarray(one.values, "<f8").tobytes())
        for name, column in sorted(one.columns.items()):
            digest.update(repr((name, column.tolist())).encode())
    return digest.hexdigest()


def split(items: Collection, fraction: float) -> tuple[Collection, Collection]:
    """(training, held out): the last `fraction` of each series is held out, at least one horizon. A
    series too short for that is used for training only."""
    cuts = []
    for one in items.series:
        train_length = len(one) - max(items.horizon, round(fraction * len(one)))
        cuts.append(train_length if train_length > items.horizon else len(one))
    if all(cut == len(one) for cut, one in zip(cuts, items.series, strict=True)):
        longest = max(len(one) for one in items.series)
        raise DataError(
            f"--data {items.about}: its longest series has {longest} points, need more than "
            f"{2 * items.horizon} so that a horizon is held out; lower --horizon, or give --valid"
        )
    if not _has_last_value(items, cuts):
        raise DataError(
            f"--data {items.about}: no value among the last {items.horizon} points of any series, "
            "so that no forecast can be judged; cut off what is empty, or lower --horizon"
        )
    first = tuple(s.until(c) for s, c in zip(items.series, cuts, strict=True))
    points = sum(len(s) - c for s, c in zip(items.series, cuts, strict=True))
    train = replace(
        items,
        series=first,
        starts=(0,) * len(first),
        fingerprint=f"{items.fingerprint}/{cuts}",
        about=f"the first {sum(map(len, first)):,} points of {_series_count(len(first))}",
    )
    held_out = replace(
        items,
        starts=tuple(cuts),
        fingerprint=f"{items.fingerprint}/{cuts}/held",
        about=f"the last {points:,}",
    )
    return train, held_out


def _has_last_value(items: Collection, starts: Iterable[int]) -> bool:
    return any(
        np.isfinite(one.values[max(start, len(one) - items.horizon) :]).any()
        for one, start in zip(items.series, starts, strict=True)
    )


def halves(held: Collection) -> tuple[Collection, Collection]:
    """The first and the second half, by time, of the held-out part of each series."""
    middles = [(start + len(s)) // 2 for s, start in zip(held.series, held.starts, strict=True)]
    first = tuple(s.until(m) for s, m in zip(held.series, middles, strict=True))
    before = replace(held, series=first, fingerprint=f"{held.fingerprint}/first")
    lengths = held.train_lengths
    after = replace(
        held, starts=tuple(middles), trained=lengths, fingerprint=f"{held.fingerprint}/second"
    )
    if not before.size:
        raise DataError(f"{held.about}: need at least 2 points held out to halve them")
    return (
        replace(before, about=f"the next {before.size:,} points"),
        replace(after, about=f"the last {after.size:,}"),
    )


def _series_count(number: int) -> str:
    return f"{number:,} series" if number > 1 else "one series"


def follow(train: Collection, held: Collection, between: Collection | None = None) -> Collection:
    """Held-out series joined to the training series of the same id, after the held-out points of
    `between`. DataError where only some ids match or a start time does not follow."""
    before = between if between is not None and any(between.starts) else train
    lengths = dict(zip((one.id for one in before.series), before.train_lengths, strict=True))
    if before is train:
        lengths = {one.id: len(one) for one in train.series}
    known = {one.id: one for one in before.series}
    missing = [one.id for one in held.series if one.id not in known]
    if missing and len(missing) < len(held.series):
        raise DataError(f"{held.about}: series {missing[0]!r} is not in the training data")
    if missing:  # entirely different series: each has its own history
        return held
    joined = []
    for one in held.series:
        first = known[one.id]
        if one.clock.start and first.clock.start and first.clock.freq:
            (due,) = first.clock.times(len(first), 1)
            (found,) = replace(one.clock, freq=first.clock.freq).times(0, 1)
            if found != due:
                raise DataError(
                    f"{held.about}: series {one.id!r} starts at {found}, where {due} is due after "
                    "what comes before it"
                )
        joined.append(first.followed_by(one))
    return replace(
        held,
        series=tuple(joined),
        starts=tuple(len(known[s.id]) for s in held.series),
        trained=tuple(lengths[s.id] for s in held.series),
    )
