"""Metrics as ratios of sums over items, of which some can be left out or resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """N items (or windows), and for each metric its numerators and denominators, (N,) each.

    contents: a hash of what is to be predicted, equal for equal items; groups: the series or the
    document that an item belongs to, whose errors are alike; basis: for a metric that depends on
    more than the items and the predictions, a hash of that."""

    contents: Sequence[bytes]
    groups: Sequence[str]
    ratios: Mapping[str, tuple[Array, Array]]
    basis: Mapping[str, bytes] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """The metric over all items; None where its denominators are 0."""
        over, under = self.ratios[name]
        return float(over.sum() / under.sum()) if under.sum() > 0 else None

    def by_group(self, name: str) -> tuple[Array, Array]:
        """(numerators, denominators) of each group, in the order in which groups first occur."""
        over, under = self.ratios[name]
        number: dict[str, int] = {}
        index = np.array([number.setdefault(group, len(number)) for group in self.groups], np.int64)
        count = len(number)
        sums = (np.bincount(index, each, count).astype(np.float64) for each in (over, under))
        return next(sums), next(sums)
