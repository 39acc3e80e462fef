"""The columns of a table that stand beside the values: --past and --known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...tokenizers._covariates import Column as Covariate
from ...tokenizers._scales import Values
from .numbers import is_missing, numbers
from .reading import Columns, names_of
from .table import Table


@dataclass(frozen=True)
class SideColumn:
    """A column of numbers (rows,), or of the numbers of its words. NaN where missing."""

    name: str
    values: Values
    words: tuple[str, ...] | None = None

    def of(self, rows: Callable[[Values], Values]) -> Covariate:
        """What `rows` makes of the values, as numbers or words."""
        found = rows(self.values)
        if self.words is None:
            return found
        whole = np.isfinite(found) & (found == np.round(found))  # no mean of several words
        return np.array(
            [self.words[int(x)] if ok else "" for x, ok in zip(found, whole, strict=True)], object
        )


def side_columns(table: Table, columns: Columns) -> tuple[list[SideColumn], Table]:
    """The columns that --past and --known name, and the table without them. DataError where one is
    missing."""
    named = [
        (flag, name) for flag in ("past", "known") for name in names_of(getattr(columns, flag))
    ]
    found = list[tuple[Any, str]]()
    for flag, name in named:
        column = table.find(name, f"--{flag}")
        if any(column is each for each, _ in found):
            raise DataError(f"{table.where}: --{flag} names {name} twice")
        found.append((column, flag))
    rest = [column for column in table.columns if all(column is not each for each, _ in found)]
    sides = []
    for column, _ in found:
        as_numbers = numbers(table, column, columns.decimal, None)
        if not as_numbers.wrong:
            sides.append(SideColumn(column.name, as_numbers.values))
            continue
        cells = list(column.cells)
        words = tuple(dict.fromkeys(cell for cell in cells if not is_missing(cell)))
        number = {word: float(at) for at, word in enumerate(words)}
        codes = np.array([number.get(cell, np.nan) for cell in cells], np.float64)
        sides.append(SideColumn(column.name, codes[column.codes], words))
    return sides, replace(table, columns=rest)
