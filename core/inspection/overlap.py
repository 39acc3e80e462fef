"""Which held-out items, or parts of a held-out text, the training part has nearly too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..protocols import Ids
from .near_duplicates import MIN_PLACES, MIN_SHINGLES, NearIndex, places, shingle_length, shingles
from .runs_in_common import RunIndex


class Overlap:
    """near: of each split whose items are compared; runs: of each split that is a running
    text; texts: the ids of those."""

    def __init__(self, how: str, held: Mapping[str, list[Ids]], run_length: int) -> None:
        """how: see `Task.comparison`. held: the compared ids of each sequence; run_length: ids of a
        run, at least, that counts."""
        self.how, self.run_length, self.count = how, run_length, 0
        self.near: dict[str, NearIndex] = {}
        self.runs: dict[str, RunIndex] = {}
        self.texts: dict[str, Ids] = {}
        everything = [ids for contents in held.values() for ids in contents]
        if how == "runs":
            for split, contents in held.items():
                self.texts[split] = np.concatenate(contents)
                self.runs[split] = RunIndex(self.texts[split], run_length)
        if how == "shingles":
            self.length = shingle_length(everything)
        if how in ("shingles", "places"):
            for split, contents in held.items():
                least = MIN_SHINGLES if how == "shingles" else MIN_PLACES
                self.near[split] = NearIndex(self._features(contents), least)
        self._tail = np.empty(0, np.int64)  # of a running text, to which the next part belongs

    def _features(self, contents: list[Ids]) -> list[npt.NDArray[np.uint32]]:
        if self.how == "places":
            return places(contents)
        return shingles(contents, self.length)

    def add(self, contents: list[Ids]) -> None:
        """Takes the compared ids of training sequences, in order."""
        if self.runs:
            text = np.concatenate((self._tail, *contents))
            self._tail = text[max(0, len(text) - self.run_length + 1) :]
            for runs in self.runs.values():
                runs.add(text)
        if self.near:
            numbers = range(self.count, self.count + len(contents))
            features = self._features(contents)
            for near in self.near.values():
                near.add(numbers, features)
        self.count += len(contents)
