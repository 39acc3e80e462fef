"""Compressed files: .gz, .bz2, .xz, .zst, decompressed to temporary files."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import DataError
from .scratch import shown, spool

SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".tzst": "zstd"}
# compressed files and archives of other kinds
UNREADABLE = (".7z", ".rar", ".z", ".lz", ".lzma", ".lz4", ".lzo", ".br", ".cab", ".zpaq")


def plain_name(path: Path) -> str:
    """The name of a file in lower case, without the suffix of its compression."""
    name = path.name.lower()
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix in SUFFIXES else name


@functools.cache
def unpacked(path: Path) -> Path:
    """The file itself, or a decompressed copy of a compressed one, by the suffix of its name.
    DataError if it is damaged, or compressed in a way that tfm cannot read."""
    suffix = path.suffix.lower()
    if suffix in UNREADABLE:
        raise DataError(
            f"--data {shown(path)}: tfm does not read {suffix} files; unpack it first, or pipe its "
            "content to --data -"
        )
    if suffix not in SUFFIXES:
        return path
    try:
        with _opened(path, suffix) as file:
            name = shown(path)
            return spool(file, "unpacked", name)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"--data {shown(path)}: not readable ({error.strerror})") from error
        raise DataError(
            f"--data {shown(path)}: not a complete {SUFFIXES[suffix]} file ({error})"
        ) from error


def _opened(path: Path, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    import pyarrow

    return cast(BinaryIO, pyarrow.input_stream(str(path), compression="zstd"))
