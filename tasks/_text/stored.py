"""Training items of a folder of `tfm prepare`: their ids are in shards, their text is decoded."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...core.data.byte_stream import ByteStream
from ...core.data.datasets import Packed, Windows
from ...core.data.shards import Joined, Piece, Shards, SomeItems
from ...core.errors import UsageError
from ...core.protocols import ByteTokenizer, Dataset, Ids
from .spans import Figures, Spans


class StoredText(ByteStream):
    """The text of shards, one sequence after another."""

    def __init__(self, shards: Shards, tokenizer: ByteTokenizer) -> None:
        super().__init__([])
        self.shards, self.tokenizer = shards, tokenizer

    def __len__(self) -> int:
        return int(self.shards.starts[-1])

    def read(self, start: int, stop: int) -> bytes:
        """UsageError if the tokenizer does not keep the text."""
        if not self.tokenizer.lossless:
            raise UsageError(
                f"{self.shards.folder}: its tokenizer does not keep the text, which this needs; "
                "name the data itself (to train, --bpe-dropout 0 does without)"
            )
        first = index = int(self.shards.at(np.array(start)))
        parts = []
        while index < len(self.shards) and self.shards.starts[index] < stop:
            parts.append(self.tokenizer.decode_bytes(self.shards.ids(index)))
            index += 1
        skipped = start - int(self.shards.starts[first])
        return b"".join(parts)[skipped : skipped + stop - start]

    def where(self, offset: int) -> tuple[str, int]:
        return str(self.shards.folder), offset


def pieces(
    train: Spans, encode: Callable[[bytes, tuple[ByteStream, int]], Ids], size: int
) -> Iterator[tuple[int, Iterator[Piece]]]:
    """See `Task.pieces`. encode: the ids of a sequence, from its bytes and where they are."""

    def encoded(part: array[int]) -> Iterator[Piece]:
        for at in range(0, len(part), 3):
            start, stop, begins = part[at : at + 3]
            ids = encode(train.stream.read(start, stop), (train.stream, start))
            yield Piece(ids, stop - start, bool(begins))

    part, units = array("q"), 0  # compact: a shard can have millions of items
    for start, stop, begins in train.sequences():
        part.extend((start, stop, begins))
        units += stop - start
        if units >= size:
            yield units, encoded(part)
            part, units = array("q"), 0
    if part:
        yield units, encoded(part)


@dataclass(frozen=True)
class StoredSpans(Spans):
    """Spans of a `StoredText`, each of which consists of whole sequences of its shards."""

    stream: StoredText

    @classmethod
    def of(cls, text: StoredText, running: bool, fingerprint: str, figures: Figures) -> StoredSpans:
        shards = text.shards
        starts = shards.starts[:-1][shards.begins]
        spans = np.stack((starts, np.append(starts[1:], shards.starts[-1])), axis=1)
        size, unit = (len(text), "bytes") if running else (len(spans), "items")
        return cls(text, spans, running, fingerprint, f"{size:,} {unit}", figures=figures)

    def pieces(self, size: int) -> Iterator[tuple[int, int, bool]]:
        """The sequences of the shards, whatever `size`."""
        starts = self.stream.shards.starts
        for start, stop in self.each():
            first, last = np.searchsorted(starts, (start, stop)).tolist()
            bounds = starts[first : last + 1].tolist()
            for at, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
                yield begin, end, at == 0

    def dataset(self, wanted: int, tokenizer: ByteTokenizer, context: int, seed: int) -> Dataset:
        """Training rows of a part of the items of at least `wanted` bytes: ids from the shards, the
        same as those of the text."""
        shards = self.stream.shards
        if not self.running:
            indices = shards.at(self.some(wanted).spans[:, 0])
            return Packed(SomeItems(shards, indices), tokenizer, context)
        chosen = np.array(self.sample(wanted), np.int64)
        indices = shards.at(chosen[:, 0])
        continues = np.append(False, chosen[1:, 0] == chosen[:-1, 1]) & (chosen[:, 2] == 0)
        firsts = shards.offsets[indices] + continues  # a sequence starts with the begin token
        stream = Joined(shards, firsts, shards.offsets[indices + 1])
        support = tokenizer.support(context, {})
        return Windows(stream, context, seed, tokenizer.begin, support)
