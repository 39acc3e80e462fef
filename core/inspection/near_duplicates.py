"""Held-out items that resemble training items: MinHash with an exact check of what it finds.

An item is a set of features, hashes of its n-grams of ids (shingles) or of its ids in their places.
The similarity of two items is the Jaccard index of their sets. Items are compared only if one of
BANDS groups of ROWS minima agrees (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, section 3.4): at a similarity of 0.8, which Lee et al. 2022 (arXiv:2107.06499) take for
near-duplicates, 99.2 % of the pairs are. Time is linear in the number of training ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..data.keyed_random import key, mix
from ..protocols import Ids

NEAR = 0.8  # the least similarity of near-duplicates
BANDS, ROWS = 16, 6  # groups of minima, and minima in each
LIKELY = 0.62  # share of equal minima, at least, of pairs that are compared exactly
MIN_SHINGLES, MIN_PLACES = 50, 20  # of an item: smaller ones are compared for equality only
MAX_ALIKE = 8  # held-out items with equal minima that a training item is compared with
MIN_SHINGLE, MAX_SHINGLE = 5, 30  # ids of a shingle
CHANCE = 0.01  # probability, at most, that a random shingle occurs in an item
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MAX_PLACES = 1 << 32  # of an item
FACTORS = mix(np.arange(BANDS * ROWS), key("minhash", "factor")).astype(np.uint32) | np.uint32(1)
SUMMANDS = mix(np.arange(BANDS * ROWS), key("minhash", "summand")).astype(np.uint32)

Features = npt.NDArray[np.uint32]


def perplexity(items: Sequence[Ids]) -> float:
    """How many equally frequent ids would be as hard to guess as those of the items; at least
    1.5."""
    counts = np.bincount(np.concatenate(items)) if items else np.zeros(1)
    share = counts[counts > 0] / max(counts.sum(), 1)
    return max(1.5, float(np.exp(-(share * np.log(share)).sum())))


def shingle_length(items: Sequence[Ids]) -> int:
    """The ids of a shingle, such that few shingles of an item occur in another by chance (Ondov et
    al. 2016, doi:10.1186/s13059-016-0997-x, equation 2, with the perplexity of the ids for the size
    of the alphabet)."""
    longest = max((len(ids) for ids in items), default=1)
    needed = math.log(max(longest, 1) * (1 - CHANCE) / CHANCE) / math.log(perplexity(items))
    return min(max(MIN_SHINGLE, math.ceil(needed)), MAX_SHINGLE)


def shingles(items: Sequence[Ids], length: int) -> list[Features]:
    """Of each item (T,), the T - length + 1 hashes of its n-grams of ids."""
    ids = np.concatenate(items) if items else np.empty(0, np.int64)
    count = max(0, len(ids) - length + 1)
    hashed, total = mix(ids, key("shingle", "id")), np.zeros(count, np.uint64)
    for at in range(length):
        total = total * MULTIPLIER + hashed[at : at + count]
    found = (mix(total, key("shingle", "all")) >> np.uint64(32)).astype(np.uint32)
    ends = np.cumsum([len(each) for each in items])
    return [
        found[end - len(each) : max(end - length + 1, end - len(each))]
        for each, end in zip(items, ends.tolist(), strict=True)
    ]


def places(items: Sequence[Ids]) -> list[Features]:
    """Of each item, hashes of (place, id, the id before it) wherever the two ids differ: the
    background of a picture and other plain areas make none alike."""
    found = []
    for ids in items:
        before = np.concatenate(([-1], ids[:-1]))
        at = np.flatnonzero(ids != before)
        hashed = mix(
            mix(ids[at] * MAX_PLACES + at, key("place", "id")) + before[at].astype(np.uint64),
            key("place", "before"),
        )
        found.append((hashed >> np.uint64(32)).astype(np.uint32))
    return found


def jaccard(one: Features, other: Features) -> float:
    """The Jaccard index of two sorted sets."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / max(len(one) + len(other) - common, 1)


class NearIndex:
    """The held-out items, with the most similar training item found so far for each.

    similarity (N,): 0 where none is near; nearest (N,): its number among the training items, -1.
    """

    def __init__(self, held: Sequence[Features], least: int) -> None:
        """held: the features of each item; least: how many an item needs to be compared."""
        self.least = least
        self.similarity = np.zeros(len(held))
        self.nearest = np.full(len(held), -1, np.int64)
        self.numbers = np.array([n for n, f in enumerate(held) if len(f) >= least], np.int64)
        self.features = [np.unique(held[n]) for n in self.numbers.tolist()]
        self.minima = _minima(self.features)
        keys = _band_keys(self.minima)
        self.order = np.argsort(keys, axis=0, kind="stable")  # (N, BANDS)
        self.keys = np.take_along_axis(keys, self.order, axis=0)

    def add(self, numbers: Sequence[int], items: Sequence[Features]) -> None:
        """Compares training items, of these numbers, with the held-out ones."""
        large = [at for at, features in enumerate(items) if len(features) >= self.least]
        if not large or not self.features:
            return
        minima = _minima([items[at] for at in large])
        ours, theirs = self._candidates(_band_keys(minima))
        likely = (minima[ours] == self.minima[theirs]).mean(1)
        for pair in np.argsort(-likely, kind="stable").tolist():
            if likely[pair] < LIKELY:
                return
            at, held = large[ours[pair]], int(theirs[pair])
            found = jaccard(np.unique(items[at]), self.features[held])
            if found >= NEAR and found > self.similarity[self.numbers[held]]:
                self.similarity[self.numbers[held]] = found
                self.nearest[self.numbers[held]] = numbers[at]

    def _candidates(self, keys: npt.NDArray[np.uint64]) -> tuple[Ids, Ids]:
        """(training, held-out) indices of the pairs with an equal band."""
        pairs = []
        for band in range(BANDS):
            first = np.searchsorted(self.keys[:, band], keys[:, band], "left")
            last = np.searchsorted(self.keys[:, band], keys[:, band], "right")
            for step in range(MAX_ALIKE):
                ours = np.flatnonzero(first + step < last)
                if not len(ours):
                    break
                theirs = self.order[first[ours] + step, band]
                pairs.append(ours * len(self.features) + theirs)
        found = np.unique(np.concatenate(pairs)) if pairs else np.empty(0, np.int64)
        return np.divmod(found, max(len(self.features), 1))


def _minima(items: Sequence[Features]) -> npt.NDArray[np.uint32]:
    """(N, BANDS * ROWS) the least value of each hash function on each set."""
    out = np.empty((len(items), BANDS * ROWS), np.uint32)
    if items:
        starts = np.cumsum([0, *(len(each) for each in items[:-1])])
        joined = np.concatenate(items)
        for number, (factor, summand) in enumerate(zip(FACTORS, SUMMANDS, strict=True)):
            out[:, number] = np.minimum.reduceat(joined * factor + summand, starts)
    return out


def _band_keys(minima: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """(N, BANDS) a hash of the minima of each band."""
    rows = minima.reshape(len(minima), BANDS, ROWS).astype(np.uint64)
    total = np.zeros(rows.shape[:2], np.uint64)
    for row in range(ROWS):
        total = total * MULTIPLIER + rows[:, :, row]
    return total
