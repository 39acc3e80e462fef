"""Files of arrays (.npy, .npz, IDX): which array holds pictures, which their labels, which part.

The numbers stay as they are stored: `values` and `axes` choose one meaning for a whole data set.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.data.compressed import unpacked
from ...core.errors import DataError
from .._labelled import folders
from .._labelled.folders import PARTS
from .._labelled.labels import NAMES as LABEL_NAMES
from .._labelled.labels import label_array

Array = npt.NDArray[Any]

PICTURE_NAMES = ("x", "images", "image", "img", "imgs", "pictures", "pixels", "data", "features")
# of the names of files: of pictures, of their labels
LABEL_FILES = (("images", "labels"), (r"(?<![A-Za-z0-9])[xX](?![A-Za-z0-9])", "y"))
NUMPY, ZIP, GZIP = b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b"


@dataclass(frozen=True, eq=False)
class Stack:
    """One array of a file. `array`: (N, ...) if `labels` are known or it has 4 axes; else it may
    be one picture. `labels`: one a picture. `part`: train, valid or test if its name says so, else
    empty. `label`: of all its pictures, where there are no `labels`."""

    name: str
    array: Array
    labels: list[str | None] | None = None
    part: str = ""
    label: str | None = None


@dataclass(frozen=True)
class ArrayFile:
    """The pictures of one file. unused: the names of its arrays that are neither pictures nor
    labels."""

    stacks: tuple[Stack, ...]
    unused: tuple[str, ...] = ()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(GZIP):
        try:
            with gzip.open(path, "rb") as content:
                return content.read(8)
        except (OSError, EOFError, zlib.error):
            return b""
    return head


def is_array(path: Path) -> bool:
    head = _head(path)
    zipped = head.startswith(ZIP) and path.suffix.lower() != ".zip"
    return zipped or head.startswith(NUMPY) or _idx_axes(head) > 0


def _idx_axes(head: bytes) -> int:
    """Number of axes of an IDX file of unsigned bytes, 0 if `head` is not one."""
    return head[3] if head[:3] == b"\0\0\x08" and len(head) > 3 and head[3] <= 4 else 0


def label_file(path: Path) -> Path | None:
    """The label file of a file of pictures, found by its name (MNIST's, or x and y), or None."""
    for pictures, labels in LABEL_FILES:
        if re.search(pictures, path.name):
            name = re.sub(pictures, labels, path.name).replace("idx3", "idx1")
            if path.with_name(name).exists():
                return path.with_name(name)
    return None


def part_of(name: str) -> tuple[str, str]:
    """(part, the rest of the name) of a name such as x_train, valImages or t10k-images."""
    part, plain = folders.part_of(name)
    if part:
        return part, plain
    for word in sorted(PARTS, key=len, reverse=True):  # xtrain, trainx
        for rest in (plain.removesuffix(word), plain.removeprefix(word)):
            if rest != plain and rest in (*PICTURE_NAMES, *LABEL_NAMES):
                return PARTS[word], rest
    return "", plain


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


def read_file(
    path: Path, name: str, column: str | None, label_column: str | None, labelled: bool
) -> ArrayFile:
    """The pictures of a file. name: for messages; column: the array of pictures in a .npz,
    label_column: that of the labels; labelled: a .npz with its labels. DataError."""
    read = _read_array(path)
    if isinstance(read, dict):
        return _of_archive(read, name, column, label_column, labelled)
    labels_path = label_file(path)
    labels = None
    if labels_path is not None:
        labels = label_array(_read_array(labels_path), _count(read), str(labels_path))
    return ArrayFile((Stack(name, _unflattened(read, labels), labels, part_of(path.name)[0]),))


def _count(array: Array) -> int:
    return len(array) if array.ndim else 0


def _of_archive(
    arrays: dict[str, Array],
    name: str,
    column: str | None,
    label_column: str | None,
    labelled: bool,
) -> ArrayFile:
    """The pictures of a .npz: of each part (train, valid, test) that the names of its arrays have,
    or of `column`."""
    for chosen in (column, label_column):
        if chosen is not None and chosen not in arrays:
            flag = "--column" if chosen == column else "--label-column"
            raise DataError(f"--data {name}: no array {chosen!r}; {flag}: {', '.join(arrays)}")
    by_part: dict[str, dict[str, str]] = {}  # part -> rest of the name -> name
    for each in arrays:
        part, rest = part_of(each)
        by_part.setdefault(part, {})[rest] = each
    used: set[str] = set()
    stacks: list[Stack] = []
    for part in ("", "train", "valid", "test"):
        members = by_part.get(part, {})
        if column is not None and column not in members.values():
            continue
        pictures = column or _pictures_of(members, arrays)
        if pictures is None:
            continue
        array = arrays[pictures]
        found = label_column or _labels_of(members, arrays, pictures) if labelled else None
        labels = None
        if found is not None:
            where = f"--data {name}: {found}"
            labels = label_array(arrays[found], _count(array), where)
            used.add(found)
        used.add(pictures)
        stack = squares(array) if part and array.ndim == 2 else _unflattened(array, labels)
        stacks.append(Stack(f"{name}:{pictures}", stack, labels, "" if column else part))
    if not stacks:
        raise DataError(f"--data {name}: no array of pictures in it, only {', '.join(arrays)}")
    parts = {stack.part for stack in stacks}
    if parts > {""} and "train" not in parts:  # x beside x_test
        stacks = [replace(stack, part=stack.part or "train") for stack in stacks]
    unused = [each for each in arrays if each not in used]
    if "train" in parts:
        unused += [stack.name.rpartition(":")[2] for stack in stacks if not stack.part]
        stacks = [stack for stack in stacks if stack.part]
    return ArrayFile(tuple(stacks), tuple(unused))


def _pictures_of(members: dict[str, str], arrays: dict[str, Array]) -> str | None:
    """The array of pictures: by its name, else the first of 3 or 4 axes, else of 2."""
    named = [members[n] for n in PICTURE_NAMES if n in members and arrays[members[n]].ndim >= 2]
    unlabelled = [each for rest, each in members.items() if rest not in LABEL_NAMES]
    shaped = [each for each in unlabelled if arrays[each].ndim in (3, 4)]
    flat = [each for each in unlabelled if arrays[each].ndim == 2]
    return next(iter([*named, *shaped, *flat]), None)


def _labels_of(members: dict[str, str], arrays: dict[str, Array], pictures: str) -> str | None:
    """The array of labels: by its name, else the only one that can be classes."""
    named = [members[n] for n in LABEL_NAMES if n in members and members[n] != pictures]
    named = [n for n in named if arrays[n].ndim <= 2]  # one of more axes is masks, not labels
    count = _count(arrays[pictures])
    classes = [n for n in members.values() if n != pictures and _are_classes(arrays[n], count)]
    return named[0] if named else classes[0] if len(classes) == 1 else None


def _are_classes(array: Array, count: int) -> bool:
    """Whether an array can be class labels: `count` whole numbers or names, with repeats."""
    plain = array.ndim == 1 and len(array) == count and array.dtype.kind in "iuUSb"
    return plain and len(np.unique(array)) < count


def _unflattened(array: Array, labels: list[str | None] | None) -> Array:
    """(N, side, side) from (N, side * side) with N labels; any other array as it is."""
    if array.ndim == 2 and labels is not None and len(labels) == len(array):
        return squares(array)
    return array


def squares(array: Array) -> Array:
    """(N, side, side) from (N, side * side); any other array as it is."""
    side = math.isqrt(array.shape[1])
    return array.reshape(len(array), side, side) if side * side == array.shape[1] else array


def smallest(array: Array) -> Array:
    """Whole numbers from 0 on in the smallest type that holds them; any other array as it is."""
    if array.dtype.kind in "iu" and array.size and array.min() >= 0:
        return array.astype(np.min_scalar_type(array.max()), copy=False)
    return array
