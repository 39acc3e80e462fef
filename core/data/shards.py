"""`Shards`: tokenized training data in files that many processes map and machines copy.

A folder of `tfm prepare` holds shards/000000.ids, 000001.ids ... (little-endian uint16 or uint32,
the ids of its sequences one after another) and, for each, 000000.items (int64 triples, one a
sequence: its number of ids, its size in units of the task, and 1 if an item begins there, else 0).
`prepared.json` has the size and sha256 of each file, and its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DamagedError
from ..files import file_sha256, read_manifest, to_json, write_durably
from ..progress import tracked
from ..protocols import Ids, Sequence, Tokenizer

PREPARED, SHARDS = "prepared.json", "shards/"
FIRST = "shards/000000.ids"
NOTED_BYTES = 10**9  # to check, which takes a moment
ITEM_BYTES = 24  # of an entry of a file of items
MAX_MAPPED = 64  # files at a time: each map holds a descriptor, of which a process has 1,024 or 256


class Piece(NamedTuple):
    """A sequence of training data. size: in units of the task; begins: whether an item does."""

    ids: Ids
    size: int
    begins: bool


def is_prepared(path: str | Path) -> bool:
    """Whether a path is a folder of `tfm prepare`, even if it is not complete."""
    return any(os.path.isfile(os.path.join(path, name)) for name in (PREPARED, FIRST))


def read_prepared(folder: Path) -> dict[str, Any]:
    """The content of prepared.json. DamagedError if a file in the folder has changed, or a shard
    has another size (`Shards.check` has the rest); ConfigError if a newer tfm wrote it."""
    about = read_manifest(folder, PREPARED)
    for name, (size, sha256) in about["files"].items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DamagedError(f"{folder / PREPARED}: names a file outside the folder: {name}")
        try:
            found = path.stat().st_size
            if found != size:
                raise DamagedError(f"{path}: damaged, it has {found:,} of {size:,} bytes")
            if not name.startswith(SHARDS) and file_sha256(path) != sha256:
                raise DamagedError(f"{path}: damaged, its checksum does not match")
        except OSError as error:
            raise DamagedError(f"{path}: missing or unreadable ({error.strerror})") from error
    return about


def ids_dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_shard(folder: Path, number: int, pieces: Iterable[Piece], vocab_size: int) -> list[Path]:
    """Writes the two files of a shard durably, piece by piece, and returns their paths."""
    kind = ids_dtype(vocab_size)
    paths = [folder / f"{number:06d}.{suffix}" for suffix in ("ids", "items")]
    with paths[0].open("wb") as ids, paths[1].open("wb") as items:
        for piece in pieces:
            ids.write(piece.ids.astype(kind).tobytes())
            items.write(np.array([len(piece.ids), piece.size, piece.begins], "<i8").tobytes())
        for file in (ids, items):
            file.flush()
            os.fsync(file.fileno())
    return paths


class Shards:
    """The sequences of all shards of a folder, in order. about: of `read_prepared`.

    offsets, starts (N + 1,): where each sequence begins, in ids and in units of the task; begins
    (N,): whether an item begins there.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.vocab_size = int(about["tokenizer"]["vocab_size"])
        self.dtype = ids_dtype(self.vocab_size)
        files = about["files"]
        self.names = sorted(n for n in files if n.startswith(SHARDS) and n.endswith(".ids"))
        tables = [self._table(name) for name in self.names]
        items = np.concatenate(tables) if tables else np.empty((0, 3), "<i8")
        self.offsets = np.concatenate(([0], np.cumsum(items[:, 0])))
        self.starts = np.concatenate(([0], np.cumsum(items[:, 1])))
        self.begins = items[:, 2] != 0
        sizes = [files[name][0] // self.dtype.itemsize for name in self.names]
        self.first_ids = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))  # of each shard
        self._mapped: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()
        self._checked = False

    def _table(self, name: str) -> npt.NDArray[np.int64]:
        """(N, 3) the items of a shard. DamagedError if they are not those of its ids."""
        path = self.folder / Path(name).with_suffix(".items")
        if path.stat().st_size % ITEM_BYTES:
            raise DamagedError(f"{path}: damaged, not whole entries")
        table = np.fromfile(path, "<i8").reshape(-1, 3)
        size = self.about["files"][name][0] // self.dtype.itemsize
        sound = len(table) and table.min() >= 0 and table[:, :2].max() <= 1 << 48
        if not sound or int(table[:, 0].sum()) != size:
            raise DamagedError(f"{path}: damaged, its sequences are not those of {Path(name).name}")
        return table.astype(np.int64)

    def __len__(self) -> int:
        return len(self.begins)

    def check(self, cache: Path, note: Callable[[str], None] = lambda text: None) -> None:
        """DamagedError if a shard has changed. A shard is read once a machine: the folder `cache`
        remembers the sizes and times of files that were found sound. note: receives that much is
        read."""
        if self._checked:
            return
        key = to_json([self.about["files"], str(self.folder.resolve())])
        record = cache / "checked" / f"{hashlib.sha256(key).hexdigest()[:32]}.json"
        try:
            known = dict(json.loads(record.read_bytes()))
        except (OSError, ValueError, TypeError):
            known = {}
        files = [
            (n, check) for n, (_, check) in self.about["files"].items() if n.startswith(SHARDS)
        ]
        found = {name: self._stamp(name) for name, _ in files}
        unknown = [(name, check) for name, check in files if known.get(name) != found[name]]
        for name, check in tracked(unknown, len(unknown), "files of shards checked"):
            path = self.folder / name
            if file_sha256(path) != check:
                raise DamagedError(f"{path}: damaged, its checksum does not match")
            if name in self.names and self._map(self.names.index(name)).max() >= self.vocab_size:
                raise DamagedError(f"{path}: damaged, it has ids beyond the vocabulary")
        if unknown:
            with suppress(OSError):
                record.parent.mkdir(parents=True, exist_ok=True)
                write_durably(record, json.dumps(found).encode())
        self._checked = True

    def _stamp(self, name: str) -> list[int]:
        """What changes when a file is written to."""
        stat = (self.folder / name).stat()
        return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]

    def _map(self, number: int) -> npt.NDArray[Any]:
        """The ids of a shard, in the page cache that all processes of a machine share."""
        if number in self._mapped:
            self._mapped.move_to_end(number)
        else:
            while len(self._mapped) >= MAX_MAPPED:
                self._mapped.popitem(last=False)
            self._mapped[number] = np.memmap(self.folder / self.names[number], self.dtype, "r")
        return self._mapped[number]

    def take(self, positions: Ids) -> Ids:
        """The ids at positions of any shape, counted over all shards."""
        numbers = np.searchsorted(self.first_ids, positions, side="right") - 1
        out = np.empty(positions.shape, np.int64)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            out[here] = self._map(number)[positions[here] - self.first_ids[number]]
        return out

    def ids(self, index: int) -> Ids:
        """(T,) the ids of a sequence."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        number = int(np.searchsorted(self.first_ids, start, side="right")) - 1
        first = int(self.first_ids[number])
        return self._map(number)[start - first : stop - first].astype(np.int64)

    def at(self, starts: Ids) -> Ids:
        """The index of the sequence that holds each of these units of the task."""
        found: Ids = np.searchsorted(self.starts, starts, side="right") - 1
        return found


class Joined:
    """Parts of the ids of shards as one stream; an array of positions gives their ids.

    firsts, stops (N,): the range of each part. Parts that continue each other become one.
    """

    def __init__(self, shards: Shards, firsts: Ids, stops: Ids) -> None:
        apart = np.append(True, firsts[1:] != stops[:-1])
        self.shards, self.firsts = shards, firsts[apart]
        lengths = stops[np.append(apart[1:], True)] - self.firsts
        self.begins = np.concatenate(([0], np.cumsum(lengths)))  # of each part in the stream

    def __len__(self) -> int:
        return int(self.begins[-1])

    def __getitem__(self, positions: Ids) -> Ids:
        part = np.searchsorted(self.begins, positions, side="right") - 1
        return self.shards.take(positions - self.begins[part] + self.firsts[part])


class SomeItems:
    """Items of shards, (N,) `indices`, with the methods of a `Store`."""

    def __init__(self, shards: Shards, indices: Ids) -> None:
        self.shards, self.indices = shards, indices

    def __len__(self) -> int:
        return len(self.indices)

    def length(self, index: int) -> int:
        at = self.indices[index]
        return int(self.shards.offsets[at + 1] - self.shards.offsets[at])

    def given(self, index: int) -> int:
        return 1

    def positions(self, index: int, tokenizer: Tokenizer) -> Ids | None:
        return tokenizer.positions(self.length(index), {})

    def __getitem__(self, index: int) -> Sequence:
        return Sequence(self.shards.ids(int(self.indices[index])))

    def __iter__(self) -> Iterator[Sequence]:
        return (self[index] for index in range(len(self)))
