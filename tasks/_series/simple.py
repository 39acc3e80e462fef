"""Forecasts of one series that take no fit: naive, seasonal naive and drift."""

from __future__ import annotations

import numpy as np

from ...tokenizers._scales import Values


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


def naive(history: Values, season: int, horizon: int) -> Values:
    """The last known value."""
    return seasonal_naive(history, 1, horizon)


def drift(history: Values, season: int, horizon: int) -> Values:
    """The line through the first and the last known value (Hyndman & Athanasopoulos, Forecasting:
    Principles and Practice, 5.2)."""
    known = np.flatnonzero(np.isfinite(history))
    if len(known) < 2:
        return naive(history, season, horizon)
    first, last = known[0], known[-1]
    slope = history[last] / (last - first) - history[first] / (last - first)
    found: Values = history[last] + slope * (len(history) - last + np.arange(horizon))
    return found


def interpolate_missing(history: Values) -> Values:
    known = np.flatnonzero(np.isfinite(history))
    return np.interp(np.arange(len(history)), known, history[known])


def repeats_itself(history: Values, season: int) -> bool:
    """Whether a history is constant or its seasons are all equal. Its forecast is the seasonal
    naive one; libraries then fit nonsense: statsmodels takes the constant series for the constant
    of its regression on time."""
    known = history[np.isfinite(history)]
    if (known == known[:1]).all():
        return True
    steps = history[season:] - history[:-season] if season > 1 else known
    steps = steps[np.isfinite(steps)]
    return len(steps) > 0 and bool((np.abs(steps) <= 1e-12 * np.abs(known).max()).all())
