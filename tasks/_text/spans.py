"""Text items as spans, (start, stop) offsets in a memory-mapped stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...core.data.byte_stream import ByteStream
from ...core.errors import DataError
from ...core.task import Description

PIECE_BYTES = 1 << 18  # a running text is encoded and scored in pieces of this size
SEARCH_BYTES = 1 << 22  # read at a time when searching for line ends
LISTED_SPANS = 1 << 12  # spans that are turned into Python's numbers at a time
MAX_LISTED_PIECES = 100_000  # pieces of a sample are chosen from a list up to this length
CONTINUATION = bytes(range(0x80, 0xC0))  # bytes inside a UTF-8 character


@dataclass(frozen=True)
class Figures:
    """What the ids of items are asked for before they are all tokenized. longest: see
    `Task.longest`; sample: bytes and ids of a sample, for the ratio of the two."""

    longest: int | None
    sample: tuple[int, int]


@dataclass(frozen=True)
class Spans:
    """Items: `spans` (N, 2) are byte offsets in `stream`, start and stop of each item. `running`:
    the spans are consecutive parts of one running text. whole_files: items that start before this
    offset are whole files."""

    stream: ByteStream
    spans: npt.NDArray[np.int64]
    running: bool
    fingerprint: str
    about: str
    whole_files: int = 0
    description: Description | None = None
    any_bytes: bool = False  # bytes that are no text are scored as well
    figures: Figures | None = None  # of items that are tokenized already

    @property
    def size(self) -> int:
        return int(self.spans[:, 1].sum() - self.spans[:, 0].sum())

    def read(self, index: int) -> bytes:
        return self.stream.read(*self.spans[index].tolist())

    def sequences(self) -> Iterator[tuple[int, int, bool]]:
        """(start, stop, whether an item starts there) of what is scored as one sequence each:
        pieces of running text, or whole items."""
        if self.running:
            yield from self.pieces(PIECE_BYTES)
        else:
            yield from ((start, stop, True) for start, stop in self.each())

    def each(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of each item; without a list of all, which would take much memory."""
        for first in range(0, len(self.spans), LISTED_SPANS):
            yield from map(tuple, self.spans[first : first + LISTED_SPANS].tolist())

    def pieces(self, size: int) -> Iterator[tuple[int, int, bool]]:
        """(start, stop, whether the item starts at `start`): pieces of items, about `size` bytes
        each at most, cut at a line end if one is near, and never inside a UTF-8 character."""
        for start, stop in self.each():
            first = True
            while start < stop:
                cut = stop if stop - start <= size else self._cut(start, start + size, stop)
                yield start, cut, first
                start, first = cut, False

    def _cut(self, start: int, near: int, stop: int) -> int:
        first = max(start, near - 4096)
        line = self.stream.read(first, near).rfind(b"\n")
        return first + line + 1 if line >= 0 else self.character_boundary(near, stop)

    def character_boundary(self, near: int, stop: int) -> int:
        """The first offset from `near` to `stop` that is not inside a UTF-8 character; at most
        `near` + 3, the longest such run in valid UTF-8, so that binary data is cut there."""
        ahead = self.stream.read(near, min(near + 3, stop))
        return near + len(ahead) - len(ahead.lstrip(CONTINUATION))

    def last_character_start(self, start: int, stop: int) -> int:
        """The start offset of the last UTF-8 character before `stop`."""
        first = max(start, stop - 4)
        return first + max(0, len(self.stream.read(first, stop).rstrip(CONTINUATION)) - 1)

    def some(self, size: int) -> Spans:
        """Every n-th item, so that the chosen ones are about `size` bytes in all."""
        every = max(1, self.size // max(size, 1))
        return replace(self, spans=self.spans[::every])

    def sample(self, size: int) -> list[tuple[int, int, bool]]:
        """Evenly spaced pieces of at least `size` bytes in all; all pieces if they are fewer."""
        if len(self.spans) > MAX_LISTED_PIECES and self.size > 4 * size:
            return self.some(2 * size).sample(size)
        pieces = list(self.pieces(PIECE_BYTES))
        count = max(1, len(pieces) * size // self.size)
        while count < len(pieces):
            at = np.linspace(0, len(pieces) - 1, count).astype(int)
            chosen = [pieces[i] for i in at.tolist()]
            if sum(stop - start for start, stop, _ in chosen) >= size:
                return chosen
            count += -(-count // 8)  # items differ in length
        return pieces


def beginning(items: Spans, size: int, glue: bytes) -> bytes:
    """About the first `size` bytes of the items, each followed by `glue`."""
    parts, total = [], 0
    for start, stop in items.each():
        part = items.stream.read(start, min(stop, start + size - total)) + glue
        parts.append(part)
        total += len(part)
        if total >= size:
            break
    return b"".join(parts)


def lines(stream: ByteStream, spans: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The non-empty lines of each span, without their line ends: LF, or CR LF in a span whose first
    line ends so. DataError if there are none."""
    # counted first: an array for each block and one of all would take twice the memory
    count = sum(
        1 + stream.read(at, min(at + SEARCH_BYTES, stop)).count(b"\n")
        for start, stop in spans.tolist()
        for at in range(start, stop, SEARCH_BYTES)
    )
    found, filled = np.empty((count, 2), np.int64), 0
    for start, stop in spans.tolist():
        crlf: bool | None = None  # unknown
        begun = start  # of the line that the next block goes on with
        for at in range(start, stop, SEARCH_BYTES):
            end, before = min(at + SEARCH_BYTES, stop), max(start, at - 1)
            data = np.frombuffer(stream.read(before, end), np.uint8)
            ends = np.flatnonzero(data[at - before :] == 10) + at
            if end == stop:
                ends = np.append(ends, stop)
            if not len(ends):
                continue
            starts = np.append(begun, ends[:-1] + 1)
            begun = int(ends[-1]) + 1
            after_cr = (ends > starts) & (data[ends - 1 - before] == 13)
            if crlf is None:
                crlf = bool(after_cr[0])
            if crlf:
                ends = ends - after_cr
            kept = ends > starts
            last = filled + int(kept.sum())
            found[filled:last, 0], found[filled:last, 1] = starts[kept], ends[kept]
            filled = last
    if not filled:
        raise DataError("--each line: every line is empty")
    return found[:filled]
