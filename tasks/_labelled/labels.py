"""Labels of pictures as text, whatever type they are stored in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError

NAMES = (
    *("label", "labels", "class", "classes", "target", "targets", "fine_label", "digit", "y"),
    *("category", "species"),
)
MISSING = ("", "None", "nan", "NaN", "<NA>")  # what programs write for a missing value
POSITIONS = ("auto", "first", "last", "none")
MIN_LABELLED = 0.9  # share of pictures with a label from which --labels auto uses labels


def label_text(value: Any, where: str) -> str | None:
    """The label as text: whole numbers without a fraction, bytes decoded. None if it is missing:
    None, NaN or an empty text. DataError for a value of several parts."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return label_text(value[0], where)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (dict, list, tuple)):
        raise DataError(f"{where}: a label must be one number or name, not {str(value)[:40]}")
    text = str(value).strip()
    return None if text in MISSING else text


def label_array(array: npt.NDArray[Any], count: int, where: str) -> list[str | None]:
    """The labels of `count` pictures from an array (count,), (count, 1), or (count, classes) of one
    1 a row. DataError otherwise."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elif _is_one_hot(array):
        array = array.argmax(axis=1)
    if array.ndim != 1 or array.dtype.kind not in "iufUSb":
        raise DataError(f"{where}: must be one label a picture, whole numbers or names")
    if array.dtype.kind == "f" and (array[np.isfinite(array)] % 1).any():
        raise DataError(f"{where}: must be one label a picture, whole numbers, not fractions")
    if len(array) != count:
        raise DataError(f"{where}: {count:,} pictures, but {len(array):,} labels")
    return [label_text(value, where) for value in array]


def _is_one_hot(array: npt.NDArray[Any]) -> bool:
    numbers = array.ndim == 2 and array.dtype.kind in "iufb" and len(array) > 0
    return numbers and bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def label_names(labels: Iterable[str | None]) -> tuple[str, ...]:
    """The distinct labels, sorted: numbers by value."""
    found = {label for label in labels if label is not None}
    if all(name.removeprefix("-").isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def resolve_position(position: str, labels: tuple[str | None, ...]) -> str:
    """`--labels` with auto resolved: first if nearly all pictures have one, there are at least two
    labels, and they repeat; else none."""
    if position != "auto":
        return position
    labelled = [label for label in labels if label is not None]
    distinct = len(set(labelled))
    repeat = distinct <= max(2, len(labelled) // 2)
    enough = len(labelled) >= MIN_LABELLED * len(labels)
    return "first" if distinct > 1 and repeat and enough else "none"
