"""Ratios of sums over windows with their intervals, and the bins of positions and distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..chart_layout import number

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. low, high: None if fewer than two windows count."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def surely(self) -> float:
        """The lower end, or the value if it has no interval."""
        return self.value if self.low is None else self.low

    def text(self, digits: int = 3) -> str:
        """0.312 [0.263, 0.362]"""
        shown = number(self.value, digits)
        if self.low is None or self.high is None:
            return shown
        return f"{shown} [{number(self.low, digits)}, {number(self.high, digits)}]"

    def record(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def ratio(over: Floats, under: Floats) -> Estimate | None:
    """sum(over) / sum(under), over (N,) and under (N,) of N windows drawn at random; None if no
    window counts.

    The interval is that of the ratio estimator (Cochran 1977, Sampling Techniques, section 6.4):
    the deviations over - value * under have the mean 0, and their standard error is divided by the
    mean of `under`; with Student's t of n - 1 degrees of freedom, n the windows with under > 0.
    """
    from scipy.special import stdtrit

    counted = under > 0
    over, under = over[counted], under[counted]
    n = len(under)
    if n == 0:
        return None
    value = float(over.sum() / under.sum())
    if n == 1:
        return Estimate(value)
    deviations = over - value * under
    error = math.sqrt(float((deviations**2).sum()) / (n - 1) / n) / float(under.mean())
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(value, value - half, value + half)


def share(right: Floats, count: Floats) -> Estimate | None:
    """sum(right) / sum(count), the share of right answers among those of N items, as `ratio`. If
    all or none are right, the interval is that of Clopper & Pearson (1934) for N answers: those of
    one item may depend on each other."""
    found = ratio(right, count)
    if found is None or found.low is None or found.high is None:
        return found
    n, tail = int((count > 0).sum()), (1 - CONFIDENCE) / 2
    if found.value == 1:
        return Estimate(1.0, tail ** (1 / n), 1.0)
    if found.value == 0:
        return Estimate(0.0, 0.0, 1 - tail ** (1 / n))
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))


def resampled_mean(values: Floats, seed: int) -> Estimate:
    """The mean of values (N,) that are 0 or positive and often small, with the interval of the
    percentile bootstrap (Efron & Tibshirani 1993, section 13.3), which never reaches below 0."""
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value)
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    ends = np.quantile(values[drawn].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, *ends.tolist())


def half_octaves(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24 ... up to `most`."""
    found = [1, *(power * 2**e // 2 for e in range(most.bit_length() + 1) for power in (2, 3))]
    return sorted({each for each in found if each <= most})
