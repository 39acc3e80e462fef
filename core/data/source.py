"""`Source`: the data that `--data` names, as files or rows of tables, before a task reads it."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .archives import JUNK, extracted, is_archive
from .scratch import STANDARD_INPUT, is_stream, shown, streamed
from .shards import is_prepared
from .tables import TableSource, table_kind

HUB = "hf:"


@dataclass(frozen=True)
class Source:
    """The values of `--data` and `--column`: files, folders, globs, `-` and other streams,
    compressed files, archives, tables, `hf:` names. about: a description for built-in data."""

    paths: tuple[str, ...]
    column: str | None = None
    about: str | None = None
    split: str = "train"  # of a hub dataset

    def describe(self) -> str:
        names = ("standard input" if p in STANDARD_INPUT else shown(Path(p)) for p in self.paths)
        return self.about or ", ".join(names)

    def each(self) -> Iterator[Source]:
        """One source a path."""
        return (replace(self, paths=(path,)) for path in self.paths)

    def is_table(self) -> bool:
        """Whether all the data is rows with columns rather than files of bytes. DataError as for
        `files`."""
        return all(isinstance(part, TableSource) for part in self._parts())

    def parts(self) -> list[Path | TableSource]:
        """Every file, or the table that it is; and hub datasets. DataError as for `files`."""
        return list(dict.fromkeys(self._parts()))

    def _parts(self) -> Iterator[Path | TableSource]:
        for one in self.each():
            name = one.paths[0]
            if name.startswith(HUB):
                yield TableSource(name.removeprefix(HUB), "hub", self.split)
                continue
            for path in one.files():
                kind = table_kind(path, self.column)
                yield path if kind is None else TableSource(path, kind)

    def files(self, archives: bool = True) -> list[Path]:
        """All files of the arguments, without duplicates: folders and globs expanded and sorted,
        streams copied to temporary files. archives: whether archives are unpacked to the files in
        them. DataError if one is missing, or a folder in it unreadable."""
        found: dict[Path, None] = {}
        for name in self.paths:
            for path in _files_of(name):
                if archives and is_archive(path):
                    found.update(dict.fromkeys(_in_archive(path)))
                else:
                    found[path] = None
        for path in found:
            if not os.access(path, os.R_OK):
                raise DataError(f"--data {path}: not readable (permission denied)")
        return list(found)

    def fingerprint(self, files: list[Path]) -> str:
        """A hash of the bytes of `files`."""
        digest = hashlib.sha256()
        for path in files:
            digest.update(str(path.stat().st_size).encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def _files_of(name: str) -> list[Path]:
    """The files that one argument names."""
    if is_stream(name):
        return [streamed(name)]
    path = Path(name)
    if is_prepared(name):
        raise DataError(
            f"--data {name}: a folder of `tfm prepare`, which is all of the data of `tfm train`; "
            "name it alone there"
        )
    if os.path.isdir(name):
        inside = sorted(_files_below(path))
    elif os.path.isfile(name):
        inside = [path]
    elif os.path.exists(name) and name != os.devnull:
        raise DataError(f"--data {name}: a device, not a file")
    elif name == os.devnull:
        inside = [path]
    else:
        inside = [Path(p) for p in sorted(glob.glob(name, recursive=True))]
        inside = [p for p in inside if p.is_file()]
    if not inside:
        what = "an empty folder" if os.path.isdir(name) else "no such file or folder"
        raise DataError(f"--data {name}: {what}")
    return inside


def _in_archive(path: Path) -> Iterator[Path]:
    """The files in an archive, and in archives in it."""
    folder = extracted(path)
    inside = [p for p in sorted(_files_below(folder)) if JUNK not in p.relative_to(folder).parts]
    if not inside:
        raise DataError(f"--data {shown(path)}: an empty archive")
    for file in inside:
        if is_archive(file):
            yield from _in_archive(file)
        else:
            yield file


def _files_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """The files in a folder and its subfolders, links to folders followed, hidden ones left out.
    DataError for a folder that cannot be read. above: the folders around it, which a link may not
    lead back to."""
    try:
        stat = folder.stat()
        inside = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"--data {shown(folder)}: not readable ({error.strerror})") from error
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    for entry in inside:
        if entry.name.startswith("."):
            continue
        path = os.path.join(folder, entry.name)
        if os.path.isdir(path):  # not methods of the entry, which fail at a link to itself
            yield from _files_below(folder / entry.name, above | {here})
        elif os.path.isfile(path):
            yield folder / entry.name
