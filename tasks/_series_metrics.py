"""How good forecasts are, and what trivial ones reach.

MASE: Hyndman & Koehler 2006, the error of the median over the mean absolute seasonal difference of
the history. WQL: the mean over the quantiles 0.1 ... 0.9 of twice the quantile loss over the sum
of absolute values (as GluonTS and Ansari et al. 2024). CRPS: Gneiting & Raftery 2007, eq. 21, over
the paths. sMAPE: in percent, as in M4.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..tokenizers.bins import Values
from ._series_data import Collection, Windows

QUANTILES = tuple(round(0.1 * k, 1) for k in range(1, 10))
THETA_SERIES, ETS_SERIES = 50, 8  # at most, for a floor that takes no time to speak of
RIDGE_WINDOWS = 20_000
Method = Callable[[Values, int, int], Values]  # history, season, horizon -> forecast


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
        sums["crps"] += float((np.abs(drawn - y).mean(0)
                               - (rank * ordered).sum(0) / count**2).sum())  # fmt: skip
        sums["se"] += float(((mean - y) ** 2).sum())
        sums["ae"] += float(np.abs(median - y).sum())
        both = np.abs(y) + np.abs(median)
        sums["smape"] += float(np.divide(
            200 * np.abs(y - median), both, out=np.zeros_like(both), where=both > 0
        ).sum())  # fmt: skip
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


# -- trivial forecasts ---------------------------------------------------------------------------


def seasonal_naive(history: Values, season: int, horizon: int) -> Values:
    """The last season again and again; of each phase the last value that is known."""
    season = min(season, len(history))
    last = history[len(history) - season :].copy()
    for back in range(2, len(history) // season + 1):
        missing = np.isnan(last)
        if not missing.any():
            break
        end = len(history) - (back - 1) * season
        last[missing] = history[end - season : end][missing]
    known = history[np.isfinite(history)]
    last = np.where(np.isnan(last), known[-1] if len(known) else 0.0, last)
    return np.resize(last, horizon)


def _filled(history: Values) -> Values:
    known = np.flatnonzero(np.isfinite(history))
    return np.interp(np.arange(len(history)), known, history[known])


def theta(history: Values, season: int, horizon: int) -> Values:
    """The Theta method (Assimakopoulos & Nikolopoulos 2000) of statsmodels."""
    from statsmodels.tsa.forecasting.theta import ThetaModel

    seasonal = season > 1 and len(history) > 2 * season
    model = ThetaModel(
        _filled(history), period=season if seasonal else 1, deseasonalize=seasonal,
        method="additive",
    )  # fmt: skip
    return _fitted(model, horizon)


def ets(history: Values, season: int, horizon: int) -> Values:
    """Additive damped exponential smoothing (Hyndman et al. 2002) of statsmodels."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    seasonal = season > 1 and len(history) > 2 * season
    model = ExponentialSmoothing(
        _filled(history)[-20 * max(season, 10) :], trend="add", damped_trend=True,
        seasonal="add" if seasonal else None, seasonal_periods=season if seasonal else None,
        initialization_method="heuristic" if seasonal or len(history) > 10 else "simple",
    )  # fmt: skip
    return _fitted(model, horizon)


def _fitted(model: Any, horizon: int) -> Values:
    """Without the warnings that statsmodels turns on when it is imported: a floor need not have
    converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(model.fit().forecast(horizon), np.float64)


def ridge(train: Collection, history: int, season: int) -> Method:
    """Closed-form ridge from a window to the horizon after it, one for all series, on differences
    to the last season, in seasonal errors. Seasonal naive for what has no
    whole window."""
    windows = Windows(train, None, history)
    count = min(len(windows), RIDGE_WINDOWS)
    values, known = windows.rows(np.linspace(0, len(windows) - 1, count).astype(np.int64))
    whole = (known == history) & np.isfinite(values).all(1)
    values, horizon = values[whole], train.horizon
    if len(values) < 10 or history < 2 * season:
        return seasonal_naive
    inputs, size, base = _standard(values[:, :history], season, horizon)
    targets = np.clip((values[:, history:] - base) / size, -6, 6)
    gram = inputs.T @ inputs + 1e-3 * len(inputs) * np.eye(history, dtype=np.float64)
    weights = np.linalg.solve(gram, inputs.T @ targets)

    def predict(past: Values, season_: int, horizon_: int) -> Values:
        if len(past) < history or horizon_ > horizon or not np.isfinite(past[-history:]).all():
            return seasonal_naive(past, season_, horizon_)
        inputs, size, base = _standard(past[None, -history:], season, horizon)
        forecast: Values = (base + (inputs @ weights) * size)[0, :horizon_]
        return forecast

    return predict


def _standard(past: Values, season: int, horizon: int) -> tuple[Values, Values, Values]:
    base = np.stack([np.resize(row[-season:], horizon) for row in past])
    size = np.abs(past[:, season:] - past[:, :-season]).mean(1, keepdims=True)
    size = np.maximum(size, 1e-3 * np.abs(past - past.mean(1, keepdims=True)).mean(1)[:, None])
    size = np.where(size > 0, size, 1.0)
    level = past[:, -season:].mean(1, keepdims=True)
    return np.clip((past - level) / size, -40, 40), size, base


def floors(train: Collection, held: Collection, history: int) -> dict[str, float]:
    """MASE and WQL of trivial forecasts of the last window of each held-out series."""
    season = held.season
    methods: dict[str, Method] = {"seasonal_naive": seasonal_naive}
    count = len(held.series)
    if count <= THETA_SERIES:
        methods["theta"] = theta
    if count <= ETS_SERIES and season <= 60:
        methods["ets"] = ets
    if any(len(s) > history + train.horizon for s in train.series):
        methods["ridge"] = ridge(train, history, season)
    out: dict[str, float] = {}
    for name, method in methods.items():
        paths, actual, error = [], [], []
        try:
            for one, start in zip(held.series, held.starts, strict=True):
                horizon = min(held.horizon, len(one) - start)
                past = one.values[: len(one) - horizon]
                if horizon < 1 or not np.isfinite(past).any():
                    continue
                paths.append(method(past, season, horizon)[None])
                actual.append(one.values[len(one) - horizon :])
                error.append(seasonal_error(past, season))
        except (ValueError, np.linalg.LinAlgError):  # statsmodels, of a series too odd for it
            continue
        if paths:
            found = scores(paths, actual, np.array(error))
            out |= {f"{name}_{key}": found[key] for key in ("mase", "wql")}
    return {name: value for name, value in out.items() if np.isfinite(value)}
