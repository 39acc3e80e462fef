"""Finds the pictures of a source, unread: files in folders and archives, arrays, rows of tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.data.archives import JUNK, extracted, is_archive
from ...core.data.scratch import shown
from ...core.data.source import Source
from ...core.data.tables import TableSource
from ...core.errors import DataError
from .._labelled.folders import listed, places
from .._labelled.labels import NAMES, label_text
from .arrays import Stack, is_array, label_file, part_of, read_file, smallest, squares
from .axes import arranged
from .pixel_table import MIN_PIXELS, read_pixel_table
from .reader import SUFFIXES, Found, is_picture_file
from .values import Values, see, together

PICTURE_COLUMNS = ("image", "img", "picture", "file_name", "filename", "file", "path", "pixels")
MAX_SEARCHED = 100  # rows without a picture before the first one


@dataclass
class Finding:
    """The pictures of a source. numbers: the values of its arrays; said: what was chosen; left:
    what was left out, and why."""

    found: list[Found] = field(default_factory=list)
    numbers: Values | None = None
    conflict: tuple[str, str] | None = None  # two arrays that no range fits
    said: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass
class _Pending:
    """Pictures in the order of the source, arrays not yet arranged."""

    entries: list[Found | Stack] = field(default_factory=list)
    single: list[bool] = field(default_factory=list)  # of the stacks
    left: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def add_stack(self, stack: Stack, single: bool = False) -> None:
        self.entries.append(stack)
        self.single.append(single)


def find_pictures(
    source: Source, label_column: str | None = None, labelled: bool = True
) -> Finding:
    """All pictures of a source. labelled: with the labels of tables and .npz files. DataError if a
    folder, file or table has none."""
    pending = _Pending()
    tables = source.is_table()
    for one in source.each():
        name = one.paths[0]
        if tables:
            for part in one.parts():
                assert isinstance(part, TableSource)
                _table(source, part, label_column, labelled, pending)
            continue
        folder = Path(name)
        if name != "-" and folder.is_dir():
            _folder(folder, name, source.column, label_column, labelled, pending)
            continue
        files = one.files(archives=False)
        label_files = {label_file(path) for path in files} - {None}
        for path in files:
            if path in label_files:
                continue
            if is_archive(path) and not is_array(path):
                _folder(extracted(path), str(path), source.column, label_column, labelled, pending)
            elif is_array(path):
                _array_file(
                    path, shown(path), "", None, source.column, label_column, labelled, pending
                )
            else:
                pending.entries.append(Found(shown(path), path))
    return _finding(pending)


def _finding(pending: _Pending) -> Finding:
    """The stacks arranged by one rule, and taken apart into pictures."""
    out = Finding(left=pending.left, said=pending.said)
    stacks = [entry for entry in pending.entries if isinstance(entry, Stack)]
    arrays, said = arranged(stacks, pending.single)
    out.said += [said] if said else []
    seen = [
        (stack.name, see([(stack.name, array)]))
        for stack, array in zip(stacks, arrays, strict=True)
        if array.dtype.kind in "iuf" and array.size
    ]
    out.numbers, out.conflict = together((name, values) for name, values in seen if values)
    rest = iter(zip(arrays, pending.single, strict=True))
    for entry in pending.entries:
        if isinstance(entry, Found):
            out.found.append(entry)
            continue
        array, single = next(rest)
        for number, pixels in enumerate(array):
            label = entry.label if entry.labels is None else entry.labels[number]
            name = entry.name if single else f"{entry.name}[{number}]"
            out.found.append(Found(name, pixels, label, entry.part))
    return out


# -- folders -------------------------------------------------------------------------------------


def _folder(
    root: Path,
    display: str,
    column: str | None,
    label_column: str | None,
    labelled: bool,
    pending: _Pending,
) -> None:
    """The pictures and arrays below a folder. A subfolder is a label, below `train`, `val` and
    `test` if those are its folders. display: the name of the folder in messages."""
    files = [
        p
        for p in Source((str(root),)).files(archives=False)
        if JUNK not in p.relative_to(root).parts
    ]
    arrays = {p for p in files if p.suffix.lower() not in SUFFIXES and is_array(p)}
    label_files = {label_file(path) for path in arrays} - {None}
    pictures = [p for p in files if p.suffix.lower() in SUFFIXES or p in arrays - label_files]
    if not pictures:
        raise DataError(
            f"--data {display}: contains no pictures (known: {', '.join(SUFFIXES)}, .npy, .npz, "
            "IDX)"
        )
    inside = {path: path.relative_to(root).parts for path in pictures}
    stray = []
    for path, place in places(inside, lambda name: part_of(name)[0]).items():
        name = f"{display.rstrip('/')}/{'/'.join(inside[path])}"
        part, label = place.part, place.label
        if place.stray:
            stray.append(name)
        elif path in arrays:
            _array_file(path, name, part, label, column, label_column, labelled, pending)
        else:
            pending.entries.append(Found(name, path, label, part))
    pending.left += listed(stray, "beside the folders of train and test")
    others = [
        "/".join(p.relative_to(root).parts)
        for p in files
        if p not in inside and p not in label_files
    ]
    pending.left += listed(others, "no picture")


def _array_file(
    path: Path,
    name: str,
    part: str,
    label: str | None,
    column: str | None,
    label_column: str | None,
    labelled: bool,
    pending: _Pending,
) -> None:
    """The pictures of a file of arrays; `part` and `label` are those of its folder."""
    file = read_file(path, name, column, label_column, labelled)
    for stack in file.stacks:
        pending.add_stack(replace(stack, part=part or stack.part, label=label))
    pending.left += listed([f"{name}:{unused}" for unused in file.unused], "another array")


# -- tables --------------------------------------------------------------------------------------


def _table(
    source: Source, table: TableSource, label_column: str | None, labelled: bool, pending: _Pending
) -> None:
    """The pictures of one table. Paths in it are relative to its folder, else to this one."""
    path = table.path if isinstance(table.path, Path) else None
    if path is not None and table.kind == "csv" and not source.column:
        stack = read_pixel_table(path, label_column)
        if stack is not None:
            pending.add_stack(stack)
            return
    column, missing = source.column, []
    for number, row in table.rows():
        where = f"{table.name}, row {number}"
        if number == 1 and any(name.lower().endswith(SUFFIXES) for name in row):
            raise DataError(
                f"--data {table.name}: its first row is a picture, so it has no heading; add "
                "one such as image,label"
            )
        if column is None:
            columns = [each for each, value in row.items() if _is_picture(value)]
            named_so = [each for each in columns if each.strip().lower() in PICTURE_COLUMNS]
            column = next(iter(named_so + columns), None)
            if column is None and number < MAX_SEARCHED and None in row.values():
                missing.append(f"row {number}")
                continue
            if column is None:
                raise DataError(
                    f"--data {table.name}: no column of pictures; name it with --column: "
                    f"{', '.join(map(str, row))}"
                )
            if len(columns) > 1:
                pending.said.append(f"pictures of the column {column}")
        for chosen, flag in ((column, "--column"), (label_column, "--label-column")):
            if chosen is not None and chosen not in row:
                raise DataError(
                    f"--data {table.name}: no column {chosen!r} in row {number}; "
                    f"choose one with {flag}: {', '.join(map(str, row))}"
                )
        plain = {name.strip().lower(): name for name in row if name != column}
        named = label_column or next((plain[n] for n in NAMES if n in plain), None)
        label = label_text(row[named], where) if named and labelled else None
        value = row[column]
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None:
            missing.append(f"row {number}")
        elif isinstance(value, list):
            array = smallest(_numbers(value, where))
            pending.add_stack(Stack(where, array, label=label), single=True)
        else:
            if isinstance(value, str):
                value = _beside(Path(value), path)
                where = str(value)
            pending.entries.append(Found(where, value, label))
    pending.left += listed(missing, "without a picture")


def _numbers(value: list[Any], where: str) -> Any:
    try:
        array = np.array(value)
        if array.ndim == 1:
            array = squares(array[None])[0]
    except ValueError:
        raise DataError(f"{where}: the rows of a picture must be equally long") from None
    if array.dtype.kind not in "iufb":
        raise DataError(f"{where}: a picture must be nested lists of numbers")
    return array


def _beside(path: Path, table: Path | None) -> Path:
    """A path that a table names: relative to the table's folder, else to the working folder."""
    if table is None or path.is_absolute():
        return path
    beside = table.parent / path
    return beside if beside.exists() or not path.exists() else path


def _is_picture(value: Any) -> bool:
    if isinstance(value, bytes):
        return is_picture_file(value)
    if isinstance(value, dict):
        return "bytes" in value or "path" in value
    if isinstance(value, str):
        return value.lower().endswith(SUFFIXES)
    if isinstance(value, list) and value:
        return isinstance(value[0], list) or _is_flat_square(value)
    return hasattr(value, "getexif")


def _is_flat_square(value: list[Any]) -> bool:
    """Whether a list can be the pixels of a square picture, row after row."""
    square = len(value) >= MIN_PIXELS and math.isqrt(len(value)) ** 2 == len(value)
    return square and isinstance(value[0], (int, float))
