"""The scores of a model's forecasts: over all windows, by series, by step ahead, and as terms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.progress import tracked
from ...core.terms import Terms
from ...tokenizers._scales import Values
from ...tokenizers.bins import BinsTokenizer
from .cases import Case, forecasts, score_forecasts
from .clock import Clock
from .forecast_table import write_forecasts
from .metrics import RATIOS, Sums, ratios
from .options import SeriesEvalOptions, parse_quantiles
from .output import Forecast
from .relative import relative, series_of
from .simple import seasonal_naive
from .windows import finite_or_none

EVALUATION_PATHS = 100


def evaluated(
    model: Any, tokenizer: BinsTokenizer, cases: Sequence[Case], options: SeriesEvalOptions
) -> dict[str, Any]:
    """The scores of sample paths, and the numbers of windows, series and paths. Writes the file of
    --forecasts."""
    ridge = options.ridge
    made = forecasts(model, tokenizer, cases, options.paths, ridge=ridge)
    made = tracked(made, len(cases), "forecasts")
    if options.forecasts is not None:
        kept = list(made)
        quantiles = parse_quantiles(options.quantiles)
        items = [_forecast(case, paths, quantiles) for case, paths in kept]
        write_forecasts(Path(options.forecasts), items, options.guard_formulas)
        made = iter(kept)
    sums = score_forecasts(made)
    naive = score_forecasts(_naive(cases))
    names, series = series_of(cases)
    scores = sums.scores() | relative(sums, naive, series)
    found: dict[str, Any] = {
        **{name: finite_or_none(value) for name, value in scores.items()},
        "windows": len(cases),
        "series": len(names),
        "paths": options.paths,
        "ridge": ridge,
    }
    if options.by is not None:
        by = _by_series if options.by == "series" else _by_step
        found[f"by_{options.by}"] = by(cases, sums, naive)
    return found


def _forecast(case: Case, paths: Values, quantiles: dict[str, float]) -> Forecast:
    side = case.side
    clock, first = Clock.of(side), side["first"]
    return Forecast(str(side["id"]), case.past, paths, clock, first, quantiles, case.actual)


def _naive(cases: Sequence[Case]) -> Iterator[tuple[Case, Values]]:
    for case in cases:
        values = seasonal_naive(case.past, case.season, case.horizon)
        yield case, np.maximum(values, case.lowest)[None]


def _by_series(cases: Sequence[Case], sums: Sums, naive: Sums) -> list[dict[str, Any]]:
    """A row a series: its id, windows and scores, beside the MASE and the WQL of seasonal naive."""
    names, groups = series_of(cases)
    windows = np.bincount(groups).tolist()
    rows = _rows(ratios(sums.by_window, groups), ratios(naive.by_window, groups))
    named = zip(names, windows, rows, strict=True)
    return [{"series": name, "windows": count, **row} for name, count, row in named]


def _by_step(cases: Sequence[Case], sums: Sums, naive: Sums) -> list[dict[str, Any]]:
    """A row a step ahead, from 1."""
    count = len(sums.by_step["points"])
    steps = np.arange(count)
    rows = _rows(ratios(sums.by_step, steps), ratios(naive.by_step, steps))
    windows = (sum(case.horizon > step for case in cases) for step in range(count))
    numbered = zip(windows, rows, strict=True)
    return [{"step": at, "windows": n, **row} for at, (n, row) in enumerate(numbered, 1)]


def _rows(own: dict[str, Values], naive: dict[str, Values]) -> list[dict[str, Any]]:
    both = own | {f"seasonal_naive_{name}": naive[name] for name in ("mase", "wql")}
    return [
        {name: finite_or_none(values[at]) for name, values in both.items()}
        for at in range(len(own["mase"]))
    ]


def terms(model: Any, tokenizer: BinsTokenizer, cases: Sequence[Case]) -> Terms:
    """`Task.terms` of all windows: every score. MASE also depends on the season that the seasonal
    errors are of."""
    made = tracked(forecasts(model, tokenizer, cases, EVALUATION_PATHS), len(cases), "forecasts")
    sums = score_forecasts(made).by_window
    contents = [
        f"{case.side['id']}\0{case.side['first']}\0".encode() + case.actual.tobytes()
        for case in cases
    ]
    errors = hashlib.sha256(np.array([case.seasonal_error for case in cases]).tobytes()).digest()
    pairs = {name: (sums[over], sums[under]) for name, (over, under) in RATIOS.items()}
    return Terms(contents, [str(case.side["id"]) for case in cases], pairs, {"mase": errors})
