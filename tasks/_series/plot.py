"""Pictures of forecasts: history and fan in characters, and as a figure in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core.errors import DataError, UsageError
from ...tokenizers.bins import Values
from .output import Forecast

HEIGHT = 12  # lines of the fan
PANELS = 12  # series in a figure, at most
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille cell, top down


def _shown(item: Forecast) -> Values:
    """The end of the history: twice the horizon, more where that is little."""
    return item.history[-max(2 * item.paths.shape[1], 24) :]


def fan(item: Forecast, width: int) -> str:
    """The history as a line of Braille dots; then the median as ━ in ▒ (0.3 to 0.7) in ░ (0.1 to
    0.9)."""
    past = _shown(item)
    bands = np.quantile(item.paths, (0.1, 0.3, 0.5, 0.7, 0.9), axis=0)
    known = past[np.isfinite(past)]
    low = min(float(known.min()), float(bands.min()))
    high = max(float(known.max()), float(bands.max()))
    extent = high - low or 1.0
    labels = [f"{value:.6g}" for value in (high, (high + low) / 2, low)]
    side = max(map(len, labels))
    cells = max(8, width - side - 1)
    total = len(past) + bands.shape[1]
    split = max(2, round(cells * len(past) / total))
    grid = [[" "] * cells for _ in range(HEIGHT)]

    dots = np.zeros((HEIGHT, split), int)
    last: int | None = None
    for x in range(2 * split):
        value = past[min(len(past) - 1, x * len(past) // (2 * split))]
        if np.isnan(value):
            last = None
            continue
        y = round((high - value) / extent * (4 * HEIGHT - 1))
        for between in range(min(y, y if last is None else last), max(y, last or y) + 1):
            dots[between // 4, x // 2] |= DOTS[between % 4][x % 2]
        last = y
    for row, column in zip(*np.nonzero(dots), strict=True):
        grid[row][column] = chr(0x2800 + dots[row, column])

    for x in range(split, cells):
        at = min(bands.shape[1] - 1, (x - split) * bands.shape[1] // (cells - split))
        rows = np.round((high - bands[:, at]) / extent * (HEIGHT - 1)).astype(int)
        for row in range(rows[4], rows[0] + 1):
            grid[row][x] = "▒" if rows[3] <= row <= rows[1] else "░"
        grid[rows[2]][x] = "━"
    sides = [labels[0], *[""] * (HEIGHT - 2), labels[2]]
    sides[HEIGHT // 2] = labels[1]
    lines = [f"{s:>{side}} {''.join(row).rstrip()}" for s, row in zip(sides, grid, strict=True)]
    ends = f"{item.times[0]} … {item.times[-1]}" if len(item.times) > 1 else item.times[0]
    name = "".join(c if c.isprintable() else "?" for c in item.id)
    return "\n".join([f"{name}: forecast {ends}", *lines])


def plot(items: Sequence[Forecast], path: Path) -> None:
    """Each series' history and fan in a panel of its own."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.dates as dates
    from matplotlib.figure import Figure

    some = items[:PANELS]
    columns = 1 if len(some) < 3 else 2 if len(some) < 7 else 3
    rows = -(-len(some) // columns)
    figure = Figure(figsize=(9.0 if columns == 1 else 4.5 * columns, 3.2 * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(some) :]:
        axis.set_visible(False)
    for axis, item in zip(axes.flat, some, strict=False):
        past, horizon = _shown(item), item.paths.shape[1]
        ahead = _axis(item.times)
        step = ahead[1] - ahead[0] if horizon > 1 else 1.0
        before = ahead[0] - step * np.arange(len(past), 0, -1)
        axis.plot(before, past, color="black", linewidth=1.0, label="history")
        for low, high, shade in ((0.1, 0.9, 0.2), (0.3, 0.7, 0.25)):
            band = np.quantile(item.paths, (low, high), axis=0)
            axis.fill_between(
                ahead,
                *band,
                color="tab:blue",
                alpha=shade,
                linewidth=0,
                label=f"{low:.0%} to {high:.0%}",
            )
        median = np.median(item.paths, axis=0)
        axis.plot(ahead, median, color="tab:blue", linewidth=1.3, label="median")
        if not item.times[0].isdigit():
            locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
            axis.xaxis.set_major_locator(locator)
            form = dates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
            axis.xaxis.set_major_formatter(form)
        axis.set_title(item.id, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
    axes.flat[0].legend(frameon=False, fontsize=8, loc="best")
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DataError(f"--plot {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--plot {path}: {error}") from error


def _axis(times: list[str]) -> Values:
    """Times as numbers: days for dates, as matplotlib counts them, or the counts themselves."""
    if times[0].isdigit():
        return np.array([float(time) for time in times])
    days: Values = np.array(times, "datetime64[s]").astype(np.float64) / 86400.0
    return days
