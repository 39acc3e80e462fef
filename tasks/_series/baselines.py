"""Baseline forecasts: seasonal naive, Theta, exponential smoothing, ridge regression."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...tokenizers._scales import Values
from .cases import Case, score_forecasts
from .collection import Collection, Windows
from .metrics import METRICS

MAX_THETA_WINDOWS, MAX_ETS_WINDOWS = 50, 8  # so that the baselines take little time
MAX_RIDGE_WINDOWS = 20_000  # that the ridge regression is fitted on
Method = Callable[[Values, int, int], Values]  # history, season, horizon -> forecast


def seasonal_naive(history: Values, season: int, horizon: int) -> Values:
    """The last season repeated; the last value where the history is shorter than a season. A
    missing value is replaced by the last one of the same phase."""
    season = season if season <= len(history) else 1
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


def _interpolate_missing(history: Values) -> Values:
    known = np.flatnonzero(np.isfinite(history))
    return np.interp(np.arange(len(history)), known, history[known])


def _repeats_itself(history: Values, season: int) -> bool:
    """Whether a history is constant or its seasons are all equal. Its forecast is the seasonal
    naive one; statsmodels then fits nonsense: it takes the constant series for the constant of its
    regression on time."""
    known = history[np.isfinite(history)]
    if (known == known[:1]).all():
        return True
    steps = history[season:] - history[:-season] if season > 1 else known
    steps = steps[np.isfinite(steps)]
    return len(steps) > 0 and bool((np.abs(steps) <= 1e-12 * np.abs(known).max()).all())


def theta(history: Values, season: int, horizon: int) -> Values:
    """The Theta method (Assimakopoulos & Nikolopoulos 2000), as statsmodels implements it."""
    from statsmodels.tsa.forecasting.theta import ThetaModel

    if _repeats_itself(history, season):
        return seasonal_naive(history, season, horizon)
    seasonal = season > 1 and len(history) > 2 * season
    model = ThetaModel(
        _interpolate_missing(history),
        period=season if seasonal else 1,
        deseasonalize=seasonal,
        method="additive",
    )
    return _fit_and_forecast(model, horizon)


def ets(history: Values, season: int, horizon: int) -> Values:
    """Additive damped exponential smoothing (Hyndman et al. 2002), from statsmodels."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    if _repeats_itself(history, season):
        return seasonal_naive(history, season, horizon)
    seasonal = season > 1 and len(history) > 2 * season
    model = ExponentialSmoothing(
        _interpolate_missing(history)[-20 * max(season, 10) :],
        trend="add",
        damped_trend=True,
        seasonal="add" if seasonal else None,
        seasonal_periods=season if seasonal else None,
        initialization_method="heuristic" if seasonal or len(history) > 10 else "simple",
    )
    return _fit_and_forecast(model, horizon)


def _fit_and_forecast(model: Any, horizon: int) -> Values:
    """The forecast of a statsmodels model, without warnings: a baseline need not have converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(model.fit().forecast(horizon), np.float64)


def ridge(train: Collection, history: int, season: int) -> Method:
    """Closed-form ridge regression from a window to the horizon after it, one for all series. It
    predicts differences to the last season in units of the seasonal error. Where the history is too
    short or has missing values, the forecast is the seasonal naive one."""
    windows = Windows(train, None, history)
    count = min(len(windows), MAX_RIDGE_WINDOWS)
    values, known = windows.rows(np.linspace(0, len(windows) - 1, count).astype(np.int64))
    complete = (known == history) & np.isfinite(values).all(1)
    values, horizon = values[complete], train.horizon
    if len(values) < 10 or history < 2 * season:
        return seasonal_naive
    inputs, scale, base = _normalise(values[:, :history], season, horizon)
    targets = np.clip((values[:, history:] - base) / scale, -6, 6)
    gram = inputs.T @ inputs + 1e-3 * len(inputs) * np.eye(history, dtype=np.float64)
    weights = np.linalg.solve(gram, inputs.T @ targets)

    def predict(past: Values, season_: int, horizon_: int) -> Values:
        if len(past) < history or horizon_ > horizon or not np.isfinite(past[-history:]).all():
            return seasonal_naive(past, season_, horizon_)
        inputs, scale, base = _normalise(past[None, -history:], season, horizon)
        forecast: Values = (base + (inputs @ weights) * scale)[0, :horizon_]
        return forecast

    return predict


def _normalise(past: Values, season: int, horizon: int) -> tuple[Values, Values, Values]:
    """(inputs (B, T), scale (B, 1), seasonal naive forecast (B, horizon)) of past (B, T)."""
    base = np.stack([np.resize(row[-season:], horizon) for row in past])
    scale = np.abs(past[:, season:] - past[:, :-season]).mean(1, keepdims=True)
    scale = np.maximum(scale, 1e-3 * np.abs(past - past.mean(1, keepdims=True)).mean(1)[:, None])
    scale = np.where(scale > 0, scale, 1.0)
    level = past[:, -season:].mean(1, keepdims=True)
    return np.clip((past - level) / scale, -40, 40), scale, base


@np.errstate(over="ignore", invalid="ignore")  # of values near the largest float
def floors(
    train: Collection | None, cases: Sequence[Case], season: int, history: int, quick: bool = False
) -> dict[str, float]:
    """Every metric of every baseline over `cases`, named as in `ridge_mase`. Slow baselines are
    left out where there are many cases or with `quick` (the import of statsmodels alone takes a
    second), the ridge where no training series is long enough."""
    methods: dict[str, Method] = {"seasonal_naive": seasonal_naive}
    if len(cases) <= MAX_THETA_WINDOWS and not quick:
        methods["theta"] = theta
    if len(cases) <= MAX_ETS_WINDOWS and season <= 60 and not quick:
        methods["ets"] = ets
    if train is not None and any(len(s) > history + train.horizon for s in train.series):
        methods["ridge"] = ridge(train, history, season)
    out: dict[str, float] = {}
    for name, method in methods.items():
        try:
            made = [
                (case, np.maximum(method(case.past, season, case.horizon), case.lowest)[None])
                for case in cases
            ]
        except (ValueError, np.linalg.LinAlgError):  # statsmodels cannot fit every series
            continue
        metrics = score_forecasts(made).scores()
        out |= {f"{name}_{metric}": metrics[metric] for metric in METRICS}
    return {name: value for name, value in out.items() if np.isfinite(value)}
