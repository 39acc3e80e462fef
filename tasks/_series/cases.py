"""The forecasts that a protocol scores, made by a model or by a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.config import SampleConfig
from ...core.errors import DataError, UsageError
from ...core.protocols import Sequence as Windowed
from ...tokenizers._scales import Values
from ...tokenizers.bins import BinsTokenizer, Window
from .metrics import Sums, sums
from .windows import by_series, join, none_to_nan

PROTOCOLS = ("last", "rolling")
CHUNK = 64  # cases that are forecast together
# the time to sample a token, in units of the time to score one: in C, in torch
SAMPLING_COSTS = 1.2, 4.0


@dataclass(frozen=True)
class Case:
    """One forecast to make and score. past (N,), actual (horizon,), seasonal_error of the past (NaN
    where it is undefined). Scores are computed on (value - shift) / scale. No forecast is below
    `lowest`. season: of the series, in points; side: the side information of the window."""

    past: Values
    actual: Values
    seasonal_error: float
    shift: float = 0.0
    scale: float = 1.0
    lowest: float = -np.inf
    season: int = 1
    side: Mapping[str, Any] = field(default_factory=dict)

    @property
    def horizon(self) -> int:
        return len(self.actual)


def forecast_cases(
    sequences: Iterable[Windowed],
    protocol: str | None,
    tokenizer: BinsTokenizer,
    allow_negative: bool = False,
) -> list[Case]:
    """The windows that a protocol forecasts: `last`, the last window of each series, in its own
    units; `rolling`, all windows, z-scored by statistics of the training part. Model and baselines
    see the same points before a window, the history of the tokenizer."""
    if protocol not in (None, *PROTOCOLS):
        raise UsageError(f"--protocol {protocol}: the series task has {' and '.join(PROTOCOLS)}")
    rolling = protocol == "rolling"
    cases = []
    for windows in by_series(sequences):
        offset, values = join(windows)
        for window in windows:
            side = window.side
            actual = none_to_nan(side["future"])
            if not (rolling or side["last"]) or not np.isfinite(actual).any():
                continue
            past = values[: side["first"] - offset][-tokenizer.history :]
            scale = (side["mean"], side["deviation"]) if rolling else (0.0, 1.0)
            error = side["seasonal_error"]
            lowest = 0.0 if side.get("nonnegative") and not allow_negative else -np.inf
            error = np.nan if error is None else error
            season = side.get("season", tokenizer.season)
            cases.append(Case(past, actual, error, scale[0], scale[1], lowest, season, side))
    if not cases:
        raise DataError("no held-out window to forecast; give more data, or a lower --horizon")
    return cases


def forecast_cost(sequences: Iterable[Windowed], protocol: str | None, paths: int) -> int:
    """The cost of forecasting, in tokens that could be scored in the same time."""
    from ...core.decode.forks import has_library
    from .forecast import HISTORY_VIEWS

    cost = SAMPLING_COSTS[0 if has_library() else 1]
    return sum(
        HISTORY_VIEWS * s.given + round(cost * paths * (len(s) - s.given))
        for s in sequences
        if protocol == "rolling" or s.side["last"]
    )


def forecasts(
    model: Any,
    tokenizer: BinsTokenizer,
    cases: Sequence[Case],
    paths: int,
    config: SampleConfig | None = None,
    ridge: float = 0.0,
) -> Iterator[tuple[Case, Values]]:
    """Each case with its (paths, horizon) sampled values. Cases may differ in their horizon."""
    from .forecast import UNFILTERED, forecast_values

    for start in range(0, len(cases), CHUNK):
        chunk = cases[start : start + CHUNK]
        found: dict[int, Values] = {}
        by_horizon: dict[int, list[int]] = {}
        for index, case in enumerate(chunk):
            by_horizon.setdefault(case.horizon, []).append(index)
        for horizon, group in by_horizon.items():
            histories = []
            for index in group:
                past, side = chunk[index].past, chunk[index].side
                about = {"id": f"{side['id']}/{side['first']}"}
                about |= {name: side[name] for name in ("covariates", "season") if name in side}
                histories.append(Window(past, len(past), about))
            sampled = forecast_values(
                model, tokenizer, histories, horizon, paths, config or UNFILTERED, ridge
            )
            found |= dict(zip(group, sampled, strict=True))
        for index, case in enumerate(chunk):
            yield case, np.maximum(found[index], case.lowest)


def score_forecasts(made: Iterable[tuple[Case, Values]]) -> Sums:
    """The sums that the scores of forecasts (P, horizon) are ratios of."""
    return sums(
        (
            (values - case.shift) / case.scale,
            (case.actual - case.shift) / case.scale,
            case.seasonal_error / case.scale,
        )
        for case, values in made
    )
