"""Means over seeds with their intervals, and differences between contestants paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .study import Result

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. value: None if nothing was measured or something diverged; low,
    high: None for fewer than two values; n: how many values; diverged: how many more diverged."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    diverged: int = 0

    def record(self) -> dict[str, Any]:
        return dict(vars(self))


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean of `values` with its interval after Student (1908): mean +- t * s / sqrt(n), with
    t of n - 1 degrees of freedom and s the sample's standard deviation."""
    import numpy as np
    from scipy import stats

    n = len(values)
    if n == 0:
        return Estimate(None)
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, n=1)
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    return Estimate(mean, mean - half, mean + half, n)


def estimate(by_seed: Mapping[int, float | None]) -> Estimate:
    """The mean over seeds. A seed whose value is None diverged, and then there is no mean: that of
    the others would flatter the contestant."""
    values = [value for value in by_seed.values() if value is not None]
    diverged = len(by_seed) - len(values)
    if diverged:
        return Estimate(None, n=len(values), diverged=diverged)
    return mean_interval(values)


def paired_difference(
    ours: Mapping[int, float | None], reference: Mapping[int, float | None]
) -> Estimate:
    """The mean of ours - reference over the seeds that both have, with its interval: the seed sets
    the batches of both, so that most of their noise is common."""
    pairs = [(ours[seed], reference[seed]) for seed in ours if seed in reference]
    values = [a - b for a, b in pairs if a is not None and b is not None]
    if len(values) < len(pairs):
        return Estimate(None, n=len(values), diverged=len(pairs) - len(values))
    return mean_interval(values)


def by_seed(
    results: Iterable[Result], contestant: str, role: str = "score", metric: str | None = None
) -> dict[int, float | None]:
    """Seed -> the score of a contestant in the runs of this role; see `score`."""
    found = {
        int(result.about["seed"]): score(result, metric)
        for result in results
        if result.about.get("contestant") == contestant and result.about.get("role") == role
    }
    return dict(sorted(found.items()))


def score(result: Result, metric: str | None = None) -> float | None:
    """A metric of the final scores; without one, bits per unit, or nats per token where the
    tokenizer is not lossless. None if the run diverged."""
    if result.status != "done":
        return None
    scores = result.scores
    value = scores.get(metric or f"bits_per_{scores['unit']}")
    if value is None and metric is None:
        value = scores["nll"] / max(scores["tokens"], 1)
    return value if value is not None and math.isfinite(value) else None
