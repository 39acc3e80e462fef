"""Windows of held-out series, adjacent or a stride apart, and the scores of their forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.errors import DataError, UsageError
from ...core.protocols import Sequence
from ...tokenizers._scales import Values
from ...tokenizers.bins import BinsTokenizer, Window
from .baselines import Case, score_forecasts
from .collection import Collection
from .metrics import seasonal_error

EVALUATION_PATHS = 100
SAMPLING_COST = 4  # the time to sample series token, in units of the time to score series


# -- cutting -------------------------------------------------------------------------------------


def adjacent_windows(items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
    """Windows whose horizons cover the held-out part of each series without overlap, the last
    window first. Their history may reach back into the training part. `mean`, `deviation` and
    `seasonal_error` in the side information are statistics of the training part; the seasonal error
    of the last window is that of all points before it, as is usual in forecasting. `past` is stored
    only where no other window contains these points. A series without a held-out part yields one
    window with an empty horizon: it is not scored, only forecast from. So does a series without a
    value in the history of its last window; `gap` is the number of missing points after it."""
    history, horizon, season = tokenizer.history, tokenizer.horizon, tokenizer.season
    for series, start, length in zip(items.series, items.starts, items.train_lengths, strict=True):
        start = start or max(1, len(series) - horizon)
        before = series.values[: length or start]
        error = seasonal_error(before, season)
        known = before[np.isfinite(before)]
        mean, deviation = _moments(known) if len(known) else (0.0, 1.0)
        negative = np.flatnonzero(series.values < 0)
        for end in range(len(series), start, -horizon) or (start,):
            first, last = max(start, end - horizon), end == len(series)
            if not np.isfinite(series.values[max(0, first - history) : first]).any():
                if not last:
                    continue
                first = end = int(np.flatnonzero(np.isfinite(series.values))[-1]) + 1
            if last:
                last_error = seasonal_error(series.values[:first], season)
            yield _encode_window(
                tokenizer,
                series.values[max(0, first - history) : first],
                series.values[first:end],
                {
                    "id": series.id,
                    "last": last,
                    "first": first,
                    **series.clock.side(),
                    "seasonal_error": _finite_or_none(last_error if last else error),
                    "mean": float(mean),
                    "deviation": float(deviation or 1.0),
                    "nonnegative": not len(negative) or first <= int(negative[0]),
                    **({"gap": len(series) - end} if last and end < len(series) else {}),
                },
                last or first == start,
            )


def _moments(known: Values) -> tuple[float, float]:
    """(mean, standard deviation), also of values whose sum or squares overflow."""
    size = float(np.abs(known).max()) or 1.0
    return float((known / size).mean() * size), float((known / size).std() * size)


def _encode_window(
    tokenizer: BinsTokenizer, past: Values, future: Values, side: dict[str, Any], store_past: bool
) -> Sequence:
    stored = {"past": nan_to_none(past)} if store_past else {}
    side = {**side, "future": nan_to_none(future), **stored}
    return tokenizer.encode(Window(np.concatenate((past, future)), len(past), side))


def slide(sequences: Iterable[Sequence], tokenizer: BinsTokenizer, stride: int) -> list[Sequence]:
    """Windows of a full horizon, `stride` points apart, over the points that `sequences` cover (the
    windows of `adjacent_windows`). The last one ends where its series ends."""
    history, horizon = tokenizer.history, tokenizer.horizon
    out = []
    for windows in _by_series(sequences):
        offset, values = _join(windows)
        sides = [window.side for window in windows]
        start = min(side["first"] for side in sides) - offset
        about = {**sides[-1], "last": False}
        about.pop("past", None)
        about.pop("gap", None)
        for first in range(len(values) - horizon, start - 1, -stride):
            past = values[max(0, first - history) : first]
            if np.isfinite(past).any():
                last = first + horizon == len(values)
                nonnegative = about.get("nonnegative", False) and not (values[:first] < 0).any()
                side = {**about, "first": first + offset, "nonnegative": nonnegative}
                if last:
                    side |= {"last": True, "seasonal_error": sides[0]["seasonal_error"]}
                future = values[first : first + horizon]
                out.append(_encode_window(tokenizer, past, future, side, True))
    return out


def held_out_values(sequences: Iterable[Sequence]) -> Iterator[tuple[str, Values]]:
    """(id, held-out values in the order of time) of each series."""
    for windows in _by_series(sequences):
        offset, values = _join(windows)
        first = min(window.side["first"] for window in windows) - offset
        yield str(windows[0].side["id"]), values[first:]


def training_windows(items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
    """Windows side by side that cover the training series; all points but the begin tokens are
    predicted, as in training."""
    length = tokenizer.history + tokenizer.horizon
    for series in items.series:
        for start in range(0, len(series), length):
            values = series.values[start : start + length]
            history = max(1, len(values) - tokenizer.horizon)
            about = {"id": series.id, "first": start + history, **series.clock.side()}
            yield replace(tokenizer.encode(Window(values, history, about)), given=1)


def _by_series(sequences: Iterable[Sequence]) -> Iterator[list[Sequence]]:
    """The windows grouped by series; the last window of a series comes first in its group."""
    windows: list[Sequence] = []
    for sequence in sequences:
        if windows and (sequence.side["last"] or sequence.side["id"] != windows[0].side["id"]):
            yield windows
            windows = []
        windows.append(sequence)
    if windows:
        yield windows


def _join(windows: list[Sequence]) -> tuple[int, Values]:
    """(index of the first known point, values from there on), joined from a series' windows."""
    parts = []
    for side in (window.side for window in windows):
        past = none_to_nan(side.get("past", []))
        parts += [(side["first"] - len(past), past), (side["first"], none_to_nan(side["future"]))]
    offset = min(first for first, part in parts if len(part))
    values = np.full(max(first + len(part) for first, part in parts) - offset, np.nan)
    for first, part in parts:
        values[first - offset : first - offset + len(part)] = part
    return offset, values


