"""What the numbers of an array mean: one rule for all arrays of a data set.

A picture in an array does not say what its values are: 0 to 1, 0 to 255, 12 bits in 16. One picture
alone is no evidence (a mask among photographs holds 0 and 1), so the rule is chosen from the values
of all of them, and said. `--range LOW,HIGH` sets it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError, UsageError

MAX_FEW = 127  # largest value of whole numbers that are levels of their own, not 8 bits
BITS = {255: 8, 4095: 12, 65535: 16}  # largest value: bits
TOLERANCE = 1e-3  # of a range, that rounding may leave values beyond it
MIN_HIGH = 2.0  # largest value of fractions that are of 0 to 255: a little above 1 is neither
CHUNK = 1 << 24  # values looked at together


@dataclass(frozen=True)
class Range:
    """Stored values `low` ... `high` are `depth` values of a channel, 0 ... depth - 1."""

    low: float
    high: float
    depth: int

    def levels(self, values: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.uint8]:
        """The values as 0 ... depth - 1. DataError for one outside the range."""
        if values.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return values.view(np.uint8)
        shifted = values.astype(np.float64) - self.low
        width = self.high - self.low
        beyond = TOLERANCE * width
        inside = not shifted.size or (-beyond <= shifted.min() and shifted.max() <= width + beyond)
        if not inside:  # NaN is not either
            raise DataError(
                f"{name}: pixels from {values.min():g} to {values.max():g} lie outside the range "
                f"{self.low:g} to {self.high:g}; set --range LOW,HIGH"
            )
        shifted = np.clip(shifted, 0, width)  # what rounding has left beyond
        out: npt.NDArray[np.uint8] = np.rint(shifted * ((self.depth - 1) / width)).astype(np.uint8)
        return out


EIGHT_BITS = Range(0, 255, 256)
TWO_LEVELS = Range(0, 1, 2)


@dataclass(frozen=True)
class Values:
    """The extremes of values that were seen. whole: none has a fraction."""

    low: float
    high: float
    whole: bool

    def __str__(self) -> str:
        return f"{self.low:,.5g} to {self.high:,.5g}{'' if self.whole else ' with fractions'}"


def see(arrays: Iterable[tuple[str, npt.NDArray[np.generic]]]) -> Values | None:
    """The extremes of named arrays of numbers; None without a value. DataError for one that is not
    finite."""
    low, high, whole = np.inf, -np.inf, True
    for name, array in arrays:
        flat = array.reshape(-1)
        for start in range(0, len(flat), CHUNK):
            part = flat[start : start + CHUNK]
            smallest, largest = float(part.min()), float(part.max())
            if not np.isfinite(smallest) or not np.isfinite(largest):
                raise DataError(f"{name}: pixels that are not finite")
            low, high = min(low, smallest), max(high, largest)
            whole = whole and (part.dtype.kind in "iub" or not (part % 1).any())
    return Values(low, high, whole) if low <= high else None


def together(found: Iterable[tuple[str, Values]]) -> tuple[Values | None, tuple[str, str] | None]:
    """The extremes of all arrays; and the names of two that no range fits, one of fractions up to 1
    and one of whole numbers above."""
    low, high, whole = np.inf, -np.inf, True
    shares = wholes = ""
    for name, values in found:
        low, high = min(low, values.low), max(high, values.high)
        whole = whole and values.whole
        if not values.whole and values.high <= 1 + TOLERANCE:
            shares = shares or name
        if values.whole and values.high > 1:
            wholes = wholes or name
    conflict = (shares, wholes) if shares and wholes else None
    return (Values(low, high, whole) if low <= high else None), conflict


def parse_range(text: str) -> Range:
    """The range of `--range LOW,HIGH`: as many values as whole numbers lie in it, at most 256."""
    parts = text.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise UsageError(f"--range {text}: must be LOW,HIGH as 0,4095") from None
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UsageError(f"--range {text}: LOW must be below HIGH, both finite")
    few = low == int(low) and high == int(high) and (low, high) != (-1, 1)
    return Range(low, high, min(256, int(high - low) + 1) if few and high > 1 else 256)


def choose_range(values: Values, alone: bool) -> tuple[Range, str]:
    """The range that the values of all arrays of a data set lie in, and what it is called. alone:
    the data set has no pictures but these arrays, so whole numbers to 127 are levels of their own.
    DataError if no usual range holds them."""
    low, high = values.low, values.high
    if values.whole and low >= 0:
        if high <= 1:
            return TWO_LEVELS, "masks of 0 and 1"
        if high <= MAX_FEW and alone:
            return Range(0, high, int(high) + 1), f"values 0 to {high:g}"
        for top, bits in BITS.items():
            if high <= top:
                return Range(0, top, 256), f"values {values} taken as {bits} bits (0 to {top:,})"
    elif low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return Range(0, 1, 256), f"values {values} taken as 0 to 1"
    elif low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        return Range(-1, 1, 256), f"values {values} taken as -1 to 1"
    elif low >= -TOLERANCE and MIN_HIGH <= high <= 255 * (1 + TOLERANCE):
        return EIGHT_BITS, f"values {values} taken as 0 to 255"
    raise DataError(
        f"--data: pixels from {low:,.5g} to {high:,.5g} are in no usual range (0 to 1, -1 to 1, 8, "
        "12 or 16 bits); name theirs with --range LOW,HIGH"
    )
