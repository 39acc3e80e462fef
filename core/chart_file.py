"""Charts as figures in files, drawn with matplotlib, which is imported when one is drawn.

Lines differ in marks, in dashes and in lightness, so that a figure can be read in grey. Names stand
outside of the data, at the height of the end of their line.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chart import Chart, Heatmap, Line
from .chart_layout import (
    HUGE,
    Scale,
    bar_extent,
    data_ticks,
    extent,
    intervals,
    label_places,
    marked,
    number,
    tick_labels,
    value_texts,
    wrapped,
)
from .display import visible
from .errors import UsageError
from .files import check_output, write_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
DPI = 200
ROOM = 0.03  # on both sides of the data, as a share of its extent
NAME_INCHES = 1.7  # of a name beside the data, at most
ROW_INCHES = 2.8  # of the name of a row
BAR_INCHES = 0.045  # between the intervals of two lines at the same x
SIZE = 9.0  # of the text, points
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#111111", "#cc79a7", "#e69f00", "#56b4e9", "#777777")
MARKERS = "os^DvPX"
DASHES = ("-", (0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))  # of lines that have no marks
STYLES = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 2)), "none": "None"}
MAX_INTERVAL_BARS = 20  # values of a line that have bars for intervals, rather than a band
MAX_CELLS = 320  # of a heatmap with a number in each
TEXT = "#222222"
QUIET = "#666666"
SETTINGS: Any = {
    "font.size": SIZE,
    "text.parse_math": False,  # a $ in a name is a $
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "svg.hashsalt": "tfm",  # equal charts are equal files
    "pdf.fonttype": 42,
}


def check_plot(path: Path) -> None:
    """Checks before the work that `to_file` will be able to write a figure. UsageError for another
    suffix than .png, .svg or .pdf, and for a folder that does not exist."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    check_output(path, force=True)


def to_file(charts: Sequence[Chart], path: Path) -> None:
    """Draws charts as panels of one figure and replaces `path` with it. Errors: see `check_plot`;
    TfmError if the file cannot be written."""
    check_plot(path)
    import matplotlib

    kind = path.suffix.lower()[1:]
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    data = io.BytesIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names with characters that no font has
        figure(charts).savefig(data, format=kind, dpi=DPI, metadata=dates)
    write_out(path, data.getvalue())


