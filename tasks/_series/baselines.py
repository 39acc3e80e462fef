"""What trivial forecasts reach: seasonal naive, Theta, exponential smoothing, a ridge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...tokenizers.bins import Values
from .collection import Collection, Windows
from .metrics import METRICS, scores, seasonal_error

THETA_WINDOWS, ETS_WINDOWS = 50, 8  # at most, for a floor that takes no time to speak of
RIDGE_WINDOWS = 20_000
Method = Callable[[Values, int, int], Values]  # history, season, horizon -> forecast


@dataclass(frozen=True)
class Case:
    """One forecast to make. past (N,), actual (horizon,), the seasonal error of what came before
    (NaN where it has none); scores are of (value - shift) / size."""

    past: Values
    actual: Values
    error: float
    shift: float = 0.0
    size: float = 1.0

    def scaled(self, values: Values) -> Values:
        return (values - self.shift) / self.size


def measured(paths: Sequence[Values], cases: Sequence[Case]) -> dict[str, float]:
    """The scores of (P, horizon) forecasts, one of each case."""
    return scores(
        [case.scaled(drawn) for drawn, case in zip(paths, cases, strict=True)],
        [case.scaled(case.actual) for case in cases],
        np.array([case.error / case.size for case in cases]),
    )


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
        _filled(history),
        period=season if seasonal else 1,
        deseasonalize=seasonal,
        method="additive",
    )
    return _fitted(model, horizon)


def ets(history: Values, season: int, horizon: int) -> Values:
    """Additive damped exponential smoothing (Hyndman et al. 2002) of statsmodels."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    seasonal = season > 1 and len(history) > 2 * season
    model = ExponentialSmoothing(
        _filled(history)[-20 * max(season, 10) :],
        trend="add",
        damped_trend=True,
        seasonal="add" if seasonal else None,
        seasonal_periods=season if seasonal else None,
        initialization_method="heuristic" if seasonal or len(history) > 10 else "simple",
    )
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


def last_cases(held: Collection) -> list[Case]:
    """The last window of each series, with all that came before."""
    cases = []
    for one, start in zip(held.series, held.starts, strict=True):
        horizon = min(held.horizon, len(one) - start)
        past, actual = one.values[: len(one) - horizon], one.values[len(one) - horizon :]
        if horizon >= 1 and np.isfinite(past).any():
            cases.append(Case(past, actual, seasonal_error(past, held.season)))
    return cases


def floors(
    train: Collection | None, cases: Sequence[Case], season: int, history: int
) -> dict[str, float]:
    """Every metric of every trivial forecast of `cases`, as ridge_mase; a slow one only where
    there are few, the ridge only where there is something to fit it on."""
    methods: dict[str, Method] = {"seasonal_naive": seasonal_naive}
    if len(cases) <= THETA_WINDOWS:
        methods["theta"] = theta
    if len(cases) <= ETS_WINDOWS and season <= 60:
        methods["ets"] = ets
    if train is not None and any(len(s) > history + train.horizon for s in train.series):
        methods["ridge"] = ridge(train, history, season)
    out: dict[str, float] = {}
    for name, method in methods.items():
        try:
            paths = [method(case.past, season, len(case.actual))[None] for case in cases]
        except (ValueError, np.linalg.LinAlgError):  # statsmodels, of a series too odd for it
            continue
        if paths:
            found = measured(paths, cases)
            out |= {f"{name}_{metric}": found[metric] for metric in METRICS}
    return {name: value for name, value in out.items() if np.isfinite(value)}
