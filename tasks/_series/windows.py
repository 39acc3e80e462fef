"""Windows of what is held out: end to end or a stride apart; which are forecast, and the scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ...core.errors import DataError, UsageError
from ...core.protocols import Sequence
from ...tokenizers.bins import BinsTokenizer, Values, Window
from .baselines import Case, measured
from .collection import Collection
from .metrics import seasonal_error

EVALUATION_PATHS = 100
DRAWING = 4  # what drawing an id costs, in ids that are only scored


# -- cutting -------------------------------------------------------------------------------------


def end_to_end(items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
    """Windows of each series from its last to its first, whose history may reach back before what
    is held out. `mean` and `deviation` in a window's side are of the training part, the seasonal
    error too, but of the last window, as forecasters count: there of all before it. `past`, what
    is known before a window, is kept where no other window has it. Of a series of which nothing is
    held out there is one window, of no future: it is not scored, but it is forecast from."""
    history, most, season = tokenizer.history, tokenizer.horizon, tokenizer.season
    for one, start, learned in zip(items.series, items.starts, items.learned, strict=True):
        start = start or max(1, len(one) - most)
        before = one.values[: learned or start]
        error = seasonal_error(before, season)
        known = before[np.isfinite(before)]
        mean, deviation = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
        for end in range(len(one), start, -most) or (start,):
            first = max(start, end - most)
            past = one.values[max(0, first - history) : first]
            if np.isfinite(past).any():
                last = end == len(one)
                if last:
                    error_here = seasonal_error(one.values[:first], season)
                yield _encoded(
                    tokenizer,
                    past,
                    one.values[first:end],
                    {
                        "id": one.id,
                        "last": last,
                        "first": first,
                        "start": one.start,
                        "freq": one.freq,
                        "seasonal_error": _plain(error_here if last else error),
                        "mean": float(mean),
                        "deviation": float(deviation or 1.0),
                    },
                    last or first == start,
                )


def _encoded(
    tokenizer: BinsTokenizer, past: Values, future: Values, about: dict[str, Any], keeps: bool
) -> Sequence:
    kept = {"past": _listed(past)} if keeps else {}
    about = {**about, "future": _listed(future), **kept}
    return tokenizer.encode(Window(np.concatenate((past, future)), len(past), about))


def slide(sequences: Iterable[Sequence], tokenizer: BinsTokenizer, stride: int) -> list[Sequence]:
    """Windows of the whole horizon `stride` points apart, the last at the end of its series, of
    what the windows `end_to_end` cover."""
    history, horizon = tokenizer.history, tokenizer.horizon
    out = []
    for windows in _by_series(sequences):
        offset, values = _joined(windows)
        sides = [window.side for window in windows]
        start = min(side["first"] for side in sides) - offset
        about = {**sides[-1], "last": False}
        about.pop("past", None)
        for first in range(len(values) - horizon, start - 1, -stride):
            past = values[max(0, first - history) : first]
            if np.isfinite(past).any():
                last = first + horizon == len(values)
                side = {**about, "first": first + offset}
                if last:
                    side |= {"last": True, "seasonal_error": sides[0]["seasonal_error"]}
                future = values[first : first + horizon]
                out.append(_encoded(tokenizer, past, future, side, True))
    return out


def _by_series(sequences: Iterable[Sequence]) -> Iterator[list[Sequence]]:
    """The windows of one series after those of another; each begins with its last."""
    windows: list[Sequence] = []
    for sequence in sequences:
        if windows and (sequence.side["last"] or sequence.side["id"] != windows[0].side["id"]):
            yield windows
            windows = []
        windows.append(sequence)
    if windows:
        yield windows


def _joined(windows: list[Sequence]) -> tuple[int, Values]:
    """(the number of the first point known, the values from there on) of a series' windows."""
    parts = []
    for side in (window.side for window in windows):
        past = values_of(side.get("past", []))
        parts += [(side["first"] - len(past), past), (side["first"], values_of(side["future"]))]
    offset = min(first for first, part in parts if len(part))
    values = np.full(max(first + len(part) for first, part in parts) - offset, np.nan)
    for first, part in parts:
        values[first - offset : first - offset + len(part)] = part
    return offset, values


# -- scoring -------------------------------------------------------------------------------------


def to_forecast(
    sequences: Iterable[Sequence], protocol: str | None
) -> tuple[list[Sequence], list[Case]]:
    """The windows that a protocol forecasts, and what is right: `last`, the last of each series,
    in its own units; `rolling`, all, z-scored by the statistics of the training part."""
    if protocol not in (None, "last", "rolling"):
        raise UsageError(f"--protocol {protocol}: the series task has last and rolling")
    rolling = protocol == "rolling"
    chosen, cases = [], []
    for windows in _by_series(sequences):
        offset, values = _joined(windows)
        for window in windows:
            side = window.side
            actual = values_of(side["future"])
            if not (rolling or side["last"]) or not np.isfinite(actual).any():
                continue
            past = values[: side["first"] - offset]
            scale = (side["mean"], side["deviation"]) if rolling else (0.0, 1.0)
            error = side["seasonal_error"]
            chosen.append(window)
            cases.append(Case(past, actual, np.nan if error is None else error, *scale))
    if not chosen:
        raise DataError("no held-out window to forecast; give more data, or a lower --horizon")
    return chosen, cases


def forecast_tokens(sequences: Iterable[Sequence], protocol: str | None) -> int:
    """What forecasting costs, in ids that are scored."""
    from .forecast import VIEWS

    return sum(
        VIEWS * s.given + DRAWING * EVALUATION_PATHS * (len(s) - s.given)
        for s in sequences
        if protocol == "rolling" or s.side["last"]
    )


def forecast_scores(
    model: Any, tokenizer: BinsTokenizer, sequences: Iterable[Sequence], protocol: str | None
) -> dict[str, Any]:
    """The scores of sample paths, and of how many windows they are."""
    chosen, cases = to_forecast(sequences, protocol)
    found = measured(_paths(model, tokenizer, chosen, cases), cases)
    return {
        **{name: _plain(value) for name, value in found.items()},
        "windows": len(chosen),
        "series": len({s.side["id"] for s in chosen}),
        "paths": EVALUATION_PATHS,
        "protocol": protocol or "last",
    }


def _paths(
    model: Any, tokenizer: BinsTokenizer, chosen: list[Sequence], cases: list[Case]
) -> list[Values]:
    """(P, its horizon) of each."""
    from .forecast import forecast_values

    out: list[Values] = [np.empty(0)] * len(chosen)
    by_horizon: dict[int, list[int]] = {}
    for index, case in enumerate(cases):
        by_horizon.setdefault(len(case.actual), []).append(index)
    for horizon, group in by_horizon.items():
        known = []
        for index in group:
            past, side = cases[index].past[-tokenizer.history :], chosen[index].side
            known.append(Window(past, len(past), {"id": f"{side['id']}/{side['first']}"}))
        drawn = forecast_values(model, tokenizer, known, horizon, EVALUATION_PATHS)
        for index, paths in zip(group, drawn, strict=True):
            out[index] = paths
    return out


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _listed(values: Values) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def values_of(listed: list[float | None]) -> Values:
    return np.array([np.nan if value is None else value for value in listed], np.float64)
