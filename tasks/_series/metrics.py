"""How good forecasts are.

MASE: Hyndman & Koehler 2006, the error of the median over the mean absolute seasonal difference of
the history. WQL: the mean over the quantiles 0.1 ... 0.9 of twice the quantile loss over the sum
of absolute values (as GluonTS and Ansari et al. 2024). CRPS: Gneiting & Raftery 2007, eq. 21, over
the paths. sMAPE: in percent, as in M4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...tokenizers.bins import Values

QUANTILES = tuple(round(0.1 * k, 1) for k in range(1, 10))
METRICS = ("mase", "wql", "crps", "mse", "mae", "smape")


def seasonal_error(history: Values, season: int) -> float:
    """Mean |x_t - x_{t - season}| over what is known; of neighbours where there is no season's
    worth; NaN where neither."""
    for lag in (season, 1):
        if len(history) > lag:
            steps = np.abs(history[lag:] - history[:-lag])
            if np.isfinite(steps).any():
                return float(np.nanmean(steps))
    return float("nan")


def scores(paths: Sequence[Values], actual: Sequence[Values], error: Values) -> dict[str, float]:
    """paths: (P, horizon) of each window; actual (horizon,); error: each one's seasonal error.
    Windows whose seasonal error is 0 have no MASE and do not count there."""
    sums = dict.fromkeys(("loss", "size", "crps", "se", "ae", "smape"), 0.0)
    points, scaled, scaled_points = 0, 0.0, 0
    for drawn, wanted, one_error in zip(paths, actual, error, strict=True):
        known = np.isfinite(wanted)
        drawn, y = drawn[:, known], wanted[known]
        quantiles = np.quantile(drawn, QUANTILES, axis=0)
        median, mean = quantiles[4], drawn.mean(0)
        levels = np.array(QUANTILES)[:, None]
        loss = 2 * np.abs((y - quantiles) * ((y <= quantiles) - levels))
        sums["loss"] += loss.mean(0).sum()
        sums["size"] += np.abs(y).sum()
        ordered = np.sort(drawn, axis=0)
        count = len(ordered)
        rank = (2 * np.arange(1, count + 1) - count - 1)[:, None]
        sums["crps"] += float(
            (np.abs(drawn - y).mean(0) - (rank * ordered).sum(0) / count**2).sum()
        )
        sums["se"] += float(((mean - y) ** 2).sum())
        sums["ae"] += float(np.abs(median - y).sum())
        both = np.abs(y) + np.abs(median)
        sums["smape"] += float(
            np.divide(200 * np.abs(y - median), both, out=np.zeros_like(both), where=both > 0).sum()
        )
        points += len(y)
        if one_error > 0:
            scaled += float((np.abs(y - median) / one_error).sum())
            scaled_points += len(y)

    def ratio(part: float, whole: float) -> float:
        return float(part / whole) if whole > 0 else float("nan")

    return {
        "mase": ratio(scaled, scaled_points),
        "wql": ratio(sums["loss"], sums["size"]),
        "crps": ratio(sums["crps"], points),
        "mse": ratio(sums["se"], points),
        "mae": ratio(sums["ae"], points),
        "smape": ratio(sums["smape"], points),
    }
