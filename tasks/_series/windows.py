"""Windows of held-out series, adjacent or a stride apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.protocols import Sequence
from ...tokenizers._covariates import Covariates
from ...tokenizers._scales import Values
from ...tokenizers.bins import BinsTokenizer, Window
from .collection import Collection, Series
from .metrics import seasonal_error

FAR = 1 << 30  # points


def adjacent_windows(items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
    """Windows whose horizons cover the held-out part of each series without overlap, the last
    window first. Their history may reach back into the training part. `mean`, `deviation` and
    `seasonal_error` in the side information are statistics of the training part; the seasonal error
    of the last window is that of all points before it, as is usual in forecasting. `past` is stored
    only where no other window contains these points. A series without a held-out part yields one
    window with an empty horizon: it is not scored, only forecast from. So does a series without a
    value in the history of its last window; `gap` is the number of missing points after it."""
    history, horizon = tokenizer.history, tokenizer.horizon
    for series, start, length in zip(items.series, items.starts, items.train_lengths, strict=True):
        start, season = start or max(1, len(series) - horizon), series.season or tokenizer.season
        before = series.values[: length or start]
        error = seasonal_error(before, season)
        known = before[np.isfinite(before)]
        mean, deviation = _moments(known) if len(known) else (0.0, 1.0)
        negative = np.flatnonzero(series.values < 0)
        codes = codes_of(series, tokenizer.covariates)
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
                codes,
                {
                    "id": series.id,
                    "last": last,
                    "first": first,
                    **series.clock.side(),
                    **season_side(series),
                    "seasonal_error": finite_or_none(last_error if last else error),
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
    tokenizer: BinsTokenizer,
    past: Values,
    future: Values,
    codes: Mapping[str, Values],
    side: dict[str, Any],
    store_past: bool,
) -> Sequence:
    """codes: of the covariates, from the first point of the series on."""
    stored = {"past": nan_to_none(past)} if store_past else {}
    side = {**side, "future": nan_to_none(future), **stored}
    ahead = len(future) + (FAR if side["last"] else 0)  # all that is known of the future
    side |= side_of_codes(codes, side["first"] - len(past), len(past), ahead, tokenizer.covariates)
    return tokenizer.encode(Window(np.concatenate((past, future)), len(past), side))


def slide(sequences: Iterable[Sequence], tokenizer: BinsTokenizer, stride: int) -> list[Sequence]:
    """Windows of a full horizon, `stride` points apart, over the points that `sequences` cover (the
    windows of `adjacent_windows`). The last one ends where its series ends."""
    history, horizon = tokenizer.history, tokenizer.horizon
    out = []
    for windows in by_series(sequences):
        offset, values = join(windows)
        codes = _join_codes(windows, offset + len(values))
        sides = [window.side for window in windows]
        start = min(side["first"] for side in sides) - offset
        about = {**sides[-1], "last": False}
        about.pop("past", None)
        about.pop("gap", None)
        about.pop("covariates", None)
        for first in range(len(values) - horizon, start - 1, -stride):
            past = values[max(0, first - history) : first]
            if np.isfinite(past).any():
                last = first + horizon == len(values)
                nonnegative = about.get("nonnegative", False) and not (values[:first] < 0).any()
                side = {**about, "first": first + offset, "nonnegative": nonnegative}
                if last:
                    side |= {"last": True, "seasonal_error": sides[0]["seasonal_error"]}
                future = values[first : first + horizon]
                out.append(_encode_window(tokenizer, past, future, codes, side, True))
    return out


def held_out_values(sequences: Iterable[Sequence]) -> Iterator[tuple[str, Values]]:
    """(id, held-out values in the order of time) of each series."""
    for windows in by_series(sequences):
        offset, values = join(windows)
        first = min(window.side["first"] for window in windows) - offset
        yield str(windows[0].side["id"]), values[first:]


def training_windows(items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
    """Windows side by side that cover the training series; all points but the begin tokens are
    predicted, as in training."""
    length = tokenizer.history + tokenizer.horizon
    for series in items.series:
        codes = codes_of(series, tokenizer.covariates)
        for start in range(0, len(series), length):
            values = series.values[start : start + length]
            history = max(1, len(values) - tokenizer.horizon)
            about = {"id": series.id, "first": start + history, **series.clock.side()}
            about |= season_side(series)
            ahead = len(values) - history
            about |= side_of_codes(codes, start, history, ahead, tokenizer.covariates)
            yield replace(tokenizer.encode(Window(values, history, about)), given=1)


def by_series(sequences: Iterable[Sequence]) -> Iterator[list[Sequence]]:
    """The windows grouped by series; the last window of a series comes first in its group."""
    windows: list[Sequence] = []
    for sequence in sequences:
        if windows and (sequence.side["last"] or sequence.side["id"] != windows[0].side["id"]):
            yield windows
            windows = []
        windows.append(sequence)
    if windows:
        yield windows


def join(windows: list[Sequence]) -> tuple[int, Values]:
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


def season_side(series: Series) -> dict[str, int]:
    """The side information of a series with a season of its own."""
    return {"season": series.season} if series.season else {}


# -- covariates ----------------------------------------------------------------------------------


def codes_of(series: Series, covariates: Covariates) -> dict[str, Values]:
    """The codes of the covariates of a series, from its first point on."""
    return {one.name: one.codes(series.columns[one.name]) for one in covariates.each}


def side_of_codes(
    codes: Mapping[str, Values], start: int, history: int, horizon: int, covariates: Covariates
) -> dict[str, Any]:
    """The side information of a window that starts at point `start`: the codes of its covariates,
    past ones only of its history."""
    found = {}
    for one in covariates.each:
        end = start + history + (0 if one.kind == "past" else horizon)
        found[one.name] = nan_to_none(codes[one.name][start:end])
    return {"covariates": found} if found else {}


def _join_codes(windows: list[Sequence], length: int) -> dict[str, Values]:
    """The codes of a series' covariates, from its first point on, joined from its windows."""
    joined: dict[str, Values] = {}
    for side in (window.side for window in windows):
        start = side["first"] - side["history"]
        for name, listed in side.get("covariates", {}).items():
            codes = none_to_nan(listed)
            whole = joined.setdefault(name, np.full(length, np.nan))
            whole[start : start + len(codes)] = codes[: length - start]
    return joined


# -- side information -----------------------------------------------------------------------------


def finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def nan_to_none(values: Values) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def none_to_nan(listed: list[float | None]) -> Values:
    return np.array([np.nan if value is None else value for value in listed], np.float64)
