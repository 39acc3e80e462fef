"""Frequencies by name, and the season and horizon that are usual for each."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ...core.errors import ConfigError
from ...tokenizers._scales import Values

# by unit of the frequency: points in a season, and the usual horizon (of the M competitions)
SEASONS = {
    "Y": (1, 6),
    "Q": (4, 8),
    "M": (12, 18),
    "W": (52, 52),
    "B": (5, 30),
    "D": (7, 14),
    "h": (24, 48),
    "min": (1440, 60),
    "s": (3600, 60),
}
SEASON_CANDIDATES = (4, 5, 6, 7, 8, 12, 13, 24, 48, 52, 60, 96, 144, 168, 288, 336, 365)
MONASH_WORDS = {
    "yearly": "YS",
    "quarterly": "QS",
    "monthly": "MS",
    "weekly": "W",
    "daily": "D",
    "hourly": "h",
    "half_hourly": "30min",
    "minutely": "min",
}
MONASH_UNITS = {
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "D",
    "week": "W",
    "month": "MS",
    "year": "YS",
}
DATE_STEPS = {"W": ("weeks", 1), "M": ("months", 1), "Q": ("months", 3), "Y": ("years", 1)}
MONASH_STEP = re.compile(r"(\d+)_(second|minute|hour|day|week|month|year)s?")  # in .tsf files
MAX_EXAMINED_SERIES = 200  # by `find_season`


def monash_frequency(freq: str) -> str | None:
    """The pandas frequency of a Monash archive word (half_hourly, 15_minutes); None if unknown."""
    if freq.lower() in MONASH_WORDS:
        return MONASH_WORDS[freq.lower()]
    found = MONASH_STEP.fullmatch(freq.lower())
    return found and found[1] + MONASH_UNITS[found[2]]


def offset(freq: str, flag: str = "--freq") -> Any:
    """A pandas offset from a pandas frequency (h, D, W-SAT, MS, 15min ...) or a Monash word."""
    import pandas as pd

    try:
        return pd.tseries.frequencies.to_offset(monash_frequency(freq) or freq)
    except ValueError:
        raise ConfigError(
            f"{flag} {freq}: not a pandas frequency such as h, D, W, MS, QS, YS, 15min"
        ) from None


def frequency_unit(freq: str) -> tuple[str, int]:
    """(unit, multiple) of a frequency: ('min', 15) for 15min."""
    step = offset(freq)
    name = step.rule_code.split("-")[0]
    for short, names in (
        ("Y", ("Y", "YS", "YE", "BYE", "BYS")),
        ("Q", ("Q", "QS", "QE", "BQE")),
        ("M", ("M", "MS", "ME", "BME", "BMS")),
    ):
        if name in names:
            return short, step.n
    return name, step.n


def season_and_horizon(freq: str | None) -> tuple[int, int] | None:
    """The usual (season, horizon) of a frequency in points; None where there is none."""
    if freq is None:
        return None
    unit, multiple = frequency_unit(freq)
    if unit in ("min", "s"):  # a day of minutes, an hour of seconds, if the steps fill it
        season = SEASONS[unit][0] // multiple
        return (season, min(48, max(1, season))) if season > 1 else (24, 48)
    if unit == "h" and multiple > 1:
        return max(1, 24 // multiple), max(1, 48 // multiple)
    if unit == "D" and multiple == 7:
        return SEASONS["W"]
    return SEASONS.get(unit) if multiple == 1 else None


def find_season(series: list[Values]) -> int:
    """The shortest candidate season within 0.1 of the best score; 1 where no season is evident. The
    score of a season is the mean absolute seasonal difference divided by the mean absolute
    difference at half that lag, averaged over the series: lower is better."""
    scores: dict[int, list[float]] = {}
    for values in series[:: -(-len(series) // MAX_EXAMINED_SERIES)]:
        known = values[np.isfinite(values)]
        known = known / (np.abs(known).max(initial=0) or 1.0)
        for lag in SEASON_CANDIDATES:
            if len(known) < 3 * lag:
                break
            near = np.abs(known[lag // 2 :] - known[: len(known) - lag // 2]).mean()
            far = np.abs(known[lag:] - known[:-lag]).mean()
            if near > 0:
                scores.setdefault(lag, []).append(float(far / near))
    enough = len(series) ** 0.5 / 2
    means = {lag: float(np.mean(s)) for lag, s in scores.items() if len(s) >= enough}
    if not means or min(means.values()) > 0.8:
        return 1
    best = min(means.values())
    return next(lag for lag in sorted(means) if means[lag] <= best + 0.1)
