"""`Source`: where data comes from, before any domain reads it.

Files, folders, globs, `-`, `.gz`, `hf:` names, and columns of `.jsonl`, `.csv` and `.parquet`.
Big files are memory-mapped; what is compressed or piped is spooled to disk once.
"""

from __future__ import annotations

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
    """What `--data` and `--column` name. `about` is for people where the data is built in."""

    paths: tuple[str, ...]
    column: str | None = None
    about: str | None = None
    split: str = "train"  # of a hub dataset

    def describe(self) -> str:
        return self.about or ", ".join("standard input" if p == "-" else p for p in self.paths)

    def is_table(self) -> bool:
        """Whether the data is rows with columns rather than files of bytes."""
        return all(
            p.startswith("hf:") or p.removesuffix(".gz").endswith(TABLES) for p in self.paths
        )

    def files(self) -> list[Path]:
        """The files, folders and globs opened out, each file once, in order of name within each
        argument. DataError where one is missing or unreadable."""
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
                inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
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
        """Rows of tables and hub datasets, streamed, through HuggingFace `datasets`."""
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong is raised too
        for name in self.paths:
            try:
                if name.startswith("hf:"):
                    data = _hub_dataset(name.removeprefix("hf:"), self.split)
                else:
                    files = [str(p) for p in Source((name,)).files()]
                    kind = Path(name.removesuffix(".gz")).suffix[1:].replace("jsonl", "json")
                    data = datasets.load_dataset(
                        kind, data_files=files, split="train", streaming=True
                    )
                yield from data
            except DataError:
                raise
            except Exception as error:  # datasets raises whatever its readers raise
                line = str(error).strip().splitlines() or [type(error).__name__]
                raise DataError(f"--data {name}: not readable as a table ({line[0]})") from error

    def column_values(self) -> Iterator[Any]:
        """The chosen column of `rows`; where none is chosen, `text`, or the only one there is."""
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


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _hub_dataset(name: str, split: str) -> Any:
    import datasets

    path, _, config = name.partition(":")
    return datasets.load_dataset(path, config or None, split=split, streaming=True)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for what is piped or unpacked, gone with the process."""
    return tempfile.TemporaryDirectory(prefix="tfm-", ignore_cleanup_errors=True)


def clean() -> None:
    """Removes spooled files; for an exit that runs no finalizers (a signal's default action)."""
    if _scratch.cache_info().currsize:
        _scratch().cleanup()


def scratch_file(name: str) -> Path:
    """A file not there yet, gone with the process."""
    folder = Path(_scratch().name)
    return folder / f"{name}-{len(list(folder.iterdir()))}"


def _spool(stream: BinaryIO, name: str) -> Path:
    """All of a stream, on disk."""
    path = scratch_file(name)
    with path.open("wb") as spool:
        while block := stream.read(1 << 20):
            with writing(path):
                spool.write(block)
                spool.flush()
    return path


@functools.cache
def standard_input() -> Path:
    """All of standard input, on disk; read once however often it is asked for."""
    return _spool(sys.stdin.buffer, "stdin")


@functools.cache
def _piped(path: Path) -> Path:
    """All of a named pipe, as of `--data <(command)`, on disk."""
    with path.open("rb") as pipe:
        return _spool(pipe, "pipe")


@functools.cache
def unpacked(path: Path) -> Path:
    """The file itself, or a decompressed copy of a `.gz`. DataError where it is damaged."""
    if path.suffix != ".gz":
        return path
    try:
        with gzip.open(path, "rb") as file:
            return _spool(file, "unpacked")  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"--data {path}: not a whole gzip file ({error})") from error


class ByteStream:
    """Files end to end as one run of bytes, mapped, not read."""

    def __init__(self, files: list[Path], names: list[str] | None = None) -> None:
        """names: what the files are called in messages, if not so."""
        self.names = names or [str(path) for path in files]
        self.parts: list[mmap.mmap | bytes] = [_map(unpacked(path)) for path in files]
        self.starts = [0]
        for part in self.parts:
            self.starts.append(self.starts[-1] + len(part))

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from start to stop, across files."""
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
        """The file that an offset of the stream lies in, and the offset within it."""
        number = min(max(bisect_right(self.starts, offset) - 1, 0), len(self.parts) - 1)
        return self.names[number], offset - self.starts[number]


def _map(path: Path) -> mmap.mmap | bytes:
    if not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
