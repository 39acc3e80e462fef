"""Training batches as pure functions of the step, so that training resumes without stored state.

Two datasets serve most tasks: `Windows` over one continuous stream of ids, and `Packed` items.
A task may define its own (`protocols.Dataset`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError
from ..protocols import Array, Batch, Dataset, Ids, Sequence, Support, Tokenizer
from .keyed_random import key, mix, permute
from .sequence_store import SequenceList, Store
from .shards import Joined, SomeItems


class Part(NamedTuple):
    """The first `head` ids of a sequence, and its ids start ... end - 1."""

    sequence: Sequence
    start: int
    end: int
    head: int = 0


Piece = tuple[int, int, int]  # (item, start, end): ids start ... end - 1 of an item
WINDOWS_PER_BEGIN_TOKEN = 16  # one window in 16 starts with it, so that the model learns to begin


def step_batch(
    data: Dataset, step: int, rows: int, seed: int, some: slice = slice(None)
) -> Batch[Array]:
    """The rows of micro-batch `step`, or `some` of them. Each epoch has its own keyed permutation
    of the data."""
    indices = np.arange(step * rows, (step + 1) * rows, dtype=np.int64)[some]
    epochs = indices // len(data)
    permuted = np.empty_like(indices)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        permuted[here] = permute(indices[here] % len(data), len(data), key(seed, int(epoch)))
    return data.batch(epochs * len(data) + permuted)


class Windows:
    """Windows of context + 1 ids over one stream. Their targets do not overlap within an epoch;
    each epoch shifts the windows by a random offset.

    stream (N,): ids. begin: the begin token, never a target; some windows start with it.
    """

    def __init__(
        self,
        stream: npt.NDArray[np.integer] | Joined,
        context: int,
        seed: int,
        begin: int,
        support: Support,
    ) -> None:
        if len(stream) < 2:
            raise DataError(f"the training data has {len(stream)} tokens: need at least 2")
        self.stream, self.seed, self.begin, self.support = stream, seed, begin, support
        self.context = min(context, len(stream) - 1)
        self.start_count = len(stream) - self.context  # possible window starts
        self.count = max(1, (len(stream) - 1) // self.context - (self.context > 1))

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Ids) -> Batch[Array]:
        epochs = indices // self.count
        offsets = self.start_count - (self.count - 1) * self.context  # the largest reaches the end
        offset = mix(epochs, key(self.seed, "phase")) % np.uint64(offsets)
        starts = (indices % self.count) * self.context + offset.astype(np.int64)
        ids = self.stream[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)
        random = mix(indices, key(self.seed, "begin"))
        ids[random % np.uint64(WINDOWS_PER_BEGIN_TOKEN) == 0, 0] = self.begin
        weight = (ids != self.begin).astype(np.float32)
        weight[:, 0] = 0
        return Batch(ids, weight, support=self.support)


class ItemRows(ABC):
    """Rows of context + 1 ids that hold whole items or pieces of them. encoder: whether the given
    ids of each item are its encoder source, see `collate`."""

    def __init__(self, tokenizer: Tokenizer, context: int, encoder: bool) -> None:
        self.tokenizer, self.context, self.encoder = tokenizer, context, encoder

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row(self, index: int) -> list[tuple[Sequence, int, int]]:
        """The pieces of a row, (sequence, start, end) each."""

    @abstractmethod
    def with_sources(self) -> ItemRows:
        """Rows of the same items whose given ids are encoder sources."""

    def batch(self, indices: Ids) -> Batch[Array]:
        rows = [self.row(index) for index in (indices % len(self)).tolist()]
        return collate(rows, self.tokenizer, self.context + 1, self.encoder)


class Packed(ItemRows):
    """Several items per row of context + 1 ids. Items do not attend to each other.

    Consecutive items share a row as long as they fit. A longer item is cut into pieces that overlap
    by one id; DataError if items are `whole`, if the tokenizer gives it positions or it has an
    encoder source. encoder: whether the given ids of each item are its encoder source, see
    `collate`.
    """

    def __init__(
        self,
        store: Store | SequenceList | SomeItems,
        tokenizer: Tokenizer,
        context: int,
        encoder: bool = False,
        whole: bool = False,
    ) -> None:
        if not len(store):
            raise DataError("the training data has no items")
        super().__init__(tokenizer, context, encoder)
        self.store, self.row_length = store, context + 1
        pieces: list[Piece] = []
        for index in range(len(store)):
            length, first = store.length(index), 0
            if encoder:
                first = store.given(index) - 1
                if first + 1 > context:
                    raise too_long(first + 2, context)
            uncut = encoder or whole or store.positions(index, tokenizer) is not None
            if length - first > self.row_length and uncut:
                raise too_long(length - first, context)
            for start in range(first, max(length - 1, first + 1), context):
                pieces.append((index, start, min(start + self.row_length, length)))
        self.pieces = np.array(pieces, np.int64)
        sizes = self.pieces[:, 2] - self.pieces[:, 1]
        self.rows = [0]
        filled = 0
        for number, size in enumerate(sizes.tolist()):
            if filled + size > self.row_length:
                self.rows.append(number)
                filled = 0
            filled += size
        self.rows.append(len(pieces))

    def __len__(self) -> int:
        return len(self.rows) - 1

    def row(self, index: int) -> list[tuple[Sequence, int, int]]:
        cut = self.pieces[self.rows[index] : self.rows[index + 1]]
        return [(self.store[item], start, end) for item, start, end in cut.tolist()]

    def with_sources(self) -> Packed:
        return Packed(self.store, self.tokenizer, self.context, encoder=True)


def with_sources(data: Dataset) -> ItemRows:
    """The same items, whose given ids are the source of a model with an encoder. ConfigError for
    rows that are not of items."""
    if not isinstance(data, ItemRows):
        raise ConfigError("a model with an encoder needs a task whose items have a source")
    return data.with_sources()


def too_long(length: int, context: int) -> DataError:
    return DataError(
        f"an item has {length} tokens and must be seen whole: need --context {length - 1}, "
        f"got {context}"
    )


def collate(
    pieces: Rows[Rows[tuple[Sequence, int, int]] | Rows[Part]],
    tokenizer: Tokenizer,
    width: int,
    encoder: bool = False,
) -> Batch[Array]:
    """A Batch of `width` ids per row from rows of pieces, (sequence, start, end) each or a `Part`.

    The first id of a piece is never a target. Padding has segment -1 and weight 0. encoder: the
    given ids of each item become its encoder source; its piece must start at the last of them.
    """
    rows = [[Part(*piece) for piece in row] for row in pieces]
    shape = (len(rows), width)
    ids, weight = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    segments = np.full(shape, -1, np.int64)
    positions = np.zeros((*shape, tokenizer.axes), np.int64)
    support = np.broadcast_to(np.array([0, tokenizer.vocab_size]), (*shape, 2)).copy()
    features = np.zeros((*shape, tokenizer.features), np.float32) if tokenizer.features else None
    ranges: set[tuple[int, int] | None] = set()  # supports of the pieces; None: by position
    has_positions = False
    for r, row in enumerate(rows):
        at = 0
        for number, (sequence, start, end, head) in enumerate(row):
            which = np.r_[:head, start:end] if head else slice(start, end)
            size = head + end - start
            here = slice(at, at + size)
            ids[r, here] = sequence.ids[which]
            weight[r, here] = sequence.target_weight()[which]
            weight[r, at : at + 1] = 0  # an item may be empty
            segments[r, here] = number
            own = tokenizer.positions(len(sequence), sequence.side)
            has_positions |= own is not None
            positions[r, here] = np.arange(size)[:, None] if own is None else own[which]
            if features is not None:
                rows_of = tokenizer.feature_rows(len(sequence), sequence.side)
                features[r, here] = rows_of[which]
            legal = tokenizer.support(len(sequence), sequence.side)
            if isinstance(legal, tuple):
                support[r, here] = legal
                ranges.add(legal)
            elif legal is not None:
                support[r, here] = legal[which]
            if not isinstance(legal, tuple):
                ranges.add(None)
            at += size
    packed = encoder or any(len(row) > 1 for row in rows)
    one = ranges.pop() if len(ranges) == 1 else None
    source, source_segments = _sources(rows) if encoder else (None, None)
    return Batch(
        ids,
        weight,
        positions=positions if has_positions or packed else None,
        segments=segments if packed else None,
        support=one or (None if (support == [0, tokenizer.vocab_size]).all() else support),
        features=features,
        source=source,
        source_segments=source_segments,
    )


def with_source_width(batch: Batch[Array], width: int) -> Batch[Array]:
    """The batch with its encoder sources, if it has any, padded to `width` ids."""
    source, segments = batch.source, batch.source_segments
    if source is None or segments is None or source.shape[1] == width:
        return batch
    more = ((0, 0), (0, width - source.shape[1]))
    return replace(
        batch,
        source=np.pad(source, more),
        source_segments=np.pad(segments, more, constant_values=-1),
    )


def _sources(rows: list[list[Part]]) -> tuple[Ids, Ids]:
    """The given ids of the items of each row, concatenated, and the item that each belongs to."""
    width = max(sum(part.sequence.given for part in row) for row in rows)
    source = np.zeros((len(rows), width), np.int64)
    segments = np.full((len(rows), width), -1, np.int64)
    for r, row in enumerate(rows):
        at = 0
        for number, (sequence, start, _, _) in enumerate(row):
            if start != sequence.given - 1:
                raise ValueError("an item with a source is one piece, from its last given id on")
            here = slice(at, at + sequence.given)
            source[r, here], segments[r, here] = sequence.ids[: sequence.given], number
            at += sequence.given
    return source, segments
