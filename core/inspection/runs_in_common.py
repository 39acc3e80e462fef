"""Runs of ids of a held-out text that stand verbatim in the training text.

Contamination checks look for long runs in common: 50 tokens in Lee et al. 2022 (arXiv:2107.06499),
after the 13-grams of words of Brown et al. 2020 (arXiv:2005.14165, appendix C). A run of `length`
ids contains a whole block of half the length at a multiple of that. So only the blocks of the
training text are searched for, and runs only around those that are found. Time and memory are
linear.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..data.keyed_random import key, mix
from ..protocols import Ids

RUN = 50  # ids
FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
INVERSE = pow(FACTOR, -1, 1 << 64)

Hashes = npt.NDArray[np.uint64]


def window_hashes(ids: npt.NDArray[np.integer], length: int) -> Hashes:
    """(T - length + 1,) a hash of each window of `length` ids of (T,)."""
    count = len(ids) - length + 1
    if count < 1:
        return np.empty(0, np.uint64)
    powers = np.full(len(ids), FACTOR, np.uint64)
    powers[0] = 1
    np.cumprod(powers, out=powers)
    sums = np.zeros(len(ids) + 1, np.uint64)
    np.cumsum(mix(ids.astype(np.int64), key("run", "id")) * powers, out=sums[1:])
    back = np.full(count, INVERSE, np.uint64)
    back[0] = 1
    np.cumprod(back, out=back)
    found: Hashes = (sums[length:] - sums[:count]) * back
    return found


class RunIndex:
    """The held-out ids (T,), and which of them are in a run that the training text has too."""

    def __init__(self, held: Ids, length: int) -> None:
        self.size, self.length, self.half = len(held), length, length // 2
        self.blocks = np.unique(window_hashes(held, self.half))
        whole = window_hashes(held, length)
        self.order = np.argsort(whole, kind="stable")
        self.whole = whole[self.order]
        self.begins = np.zeros(len(whole), bool)  # whether a run in common begins there

    def add(self, train: npt.NDArray[np.integer]) -> None:
        """Takes a part of the training text. Parts overlap by `length` - 1 ids, or are texts of
        their own."""
        if not len(self.whole) or len(train) < self.length:
            return
        starts = np.arange(0, len(train) - self.half + 1, self.half)
        found = starts[_among(window_hashes(train, self.half)[starts], self.blocks)]
        if not len(found):
            return
        around = found[:, None] - np.arange(self.length - self.half + 1)
        wanted = np.unique(around[(around >= 0) & (around <= len(train) - self.length)])
        hashes = np.unique(window_hashes(train, self.length)[wanted])
        first = np.searchsorted(self.whole, hashes, "left")
        last = np.searchsorted(self.whole, hashes, "right")
        edges = np.zeros(len(self.whole) + 1, np.int64)
        np.add.at(edges, first, 1)
        np.add.at(edges, last, -1)
        self.begins[self.order[np.cumsum(edges[:-1]) > 0]] = True

    def covered(self) -> npt.NDArray[np.bool_]:
        """(T,) whether each held-out id is in a run in common."""
        edges = np.zeros(self.size + 1, np.int64)
        begins = np.flatnonzero(self.begins)
        edges[begins] += 1
        edges[begins + self.length] -= 1
        inside: npt.NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
        return inside


def _among(values: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each value is one of the sorted ones."""
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    same: npt.NDArray[np.bool_] = known[at] == values
    return same
