"""Classical baselines, fitted to each series alone: exponential smoothing and Theta.

AutoETS and AutoTheta of statsforecast (Nixtla) with their quantiles, where it is installed (the
extra `series`); otherwise damped exponential smoothing and Theta of statsmodels, which are point
forecasts. A method that cannot fit a series is replaced by seasonal naive for that series, as in
the baselines of GIFT-Eval (Aksu et al. 2024).
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ...tokenizers._scales import Values
from .simple import interpolate_missing, repeats_itself, seasonal_naive

Method = Callable[[Values, int, int], Values]  # history, season, horizon -> as `forecast`

MAX_ETS_SEASON = 60  # of statsmodels, whose time grows with the season
# Central intervals in percent. Their bounds and the median are the quantiles 0.001, 0.01, 0.02 ...
# 0.99 and 0.999, which stand for a hundred equal parts: `metrics.of_sorted` finds them again.
INTERVALS = (*range(2, 100, 2), 99.8)


def names(season: int) -> tuple[str, ...]:
    """The classical baselines that can be computed here."""
    if importlib.util.find_spec("statsforecast"):
        return ("auto_theta", "auto_ets")
    return ("theta", "ets") if season <= MAX_ETS_SEASON else ("theta",)


def forecast(name: str, history: Values, season: int, horizon: int) -> Values:
    """(1 + P, horizon): the mean and P quantiles of the method `name`, or its point forecast alone;
    seasonal naive for a history that is constant or periodic, or that the method cannot fit."""
    naive = seasonal_naive(history, season, horizon)[None]
    if repeats_itself(history, season):
        return naive
    importlib.import_module(MODULES[name])  # statsmodels enables warnings at its import
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a baseline need not have converged
        try:
            found = METHODS[name](interpolate_missing(history), season, horizon)
        except Exception:  # libraries raise all kinds, for short and for extreme series
            return naive
    return found if np.isfinite(found).all() else naive


def auto_ets(history: Values, season: int, horizon: int) -> Values:
    """AutoETS (Hyndman & Khandakar 2008): the exponential smoothing of least AICc. Seasons above 24
    are left out of it by the library."""
    return _quantiles("AutoETS", history, season, horizon)


def auto_theta(history: Values, season: int, horizon: int) -> Values:
    """AutoTheta: the best of four Theta methods (Fiorucci et al. 2016)."""
    return _quantiles("AutoTheta", history, season, horizon)


def _quantiles(name: str, history: Values, season: int, horizon: int) -> Values:
    """(102, horizon): the mean and 101 quantiles of a model of statsforecast, from the smallest."""
    models: Any = importlib.import_module("statsforecast.models")
    model = getattr(models, name)(season_length=season)
    found = model.forecast(y=history, h=horizon, level=[0, *INTERVALS])
    below, above = [f"lo-{k}" for k in reversed(INTERVALS)], [f"hi-{k}" for k in INTERVALS]
    keys = ("mean", *below, "lo-0", *above)
    return np.stack([np.asarray(found[key], np.float64) for key in keys])


def theta(history: Values, season: int, horizon: int) -> Values:
    """The Theta method (Assimakopoulos & Nikolopoulos 2000), as statsmodels implements it."""
    from statsmodels.tsa.forecasting.theta import ThetaModel

    seasonal = season > 1 and len(history) > 2 * season
    period = season if seasonal else 1
    model = ThetaModel(history, period=period, deseasonalize=seasonal, method="additive")
    return np.asarray(model.fit().forecast(horizon), np.float64)[None]


def ets(history: Values, season: int, horizon: int) -> Values:
    """Additive damped exponential smoothing (Hyndman et al. 2002), from statsmodels."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    seasonal = season > 1 and len(history) > 2 * season
    model = ExponentialSmoothing(
        history[-20 * max(season, 10) :],
        trend="add",
        damped_trend=True,
        seasonal="add" if seasonal else None,
        seasonal_periods=season if seasonal else None,
        initialization_method="heuristic" if seasonal or len(history) > 10 else "simple",
    )
    return np.asarray(model.fit().forecast(horizon), np.float64)[None]


METHODS: dict[str, Method] = dict(auto_ets=auto_ets, auto_theta=auto_theta, ets=ets, theta=theta)
MODULES = {
    "auto_ets": "statsforecast.models",
    "auto_theta": "statsforecast.models",
    "ets": "statsmodels.tsa.holtwinters",
    "theta": "statsmodels.tsa.forecasting.theta",
}
