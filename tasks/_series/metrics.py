"""Forecast errors of sample paths, on series with missing values.

MASE: Hyndman & Koehler 2006, of the median: its absolute error divided by the mean absolute
seasonal difference of the history. WQL: twice the quantile loss, averaged over the quantiles 0.1
... 0.9, divided by the sum of absolute values (as in GluonTS and Ansari et al. 2024). CRPS:
Gneiting & Raftery 2007, eq. 21, estimated from the paths. MSE: of the mean of the paths. MAE: of
the median. sMAPE: in percent, as in M4. Coverage: the share of values inside the central interval
of that many percent, borders included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.protocols import Ids
from ...tokenizers._scales import Values

QUANTILES = tuple(round(0.1 * k, 1) for k in range(1, 10))
INTERVALS = (50, 80, 90)  # percent, whose coverage is measured
METRICS = ("mase", "wql", "crps", "mse", "mae", "smape")  # of any forecast, lower is better
# each score is a ratio of two sums over points, which are named here
RATIOS = {
    "mase": ("scaled_error", "scaled_points"),
    "wql": ("quantile_loss", "size"),
    "crps": ("crps", "points"),
    "mse": ("squared_error", "points"),
    "mae": ("absolute_error", "points"),
    "smape": ("smape", "points"),
    **{f"coverage_{percent}": (f"inside_{percent}", "points") for percent in INTERVALS},
}
TERMS = tuple(dict.fromkeys(name for pair in RATIOS.values() for name in pair))


def seasonal_error(history: Values, season: int) -> float:
    """Mean |x_t - x_{t - season}| over pairs of known values; with a lag of 1 where no such pair
    exists, NaN where no neighbours are known either."""
    for lag in (season, 1):
        if len(history) > lag:
            with np.errstate(over="ignore"):  # of values near the largest float
                steps = np.abs(history[lag:] - history[:-lag])
                if np.isfinite(steps).any():
                    return float(np.nanmean(steps))
    return float("nan")


@dataclass(frozen=True)
class Sums:
    """What the scores are ratios of, by name in `TERMS`: sums over the points of each of N windows
    (N,), and sums over the windows at each of H steps ahead (H,)."""

    by_window: Mapping[str, Values]
    by_step: Mapping[str, Values]

    def scores(self) -> dict[str, float]:
        """Every score; NaN where nothing could be scored or a sum overflows."""
        return {name: float(found) for name, found in ratios(self.by_window).items()}


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def ratios(terms: Mapping[str, Values], groups: Ids | None = None) -> dict[str, Values]:
    """Each score from the sums of its terms (N,): over all of them, or over each group (`groups`
    (N,) numbers them from 0), then (groups,)."""
    index = np.zeros(len(terms["points"]), np.int64) if groups is None else groups
    count = 1 if groups is None else int(index.max()) + 1
    total = {name: np.bincount(index, value, count) for name, value in terms.items()}
    out = {}
    for name, (over, under) in RATIOS.items():
        found = total[over] / np.where(total[under] > 0, total[under], np.nan)
        found = np.where(np.isfinite(found), found, np.nan)
        out[name] = found[0] if groups is None else found
    return out


@np.errstate(over="ignore", invalid="ignore")  # of values near the largest float
def sums(forecasts: Iterator[tuple[Values, Values, float]]) -> Sums:
    """The terms of forecasts: paths (P, horizon), actual (horizon,), NaN where missing, and the
    seasonal error. Windows with a seasonal error of 0 are left out of MASE."""
    by_window: dict[str, list[float]] = {name: [] for name in TERMS}
    by_step: dict[str, Values] = {name: np.zeros(0) for name in TERMS}
    for paths, actual, error in forecasts:
        for name, values in point_terms(paths, actual, error).items():
            by_window[name].append(float(values.sum()))
            if len(values) > len(by_step[name]):
                by_step[name] = np.pad(by_step[name], (0, len(values) - len(by_step[name])))
            by_step[name][: len(values)] += values
    return Sums({name: np.array(each) for name, each in by_window.items()}, by_step)


def point_terms(paths: Values, actual: Values, error: float) -> dict[str, Values]:
    """The terms of one forecast at each point (horizon,), 0 where the actual value is missing."""
    known = np.isfinite(actual)
    y = np.where(known, actual, 0.0)
    ordered = np.sort(paths, axis=0)
    count = len(ordered)
    quantiles = of_sorted(ordered, QUANTILES)
    median, mean = quantiles[4], paths.mean(0)
    levels = np.array(QUANTILES)[:, None]
    loss = 2 * np.abs((y - quantiles) * ((y <= quantiles) - levels))
    rank = (2 * np.arange(1, count + 1) - count - 1)[:, None]
    both = np.abs(y) + np.abs(median)
    smape = np.divide(200 * np.abs(y - median), both, out=np.zeros_like(both), where=both > 0)
    has_scale = float(error > 0)
    terms = {
        "scaled_error": np.abs(y - median) / (error if has_scale else np.inf),
        "scaled_points": np.full(len(y), has_scale),
        "quantile_loss": loss.mean(0),
        "size": np.abs(y),
        "crps": np.abs(paths - y).mean(0) - (rank * ordered).sum(0) / count**2,
        "points": np.ones(len(y)),
        "squared_error": (mean - y) ** 2,
        "absolute_error": np.abs(median - y),
        "smape": smape,
    }
    for percent in INTERVALS:
        low, high = of_sorted(ordered, (0.5 - percent / 200, 0.5 + percent / 200))
        terms[f"inside_{percent}"] = ((low <= y) & (y <= high)).astype(np.float64)
    return {name: np.where(known, values, 0.0) for name, values in terms.items()}


def of_sorted(ordered: Values, quantiles: Sequence[float]) -> Values:
    """(len(quantiles), horizon) quantiles of sorted paths (P, horizon), between two paths by linear
    interpolation, as `np.quantile`, which sorts again."""
    at = np.array(quantiles)[:, None] * (len(ordered) - 1)
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    low, high = ordered[below[:, 0]], ordered[above[:, 0]]
    share = at - below
    found: Values = low * (1 - share) + high * share
    return found
