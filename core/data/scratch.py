"""Temporary files of this process, and the names under which people know what is in them."""

from __future__ import annotations

import functools
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError, TfmError, writing

# names of standard input
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
# the first bytes of data, by which a stream gets the suffix that a file has
MAGIC = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PK\x03\x04": ".zip",
    b"PAR1": ".parquet",
}
TAR_AT, TAR_MAGIC = 257, b"ustar"
DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")  # folders of the files that this process has open
_names: dict[Path, str] = {}  # of temporary files and folders, for messages


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for temporary files, deleted when the process ends."""
    try:
        return tempfile.TemporaryDirectory(prefix="tfm-", ignore_cleanup_errors=True)
    except OSError as error:
        raise TfmError(
            f"no folder for temporary files can be written ({error.strerror}); set TMPDIR"
        ) from error


def clean() -> None:
    """Deletes temporary files; for an exit without finalizers (the default action of a signal)."""
    if _scratch.cache_info().currsize:
        _scratch().cleanup()


def scratch_file(name: str, shown_as: str | None = None) -> Path:
    """The path of a new temporary file, deleted when the process ends. shown_as: its name in
    messages."""
    folder = Path(_scratch().name)
    path = folder / f"{name}-{len(list(folder.iterdir()))}"
    _names[path] = shown_as or name
    return path


def shown(path: Path) -> str:
    """The name of a file for people: of a temporary one, the name of what was copied to it."""
    if _scratch.cache_info().currsize and Path(_scratch().name) in path.parents:
        for above in (path, *path.parents):
            if above in _names:
                inside = path.relative_to(above).parts
                return "/".join((_names[above].rstrip("/"), *inside))
    return str(path)


def spool(stream: BinaryIO, name: str, shown_as: str) -> Path:
    """Copies a stream to a temporary file. TfmError if it cannot be written."""
    path = scratch_file(name, shown_as)
    with path.open("wb") as out:
        while block := stream.read(1 << 20):
            with writing(path):
                out.write(block)
                out.flush()
    return path


def is_stream(name: str) -> bool:
    """Whether a name is that of standard input, of a pipe or of a socket: data that can be read
    once."""
    if name in STANDARD_INPUT or name.startswith(DESCRIPTORS):
        return True
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def streamed(name: str) -> Path:
    """A temporary file with all data of a stream (see `is_stream`), which is read at the first call
    only. The name of compressed data has the suffix of its kind."""
    return _streamed("-" if name in STANDARD_INPUT else os.path.abspath(name))


@functools.cache
def _streamed(name: str) -> Path:
    path = _spooled(name)
    with path.open("rb") as file:
        head = file.read(TAR_AT + len(TAR_MAGIC))
    suffix = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")
    if suffix == ".zip" and _is_npz(path):
        suffix = ".npz"
    if head[TAR_AT:] == TAR_MAGIC:
        suffix = ".tar"
    named = path.with_name(path.name + suffix)
    path.rename(named)
    _names[named] = _names.pop(path)
    return named


def _is_npz(path: Path) -> bool:
    """Whether a ZIP archive is NumPy's: arrays only."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return all(inside.endswith(".npy") for inside in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _spooled(name: str) -> Path:
    try:
        if name == "-":
            return spool(sys.stdin.buffer, "stdin", "standard input")
        if name.startswith(DESCRIPTORS):
            number = name.rpartition("/")[2]
            with os.fdopen(os.dup(int(number)), "rb") as file:
                return spool(file, "pipe", name)
        with open(name, "rb") as file:
            return spool(file, "pipe", name)
    except ValueError:
        raise DataError(f"--data {name}: no such file or folder") from None
    except OSError as error:
        where = "standard input" if name == "-" else name
        raise DataError(f"--data {where}: not readable ({error.strerror})") from error
