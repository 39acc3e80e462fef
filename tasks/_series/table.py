"""A table of series as cells of text, and their conversion to numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...core.errors import DataError
from ...tokenizers._scales import Values

ID_COLUMN_NAMES = {"id", "unique_id", "item_id", "series_id", "series", "series_name", "name"}
MISSING_CELLS = {"", "na", "n/a", "nan", "null", "none", "?", "-", "nat"}
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")  # 1,234: ambiguous, may be a decimal comma


@dataclass(frozen=True)
class Columns:
    """The values of `--time --target --id --freq --resample`; None: detected from the table."""

    time: str | None = None
    target: str | None = None
    id: str | None = None
    freq: str | None = None
    resample: bool = False


@dataclass
class Table:
    """Columns, by name, as lists of cells of text. For messages: `where`, the name of the file, and
    `first_row`, the row number of the first record in it."""

    names: list[str]
    cells: list[list[str]]
    where: str
    first_row: int = 1

    def column(self, name: str, flag: str) -> int:
        """The index of a column that `flag` names. DataError where there is no such column."""
        if name in self.names:
            return self.names.index(name)
        raise DataError(
            f"{self.where}: no column {name!r}; {flag} must be one of {', '.join(self.names[:20])}"
        )

    def numbers(self, column: int) -> Values:
        """A column as float64, NaN where missing. DataError names the row and column of a cell that
        is infinite or not a number."""
        values = np.empty(len(self.cells[column]))
        for row, cell in enumerate(self.cells[column]):
            values[row] = parse_number(cell, self.where, row + self.first_row, self.names[column])
        return values


def parse_number(cell: str, where: str, row: int, column: str) -> float:
    """A cell as float, NaN where missing. DataError names its row and column."""
    text = cell.strip()
    if text.lower() in MISSING_CELLS:
        return np.nan
    try:
        value = float(text)
    except ValueError:
        advice = "leave missing values empty, or choose columns with --target"
        if THOUSANDS.fullmatch(text):
            advice = f"{text.replace(',', '')} or {text.replace(',', '.')}? write it so"
        raise DataError(
            f"{where}: row {row}, column {column}: {text!r} is not a number; {advice}"
        ) from None
    if np.isinf(value):
        raise DataError(f"{where}: row {row}, column {column}: infinite; leave it empty if missing")
    return value


def is_number(cell: str) -> bool:
    """Whether a cell is meant as a number, including missing cells and ambiguous commas."""
    if cell.strip().lower() in MISSING_CELLS or THOUSANDS.fullmatch(cell.strip()):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
