"""Durable files: atomic writes, manifests with checksums, and a log with a checksum per line."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ConfigError, DamagedError, TfmError, UsageError, writing
from .progress import tracked

FORMAT = 1
MANIFEST = "manifest.json"
MAX_NAME_BYTES = 255  # of a file, on most systems


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file atomically: temporary name, fsync, rename. Its permissions stay."""
    fresh = path.with_name(f".{path.name}.new")
    if len(os.fsencode(fresh.name)) > MAX_NAME_BYTES:
        fresh = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            fresh.chmod(path.stat().st_mode & 0o7777)
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_out(path: Path, data: bytes) -> None:
    """Writes a file that the user named: atomically, except to a device or a pipe, and where only
    the file itself can be written, as one that is mounted into a container. A symbolic link stays a
    link. TfmError names the file; UsageError if its folder does not exist."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    with writing(path):
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        try:
            write_durably(target, data)
        except OSError as error:
            there = error.errno in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS)
            if not (there and os.access(target, os.W_OK)):
                raise
            target.write_bytes(data)


def check_output(path: Path, force: bool) -> None:
    """Checks before the work that `write_out` will be able to write a file. UsageError if its
    folder does not exist, or if the file exists and `force` is not given."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    if target.is_dir():
        raise UsageError(f"{path}: a folder; name a file in it")
    if target.is_file() and not force:
        raise UsageError(f"{path}: already exists; --force overwrites it")
    place = target if target.exists() else target.parent
    if not os.access(place, os.W_OK):
        raise TfmError(f"{path}: cannot be written (Permission denied)")


def mapped(path: Path, shape: tuple[int, ...]) -> Any:
    """A new file as an array of bytes (uint8) of this shape, its space on the disk reserved first:
    writing to a map on a full disk would kill the process (SIGBUS). TfmError names the file and the
    bytes it needs."""
    import numpy as np

    size = max(1, math.prod(shape))
    try:
        with path.open("wb") as file:
            _reserve(file, size)
    except OSError as error:
        raise TfmError(
            f"{path}: needs {size:,} bytes ({error.strerror}); set TMPDIR to a folder with room"
        ) from error
    if not math.prod(shape):
        return np.empty(shape, np.uint8)
    return np.memmap(path, np.uint8, "r+", shape=shape)


def _reserve(file: BinaryIO, size: int) -> None:
    """Gives an empty file `size` bytes of the disk. OSError if there is no room."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
    for start in range(0, size, 1 << 20):  # a file system that cannot reserve
        file.write(bytes(min(1 << 20, size - start)))


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable, on systems that can fsync folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def size_and_sha256(path: Path) -> tuple[int, str]:
    """What a manifest says of a file."""
    return path.stat().st_size, file_sha256(path)


def write_manifest(
    folder: Path, extra: Mapping[str, Any], known: Mapping[str, tuple[int, str]] | None = None
) -> None:
    """Writes manifest.json: size and sha256 of every file below `folder`, and its own sha256. Must
    be the last file written. known: of files, their size and sha256, so that they are not read."""
    files = dict(known or {})
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name != MANIFEST and name not in files:
            files[name] = size_and_sha256(path)
    write_checked(folder / MANIFEST, {"format": FORMAT, "files": files, **extra})


def write_checked(path: Path, body: dict[str, Any]) -> None:
    """Writes what `read_manifest` reads: JSON with its own sha256."""
    check = hashlib.sha256(to_json(body)).hexdigest()
    write_durably(path, to_json({**body, "sha256": check}))


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest, verified by its own checksum. DamagedError, ConfigError for a newer format."""
    path = folder / name
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
        expected = body.pop("sha256")
        if hashlib.sha256(to_json(body)).hexdigest() != expected:
            raise ValueError("its checksum does not match")
        if body["format"] > FORMAT:
            raise ConfigError(f"{folder}: made by a newer tfm (format {body['format']}); upgrade")
        body["files"] = {
            name: (int(size), str(check)) for name, (size, check) in body["files"].items()
        }
        return body
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged or missing ({error})") from error


def check_files(folder: Path) -> dict[str, Any]:
    """Verifies every file of the manifest and returns it. DamagedError names the damaged file."""
    manifest = read_manifest(folder)
    for path, problem in file_problems(folder, manifest):
        raise DamagedError(f"{path}: {problem}")
    return manifest


def file_problems(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """(path, problem) of every file of the manifest that is damaged or missing."""
    files = manifest["files"]
    for name, (size, sha256) in tracked(files.items(), len(files), "files checked"):
        path = folder / name
        try:
            if path.stat().st_size != size or file_sha256(path) != sha256:
                yield path, "damaged, its checksum does not match"
        except OSError as error:
            yield path, f"missing or unreadable ({error.strerror})"


def log_line(entry: Mapping[str, Any]) -> str:
    """A line of log.jsonl: the entry, with the checksum of the line as its last key."""
    text = json.dumps(entry)
    check = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f'{text[:-1]}, "check": "{check}"}}\n'


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log. DamagedError for a damaged line. An incomplete last line is skipped: a
    killed process can leave one."""
    for number, entry in log_entries(path):
        if entry is None:
            raise DamagedError(f"{path}: line {number} is damaged")
        yield entry


def log_entries(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The number and the entry of each line; the entry is None if the line is damaged."""
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        text, mark, check = line.rpartition(', "check": "')
        text += "}"
        good = mark and check == hashlib.sha256(text.encode()).hexdigest()[:8] + '"}\n'
        if not good and number == len(lines) and not line.endswith("\n"):
            return
        yield number, json.loads(text) if good else None
