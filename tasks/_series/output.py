"""Forecasts and series as tables, and forecasts as columns for JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from ...tokenizers._scales import Values
from ...tokenizers.bins import Window
from .clock import Clock
from .metrics import QUANTILES, of_sorted

MIN_DIGITS, MAX_DIGITS = 10, 17  # significant digits of a written value


@dataclass(frozen=True)
class Forecast:
    """One series' history (N,), its forecast paths (P, horizon), its clock and the index on that
    clock of the first point of the forecast; the quantiles that are written, by name; the actual
    values (horizon,), where they are known."""

    id: str
    history: Values
    paths: Values
    clock: Clock
    first: int
    quantiles: Mapping[str, float] = field(default_factory=lambda: {str(q): q for q in QUANTILES})
    actual: Values | None = None

    @property
    def times(self) -> list[str]:
        return self.clock.times(self.first, self.paths.shape[1])

    @property
    def figures(self) -> Values:
        """(1 + quantiles, horizon): the mean of the paths, and each quantile."""
        ordered = np.sort(self.paths, axis=0)
        return np.vstack((mean(self.paths), of_sorted(ordered, list(self.quantiles.values()))))

    @property
    def digits(self) -> int:
        """Significant digits that distinguish the values of the history and of the forecast."""
        known = self.history[np.isfinite(self.history)]
        return digits_for(np.concatenate((known, self.figures.ravel())))

    def rows(self) -> Iterator[list[str]]:
        """Rows of id, time, mean and the quantiles, one for each point."""
        digits = self.digits
        for time, column in zip(self.times, self.figures.T, strict=True):
            yield [self.id, time, *(f"{value:.{digits}g}" for value in column)]

    def record(self) -> dict[str, Any]:
        """The same figures as a JSON object of columns."""
        means, *rest = self.figures.tolist()
        named = dict(zip(self.quantiles, rest, strict=True))
        return {"id": self.id, "time": self.times, "mean": means, "quantiles": named}


def mean(paths: Values) -> Values:
    """The mean of paths (P, horizon), without the overflow of a sum of the largest floats."""
    found: Values = (paths / len(paths)).sum(0)
    return np.clip(found, paths.min(0), paths.max(0))


def digits_for(values: Values) -> int:
    """Significant digits that distinguish values: 10, more if their range is relatively small."""
    largest = float(np.abs(values).max(initial=0))
    spread = float(values.max()) - float(values.min()) if len(values) else 0.0
    if spread:  # infinite if it overflows
        return min(MAX_DIGITS, MIN_DIGITS + round(math.log10(max(1.0, largest / spread))))
    enough = (d for d in range(MIN_DIGITS, MAX_DIGITS) if float(f"{largest:.{d}g}") == largest)
    return next(enough, MAX_DIGITS)


def escape_formula(cell: str) -> str:
    """A cell that a spreadsheet does not interpret as a formula (CSV injection)."""
    return f"'{cell}" if cell[:1] in tuple("=+-@\t\r") else cell


def write_values(items: Iterable[tuple[Window, Mapping[str, Any]]], out: BinaryIO) -> None:
    """Write CSV with id, time and value (empty if missing); the side has the id and the clock."""
    out.write(b"id,time,value\n")
    for window, side in items:
        text = io.StringIO()
        times = Clock.of(side).times(0, len(window.values))
        digits = digits_for(window.values[np.isfinite(window.values)])
        csv.writer(text, lineterminator="\n").writerows(
            [side["id"], time, "" if np.isnan(value) else f"{value:.{digits}g}"]
            for time, value in zip(times, window.values.tolist(), strict=True)
        )
        out.write(text.getvalue().encode())
