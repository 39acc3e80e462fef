"""Ridge regression from a history to the horizon after it, one for all series.

It is a baseline, and what forecasts of a model can be combined with: where two forecasts are about
as good and err differently, their average is better than either (Bates and Granger 1969).
"""

from __future__ import annotations

import numpy as np

from ...tokenizers._scales import Values
from .collection import Collection
from .training_rows import Windows

MAX_WINDOWS = 20_000  # that the regression is fitted on
MIN_WINDOWS = 10
PENALTY = 1e-3  # a window
LARGEST_STEP = 6  # in units of the seasonal error: larger ones are cut in fitting
LARGEST_INPUT = 40


@np.errstate(over="ignore", invalid="ignore")  # of values near the largest float
def fit(train: Collection, history: int, season: int) -> Values | None:
    """(history, horizon) coefficients in closed form, from the windows of the training series that
    are complete; None where those are too few. They predict differences to the last season in units
    of the seasonal error."""
    if history < 2 * season or all(len(s) <= history + train.horizon for s in train.series):
        return None
    windows = Windows(train, None, history)
    count = min(len(windows), MAX_WINDOWS)
    values, known = windows.rows(np.linspace(0, len(windows) - 1, count).astype(np.int64))
    values = values[(known == history) & np.isfinite(values).all(1)]
    if len(values) < MIN_WINDOWS:
        return None
    inputs, scale, base = _normalise(values[:, :history], season, train.horizon)
    targets = np.clip((values[:, history:] - base) / scale, -LARGEST_STEP, LARGEST_STEP)
    gram = inputs.T @ inputs + PENALTY * len(inputs) * np.eye(history, dtype=np.float64)
    found: Values = np.linalg.solve(gram, inputs.T @ targets)
    return found


@np.errstate(over="ignore", invalid="ignore")
def forecast(coefficients: Values | None, past: Values, season: int, horizon: int) -> Values | None:
    """(horizon,) values that follow `past`; None without coefficients, where they are of a shorter
    horizon, and where the history is too short or has missing values."""
    if coefficients is None:
        return None
    history, longest = coefficients.shape
    past = past[-history:]
    if len(past) < history or horizon > longest or not np.isfinite(past).all():
        return None
    inputs, scale, base = _normalise(past[None], season, longest)
    found: Values = (base + (inputs @ coefficients) * scale)[0, :horizon]
    return found if np.isfinite(found).all() else None


def _normalise(past: Values, season: int, horizon: int) -> tuple[Values, Values, Values]:
    """(inputs (B, T), scale (B, 1), seasonal naive forecast (B, horizon)) of past (B, T)."""
    base = np.stack([np.resize(row[-season:], horizon) for row in past])
    scale = np.abs(past[:, season:] - past[:, :-season]).mean(1, keepdims=True)
    scale = np.maximum(scale, 1e-3 * np.abs(past - past.mean(1, keepdims=True)).mean(1)[:, None])
    scale = np.where(scale > 0, scale, 1.0)
    level = past[:, -season:].mean(1, keepdims=True)
    return np.clip((past - level) / scale, -LARGEST_INPUT, LARGEST_INPUT), scale, base
