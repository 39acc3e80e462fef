"""A table as columns of text, of which equal cells are stored once; and data frames as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.errors import DataError
from ...core.protocols import Ids

HEAD = 200  # distinct cells of a column from which its kind is found
MISSING = {  # the cells that stand for a missing value, in lower case
    *("", "na", "n/a", "nan", "null", "none", "nat", "<na>"),
    *("?", "-", "--", ".", "..", "...", ":", "*"),
    *("#n/a", "#na", "#value!", "#div/0!", "#null!", "#ref!", "#num!", "#name?", "missing"),
    *("\\n", "\u2013", "\u2014", "\u2026"),
}


class Column:
    """A column of N cells: `cells[codes]`. Equal cells are stored, and later parsed, only once."""

    def __init__(
        self, name: str, codes: Ids, cells: Sequence[str], zone: str | None = None
    ) -> None:
        """codes (N,); cells: distinct, in the order of their first rows, without white space around
        them; zone: of the times in a parquet file."""
        self.name = name
        self.zone = zone
        self._codes = codes
        self._cells = cells

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def codes(self) -> Ids:
        return self._codes

    @property
    def cells(self) -> Sequence[str]:
        return self._cells

    def head(self) -> Sequence[str]:
        """The first `HEAD` distinct cells."""
        return self.cells[:HEAD]

    def repeats(self) -> int:
        """The number of rows whose cell equals that of an earlier row."""
        return len(self) - len(self.cells)

    def text(self) -> list[str]:
        cells = list(self.cells)
        return [cells[code] for code in self.codes]

    def row(self, at: int) -> str:
        """The cell of a row."""
        return self.cells[int(self.codes[at])]

    def row_of(self, code: int) -> int:
        """The first row with this cell."""
        return int(np.flatnonzero(self.codes == code)[0])

    def counts(self) -> Ids:
        """(len(cells),) rows of each distinct cell."""
        return np.bincount(self.codes, minlength=len(self.cells))

    def with_cells(self, cells: Sequence[str]) -> Column:
        """The same rows with other cells, one for each of `cells`."""
        return Column(self.name, self.codes, cells, self.zone)

    @classmethod
    def of(cls, name: str, cells: Iterable[str], zone: str | None = None) -> Column:
        builder = ColumnBuilder()
        builder.extend(cells)
        return builder.column(name, zone)


class RowCells(Sequence[str]):
    """The cell of each row of a column, made when it is asked for."""

    def __init__(self, column: Column) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: Any) -> Any:
        return self.column.row(int(row))


class ColumnBuilder:
    """A column that grows by chunks of rows."""

    def __init__(self, skipped: int = 0) -> None:
        self.index: dict[str, int] = {"": 0} if skipped else {}
        self.codes = [np.zeros(skipped, np.int64)]

    def extend(self, cells: Iterable[str]) -> None:
        index = self.index
        self.codes.append(np.array([index.setdefault(cell, len(index)) for cell in cells], "i8"))

    def column(self, name: str, zone: str | None = None) -> Column:
        codes, index = np.concatenate(self.codes), dict[str, int]()
        stripped = np.array([index.setdefault(c.strip(), len(index)) for c in self.index], "i8")
        return Column(name, stripped[codes] if len(stripped) else codes, list(index), zone)


@dataclass
class Table:
    """Columns of equal length. For messages: `where`, the name of the file, and `lines` (N,), the
    line number of each row in it."""

    columns: list[Column]
    where: str
    lines: Ids | range
    delimiter: str = ","
    has_heading: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def find_all(self, names: str, flag: str) -> list[Column]:
        """The columns that `flag` names, separated by commas."""
        listed = [names] if names in self.names else names.split(",")
        return [self.find(name, flag) for name in listed]

    def find(self, name: str, flag: str) -> Column:
        """The column that `flag` names. DataError where there is none or there are several."""
        found = [column for column in self.columns if column.name == name.strip()]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{self.where}: {len(found)} columns are named {name!r}; rename them")
        names = ", ".join(self.names[:20])
        raise DataError(f"{self.where}: no column {name!r}; {flag} must be one of {names}")


def from_frame(frame: Any, where: str) -> Table:
    """A data frame as a table of text. A list in a cell (one series a row) is expanded to rows."""
    import pandas as pd

    index = frame.index
    if isinstance(index, pd.MultiIndex) or index.name or not pd.api.types.is_numeric_dtype(index):
        frame = frame.reset_index()
    listed = [c for c in frame.columns if len(frame) and np.ndim(frame[c].iloc[0]) == 1]
    if listed:
        frame = frame.explode(listed, ignore_index=True)
    columns = []
    for name, values in frame.items():
        if isinstance(name, tuple):
            name = "/".join(str(part) for part in name if str(part))
        zone = getattr(values.dtype, "tz", None)
        if isinstance(values.dtype, pd.PeriodDtype):
            coarse = values.dtype.freq.name[:1] in "MQY"
            values = values.astype(str) if coarse else values.dt.start_time
        codes, unique = pd.factorize(values)
        missing = codes < 0
        days = (
            zone is None and hasattr(unique, "normalize") and (unique == unique.normalize()).all()
        )
        cells = [f"{day:%Y-%m-%d}" for day in unique] if days else [_cell(one) for one in unique]
        cells.append("")
        codes = np.where(missing, len(cells) - 1, codes).astype(np.int64)
        text = Column.of(str(name), cells)  # equal texts of unequal values, 1 and 1.0, are one
        zone = None if zone is None else str(zone)
        columns.append(Column(str(name), text.codes[codes], text.cells, zone))
    rows = np.arange(1, len(frame) + 1)
    return Table(columns, where, rows)


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
