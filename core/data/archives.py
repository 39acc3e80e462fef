"""Archives (.zip, .tar and its compressed forms), unpacked to a temporary folder."""

from __future__ import annotations

import functools
import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from ..errors import DataError, TfmError
from .compressed import unpacked
from .scratch import scratch_file, shown

SUFFIXES = (
    ".zip",
    ".tar",
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
)
JUNK = "__MACOSX"  # a folder that macOS adds to archives


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


@functools.cache
def extracted(path: Path) -> Path:
    """The temporary folder with the content of an archive; deleted when the process ends. Nothing
    is written outside it. DataError for a damaged archive."""
    folder, name = scratch_file("archive", shown(path)), shown(path)
    try:
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                _check_room(name, folder, sum(each.file_size for each in archive.infolist()))
                archive.extractall(folder)
        else:
            with tarfile.open(unpacked(path) if name.lower().endswith("zst") else path) as tar:
                _check_room(name, folder, sum(each.size for each in tar))
                _extract(tar, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DataError(f"--data {name}: a damaged archive ({error})") from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, unknown compression
        raise DataError(f"--data {name}: cannot be unpacked ({error})") from error
    except OSError as error:
        if error.errno is None:  # a checksum of gzip
            raise DataError(f"--data {name}: a damaged archive ({error})") from error
        raise TfmError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder


def _check_room(name: str, folder: Path, size: int) -> None:
    """TfmError if the disk of `folder` has no room for `size` bytes: before any is written."""
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise TfmError(
            f"--data {name}: unpacks to {size:,} bytes, but {folder.parent} has {free:,} left; set "
            "TMPDIR to a larger disk"
        )


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Writes what is in the archive. TarError for devices and what would be outside the folder.
    Python before 3.10.12 and 3.11.4 has no filter for that; there, links are refused as well."""
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
        return
    for member in tar:
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.ExtractError(f"{member.name!r} is outside, or no file")
    tar.extractall(folder)