# -- scoring -------------------------------------------------------------------------------------


def forecast_cases(
    sequences: Iterable[Sequence], protocol: str | None, history: int, allow_negative: bool = False
) -> tuple[list[Sequence], list[Case]]:
    """The windows that a protocol forecasts, and their actual values: `last`, the last window of
    each series, in its own units; `rolling`, all windows, z-scored by statistics of the training
    part. Model and baselines see the same `history` points before a window."""
    if protocol not in (None, "last", "rolling"):
        raise UsageError(f"--protocol {protocol}: the series task has last and rolling")
    rolling = protocol == "rolling"
    chosen, cases = [], []
    for windows in _by_series(sequences):
        offset, values = _join(windows)
        for window in windows:
            side = window.side
            actual = none_to_nan(side["future"])
            if not (rolling or side["last"]) or not np.isfinite(actual).any():
                continue
            past = values[: side["first"] - offset][-history:]
            scale = (side["mean"], side["deviation"]) if rolling else (0.0, 1.0)
            error = side["seasonal_error"]
            lowest = 0.0 if side.get("nonnegative") and not allow_negative else -np.inf
            chosen.append(window)
            error = np.nan if error is None else error
            cases.append(Case(past, actual, error, scale[0], scale[1], lowest))
    if not chosen:
        raise DataError("no held-out window to forecast; give more data, or a lower --horizon")
    return chosen, cases


def forecast_cost(sequences: Iterable[Sequence], protocol: str | None) -> int:
    """The cost of forecasting, in tokens that could be scored in the same time."""
    from .forecast import HISTORY_VIEWS

    return sum(
        HISTORY_VIEWS * s.given + SAMPLING_COST * EVALUATION_PATHS * (len(s) - s.given)
        for s in sequences
        if protocol == "rolling" or s.side["last"]
    )


def forecast_scores(
    model: Any,
    tokenizer: BinsTokenizer,
    sequences: Iterable[Sequence],
    protocol: str | None,
    allow_negative: bool = False,
) -> dict[str, Any]:
    """The scores of sample paths, and the numbers of windows, series and paths."""
    chosen, cases = forecast_cases(sequences, protocol, tokenizer.history, allow_negative)
    found = score_forecasts(_sample_paths(model, tokenizer, chosen, cases), cases)
    return {
        **{name: _finite_or_none(value) for name, value in found.items()},
        "windows": len(chosen),
        "series": len({s.side["id"] for s in chosen}),
        "paths": EVALUATION_PATHS,
        "protocol": protocol or "last",
    }


def _sample_paths(
    model: Any, tokenizer: BinsTokenizer, chosen: list[Sequence], cases: list[Case]
) -> list[Values]:
    """For each window, (P, horizon) sampled values; windows may differ in their horizon."""
    from .forecast import forecast_values

    out: list[Values] = [np.empty(0)] * len(chosen)
    by_horizon: dict[int, list[int]] = {}
    for index, case in enumerate(cases):
        by_horizon.setdefault(len(case.actual), []).append(index)
    for horizon, group in by_horizon.items():
        histories = []
        for index in group:
            past, side = cases[index].past, chosen[index].side
            histories.append(Window(past, len(past), {"id": f"{side['id']}/{side['first']}"}))
        sampled = forecast_values(model, tokenizer, histories, horizon, EVALUATION_PATHS)
        for index, paths in zip(group, sampled, strict=True):
            out[index] = np.maximum(paths, cases[index].lowest)
    return out


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def nan_to_none(values: Values) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def none_to_nan(listed: list[float | None]) -> Values:
    return np.array([np.nan if value is None else value for value in listed], np.float64)
