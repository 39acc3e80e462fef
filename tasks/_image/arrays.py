"""Pictures in arrays: .npy, .npz and IDX files, and their labels."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.data.source import unpacked
from ...core.errors import DataError

Array = npt.NDArray[Any]

LABEL_NAMES = {"y", "label", "labels", "target", "targets", "class", "classes"}
NUMPY, ZIP, GZIP = b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(GZIP):
        try:
            with gzip.open(path, "rb") as unpacked:
                return unpacked.read(8)
        except (OSError, EOFError, zlib.error):
            return b""
    return head


def is_array(path: Path) -> bool:
    head = _head(path)
    return head.startswith((NUMPY, ZIP)) or _idx_axes(head) > 0


def _idx_axes(head: bytes) -> int:
    """Number of axes of an IDX file of unsigned bytes, 0 if `head` is not one."""
    return head[3] if head[:3] == b"\0\0\x08" and len(head) > 3 and head[3] <= 4 else 0


def label_file(path: Path) -> Path | None:
    """The label file of a file of pictures, found by its name (MNIST's convention), or None."""
    if "images" not in path.name:
        return None
    labels_path = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    return labels_path if labels_path.exists() else None


def _read_array(path: Path) -> Any:
    """The array of an IDX or .npy file, or the arrays of a .npz by name."""
    head = _head(path)
    try:
        if _idx_axes(head):
            data = unpacked(path).read_bytes()
            axes = _idx_axes(head)
            shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
            return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
        if head.startswith(ZIP):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        return np.load(unpacked(path), allow_pickle=False)
    except Exception as error:  # NumPy, zip and zlib raise many types
        line = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"--data {path}: damaged or truncated array file ({line[0]})") from error


def read_pictures(
    path: Path, column: str | None
) -> tuple[npt.NDArray[np.uint8], list[str | None], int]:
    """(pixels (N, height, width, channels), the label of each, number of values of a channel)."""
    read = _read_array(path)
    labels: Array | None = None
    if isinstance(read, dict):
        read, labels = _choose(read, path, column)
    labels_path = label_file(path)
    if labels_path is not None:
        labels = _read_array(labels_path)
    pictures = as_pictures(read, str(path), None if labels is None else len(labels))
    if labels is not None and (labels.ndim != 1 or len(labels) != len(pictures)):
        raise DataError(f"--data {path}: {len(pictures):,} pictures, but {len(labels):,} labels")
    pixels, depth = as_bytes(pictures, str(path))
    named: list[str | None] = [None] * len(pixels)
    if labels is not None:
        named = [str(label) for label in labels]
    return pixels, named, depth


def _choose(arrays: dict[str, Array], path: Path, column: str | None) -> tuple[Array, Array | None]:
    """(pictures, labels) of a .npz: `column` or the first of 3 or 4 axes (else 2); labels by name,
    else the only array of classes."""
    if column is not None and column not in arrays:
        raise DataError(f"--data {path}: no array {column!r}; --column: {', '.join(arrays)}")
    likely = [n for n in arrays if arrays[n].ndim in (3, 4)] or [
        n for n in arrays if arrays[n].ndim == 2
    ]
    name = column or (likely[0] if likely else None)
    if name is None:
        raise DataError(f"--data {path}: no array of pictures in it, only {', '.join(arrays)}")
    pictures = arrays[name]
    tail = name.removeprefix("x").removeprefix("X").removeprefix("images").removeprefix("data")
    named_labels = [n for n in arrays if n.lower().removesuffix(tail.lower()) in LABEL_NAMES]
    named_labels.sort(key=lambda n: not n.endswith(tail))  # for x_train, y_train before y_test
    classes = [n for n, a in arrays.items() if n != name and _are_classes(a, len(pictures))]
    if named_labels:
        return pictures, _as_labels(arrays[named_labels[0]], f"--data {path}: {named_labels[0]}")
    return pictures, _as_labels(arrays[classes[0]], str(path)) if len(classes) == 1 else None


def _are_classes(array: Array, count: int) -> bool:
    """Whether an array can be class labels: `count` whole numbers, with repeats."""
    plain = array.ndim == 1 and len(array) == count and array.dtype.kind in "iuUb"
    return plain and len(np.unique(array)) < count


def _as_labels(array: Array, where: str) -> Array:
    """Labels (N,), integers or names; integral floats become integers. DataError otherwise."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "f" and np.isfinite(array).all() and not (array % 1).any():
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iuUSb":
        raise DataError(f"{where}: must be one label a picture, whole numbers or names")
    return array


def as_pictures(array: Array, name: str, labels: int | None = None) -> Array:
    """(N, height, width, channels) from an array of one or more pictures.

    (H, W): one grey picture, or with H labels, H flattened square ones. (H, W, 3 or 4): one colour
    picture. (N, H, W): grey pictures. (N, H, W, C) or (N, C, H, W): C is 1, 3 or 4.
    """
    if array.ndim == 2 and labels == len(array):
        side = int(array.shape[1] ** 0.5)
        if side * side == array.shape[1]:
            return array.reshape(len(array), side, side, 1)
    if array.ndim == 2:
        return array[None, :, :, None]
    if array.ndim == 3:
        one = array.shape[2] in (3, 4) and array.shape[1] != array.shape[2] and labels != len(array)
        return array[None] if one else array[..., None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        return array
    if array.ndim == 4 and array.shape[1] in (1, 3, 4):
        return array.transpose(0, 2, 3, 1)
    shape = " x ".join(map(str, array.shape))
    raise DataError(f"--data {name}: an array of {shape} is no picture (N x H x W [x 1, 3 or 4])")


def as_bytes(array: Array, name: str) -> tuple[npt.NDArray[np.uint8], int]:
    """(uint8 pixels, number of levels): 2 for bool; 256 if some value is above 127 or a fraction
    of 1; else the maximum plus one. 16-bit values keep their upper 8 bits."""
    if array.dtype == bool:
        return array.astype(np.uint8), 2
    if array.dtype.kind not in "iuf":
        raise DataError(f"--data {name}: an array of {array.dtype} holds no pixels")
    if not array.size:
        return array.astype(np.uint8), 256
    low, high = array.min(), array.max()
    if not np.isfinite(array).all() if array.dtype.kind == "f" else False:
        raise DataError(f"--data {name}: pixels that are not finite")
    if low < 0 or high > 65535:
        raise DataError(f"--data {name}: pixels from {low} to {high}; must be 0 to 255 (or to 1)")
    integral = array.dtype.kind in "iu" or not (array % 1).any()
    if not integral and high <= 1:
        return np.rint(array * 255).astype(np.uint8), 256
    if high > 255:
        return (array.astype(np.uint32) >> 8).astype(np.uint8), 256
    pixels = np.rint(array).astype(np.uint8)
    return pixels, 256 if high > 127 else max(2, int(pixels.max()) + 1)
