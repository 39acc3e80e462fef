"""Baseline forecasts and their scores: naive ones, AutoETS and AutoTheta, ridge regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ...tokenizers._scales import Values
from . import classical, linear
from .cases import Case, score_forecasts
from .collection import Collection
from .metrics import METRICS, Sums
from .relative import relative, series_of
from .simple import drift, naive, seasonal_naive
from .time_limit import Job, TooSlow, forecast_all

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
    if train is not None and (fitted := ridge(train, history, season)) is not None:
        methods["ridge"] = fitted
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


def ridge(train: Collection, history: int, season: int) -> Method | None:
    """Ridge regression; seasonal naive where it has no forecast. None where it cannot be fitted."""
    coefficients = linear.fit(train, history, season)
    if coefficients is None:
        return None

    def predict(past: Values, season_: int, horizon: int) -> Values:
        found = linear.forecast(coefficients, past, season, horizon)
        return seasonal_naive(past, season_, horizon) if found is None else found

    return predict
