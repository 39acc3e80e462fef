"""Charts as characters for a terminal: lines of Braille dots, rows of dots with intervals, shades.

Names stand beside what they name. Each line and each set of bars has a mark of its own, so that a
chart can be read without colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from unicodedata import combining, east_asian_width

from .chart import Axis, Bars, Chart, Heatmap, Line
from .chart_layout import (
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
from .display import BRAILLE_DOTS, RESET, columns_of, visible

MARKS = "●■▲◆○□△◇"
COLOURS = (33, 208, 35, 170, 37, 160, 178)  # of 256, readable on light and dark grounds
SHADES = " ░▒▓█"
LEAST_WIDTH = 24  # columns, below which there is only text
LEAST_CELLS = 10  # of the data beside names and numbers
# the dots of a line that are drawn, and of how many
DASHES = {"solid": (1, 1), "dashed": (4, 6), "dotted": (1, 3), "interval": (1, 2)}

Cell = tuple[str, "int | None"]  # one or more characters, and which of COLOURS they have


def in_terminal(chart: Chart, width: int, colour: bool, height: int = 12) -> str:
    """A chart in at most `width` columns; lines are `height` text lines high, or more if they have
    more names. colour: whether ANSI colours may be used."""
    body = list[list[Cell]]()
    if width >= LEAST_WIDTH and chart.heatmap:
        body = _heatmap(chart, chart.heatmap, width)
    elif width >= LEAST_WIDTH:
        body = _bars(chart, width) if chart.bars else _lines(chart, width, height)
    lines = ["".join(_coloured(row, colour)).rstrip() for row in body]
    parts = [_text(chart.title, width), lines, _text(chart.verdict, width)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _coloured(row: Iterable[Cell], colour: bool) -> Iterator[str]:
    for text, which in row:
        if colour and which is not None and text != " ":
            text = f"\x1b[38;5;{COLOURS[which % len(COLOURS)]}m{text}{RESET}"
        yield text


def _plain(text: str) -> list[Cell]:
    return [(text, None)]


def _mark(which: int) -> str:
    return MARKS[which % len(MARKS)]


# -- text ----------------------------------------------------------------------------------------


def fitted(text: str, width: int, right: bool = False) -> str:
    """Text in exactly `width` columns: padded, or cut with an ellipsis."""
    text = visible(text)
    if columns_of(text) > width:
        kept, used = "", 0
        for char in text:
            used += (2 if east_asian_width(char) in "WF" else 1) - (combining(char) > 0)
            if used >= width:
                break
            kept += char
        text = kept + "…" if width > 0 else ""
    space = " " * (width - columns_of(text))
    return space + text if right else text + space


def _text(text: str, width: int) -> list[str]:
    return [fitted(line, width).rstrip() for line in wrapped(visible(text), width, columns_of)]


def _x_axis(
    axis: Axis, scale: Scale, values: Sequence[float], margin: int, cells: int, width: int
) -> list[str]:
    """Three lines: the axis with its ticks, their numbers, the label, at most as wide as the
    chart."""
    line, labels, free = ["─"] * cells, [" "] * (margin + 1 + cells), 0
    ticks = data_ticks(values, scale, max(2, cells // 10))
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        at = _cell(scale, tick, cells)
        start = min(max(0, margin + 1 + at - len(label) // 2), len(labels) - len(label))
        if start >= free:
            line[at] = "┬"
            labels[start : start + len(label)] = label
            free = start + len(label) + 1
    label = fitted(axis.label, width).rstrip()
    start = max(0, margin + 1 + (cells - columns_of(label)) // 2)
    return [
        f"{' ' * margin}└{''.join(line)}",
        "".join(labels),
        " " * min(start, width - columns_of(label)) + label,
    ]


def _cell(scale: Scale, value: float, cells: int) -> int:
    return round(scale.place(value) * (cells - 1))


# -- lines ---------------------------------------------------------------------------------------


def _lines(chart: Chart, width: int, height: int) -> list[list[Cell]]:
    lines, names = chart.lines, chart.names
    height = max(height, len(names), 2)
    x = Scale.of((v for line in lines for v in line.x), chart.x.log)
    y = Scale.of((v for line in lines for v in extent(line)), chart.y.log)
    ticks = y.ticks(max(2, height // 3))
    numbers = {height - 1 - _cell(y, t, height): label
               for t, label in zip(ticks, tick_labels(ticks), strict=True)}  # fmt: skip
    margin = max(map(len, numbers.values()), default=0) + 1
    labels = [label for label, _ in label_places(chart, y, 0)]
    beside = min(max(map(columns_of, labels)), width // 3) + 3
    cells = max(1, width - margin - 1 - beside)
    canvas = _Canvas(x, y, cells, height)
    for line in lines:
        canvas.draw(chart, line)
    rows = [
        [
            (numbers.get(at, "").rjust(margin) + ("┤" if at in numbers else "│"), None),
            *canvas.row(at),
        ]
        for at in range(height)
    ]
    for which, (label, at) in enumerate(label_places(chart, y, 1 / (height - 1))):
        text = f" {_mark(which)} {fitted(label, beside - 3).rstrip()}"
        rows[height - 1 - int(at * (height - 1) + 0.5 + 1e-9)].append((text, which))
    axis = _x_axis(chart.x, x, [v for line in lines for v in line.x], margin, cells, width)
    return [_plain(fitted(chart.y.label, width)), *rows, *map(_plain, axis)]


class _Canvas:
    """A grid of Braille characters, each 2 dots wide and 4 high, with marks over them."""

    def __init__(self, x: Scale, y: Scale, cells: int, height: int) -> None:
        self.x, self.y, self.cells, self.height = x, y, cells, height
        self.dots = [[0] * cells for _ in range(height)]
        self.colours: list[list[int | None]] = [[None] * cells for _ in range(height)]
        self.marks: dict[tuple[int, int], str] = {}

    def row(self, row: int) -> list[Cell]:
        return [
            (self.marks.get((row, at)) or (chr(0x2800 + bits) if bits else " "), which)
            for at, (bits, which) in enumerate(zip(self.dots[row], self.colours[row], strict=True))
        ]

    def draw(self, chart: Chart, line: Line) -> None:
        """Draws a line with its intervals and marks."""
        which = chart.names.index(line.name)
        places = [
            self.place(x, y) if math.isfinite(x) and math.isfinite(y) else None
            for x, y in zip(line.x, line.y, strict=True)
        ]
        ranges = intervals(line)
        for at, low, high in ranges[:: max(1, 4 * len(ranges) // self.cells)]:
            if math.isfinite(line.x[at]):
                ends = self.place(line.x[at], low), self.place(line.x[at], high)
                self.connect(*ends, which, "interval")
        if line.style != "none":
            for start, end in zip(places, places[1:], strict=False):
                if start is not None and end is not None:
                    self.connect(start, end, which, line.style)
        for across, down in (place for at in marked(chart, line) if (place := places[at])):
            self.marks[down // 4, across // 2] = _mark(which)
            self.colours[down // 4][across // 2] = which

    def place(self, x: float, y: float) -> tuple[int, int]:
        """The dot of a value: columns from the left, rows from the top."""
        rows = 4 * self.height - 1
        return _cell(self.x, x, 2 * self.cells), rows - _cell(self.y, y, rows + 1)

    def connect(self, start: tuple[int, int], end: tuple[int, int], which: int, style: str) -> None:
        drawn, period = DASHES[style]
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            across, down = (
                round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True)
            )
            if (across if end[0] - start[0] else down) % period < drawn:
                self.dots[down // 4][across // 2] |= BRAILLE_DOTS[down % 4][across % 2]
                self.colours[down // 4][across // 2] = which


# -- bars ----------------------------------------------------------------------------------------


def _bars(chart: Chart, width: int) -> list[list[Cell]]:
    sets, names = chart.bars, list(chart.bars[0].names)
    values = [v for part in sets for v in bar_extent(part)]
    scale = Scale.of(values, chart.x.log)
    margin = min(max(map(columns_of, [*names, ""])), width // 3) + 1
    for with_interval in (True, False):
        texts = [value_texts(part, with_interval) for part in sets]
        beside = max((len(text) for column in texts for text in column), default=0) + 1
        cells = width - margin - 1 - beside
        if cells >= LEAST_CELLS:
            break
    rows: list[list[Cell]] = []
    if len(sets) > 1:
        legend = "   ".join(f"{_mark(which)} {part.name}" for which, part in enumerate(sets))
        rows += map(_plain, _text(legend, width))
    for at, name in enumerate(names):
        for which, part in enumerate(sets):
            head = f"{fitted('' if which else name, margin - 1)} │"
            text = texts[which][at][: max(0, width - margin - 1 - max(cells, 1) - 1)]
            dots = _dots(part, at, scale, max(cells, 1), which)
            rows.append([(head, None), *dots, (f" {text}", None)])
    axis = _x_axis(chart.x, scale, (), margin, max(cells, 1), width)
    if chart.y.label:
        rows.insert(0, _plain(fitted(chart.y.label, width)))
    return [*rows, *map(_plain, axis)]


def _dots(part: Bars, at: int, scale: Scale, cells: int, which: int) -> list[Cell]:
    row: list[Cell] = [(" ", None)] * cells
    if part.reference is not None and math.isfinite(part.reference):
        row[_cell(scale, part.reference, cells)] = ("┊", None)
    if not math.isfinite(part.values[at]):
        return row
    middle = _cell(scale, part.values[at], cells)
    for low, high in ((low, high) for each, low, high in intervals(part) if each == at):
        start, end = _cell(scale, low, cells), _cell(scale, high, cells)
        row[start : end + 1] = [("─", which)] * (end + 1 - start)
        row[start], row[end] = ("├", which), ("┤", which)
    row[middle] = (_mark(which), which)
    return row


# -- heatmap -------------------------------------------------------------------------------------


def _heatmap(chart: Chart, heatmap: Heatmap, width: int) -> list[list[Cell]]:
    margin = min(max(map(columns_of, [*heatmap.rows, ""])), width // 3) + 1
    room = width - margin
    group = -(-len(heatmap.columns) // room) or 1  # columns of the table in one of the chart
    values = [
        [_mean(row[at : at + group]) for at in range(0, len(row), group)] for row in heatmap.values
    ]
    names = [visible(name) for name in heatmap.columns[::group]]
    scale = Scale.of((v for row in values for v in row), False)
    numbers = max((len(number(v, 2)) for row in values for v in row if math.isfinite(v)), default=1)
    size = next(
        (size for size in (numbers + 4, 2) if size * len(names) <= room), 1
    )  # columns of a cell
    header, free = [" "] * room, 0
    for at, name in enumerate(names):
        label = name[: max(size - 1, 1)] if size > 2 else name
        start = at * size
        if start >= free and start + columns_of(label) <= room:
            header[start : start + columns_of(label)] = [label] + [""] * (columns_of(label) - 1)
            free = start + columns_of(label) + 1
    rows = [_plain(fitted(f"{chart.y.label} ↓  {chart.x.label} →", width))]
    rows.append(_plain(" " * margin + "".join(header)))
    for name, row in zip(heatmap.rows, values, strict=True):
        cells = (_shade(value, scale, size) for value in row)
        rows.append(_plain(fitted(name, margin - 1) + " " + "".join(cells)))
    shades = " ".join(SHADES[1:-1])
    key = f"' ' {number(scale.low, 3)} {shades} {SHADES[-1]} {number(scale.high, 3)}"
    if not all(math.isfinite(value) for row in values for value in row):
        key += "  · no value"
    lines = [f"{heatmap.label}: {key}"]
    lines += [f"each cell is the mean of {group} columns"] if group > 1 else []
    return [*rows, *(_plain(line) for text in lines for line in _text(text, width))]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _shade(value: float, scale: Scale, size: int) -> str:
    known = math.isfinite(value)
    shade = SHADES[min(4, int(5 * scale.place(value)))] if known else "·"
    if size <= 2:
        return shade * size
    return f"{shade * 2} {number(value, 2) if known else '':<{size - 4}} "
