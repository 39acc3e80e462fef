"""Cells of a table of series as text, and numbers of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...core.errors import DataError
from ...tokenizers.bins import Values

NAMES = {"id", "unique_id", "item_id", "series_id", "series", "series_name", "name"}
ABSENT = {"", "na", "n/a", "nan", "null", "none", "?", "-", "nat"}
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")  # or a decimal comma: nobody knows


@dataclass(frozen=True)
class Columns:
    """What `--time --target --id --freq --resample` say; none: found."""

    time: str | None = None
    target: str | None = None
    id: str | None = None
    freq: str | None = None
    resample: bool = False


@dataclass
class Table:
    """names of the columns, each a list of cells as text; `first`: the file's row number of the
    first record, for messages."""

    names: list[str]
    cells: list[list[str]]
    where: str
    first: int = 1

    def column(self, name: str, flag: str) -> int:
        if name in self.names:
            return self.names.index(name)
        raise DataError(
            f"{self.where}: no column {name!r}; {flag} must be one of {', '.join(self.names[:20])}"
        )

    def numbers(self, column: int) -> Values:
        """A column as float64, NaN where missing. DataError names the row and column of what is
        no number, or infinite."""
        values = np.empty(len(self.cells[column]))
        for row, cell in enumerate(self.cells[column]):
            values[row] = number(cell, self.where, row + self.first, self.names[column])
        return values


def number(cell: str, where: str, row: int, column: str) -> float:
    text = cell.strip()
    if text.lower() in ABSENT:
        return np.nan
    try:
        value = float(text)
    except ValueError:
        advice = "leave missing values empty, or choose columns with --target"
        if THOUSANDS.fullmatch(text):
            advice = f"{text.replace(',', '')} or {text.replace(',', '.')}? write it so"
        raise DataError(
            f"{where}: row {row}, column {column}: {text!r} is no number; {advice}"
        ) from None
    if np.isinf(value):
        raise DataError(f"{where}: row {row}, column {column}: infinite; leave it empty if missing")
    return value


def is_number(cell: str) -> bool:
    """Whether a cell is there to be one, if only `number` can read it."""
    if cell.strip().lower() in ABSENT or THOUSANDS.fullmatch(cell.strip()):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