def figure(charts: Sequence[Chart]) -> Figure:
    """The figure of `to_file`, drawn under SETTINGS: up to two panels side by side."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across = 1 if len(charts) == 1 else 2
    width = 6.8 if across == 1 else 6.2  # inches of a panel
    rows = [charts[at : at + across] for at in range(0, len(charts), across)]
    heights = [max(_height(chart, width) for chart in row) for row in rows]
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    drawn = Figure(figsize=(across * width, sum(heights)), layout=layout)
    panels = drawn.subfigures(len(rows), across, squeeze=False, height_ratios=heights)
    axes = [_panel(panels[divmod(at, across)], chart, width) for at, chart in enumerate(charts)]
    drawn.draw_without_rendering()
    for each, chart in zip(axes, charts, strict=True):
        if chart.lines:
            _name_lines(each, chart)
    return drawn


def _inches(text: str, size: float, bold: bool = False) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def _lines_of(text: str, inches: float, size: float, bold: bool = False) -> list[str]:
    return wrapped(visible(text), inches, lambda line: _inches(line, size, bold))


def _shortened(text: str, inches: float = NAME_INCHES, size: float = SIZE) -> str:
    """Text in one line of at most so many inches, cut with an ellipsis."""
    text = visible(text)
    if _inches(text, size) <= inches:
        return text
    kept = max(1, int(len(text) * inches / _inches(text, size)) - 1)
    while kept > 1 and _inches(text[:kept] + "…", size) > inches:
        kept -= 1
    return text[:kept] + "…"


def _height(chart: Chart, width: float) -> float:
    """Inches of a panel: title, axes, verdict."""
    text = 0.2 * len(_lines_of(chart.title, width - 0.3, SIZE + 2, True))
    text += 0.16 * len(_lines_of(chart.verdict, width - 0.3, SIZE))
    rows = 0.0
    if chart.heatmap:
        rows = 0.3 * len(chart.heatmap.rows) + 0.3
    elif chart.bars:
        rows = 0.22 * len(chart.bars[0].names) * max(1.3, len(chart.bars)) + 0.3
    return text + 0.8 + (min(max(1.2, rows), 40.0) if rows else 3.0)


def _panel(panel: Any, chart: Chart, width: float) -> Axes:
    title = "\n".join(_lines_of(chart.title, width - 0.3, SIZE + 2, True))
    verdict = "\n".join(_lines_of(chart.verdict, width - 0.3, SIZE))
    side = 0.12 / width
    panel.suptitle(title, x=side, ha="left", fontsize=SIZE + 2, fontweight="bold")
    panel.supxlabel(verdict, x=side, ha="left", fontsize=SIZE, color=TEXT)
    axes: Axes = panel.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.7)
    axes.set_xlabel(chart.x.label)
    axes.set_ylabel(chart.y.label)
    if chart.heatmap:
        _heatmap(panel, axes, chart.heatmap)
    elif chart.bars:
        _bars(axes, chart)
    else:
        _lines(axes, chart)
    return axes


def _range(axes: Axes, which: str, scale: Scale, ticks: Sequence[float]) -> None:
    """The limits of an axis, with a little room around the data, and its ticks."""
    axis = getattr(axes, f"{which}axis")
    low, high = scale.low, scale.high
    if scale.log:
        getattr(axes, f"set_{which}scale")("log")
        room = (high / low) ** ROOM
        low, high = low / room, high * room
    else:
        room = ROOM * high - ROOM * low
        low, high = low - room, high + room
    getattr(axes, f"set_{which}lim")(low, high)
    axis.set_ticks(ticks, tick_labels(ticks))
    axis.set_ticks([], minor=True)


def _drawn(values: Sequence[float]) -> list[float]:
    """The values without infinities, and none so large that matplotlib would overflow."""
    return [min(max(v, -HUGE), HUGE) if math.isfinite(v) else math.nan for v in values]


# -- lines ---------------------------------------------------------------------------------------


def _mark(which: int) -> dict[str, Any]:
    return dict(color=COLOURS[which % len(COLOURS)], marker=MARKERS[which % len(MARKERS)], ms=5)


def _look(chart: Chart, line: Line) -> dict[str, Any]:
    """Colour, mark and dashes of a line. Solid lines without points differ in their dashes if those
    of no other line mean something, and have marks now and then."""
    which = chart.names.index(line.name)
    plain = all(other.style == "solid" and not other.points for other in chart.lines)
    dashes: Any = DASHES[which % len(DASHES)] if plain else STYLES[line.style]
    look = {**_mark(which), "linestyle": dashes, "linewidth": 1.4}
    if not marked(chart, line):
        look["marker"] = ""
    return look


def _lines(axes: Axes, chart: Chart) -> None:
    x = Scale.of((v for line in chart.lines for v in line.x), chart.x.log)
    y = Scale.of((v for line in chart.lines for v in extent(line)), chart.y.log)
    _range(axes, "x", x, data_ticks((v for line in chart.lines for v in line.x), x, 8))
    _range(axes, "y", y, y.ticks(6))
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)
    bottom, top = axes.get_ylim()
    barred = [each.name for each in chart.lines if 0 < len(intervals(each)) <= MAX_INTERVAL_BARS]
    with_bars = list(dict.fromkeys(barred))
    for line in chart.lines:
        look = {**_look(chart, line), "transform": axes.transData}
        if line.name in with_bars:  # beside those of other lines at the same x
            place = with_bars.index(line.name) - (len(with_bars) - 1) / 2
            look["transform"] = _shifted_right(axes, place * BAR_INCHES)
        xs, ys = _drawn(line.x), _drawn(line.y)
        ranges = [(xs[at], max(low, bottom), min(high, top)) for at, low, high in intervals(line)]
        if len(ranges) > MAX_INTERVAL_BARS:
            at, low, high = zip(*ranges, strict=True)
            axes.fill_between(at, low, high, color=look["color"], alpha=0.15, linewidth=0)
        elif ranges:
            bars = axes.vlines(*zip(*ranges, strict=True), color=look["color"], linewidth=1.0)
            bars.set_transform(look["transform"])
        axes.plot(xs, ys, markevery=marked(chart, line), **look)
    for label, height in label_places(chart, y, 0.0):  # the layout leaves room for them
        axes.text(0.44, height, _shortened(label), transform=_beside(axes), va="center")


def _shifted_right(axes: Axes, inches: float) -> Any:
    """The coordinates of the data, moved to the right."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.get_figure(root=True)
    return axes.transData + ScaledTranslation(inches, 0, figure.dpi_scale_trans)


