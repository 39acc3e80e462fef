"""What is drawn behind a series: its paths, as rows for a file and columns for JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ...tokenizers.bins import Values, Window
from .metrics import QUANTILES
from .times import following

DIGITS, MOST = 10, 17


@dataclass(frozen=True)
class Forecast:
    """One series' history and what follows it: paths (P, horizon), the time of each point."""

    id: str
    history: Values
    paths: Values
    times: list[str]

    def rows(self) -> Iterator[list[str]]:
        """Rows id, time, mean, 0.1 ... 0.9."""
        name = harmless(self.id)
        figures = np.vstack((self.paths.mean(0), np.quantile(self.paths, QUANTILES, axis=0)))
        known = self.history[np.isfinite(self.history)]
        digits = digits_for(np.concatenate((known, figures.ravel())))
        for time, column in zip(self.times, figures.T, strict=True):
            yield [name, time, *(f"{value:.{digits}g}" for value in column)]

    def record(self) -> dict[str, Any]:
        """The rows as columns, for JSON."""
        quantiles = np.quantile(self.paths, QUANTILES, axis=0)
        named = {str(q): line.tolist() for q, line in zip(QUANTILES, quantiles, strict=True)}
        mean = self.paths.mean(0).tolist()
        return {"id": self.id, "time": self.times, "mean": mean, "quantiles": named}


def digits_for(values: Values) -> int:
    """Significant digits that tell values apart: ten, more where they move little far from 0."""
    largest = float(np.abs(values).max(initial=0))
    spread = float(values.max()) - float(values.min()) if len(values) else 0.0
    if spread:  # beyond the largest number there is: infinite
        return min(MOST, DIGITS + round(math.log10(max(1.0, largest / spread))))
    return next((d for d in range(DIGITS, MOST) if float(f"{largest:.{d}g}") == largest), MOST)


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in tuple("=+-@") else cell


def write_values(items: Iterable[tuple[Window, Mapping[str, Any]]], out: BinaryIO) -> None:
    """CSV id, time, value of series whose side says id, start and freq; empty where missing."""
    out.write(b"id,time,value\n")
    for window, side in items:
        text = io.StringIO()
        name = harmless(side["id"])
        times = following(side["start"], side["freq"], 0, len(window.values))
        digits = digits_for(window.values[np.isfinite(window.values)])
        csv.writer(text, lineterminator="\n").writerows(
            [name, time, "" if np.isnan(value) else f"{value:.{digits}g}"]
            for time, value in zip(times, window.values.tolist(), strict=True)
        )
        out.write(text.getvalue().encode())
