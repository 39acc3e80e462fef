"""Files as one stream of bytes, read when they are needed."""

from __future__ import annotations

import os
import weakref
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path

from ..errors import DataError
from .compressed import unpacked
from .scratch import shown

MAX_OPEN = 64  # files that a stream keeps open: a process may open 1,024, or 256


class ByteStream:
    """Concatenated files as one stream of bytes."""

    def __init__(self, files: list[Path], inside: list[tuple[str, int]] | None = None) -> None:
        """inside: of the last file, if it holds the content of several data files: (name, start) of
        each, by start. `where` tells them apart."""
        self.paths = [unpacked(path) for path in files]
        self.starts = [0]
        for path in self.paths:
            self.starts.append(self.starts[-1] + path.stat().st_size)
        self._size = self.starts[-1]
        own = list(zip(map(shown, files), self.starts, strict=False))
        if inside is not None:
            _, first = own.pop()
            own += [(name, first + start) for name, start in inside]
        self.names = [name for name, _ in own]
        self.name_starts = [start for _, start in own]
        self._open: OrderedDict[int, int] = OrderedDict()  # descriptors, the last used at the end
        weakref.finalize(self, _close, self._open)

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes start ... stop - 1, across files. DataError if a file has become shorter."""
        number = max(bisect_right(self.starts, start) - 1, 0)
        if start < stop <= self.starts[min(number + 1, len(self.paths))]:
            return self._read(number, start, stop)
        out = []
        while start < min(stop, self._size):
            end = min(stop, self.starts[number + 1])
            if start < end:
                out.append(self._read(number, start, end))
                start = end
            number += 1
        return b"".join(out)

    def _read(self, number: int, start: int, stop: int) -> bytes:
        file = self._open.get(number)
        if file is None:
            while len(self._open) >= MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
            file = self._open[number] = os.open(self.paths[number], flags)
        else:
            self._open.move_to_end(number)
        at, end = start - self.starts[number], stop - self.starts[number]
        data = _read_at(file, end - at, at)
        while len(data) < end - at:
            more = _read_at(file, end - at - len(data), at + len(data))
            if not more:
                raise DataError(f"--data {self.where(start)[0]}: became shorter while it was read")
            data += more
        return data

    def where(self, offset: int) -> tuple[str, int]:
        """The name of the file at an offset of the stream, and the offset within that file."""
        number = min(max(bisect_right(self.name_starts, offset) - 1, 0), len(self.names) - 1)
        return self.names[number], offset - self.name_starts[number]


def _read_at(file: int, size: int, offset: int) -> bytes:
    """At most `size` bytes of an open file, from an offset on."""
    if hasattr(os, "pread"):
        return os.pread(file, size, offset)
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, size)


def _close(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