def _beside(axes: Axes) -> Any:
    """Coordinates: inches to the right of the axes; shares of their height."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    figure: Any = axes.get_figure(root=True)
    side: Any = axes.transAxes
    right = figure.dpi_scale_trans + ScaledTranslation(1, 0, side)
    return blended_transform_factory(right, axes.transAxes)


def _name_lines(axes: Axes, chart: Chart) -> None:
    """Puts the names beside the ends of the lines, each with a piece of its line."""
    from matplotlib.lines import Line2D

    y = Scale.of((v for line in chart.lines for v in extent(line)), chart.y.log)
    figure: Any = axes.get_figure(root=True)
    inches = axes.get_window_extent().height / figure.dpi
    gap = min(1.35 * SIZE / 72 / inches, 1 / max(1, len(chart.names) - 1))
    places = label_places(chart, y, gap)
    for text, (_, height), name in zip(list(axes.texts), places, chart.names, strict=True):
        share = (height + ROOM) / (1 + 2 * ROOM)
        text.set_y(share)
        own = [_look(chart, line) for line in chart.lines if line.name == name]
        look = dict(own[0])
        for key, nothing in (("marker", ""), ("linestyle", "None")):
            look[key] = next((each[key] for each in own if each[key] != nothing), nothing)
        piece = Line2D([0.1, 0.23, 0.36], [share] * 3, markevery=[1], clip_on=False, **look)
        piece.set_transform(_beside(axes))
        axes.add_line(piece)


# -- bars ----------------------------------------------------------------------------------------


def _bars(axes: Axes, chart: Chart) -> None:
    sets, names = chart.bars, list(chart.bars[0].names)
    scale = Scale.of((v for part in sets for v in bar_extent(part)), chart.x.log)
    _range(axes, "x", scale, scale.ticks(6))
    left, right = axes.get_xlim()
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [_shortened(name, ROW_INCHES) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.hlines(range(len(names)), left, right, color="#dddddd", linewidth=0.6, zorder=0)
    for which, part in enumerate(sets):
        look = _mark(which)
        if part.reference is not None and math.isfinite(part.reference):
            axes.axvline(
                part.reference, color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0
            )
        rows = [at + (which - (len(sets) - 1) / 2) * 0.7 / len(sets) for at in range(len(names))]
        for at, low, high in intervals(part):
            axes.hlines(rows[at], max(low, left), min(high, right), color=look["color"], lw=1.6)
        axes.plot(_drawn(part.values), rows, linestyle="None", label=_shortened(part.name), **look)
        for row, text in zip(rows, value_texts(part, len(sets) == 1), strict=True):
            share = (len(names) - 0.4 - row) / (len(names) + 0.2)
            axes.text(0.1, share, text, transform=_beside(axes), va="center", fontsize=SIZE - 1)
    if len(sets) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=len(sets), frameon=False,
            borderaxespad=0.2, handletextpad=0.2,
        )  # fmt: skip


# -- heatmap -------------------------------------------------------------------------------------


def _heatmap(panel: Any, axes: Axes, heatmap: Heatmap) -> None:
    import numpy as np

    values = np.array([[float(v) for v in row] for row in heatmap.values])
    known = np.ma.masked_invalid(values)
    scale = Scale.of(values.flat, False)
    image = axes.imshow(
        known, cmap="Blues", aspect="auto", vmin=scale.low, vmax=scale.high, interpolation="nearest"
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for axis, labels in ((axes.xaxis, heatmap.columns), (axes.yaxis, heatmap.rows)):
        stride = max(1, -(-len(labels) // 24))
        axis.set_ticks(range(0, len(labels), stride), list(map(_shortened, labels[::stride])))
    if max(map(len, heatmap.columns), default=0) * len(heatmap.columns[:24]) > 70:
        axes.tick_params(axis="x", rotation=90)
    bar = panel.colorbar(image, ax=axes, label=heatmap.label, pad=0.02)
    ticks = scale.ticks(5)
    bar.set_ticks(ticks, labels=tick_labels(ticks))
    bar.outline.set_visible(False)
    if values.size <= MAX_CELLS and values.shape[1] <= 16:
        for (row, column), value in np.ndenumerate(values):
            dark = math.isfinite(value) and scale.place(value) > 0.55
            text = number(value, 2) if math.isfinite(value) else "–"
            colour = "white" if dark else TEXT
            axes.text(
                column, row, text, ha="center", va="center", fontsize=SIZE - 1.5, color=colour
            )
