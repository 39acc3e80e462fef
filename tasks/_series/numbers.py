"""Columns of text as numbers: decimal points or commas, thousands, marks of missing values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError
from ...tokenizers._scales import Values
from .arrow_columns import ArrowCells, ArrowColumn
from .table import MISSING, Column, Table

# the numbers that float() reads, without underscores and infinities
PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
INFINITE = re.compile(r"[-+]?(inf|infinity)", re.IGNORECASE)
POINT_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}([,\u00a0\u202f '’]\d{3})+(\.\d+)?")
COMMA_DECIMAL = re.compile(r"[-+]?(\d+|[1-9]\d{0,2}([.\u00a0\u202f '’]\d{3})+)(,\d+)?")
_DOTTED = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+")  # 1.000: thousands, or decimals
SEPARATORS = str.maketrans("", "", "\u00a0\u202f '’")
WORDS = 0.3  # a column with a larger share of cells that are no numbers is left out


@dataclass(frozen=True)
class Numbers:
    """A column as numbers. values (N,), NaN where missing; `marks`: the cells that stand for
    missing values; `wrong`: the distinct cells that are no numbers; `wrong_share`: of the rows that
    are not missing."""

    values: Values
    marks: tuple[str, ...]
    wrong: tuple[str, ...]
    wrong_share: float

    @property
    def is_empty(self) -> bool:
        return not np.isfinite(self.values).any() and not self.wrong


def is_missing(cell: str) -> bool:
    return cell in MISSING or cell.strip().lower() in MISSING


def is_number(cell: str) -> bool:
    """Whether a cell is meant as a number, or stands for a missing one."""
    text = cell.strip()
    return is_missing(text) or any(
        form.fullmatch(text) for form in (PLAIN, INFINITE, POINT_THOUSANDS, COMMA_DECIMAL)
    )


def decimal_comma(table: Table, columns: list[Column]) -> bool | None:
    """Whether commas are decimal, by the columns that can be read in one way only; None if there
    are none or they disagree, and where nothing depends on it."""
    if table.delimiter not in (";", "\t") and all(
        isinstance(column, ArrowColumn) and column.plain() for column in columns
    ):
        return None
    found = {_mark(column) for column in columns} & {",", "."}
    return None if len(found) != 1 else found == {","}


def _mark(column: Column) -> str:
    """The decimal mark of numbers that can be read in one way only; see `_commas`."""
    if not (isinstance(column, ArrowColumn) and column.plain()):
        return _commas(column.cells) or _points(column.cells)
    if _points(column.head()) or not column.any_match(r".*\..*"):
        return _points(column.head())
    return _points(column.cells)


def _points(cells: Sequence[str]) -> str:
    """ "." if numbers with decimal points are among the cells that cannot be thousands."""
    odd = (c for c in cells if "." in c and PLAIN.fullmatch(c) and not _DOTTED.fullmatch(c))
    return "." if next(odd, None) else ""


def _commas(cells: Sequence[str]) -> str:
    """The decimal mark of numbers: "," or "."; "?" where both are possible; "" where no comma is
    among them."""
    joined = "\n".join(cells)
    if "," not in joined and not re.search(r"\d\.\d{3}\.", joined):
        return ""
    odd = [c for c in cells if not is_missing(c) and not PLAIN.fullmatch(c)]
    if not odd or not any("," in cell or "." in cell for cell in odd):
        return ""
    points = all(map(POINT_THOUSANDS.fullmatch, odd))
    rest = [c for c in cells if PLAIN.fullmatch(c) and "." in c]
    commas = all(map(COMMA_DECIMAL.fullmatch, odd)) and all(map(COMMA_DECIMAL.fullmatch, rest))
    if points and any("." in cell for cell in cells if PLAIN.fullmatch(cell)):
        return "."
    return {(True, True): "?", (True, False): ".", (False, True): ","}.get((points, commas), "")


def numbers(table: Table, column: Column, decimal: str | None, comma: bool | None) -> Numbers:
    """A column as float64. decimal: of `--decimal`; comma: `decimal_comma` of the table. DataError
    names the row of a cell that is infinite or can be read in two ways."""
    semicolons = table.delimiter in (";", "\t")  # beside which commas are decimal, in Europe
    can_be_thousands = decimal is None and (comma or (comma is None and semicolons))
    if isinstance(column, ArrowColumn) and decimal != "," and (found := column.plain()):
        if not can_be_thousands or not _any_dotted(column):
            return Numbers(*found, (), 0.0)
    cells, dotted = column.cells, list[str]()
    if any("\u2212" in cell for cell in cells):
        cells = [cell.replace("\u2212", "-") for cell in cells]  # the minus sign of typography
    if can_be_thousands:
        dotted = [cell for cell in cells if "." in cell and _DOTTED.fullmatch(cell)]
    if dotted and comma is None:
        rest = [c for c in cells if not is_missing(c) and c not in dotted]
        if rest and all(re.fullmatch(r"[-+]?\d{1,3}", cell) for cell in rest):
            whole = dotted[0].replace(".", "")
            code = cells.index(dotted[0])
            raise DataError(
                f"{where(table, column, code)}: {dotted[0]!r} is {whole} or "
                f"{float(dotted[0]):g}; use --decimal . or --decimal , to say which"
            )
    if comma and dotted and all(c in dotted or re.fullmatch(r"[-+]?\d+", c) or is_missing(c)
                                for c in cells):  # fmt: skip
        decimal = ","
    if decimal != "," and (plain := _all_plain(cells)) is not None:
        return Numbers(plain[column.codes], (), (), 0.0)
    mark = decimal or _commas(cells)
    if mark == "?":
        if comma is None:
            code = next(c for c, cell in enumerate(cells) if "," in cell)
            text = cells[code]
            raise DataError(
                f"{where(table, column, code)}: {text!r} is "
                f"{text.replace(',', '')} or {text.replace(',', '.')}; use --decimal . or "
                "--decimal , to say which"
            )
        mark = "," if comma else "."
    parsed = np.full(len(cells), np.nan)
    marks, wrong = [], []
    for code, cell in enumerate(cells):
        if PLAIN.fullmatch(cell) and mark != ",":
            parsed[code] = float(cell)
        elif is_missing(cell):
            if cell:
                marks.append(cell)
        elif mark in ("", ".") and POINT_THOUSANDS.fullmatch(cell):
            parsed[code] = float(cell.translate(SEPARATORS).replace(",", ""))
        elif mark in ("", ",") and COMMA_DECIMAL.fullmatch(cell):
            text = cell.translate(SEPARATORS).replace(".", "")
            parsed[code] = float(text.replace(",", "."))
        elif PLAIN.fullmatch(cell) and "," not in cell and ("." not in cell or decimal is None):
            parsed[code] = float(cell)
        elif INFINITE.fullmatch(cell):
            parsed[code] = np.inf
        else:
            wrong.append(cell)
        if np.isinf(parsed[code]):
            raise DataError(
                f"{where(table, column, code)}: infinite; leave it empty if it is missing"
            )
    counts = column.counts()
    unknown = set(wrong)
    bad = sum(int(n) for n, cell in zip(counts, cells, strict=True) if cell in unknown)
    filled = bad + int(counts[np.isfinite(parsed)].sum())
    values: npt.NDArray[np.float64] = parsed[column.codes] if len(cells) else np.empty(0)
    return Numbers(values, tuple(marks), tuple(wrong), bad / filled if filled else 0.0)


def _any_dotted(column: ArrowColumn) -> bool:
    return column.may_have_thousands() and column.any_match(_DOTTED.pattern)


def _all_plain(cells: Sequence[str]) -> Values | None:
    """Cells as numbers where all are plain ones or empty: the fast path."""
    if isinstance(cells, ArrowCells):
        found = cells.plain()
        return found[0] if found and not found[1] else None
    joined = "".join(cells)
    if not joined.isascii() or "_" in joined:
        return None
    try:
        values = np.array([float(cell) if cell else np.nan for cell in cells], np.float64)
    except ValueError:
        return None
    return values if np.isfinite(values).sum() == len(cells) - cells.count("") else None


def where(table: Table, column: Column, code: int) -> str:
    """The file, row and column of a cell, for a message."""
    return f"{table.where}: row {table.lines[column.row_of(code)]}, column {column.name}"


def not_a_number(table: Table, column: Column, found: Numbers) -> DataError:
    code = column.cells.index(found.wrong[0])
    return DataError(
        f"{where(table, column, code)}: {found.wrong[0]!r} is not a number; leave missing values "
        "empty, or choose columns with --target"
    )
