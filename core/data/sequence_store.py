"""`Store`: sequences in memory-mapped files, read one at a time.

A folder with `ids.bin` (little-endian uint16 or uint32), `offsets.bin` (int64, one more than there
are items), `items.jsonl` (given and side of each), `weight.bin` (float32, only if an item has
weights), and `meta.json`, written last, with the size and sha256 of each file and its own sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DamagedError, writing
from ..files import file_sha256
from ..protocols import Ids, Sequence, Tokenizer


def _sha256(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta).encode()).hexdigest()


def write_store(folder: Path, sequences: Iterable[Sequence], vocab_size: int) -> None:
    """Writes `sequences` one by one to a folder without a store."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    offsets, weighted = [0], False
    with (
        (folder / "ids.bin").open("wb") as ids,
        (folder / "weight.bin").open("wb") as weight,
        (folder / "items.jsonl").open("w") as items,
    ):
        for sequence in sequences:
            ids.write(sequence.ids.astype(kind).tobytes())
            weight.write(sequence.target_weight().astype("<f4").tobytes())
            weighted |= sequence.weight is not None
            items.write(json.dumps([sequence.given, sequence.side]) + "\n")
            offsets.append(offsets[-1] + len(sequence))
    if not weighted:
        (folder / "weight.bin").unlink()
    (folder / "offsets.bin").write_bytes(np.array(offsets, "<i8").tobytes())
    files = {p.name: [p.stat().st_size, file_sha256(p)] for p in sorted(folder.iterdir())}
    meta = {"format": 1, "dtype": kind.str, "files": files}
    meta["sha256"] = _sha256(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


class Store:
    """Opens a folder of `write_store`. DamagedError if a file has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            meta = json.loads((folder / "meta.json").read_text())
            if meta.pop("sha256") != _sha256(meta):
                raise DamagedError(f"{folder / 'meta.json'}: damaged, its checksum does not match")
            for name, (size, sha256) in meta["files"].items():
                path = folder / Path(name).name
                if path.stat().st_size != size or file_sha256(path) != sha256:
                    raise DamagedError(f"{path}: damaged, its checksum does not match")
            if meta["dtype"] not in ("<u2", "<u4"):
                raise ValueError(f"unknown dtype {meta['dtype']!r}")
            self.ids = _mapped(folder / "ids.bin", meta["dtype"])
            self.offsets = np.fromfile(folder / "offsets.bin", "<i8")
            lines = (folder / "items.jsonl").read_text().splitlines()
            self.items: list[tuple[int, dict[str, Any]]] = [
                (int(given), dict(side)) for given, side in map(json.loads, lines)
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedError(f"{folder}: not readable as stored ids ({error})") from error
        weighted = "weight.bin" in meta["files"]
        self.weight = _mapped(folder / "weight.bin", "<f4") if weighted else None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def length(self, index: int) -> int:
        return int(self.offsets[index + 1] - self.offsets[index])

    def given(self, index: int) -> int:
        return self.items[index][0]

    def positions(self, index: int, tokenizer: Tokenizer) -> Ids | None:
        return tokenizer.positions(self.length(index), self.items[index][1])

    def __getitem__(self, index: int) -> Sequence:
        here = slice(self.offsets[index], self.offsets[index + 1])
        given, side = self.items[index]
        weight = None if self.weight is None else np.array(self.weight[here])
        return Sequence(self.ids[here].astype(np.int64), given, weight, side)

    def __iter__(self) -> Iterator[Sequence]:
        return (self[index] for index in range(len(self)))


class SequenceList(list[Sequence]):
    """Sequences in memory, with the methods of a `Store`."""

    def length(self, index: int) -> int:
        return len(self[index])

    def given(self, index: int) -> int:
        return self[index].given

    def positions(self, index: int, tokenizer: Tokenizer) -> Ids | None:
        return tokenizer.positions(len(self[index]), self[index].side)


def _mapped(path: Path, dtype: str) -> npt.NDArray[Any]:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r")


def cached_store(root: Path, name: str, sequences: Iterable[Sequence], vocab_size: int) -> Store:
    """The store `name` under the cache folder `root`, written now if it is missing or damaged.

    `name` must be a hash of everything that determines the ids. The least recently used stores are
    deleted when the cache exceeds 4 GB.
    """
    import os
    import shutil
    import tempfile

    folder = root / name
    if folder.exists():
        try:
            store = Store(folder)
            os.utime(folder)
            return store
        except DamagedError:
            shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        root.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
        try:
            write_store(fresh, sequences, vocab_size)
            _prune(root, keep=4 << 30)
            try:
                fresh.rename(folder)
            except OSError:  # another process has written the same store
                if not folder.exists():
                    raise
                shutil.rmtree(fresh, ignore_errors=True)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    return Store(folder)


def _prune(root: Path, keep: int) -> None:
    import shutil
    import time

    def size(folder: Path) -> int:
        return sum(p.stat().st_size for p in folder.glob("*"))

    for folder in root.glob(".new-*"):  # left by a killed process, if untouched for a day
        if time.time() - folder.stat().st_mtime > 86400:
            shutil.rmtree(folder, ignore_errors=True)
    left = keep
    folders = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    for folder in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True):
        left -= size(folder)
        if left < 0:
            shutil.rmtree(folder, ignore_errors=True)
