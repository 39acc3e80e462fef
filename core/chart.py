"""Charts of results: one description, drawn as characters (`chart_terminal.in_terminal`) or into a
file (`chart_file.to_file`).

A chart has parts of one kind: lines over a numeric x axis, one or more sets of bars (one row for
each contestant), or one heatmap. Values that are NaN or infinite are drawn as gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["solid", "dashed", "dotted", "none"]


@dataclass(frozen=True)
class Axis:
    """label: with the unit, as "held-out loss (bits per character)"; log: a logarithmic scale."""

    label: str
    log: bool = False


@dataclass(frozen=True)
class Line:
    """Values y at x. Lines of the same name share a colour, a mark and one label, as measured
    points and the line fitted to them.

    low, high: the ends of an interval for each y. points: marks each value. style: of the line
    between them; "none" draws the points alone.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    points: bool = False
    style: Style = "solid"

    def __post_init__(self) -> None:
        _same_lengths(self.name, x=self.x, y=self.y, low=self.low, high=self.high)


@dataclass(frozen=True)
class Bars:
    """One value for each name, drawn as a dot with its interval on a row; the value axis is
    Chart.x. An infinite value is written as a word, as that of a run that diverged.

    low, high: the ends of an interval for each value. name: of the set, if a chart has several
    over the same names. reference: a value to compare with, drawn as a vertical line.
    """

    names: Sequence[str]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    name: str = ""
    reference: float | None = None

    def __post_init__(self) -> None:
        label = self.name or "bars"
        _same_lengths(label, names=self.names, values=self.values, low=self.low, high=self.high)


@dataclass(frozen=True)
class Heatmap:
    """A table of numbers as shades, values[row][column]; Chart.y labels the rows and Chart.x the
    columns. label: what the values are, with the unit."""

    values: Sequence[Sequence[float]]
    rows: Sequence[str]
    columns: Sequence[str]
    label: str = ""

    def __post_init__(self) -> None:
        _same_lengths("heatmap", values=self.values, rows=self.rows)
        for name, row in zip(self.rows, self.values, strict=True):
            _same_lengths(f"heatmap row {name}", values=row, columns=self.columns)


@dataclass(frozen=True)
class Chart:
    """title: the claim that the chart tests; verdict: what was found, written below the figure.

    ValueError if parts of different kinds are mixed, or if a value on a logarithmic axis is not
    positive. The end of an interval may be zero or negative there: it is cut off at the edge.
    """

    title: str
    verdict: str
    x: Axis
    y: Axis
    parts: Sequence[Line | Bars | Heatmap]

    def __post_init__(self) -> None:
        kinds = {type(part) for part in self.parts}
        if len(kinds) != 1 or (kinds == {Heatmap} and len(self.parts) > 1):
            raise ValueError(f"{self.title}: parts must be lines, or bars, or one heatmap")
        for part in self.parts:
            if isinstance(part, Line):
                _positive_if_log(self.x, part.name, part.x)
                _positive_if_log(self.y, part.name, part.y)
            elif isinstance(part, Bars):
                _positive_if_log(self.x, part.name or "bars", part.values)
                if list(part.names) != list(self.bars[0].names):
                    raise ValueError(f"{self.title}: all sets of bars must have the same names")

    @property
    def lines(self) -> list[Line]:
        return [part for part in self.parts if isinstance(part, Line)]

    @property
    def bars(self) -> list[Bars]:
        return [part for part in self.parts if isinstance(part, Bars)]

    @property
    def heatmap(self) -> Heatmap | None:
        return next((part for part in self.parts if isinstance(part, Heatmap)), None)

    @property
    def names(self) -> list[str]:
        """The names of the lines, each once."""
        return list(dict.fromkeys(line.name for line in self.lines))


def _same_lengths(name: str, **columns: Sequence[object] | None) -> None:
    lengths = {key: len(column) for key, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} {key}" for key, length in lengths.items())
        raise ValueError(f"{name}: {found}; there must be as many of each")


def _positive_if_log(axis: Axis, name: str, values: Iterable[float]) -> None:
    wrong = next((value for value in values if value <= 0), None) if axis.log else None
    if wrong is not None:
        raise ValueError(f"{name}: {wrong:g} has no place on the logarithmic axis {axis.label!r}")
