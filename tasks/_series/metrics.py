"""Metrics of forecasts.

MASE (Hyndman & Koehler 2006): the absolute error of the median divided by the mean absolute
seasonal difference of the history. WQL: twice the quantile loss, averaged over the quantiles 0.1
... 0.9, divided by the sum of absolute values (as in GluonTS and Ansari et al. 2024). CRPS:
Gneiting & Raftery 2007, eq. 21, estimated from the paths. MSE: of the mean of the paths. MAE: of
the median. sMAPE: in percent, as in M4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...tokenizers._scales import Values

QUANTILES = tuple(round(0.1 * k, 1) for k in range(1, 10))
METRICS = ("mase", "wql", "crps", "mse", "mae", "smape")


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


@np.errstate(over="ignore", invalid="ignore")  # of values near the largest float
def scores(paths: Sequence[Values], actual: Sequence[Values], error: Values) -> dict[str, float]:
    """METRICS of forecasts: for each, paths (P, horizon), actual (horizon,) and its seasonal error.
    Windows with a seasonal error of 0 are left out of MASE. NaN where nothing could be scored or a
    sum overflows."""
    sums = dict.fromkeys(("loss", "size", "crps", "se", "ae", "smape"), 0.0)
    points, scaled, scaled_points = 0, 0.0, 0
    for sampled, target, scale in zip(paths, actual, error, strict=True):
        known = np.isfinite(target)
        sampled, y = sampled[:, known], target[known]
        quantiles = np.quantile(sampled, QUANTILES, axis=0)
        median, mean = quantiles[4], sampled.mean(0)
        levels = np.array(QUANTILES)[:, None]
        loss = 2 * np.abs((y - quantiles) * ((y <= quantiles) - levels))
        sums["loss"] += loss.mean(0).sum()
        sums["size"] += np.abs(y).sum()
        ordered = np.sort(sampled, axis=0)
        count = len(ordered)
        rank = (2 * np.arange(1, count + 1) - count - 1)[:, None]
        sums["crps"] += float(
            (np.abs(sampled - y).mean(0) - (rank * ordered).sum(0) / count**2).sum()
        )
        sums["se"] += float(((mean - y) ** 2).sum())
        sums["ae"] += float(np.abs(median - y).sum())
        both = np.abs(y) + np.abs(median)
        sums["smape"] += float(
            np.divide(200 * np.abs(y - median), both, out=np.zeros_like(both), where=both > 0).sum()
        )
        points += len(y)
        if scale > 0:
            scaled += float((np.abs(y - median) / scale).sum())
            scaled_points += len(y)

    def ratio(numerator: float, denominator: float) -> float:
        found = numerator / denominator if denominator > 0 else np.nan
        return float(found) if np.isfinite(found) else float("nan")

    return {
        "mase": ratio(scaled, scaled_points),
        "wql": ratio(sums["loss"], sums["size"]),
        "crps": ratio(sums["crps"], points),
        "mse": ratio(sums["se"], points),
        "mae": ratio(sums["ae"], points),
        "smape": ratio(sums["smape"], points),
    }
