"""Items of running text as stretches of a mapped stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...core.data.source import ByteStream
from ...core.errors import DataError

PIECE = 1 << 18  # bytes of a running text that are encoded, and scored, as one
BLOCK = 1 << 24  # bytes that are searched for line ends at a time
CONTINUATION = bytes(range(0x80, 0xC0))  # bytes inside a UTF-8 character


@dataclass(frozen=True)
class Spans:
    """Items: stretches (N, 2) of a stream of bytes; one after another where `running`."""

    stream: ByteStream
    spans: npt.NDArray[np.int64]
    running: bool
    fingerprint: str
    about: str

    @property
    def size(self) -> int:
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def read(self, index: int) -> bytes:
        return self.stream.read(*self.spans[index].tolist())

    def pieces(self, size: int) -> Iterator[tuple[int, int, bool]]:
        """(start, stop, whether an item starts here): stretches of about `size` bytes at most,
        cut where a line ends if one ends near, and never inside a UTF-8 character."""
        for start, stop in self.spans.tolist():
            first = True
            while start < stop:
                cut = stop if stop - start <= size else self._cut(start, start + size, stop)
                yield start, cut, first
                start, first = cut, False

    def _cut(self, start: int, near: int, stop: int) -> int:
        first = max(start, near - 4096)
        line = self.stream.read(first, near).rfind(b"\n")
        return first + line + 1 if line >= 0 else self.whole_character(near, stop)

    def whole_character(self, near: int, stop: int) -> int:
        """The first place from `near` to `stop` that is not inside a UTF-8 character (3 bytes
        further at most: in bytes that are no text, anywhere will do)."""
        ahead = self.stream.read(near, min(near + 3, stop))
        return near + len(ahead) - len(ahead.lstrip(CONTINUATION))

    def last_character(self, start: int, stop: int) -> int:
        """Where the last UTF-8 character before `stop` begins."""
        first = max(start, stop - 4)
        return first + max(0, len(self.stream.read(first, stop).rstrip(CONTINUATION)) - 1)

    def some(self, size: int) -> Spans:
        """Items evenly spread over all, of about `size` bytes in all."""
        every = max(1, self.size // max(size, 1))
        return replace(self, spans=self.spans[::every])

    def sample(self, size: int) -> list[tuple[int, int, bool]]:
        """Pieces evenly spread over all, of `size` bytes or more in all, as far as there are."""
        pieces = list(self.pieces(PIECE))
        wanted = max(1, len(pieces) * size // self.size)
        while wanted < len(pieces):
            at = np.linspace(0, len(pieces) - 1, wanted).astype(int)
            chosen = [pieces[i] for i in at.tolist()]
            if sum(stop - start for start, stop, _ in chosen) >= size:
                return chosen
            wanted += -(-wanted // 8)  # items differ in length
        return pieces


def beginning(items: Spans, size: int, glue: bytes) -> bytes:
    """The first `size` bytes or so of the items, `glue` behind each."""
    parts, total = [], 0
    for start, stop in items.spans.tolist():
        part = items.stream.read(start, min(stop, start + size - total)) + glue
        parts.append(part)
        total += len(part)
        if total >= size:
            break
    return b"".join(parts)


def lines(stream: ByteStream, spans: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The non-empty lines of each span, without their line ends (LF or CR LF)."""
    found = []
    for start, stop in spans.tolist():
        feeds = [
            np.flatnonzero(np.frombuffer(stream.read(at, min(stop, at + BLOCK)), np.uint8) == 10)
            + at
            for at in range(start, stop, BLOCK)
        ]
        ends = np.append(np.concatenate(feeds), stop)
        starts = np.append(start, ends[:-1] + 1)
        found.append(np.stack((starts, ends), axis=1))
    stretches = np.concatenate(found)
    if b"\r\n" in stream.read(0, BLOCK):
        cr = [b > a and stream.read(b - 1, b) == b"\r" for a, b in stretches.tolist()]
        stretches[:, 1] -= np.array(cr)
    kept: npt.NDArray[np.int64] = stretches[stretches[:, 1] > stretches[:, 0]]
    if not len(kept):
        raise DataError("--each line: no line with anything in it")
    return kept
