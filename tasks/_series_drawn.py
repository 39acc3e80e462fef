"""What is drawn behind a series: its paths, as rows for a file and columns for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tokenizers.bins import Values
from ._series_metrics import QUANTILES


@dataclass(frozen=True)
class Forecast:
    """One series' history and what follows it: paths (P, horizon), the time of each point."""

    id: str
    history: Values
    paths: Values
    times: list[str]

    def rows(self) -> Iterator[list[str]]:
        """Rows id, time, mean, 0.1 ... 0.9."""
        name = f"'{self.id}" if self.id[:1] in tuple("=+-@") else self.id  # no formula of a sheet
        figures = np.vstack((self.paths.mean(0), np.quantile(self.paths, QUANTILES, axis=0)))
        for time, column in zip(self.times, figures.T, strict=True):
            yield [name, time, *(f"{value:.10g}" for value in column)]

    def record(self) -> dict[str, Any]:
        """The rows as columns, for JSON."""
        quantiles = np.quantile(self.paths, QUANTILES, axis=0)
        named = {str(q): line.tolist() for q, line in zip(QUANTILES, quantiles, strict=True)}
        mean = self.paths.mean(0).tolist()
        return {"id": self.id, "time": self.times, "mean": mean, "quantiles": named}
