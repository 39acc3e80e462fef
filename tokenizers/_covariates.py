"""Covariates of a series: columns beside its values, which the model reads as numbers beside ids.

The id of the value at time t stands beside what is known when the value at t + 1 is predicted: the
past covariates at t, and the known ones (prices, holidays, the hour) at t + 1. Past covariates are
missing from the first point that is forecast on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.protocols import Floats, Ids
from ._scales import Values

Column = npt.NDArray[Any]  # (N,) float64, NaN where missing; or text, "" where missing
KINDS = ("past", "known", "calendar")  # a calendar covariate is a known one, made of the times
LARGEST = 5.0  # standardised numbers are cut off here
MAX_LEVELS = 64  # of categories; rarer ones are as unknown ones
NUMBER_WIDTH = 3  # of the features of a number, see `Covariate.rows`


@dataclass(frozen=True)
class Covariate:
    """A column. kind: one of KINDS; levels: the categories, None for numbers; mean, scale: of
    numbers in the training data."""

    name: str
    kind: str
    levels: tuple[str, ...] | None = None
    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, name: str, kind: str, columns: Iterable[Column]) -> Covariate:
        """From the column of each training series. Numbers of at most two values are categories: a
        promotion that is on or off has no level."""
        parts = list(columns)
        if any(part.dtype.kind != "f" for part in parts):  # words in one file are words in all
            parts = [_names(part) if part.dtype.kind == "f" else part for part in parts]
        whole = np.concatenate(parts)
        if whole.dtype.kind == "f":
            known = whole[np.isfinite(whole)]
            if len(np.unique(known)) > 2:
                size = float(known.std())
                return cls(name, kind, None, float(known.mean()), size or 1.0)
            whole = _names(whole)
        found, counts = np.unique([cell for cell in whole if cell != ""], return_counts=True)
        common = sorted(range(len(found)), key=lambda at: -counts[at])[:MAX_LEVELS]
        return cls(name, kind, tuple(sorted(str(found[at]) for at in common)))

    @property
    def width(self) -> int:
        return NUMBER_WIDTH if self.levels is None else len(self.levels)

    def codes(self, column: Column) -> Values:
        """(N,) numbers, or the numbers of categories; NaN where missing or unknown."""
        if self.levels is None:
            return column if column.dtype.kind == "f" else _numbers(column)
        number = {level: float(at) for at, level in enumerate(self.levels)}
        names = _names(column) if column.dtype.kind == "f" else column
        return np.array([number.get(str(name), np.nan) for name in names], np.float64)

    def rows(self, codes: Values, history: Ids) -> Floats:
        """(B, N, width) of codes (B, N), the first `history` (B,) of which are of the past. Of a
        number: its standard score in the training data and in the history of the window, and
        whether it is missing. Of a category: 1 at its place, else 0."""
        inside = np.arange(codes.shape[1]) < history[:, None]
        if self.kind == "past":
            codes = np.where(inside, codes, np.nan)
        missing = np.isnan(codes)
        if self.levels is not None:
            is_level: Floats = codes[..., None] == np.arange(len(self.levels))
            return is_level.astype(np.float32)
        of_all = (codes - self.mean) / self.scale
        before = np.where(inside & ~missing, of_all, 0.0)
        count = np.maximum((inside & ~missing).sum(1), 1)[:, None]
        centre = before.sum(1, keepdims=True) / count
        around = np.where(inside & ~missing, of_all - centre, 0.0)
        spread = np.sqrt((around**2).sum(1, keepdims=True) / count)
        own = (of_all - centre) / np.where(spread > 1e-9, spread, np.inf)
        cut = [np.clip(np.where(missing, 0.0, x), -LARGEST, LARGEST) for x in (of_all, own)]
        features: Floats = np.stack((*cut, missing), axis=-1).astype(np.float32)
        return features


def _names(numbers: Values) -> Column:
    """Numbers as the names of categories, "" for NaN."""
    return np.array(["" if np.isnan(x) else f"{x:g}" for x in numbers], object)


def _numbers(names: Column) -> Values:
    def number(cell: Any) -> float:
        try:
            return float(cell)
        except ValueError:
            return float("nan")

    return np.array([number(cell) for cell in names], np.float64)


@dataclass(frozen=True)
class Covariates:
    """The covariates of a run, in the order of their features."""

    each: tuple[Covariate, ...] = ()

    @property
    def features(self) -> int:
        return sum(one.width for one in self.each)

    def state(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.each]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> Covariates:
        levels = (None if one["levels"] is None else tuple(one["levels"]) for one in state)
        pairs = zip(state, levels, strict=True)
        return cls(tuple(Covariate(**{**one, "levels": found}) for one, found in pairs))

    def rows(self, codes: Mapping[str, Values], history: Ids) -> Floats:
        """(B, 1 + N, features) beside the begin token and N values; codes: (B, N) by name."""
        batch, length = next(iter(codes.values())).shape
        out = np.zeros((batch, 1 + length, self.features), np.float32)
        first = 0
        for one in self.each:
            at = slice(1, None) if one.kind == "past" else slice(0, length)
            out[:, at, first : first + one.width] = one.rows(codes[one.name], history)
            first += one.width
        return out
