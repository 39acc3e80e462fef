"""Tables with one column a pixel, as MNIST is often passed on: label,pixel0,pixel1 ..."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from ...core.data.compressed import unpacked
from ...core.errors import DataError
from .._labelled.labels import NAMES, label_array
from .arrays import Array, Stack, smallest

MIN_PIXELS = 16  # columns of pixels that a table must have to be one


def read_pixel_table(path: Path, label_column: str | None) -> Stack | None:
    """The pictures of a CSV file whose columns are pixels and at most one label, with or without a
    heading; None for any other file. DataError if the number of pixels is no square."""
    with unpacked(path).open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        first, second = next(rows, []), next(rows, [])
    cells = second or first
    label_at: int | None = None
    headed = not all(map(_is_number, first))
    if len(cells) < MIN_PIXELS:
        return None
    if headed:
        names = [label_column] if label_column else list(NAMES)
        label_at = next((first.index(name) for name in names if name in first), None)
        if label_at is None and label_column:
            raise DataError(f"--data {path}: no column {label_column!r} for --label-column")
    numbers = [_is_number(cell) for at, cell in enumerate(cells) if at != label_at]
    if not all(numbers):
        return None

    import pandas as pd

    try:
        frame = pd.read_csv(
            unpacked(path),
            header=0 if headed else None,
            dtype=None if label_at is None else {first[label_at]: str},
        )
        count = frame.shape[1]
        if not headed and math.isqrt(count) ** 2 != count:
            label_at = _label_at_an_end(frame.to_numpy())
        labels = None
        if label_at is not None:
            column = frame.iloc[:, label_at]
            values = column.fillna("").astype(str).to_numpy().astype("U") if headed else column
            labels = label_array(values if headed else values.to_numpy(), len(frame), str(path))
            frame = frame.drop(columns=frame.columns[label_at])
        pixels = smallest(frame.to_numpy())
    except (ValueError, OSError) as error:  # pandas raises subclasses of ValueError
        line = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"--data {path}: not readable as a table of pixels ({line[0]})") from error
    side = math.isqrt(pixels.shape[1])
    if side * side != pixels.shape[1]:
        raise DataError(
            f"--data {path}: {pixels.shape[1]:,} columns of numbers are not the pixels of a square "
            "picture; save them as an array (.npy) of N x HEIGHT x WIDTH"
        )
    return Stack(str(path), pixels.reshape(-1, side, side), labels)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label_at_an_end(table: Array) -> int:
    """0 or the last column, whichever has fewer distinct values, but more than one: labels are few,
    pixels are many, and the corner of a picture is often background alone. The first in doubt."""
    import numpy as np

    first, last = (len(np.unique(table[:, at])) for at in (0, -1))
    return table.shape[1] - 1 if 1 < last and (first == 1 or last < first) else 0
