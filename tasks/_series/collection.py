"""Series in memory: what they are, how time splits them, windows of them as training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ...core.data.keyed_random import key, mix
from ...core.errors import DataError
from ...core.protocols import Batch, Ids
from ...tokenizers.bins import FIRST, BinsTokenizer, Values
from .times import following

JITTER = 0.15  # of training windows
MIXED = 0.5  # of them, the mean of two
FEW = 200_000  # points of training data, at most, that are seen so often that windows are mixed
HISTORY_WEIGHT = 0.2  # of a point of history in the loss, where one to forecast counts 1


@dataclass(frozen=True)
class Series:
    """values (N,): NaN where missing. start: the first point's time (ISO 8601), `freq` the steps
    (a pandas frequency); none where points are only counted."""

    id: str
    values: Values
    start: str | None = None
    freq: str | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Collection:
    """Items: series, and from which point on each is held out (its length: not at all). trained:
    how many points of each are there to train on; none: all before what is held out."""

    series: tuple[Series, ...]
    starts: tuple[int, ...]
    season: int
    horizon: int
    fingerprint: str
    about: str
    trained: tuple[int, ...] = ()

    @property
    def learned(self) -> tuple[int, ...]:
        return self.trained or self.starts

    @property
    def size(self) -> int:
        return sum(len(one) - start for one, start in zip(self.series, self.starts, strict=True))


def fingerprint(series: Iterable[Series]) -> str:
    digest = hashlib.sha256()
    for one in series:
        digest.update(repr((one.id, one.start, one.freq, len(one))).encode())
        digest.update(np.ascontiguousarray(one.values, "<f8").tobytes())
    return digest.hexdigest()


def split(items: Collection, fraction: float) -> tuple[Collection, Collection]:
    """By time: of each series the last part, one horizon at least. A series too short to lose as
    much is trained on whole."""
    cuts = []
    for one in items.series:
        held = max(items.horizon, round(fraction * len(one)))
        cuts.append(len(one) - held if len(one) - held > items.horizon else len(one))
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
    first = tuple(replace(s, values=s.values[:c]) for s, c in zip(items.series, cuts, strict=True))
    points = sum(len(s) - c for s, c in zip(items.series, cuts, strict=True))
    train = replace(
        items,
        series=first,
        starts=(0,) * len(first),
        fingerprint=f"{items.fingerprint}/{cuts}",
        about=f"the first {sum(map(len, first)):,} points of {_count(len(first))}",
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
    """By time: of what each series holds out, the first half and the second."""
    middles = [(start + len(s)) // 2 for s, start in zip(held.series, held.starts, strict=True)]
    first = tuple(
        replace(s, values=s.values[:m]) for s, m in zip(held.series, middles, strict=True)
    )
    before = replace(held, series=first, fingerprint=f"{held.fingerprint}/first")
    after = replace(
        held, starts=tuple(middles), trained=held.learned, fingerprint=f"{held.fingerprint}/second"
    )
    if not before.size:
        raise DataError(f"{held.about}: need at least 2 points held out to halve them")
    return (
        replace(before, about=f"the next {before.size:,} points"),
        replace(after, about=f"the last {after.size:,}"),
    )


def _count(number: int) -> str:
    return f"{number:,} series" if number > 1 else "one series"


def follow(train: Collection, held: Collection, between: Collection | None = None) -> Collection:
    """Held-out series as what comes after the training series of the same id, and after what was
    held out `between` them."""
    before = between if between is not None and any(between.starts) else train
    lengths = dict(zip((one.id for one in before.series), before.learned, strict=True))
    if before is train:
        lengths = {one.id: len(one) for one in train.series}
    known = {one.id: one for one in before.series}
    missing = [one.id for one in held.series if one.id not in known]
    if missing and len(missing) < len(held.series):
        raise DataError(f"{held.about}: series {missing[0]!r} is not in the training data")
    if missing:  # other series altogether: each has a history of its own
        return held
    joined = []
    for one in held.series:
        first = known[one.id]
        if one.start and first.start and first.freq:
            (due,) = following(first.start, first.freq, len(first), 1)
            if np.datetime64(one.start) != np.datetime64(due):
                raise DataError(
                    f"{held.about}: series {one.id!r} starts at {one.start}, where {due} is due "
                    "after what comes before it"
                )
        joined.append(replace(first, values=np.concatenate((first.values, one.values))))
    return replace(
        held,
        series=tuple(joined),
        starts=tuple(len(known[s.id]) for s in held.series),
        trained=tuple(lengths[s.id] for s in held.series),
    )


class Windows:
    """Every window of `history` points and the horizon after it; a series with less history gives
    what it has, padded at its end.

    Where there are few points, half of the windows are the mean of two, each in scales of its own,
    by a weight that is drawn too (TSMixup, Ansari et al. 2024, algorithm 1). The normalisation of
    each is moved by up to `JITTER` scales, so that neighbouring bins learn of each other.
    """

    def __init__(
        self, train: Collection, tokenizer: BinsTokenizer | None, history: int, seed: int = 0
    ) -> None:
        self.tokenizer, self.history, self.horizon = tokenizer, history, train.horizon
        self.seed = seed
        self.context = history + train.horizon
        lengths = np.array([len(one) for one in train.series], np.int64)
        for least in (min(history, train.season + 1), 1):
            counts = np.maximum(lengths - train.horizon - least + 1, 0)
            if counts.any():
                break
        else:
            raise DataError(
                f"--data {train.about}: need at least {train.horizon + 1} points in a series, got "
                f"{lengths.max()}; lower --horizon"
            )
        self.least, self.ends = least, np.cumsum(counts)
        self.values = np.concatenate([one.values for one in train.series])
        self.offsets = np.concatenate(([0], np.cumsum(lengths)))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, indices: Ids) -> tuple[Values, Ids]:
        """(B, context) values, NaN behind a short history's horizon, and (B,) how much history."""
        index = indices % len(self)
        series = np.searchsorted(self.ends, index, side="right")
        within = index - np.where(series > 0, self.ends[series - 1], 0)
        known = within + self.least  # points before the horizon
        history = np.minimum(known, self.history)
        at = (self.offsets[series] + known - history)[:, None] + np.arange(self.context)
        values = self.values[np.minimum(at, len(self.values) - 1)]
        length = (history + self.horizon)[:, None]
        return np.where(np.arange(self.context) < length, values, np.nan), history

    def batch(self, indices: Ids) -> Batch:
        if self.tokenizer is None:
            raise ValueError("windows without a tokenizer have no ids")
        values, history = self.rows(indices)
        if len(self.values) <= FEW:
            values = self._mixed(indices, values, history, self.tokenizer)
        size, shift = (2 * self._drawn(indices, name) - 1 for name in ("size", "shift"))
        scales = self.tokenizer.scales(values, history).moved(JITTER * size, JITTER * shift)
        ids = self.tokenizer.encode_rows(values, scales)
        weight = (ids >= FIRST).astype(np.float32)
        # history is normalised by its own end, and so tells where it goes: the horizon does not
        weight[np.arange(weight.shape[1]) <= history[:, None]] *= HISTORY_WEIGHT
        weight[:, 0] = 0
        weight[scales.scale == 0] = 0  # nothing moved: no bin but one
        return Batch(ids, weight, support=(FIRST, self.tokenizer.vocab_size))

    def _mixed(
        self, indices: Ids, values: Values, history: Ids, tokenizer: BinsTokenizer
    ) -> Values:
        """Half of the windows as the mean of themselves and of another, as long."""
        others = (self._drawn(indices, "other") * len(self)).astype(np.int64)
        also, known = self.rows(others)
        scales = [tokenizer.scales(*window) for window in ((values, history), (also, known))]
        mixed = (self._drawn(indices, "mixed") < MIXED) & (history == known)
        for each in scales:
            mixed &= each.scale > 0
        at = np.flatnonzero(mixed)
        share = self._drawn(indices[at], "share")[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            ours, theirs = (
                (window[at] - each.location[at, None]) / each.scale[at, None]
                for window, each in zip((values, also), scales, strict=True)
            )
            values[at] = (1 - share) * ours + share * theirs
        return values

    def _drawn(self, indices: Ids, name: str) -> Values:
        """(B,) numbers in [0, 1), a window's own."""
        return mix(indices, key(self.seed, name)) / 2.0**64
