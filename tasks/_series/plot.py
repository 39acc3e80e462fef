"""Fan charts of forecasts, as characters for a terminal and as figures in files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.display import BRAILLE_DOTS
from ...core.errors import DataError, UsageError
from ...tokenizers._scales import Values
from .output import Forecast

FAN_LINES = 12  # height of a chart in a terminal
MAX_PANELS = 12  # series in a figure


def _plotted_history(item: Forecast) -> Values:
    """The last points of the history, which are plotted: twice the horizon, at least 24."""
    return item.history[-max(2 * item.paths.shape[1], 24) :]


def fan(item: Forecast, width: int) -> str:
    """A chart of `width` columns: the history as a line of Braille dots, then the forecast with the
    median as ━, quantiles 0.3 to 0.7 as ▒ and 0.1 to 0.9 as ░."""
    past = _plotted_history(item)
    bands = np.quantile(item.paths, (0.1, 0.3, 0.5, 0.7, 0.9), axis=0)
    known = past[np.isfinite(past)]
    low = min(float(known.min(initial=np.inf)), float(bands.min()))
    high = max(float(known.max(initial=-np.inf)), float(bands.max()))
    if high / 2 - low / 2 > np.finfo(float).max / 4:  # the difference would overflow
        past, bands, low, high = past / 4, bands / 4, low / 4, high / 4
    extent = high - low or 1.0
    labels = [f"{value:.6g}" for value in (high, high / 2 + low / 2, low)]
    margin = max(map(len, labels))
    cells = max(8, width - margin - 1)
    total = len(past) + bands.shape[1]
    split = max(2, round(cells * len(past) / total))
    grid = [[" "] * cells for _ in range(FAN_LINES)]

    dots = np.zeros((FAN_LINES, split), int)
    last: int | None = None
    for x in range(2 * split):
        value = past[min(len(past) - 1, x * len(past) // (2 * split))]
        if np.isnan(value):
            last = None
            continue
        y = round((high - value) / extent * (4 * FAN_LINES - 1))
        for between in range(min(y, y if last is None else last), max(y, last or y) + 1):
            dots[between // 4, x // 2] |= BRAILLE_DOTS[between % 4][x % 2]
        last = y
    for row, column in zip(*np.nonzero(dots), strict=True):
        grid[row][column] = chr(0x2800 + dots[row, column])

    for x in range(split, cells):
        at = min(bands.shape[1] - 1, (x - split) * bands.shape[1] // (cells - split))
        rows = np.round((high - bands[:, at]) / extent * (FAN_LINES - 1)).astype(int)
        for row in range(rows[4], rows[0] + 1):
            grid[row][x] = "▒" if rows[3] <= row <= rows[1] else "░"
        grid[rows[2]][x] = "━"
    margins = [labels[0], *[""] * (FAN_LINES - 2), labels[2]]
    margins[FAN_LINES // 2] = labels[1]
    lines = [f"{s:>{margin}} {''.join(row).rstrip()}" for s, row in zip(margins, grid, strict=True)]
    times = item.times
    ends = f"{times[0]} … {times[-1]}" if len(times) > 1 else times[0]
    name = _shortened(item.id, max(8, width - len(ends) - 12))
    return "\n".join([f"{name}: forecast {ends}", *lines])


def plot(items: Sequence[Forecast], path: Path) -> None:
    """A figure with a panel for the history and forecast of each series, of the first ones if there
    are many. DataError where the file cannot be written, UsageError where its format is not
    supported."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    panels = items[:MAX_PANELS]
    columns = 1 if len(panels) < 3 else 2 if len(panels) < 7 else 3
    rows = -(-len(panels) // columns)
    width = 9.0 if columns == 1 else 4.5 * columns
    figure = Figure(figsize=(width, 3.2 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, item in zip(axes.flat, panels, strict=False):
        _panel(axis, item)
        room = int(width / columns * 12)  # characters of this size
        axis.set_title(
            _shortened(item.id, room), loc="left", fontsize=10, parse_math=False, wrap=False
        )
    axes.flat[0].legend(frameon=False, fontsize=8, loc="best")
    if len(items) > len(panels):
        text = f"and {len(items) - len(panels):,} more series that are not drawn"
        figure.supxlabel(text, fontsize=9, color="gray")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ids whose characters no font has
            figure.savefig(path, dpi=150)
    except OSError as error:
        raise DataError(f"--plot {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"--plot {path}: {error}") from error


def _panel(axis: Any, item: Forecast) -> None:
    """History and forecast of one series at their own times."""
    import matplotlib.dates as dates

    past, horizon = _plotted_history(item), item.paths.shape[1]
    before = min(len(past), item.first)
    past = past[len(past) - before :]
    x = item.clock.positions(item.first - before, before + horizon)
    behind, ahead = x[:before], x[before:]
    axis.plot(behind, past, color="black", linewidth=1.0, label="history")
    alone = np.isfinite(past) & ~_has_neighbour(past)
    if alone.any():
        axis.plot(behind[alone], past[alone], ".", color="black", markersize=4)
    median = np.median(item.paths, axis=0)
    if horizon == 1:  # a point with whiskers: a band would have no width
        for (low, high), line in (((0.1, 0.9), 1.5), ((0.3, 0.7), 4.0)):
            band = np.quantile(item.paths, (low, high), axis=0)
            axis.vlines(ahead, *band, color="tab:blue", alpha=0.4, linewidth=line,
                        label=f"{low:.0%} to {high:.0%}")  # fmt: skip
        axis.plot(ahead, median, "o", color="tab:blue", markersize=4, label="median")
    else:
        for low, high, shade in ((0.1, 0.9, 0.2), (0.3, 0.7, 0.25)):
            band = np.quantile(item.paths, (low, high), axis=0)
            axis.fill_between(ahead, *band, color="tab:blue", alpha=shade, linewidth=0,
                              label=f"{low:.0%} to {high:.0%}")  # fmt: skip
        axis.plot(ahead, median, color="tab:blue", linewidth=1.3, label="median")
    if not isinstance(x, np.ndarray):
        locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_locator(locator)
        form = dates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_formatter(form)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.01)


def _has_neighbour(values: Values) -> Any:
    """Whether the value before or after each is known, so that a line can be drawn to it."""
    known = np.concatenate(([False], np.isfinite(values), [False]))
    return known[:-2] | known[2:]


def _shortened(name: str, length: int) -> str:
    """A name without control characters, with an ellipsis in its middle if it is longer."""
    name = "".join(char if char.isprintable() else " " for char in name)
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
