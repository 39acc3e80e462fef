"""Baseline forecasts and their scores: naive ones, AutoETS and AutoTheta, ridge regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ...tokenizers._scales import Values
from . import classical
from .cases import Case, score_forecasts
from .collection import Collection
from .metrics import METRICS, Sums
from .relative import relative, series_of
from .simple import drift, naive, seasonal_naive
from .time_limit import Job, TooSlow, forecast_all
from .training_rows import Windows

MAX_RIDGE_WINDOWS = 20_000  # that the ridge regression is fitted on
Method = Callable[[Values, int, int], Values]  # history, season, horizon -> forecast


@np.errstate(over="ignore", invalid="ignore")  # of values near the largest float
def floors(
    train: Collection | None,
    cases: Sequence[Case],
    season: int,
    history: int,
    quick: bool = False,
    note: Callable[[str], None] = lambda text: None,
    limit: float = 10.0,
) -> dict[str, float]:
    """Every metric of every baseline over `cases`, named as in `ridge_mase`, and the scores of
    `relative`. All baselines are scored on all cases.

    The classical baselines are left out with `quick`, and where one takes more than `limit`
    seconds, which `note` receives; the ridge where no training series is long enough.
    """
    methods: dict[str, Method] = {"seasonal_naive": seasonal_naive, "naive": naive, "drift": drift}
    if train is not None and any(len(s) > history + train.horizon for s in train.series):
        methods["ridge"] = ridge(train, history, season)
    made = {
        name: _scored(cases, [method(case.past, case.season, case.horizon) for case in cases])
        for name, method in methods.items()
    }
    jobs = [Job(case.past, case.season, case.horizon) for case in cases]
    for name in () if quick or not limit else classical.names(season):
        try:
            made[name] = _scored(cases, forecast_all(name, jobs, limit))
        except TooSlow as error:
            note(str(error))
    _, series = series_of(cases)
    out: dict[str, float] = {}
    for name, sums in made.items():
        scores = sums.scores()
        found = {metric: scores[metric] for metric in METRICS}
        found |= relative(sums, made["seasonal_naive"], series)
        out |= {f"{name}_{metric}": value for metric, value in found.items()}
    return {name: value for name, value in out.items() if np.isfinite(value)}


def _scored(cases: Sequence[Case], forecasts: Sequence[Values]) -> Sums:
    """Scores of point forecasts (horizon,) or (1, horizon), or of a mean and quantiles (1 + P,
    horizon)."""
    pairs = [
        (case, np.maximum(np.atleast_2d(made), case.lowest))
        for case, made in zip(cases, forecasts, strict=True)
    ]
    points = score_forecasts((case, made[:1]) for case, made in pairs)
    if all(len(made) == 1 for _, made in pairs):
        return points
    found = score_forecasts((case, made[1:] if len(made) > 1 else made) for case, made in pairs)
    mean = {"squared_error": points.by_window["squared_error"]}  # not of the mean of quantiles
    return replace(found, by_window={**found.by_window, **mean})


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
