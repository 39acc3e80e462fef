"""`Source`: the data that `--data` names, as files or table rows, before a task reads it.

Files, folders, globs, `-`, `.gz`, `hf:` names, and columns of `.jsonl`, `.csv` and `.parquet`.
Files are memory-mapped; compressed and piped data is first copied to disk.
"""

from __future__ import annotations

import csv
import functools
import glob
import gzip
import hashlib
import mmap
import os
import sys
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError, writing

TABLES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Source:
    """The values of `--data` and `--column`. about: a description for built-in data."""

    paths: tuple[str, ...]
    column: str | None = None
    about: str | None = None
    split: str = "train"  # of a hub dataset

    def describe(self) -> str:
        return self.about or ", ".join("standard input" if p == "-" else p for p in self.paths)

    def is_table(self) -> bool:
        """Whether the data is rows with columns rather than files of bytes."""
        return all(
            p.startswith("hf:") or p.lower().removesuffix(".gz").endswith(TABLES)
            for p in self.paths
        )

    def files(self) -> list[Path]:
        """All files of the arguments, folders and globs expanded and sorted, without duplicates.
        DataError if one is missing or unreadable."""
        found: dict[Path, None] = {}
        for name in self.paths:
            if name == "-":
                found[standard_input()] = None
                continue
            path = Path(name)
            if path.is_fifo():
                found[_piped(path)] = None
                continue
            if path.is_dir():
                inside = sorted(_files_below(path))
            elif path.exists():
                inside = [path]
            else:
                inside = [Path(p) for p in sorted(glob.glob(name, recursive=True))]
                inside = [p for p in inside if p.is_file()]
            if not inside:
                what = "an empty folder" if path.is_dir() else "no such file or folder"
                raise DataError(f"--data {name}: {what}")
            found.update(dict.fromkeys(inside))
        for path in found:
            if not os.access(path, os.R_OK):
                raise DataError(f"--data {path}: not readable (permission denied)")
        return list(found)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Streams the rows of tables and hub datasets, by HuggingFace `datasets`. DataError."""
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised as well
        for name in self.paths:
            try:
                if name.startswith("hf:"):
                    data = _hub_dataset(name.removeprefix("hf:"), self.split)
                else:
                    files = [str(p) for p in Source((name,)).files()]
                    kind = (
                        Path(name.lower().removesuffix(".gz")).suffix[1:].replace("jsonl", "json")
                    )
                    if kind == "csv":
                        for path in files:
                            yield from _csv_rows(Path(path))
                        continue
                    data = datasets.load_dataset(
                        kind, data_files=files, split="train", streaming=True
                    )
                yield from data
            except DataError:
                raise
            except Exception as error:  # the readers of `datasets` raise many types
                line = str(error).strip().splitlines() or [type(error).__name__]
                raise DataError(f"--data {name}: not readable as a table ({line[0]})") from error

    def column_values(self) -> Iterator[Any]:
        """The values of one column: `self.column`, else `text`, else the only column. DataError."""
        for number, row in enumerate(self.rows()):
            name = self.column or ("text" if "text" in row or len(row) > 1 else next(iter(row), ""))
            if name not in row:
                raise DataError(
                    f"--data {self.describe()}: no column {name!r} in row {number + 1}; "
                    f"choose one with --column: {', '.join(map(str, row))}"
                )
            if row[name] is not None:
                yield row[name]

    def fingerprint(self, files: list[Path]) -> str:
        """A hash of the bytes of `files`."""
        digest = hashlib.sha256()
        for path in files:
            digest.update(str(path.stat().st_size).encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def _files_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """The files in a folder and its subfolders, links to folders followed, hidden ones left out.
    DataError for a folder that cannot be read. above: the folders around it, which a link may not
    lead back to."""
    try:
        stat = folder.stat()
        inside = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"--data {folder}: not readable ({error.strerror})") from error
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    for entry in inside:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files_below(folder / entry.name, above | {here})
        elif entry.is_file():
            yield folder / entry.name


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file with a heading. Every cell is text as it stands in the file (007, 1e5,
    NA); an empty one is None. DataError for a row with more cells than the heading."""
    csv.field_size_limit(sys.maxsize)
    with unpacked(path).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        for row in rows:
            if None in row:
                raise DataError(
                    f"--data {path}, line {rows.line_num}: more cells than the heading; quote "
                    "cells that contain a comma"
                )
            yield {name: cell or None for name, cell in row.items()}


def _hub_dataset(name: str, split: str) -> Any:
    import datasets

    path, _, config = name.partition(":")
    return datasets.load_dataset(path, config or None, split=split, streaming=True)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for piped and decompressed data, deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="tfm-", ignore_cleanup_errors=True)


def clean() -> None:
    """Deletes temporary files; for an exit without finalizers (the default action of a signal)."""
    if _scratch.cache_info().currsize:
        _scratch().cleanup()


def scratch_file(name: str) -> Path:
    """The path of a new temporary file, deleted when the process ends."""
    folder = Path(_scratch().name)
    return folder / f"{name}-{len(list(folder.iterdir()))}"


def shown(path: Path) -> str:
    """The name of a file for people: of a temporary one without the folder, which differs from
    process to process."""
    if _scratch.cache_info().currsize and Path(_scratch().name) in path.parents:
        return "standard input" if path.name.startswith("stdin-") else path.name
    return str(path)


def _spool(stream: BinaryIO, name: str) -> Path:
    """Copies a stream to a temporary file."""
    path = scratch_file(name)
    with path.open("wb") as spool:
        while block := stream.read(1 << 20):
            with writing(path):
                spool.write(block)
                spool.flush()
    return path


@functools.cache
def standard_input() -> Path:
    """A temporary file with all of standard input, which is read at the first call only."""
    return _spool(sys.stdin.buffer, "stdin")


@functools.cache
def _piped(path: Path) -> Path:
    """A temporary file with all data of a named pipe, such as `--data <(command)`."""
    with path.open("rb") as pipe:
        return _spool(pipe, "pipe")


@functools.cache
def unpacked(path: Path) -> Path:
    """The file itself, or a decompressed copy of a `.gz`. DataError if it is damaged."""
    if path.suffix != ".gz":
        return path
    try:
        with gzip.open(path, "rb") as file:
            return _spool(file, "unpacked")  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"--data {path}: not a complete gzip file ({error})") from error


class ByteStream:
    """Concatenated files as one memory-mapped stream of bytes."""

    def __init__(self, files: list[Path], names: list[str] | None = None) -> None:
        """names: of the files in messages; by default their paths."""
        self.names = names or [str(path) for path in files]
        self.parts: list[mmap.mmap | bytes] = [_map(unpacked(path)) for path in files]
        self.starts = [0]
        for part in self.parts:
            self.starts.append(self.starts[-1] + len(part))

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes start ... stop - 1, across files."""
        out = []
        number = max(bisect_right(self.starts, start) - 1, 0)
        while start < stop and number < len(self.parts):
            at = start - self.starts[number]
            piece = self.parts[number][at : at + stop - start]
            out.append(piece)
            start += len(piece)
            number += 1
        return b"".join(out)

    def where(self, offset: int) -> tuple[str, int]:
        """The name of the file at an offset of the stream, and the offset within that file."""
        number = min(max(bisect_right(self.starts, offset) - 1, 0), len(self.parts) - 1)
        return self.names[number], offset - self.starts[number]


def _map(path: Path) -> mmap.mmap | bytes:
    if not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
