"""Rows for training: which part of the data is row k of step s, as pure functions.

Two shapes serve most domains: `Windows` over one running stream of ids, and `Packed` items.
A task may bring its own (`protocols.Dataset`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..protocols import Batch, Dataset, Ids, Sequence, Support, Tokenizer
from .keyed_random import key, mix, permute
from .sequence_store import Store

Piece = tuple[int, int, int]  # item, first id, past the last
BEGIN_EVERY = 16  # one window in so many starts from the begin token: an item's first ids count too


def step_batch(data: Dataset, step: int, rows: int, seed: int) -> Batch:
    """The rows of one pass: a keyed permutation within each pass over the data, no state."""
    virtual = np.arange(step * rows, (step + 1) * rows, dtype=np.int64)
    epochs = virtual // len(data)
    inside = np.empty_like(virtual)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        inside[here] = permute(virtual[here] % len(data), len(data), key(seed, int(epoch)))
    return data.batch(epochs * len(data) + inside)


class Windows:
    """Windows of context + 1 ids over one stream. Their targets do not overlap within an epoch,
    and where they begin is drawn anew for each.

    stream (N,): the running ids. `begin`: a token that is no target; a window may start with it.
    """

    def __init__(
        self, stream: npt.NDArray[np.integer], context: int, seed: int, begin: int, support: Support
    ) -> None:
        if len(stream) < 2:
            raise DataError(f"the training data has {len(stream)} tokens: need at least 2")
        self.stream, self.seed, self.begin, self.support = stream, seed, begin, support
        self.context = min(context, len(stream) - 1)
        self.room = len(stream) - self.context  # window starts that there are
        self.count = max(1, (len(stream) - 1) // self.context - (self.context > 1))

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Ids) -> Batch:
        epochs = indices // self.count
        phases = self.room - (self.count - 1) * self.context  # the last window reaches the end
        phase = mix(epochs, key(self.seed, "phase")) % np.uint64(phases)
        starts = (indices % self.count) * self.context + phase.astype(np.int64)
        ids = self.stream[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)
        from_nothing = mix(indices, key(self.seed, "begin")) % np.uint64(BEGIN_EVERY) == 0
        ids[from_nothing, 0] = self.begin
        weight = (ids != self.begin).astype(np.float32)
        weight[:, 0] = 0
        return Batch(ids, weight, support=self.support)


class Packed:
    """Items side by side in rows of context + 1 ids, none seeing another.

    Neighbours share a row while they fit. An item longer than a row is cut into pieces that
    continue each other by one id, unless it has positions of its own or a source: then a DataError.
    encoder: whether the given ids of each item are its source, see `collate`.
    """

    def __init__(
        self, store: Store, tokenizer: Tokenizer, context: int, encoder: bool = False
    ) -> None:
        if not len(store):
            raise DataError("the training data has no items")
        self.store, self.tokenizer, self.encoder = store, tokenizer, encoder
        self.context, self.row = context, context + 1
        pieces: list[Piece] = []
        for index in range(len(store)):
            length, first = store.length(index), 0
            if encoder:
                first = store.items[index][0] - 1
            uncut = encoder or store.positions(index, tokenizer) is not None
            if length - first > self.row and uncut:
                raise too_long(length - first, context)
            for start in range(first, max(length - 1, first + 1), context):
                pieces.append((index, start, min(start + self.row, length)))
        self.pieces = np.array(pieces, np.int64)
        sizes = self.pieces[:, 2] - self.pieces[:, 1]
        self.rows = [0]
        filled = 0
        for number, size in enumerate(sizes.tolist()):
            if filled + size > self.row:
                self.rows.append(number)
                filled = 0
            filled += size
        self.rows.append(len(pieces))

    def __len__(self) -> int:
        return len(self.rows) - 1

    def batch(self, indices: Ids) -> Batch:
        rows = []
        for index in (indices % len(self)).tolist():
            cut = self.pieces[self.rows[index] : self.rows[index + 1]]
            rows.append([(self.store[item], start, end) for item, start, end in cut.tolist()])
        return collate(rows, self.tokenizer, self.row, self.encoder)


def too_long(length: int, context: int) -> DataError:
    return DataError(
        f"an item has {length} tokens and must be seen whole: need --context {length - 1}, "
        f"got {context}"
    )


def collate(
    rows: list[list[tuple[Sequence, int, int]]],
    tokenizer: Tokenizer,
    width: int,
    encoder: bool = False,
) -> Batch:
    """Rows of pieces (sequence, first id, past the last) as one Batch of `width` ids.

    The first id of a piece is never a target. Padding is a segment of its own, weight 0. encoder:
    the given ids of each item are its source, and its row begins with the last of them; a piece
    must then start there.
    """
    shape = (len(rows), width)
    ids, weight = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    segments = np.full(shape, -1, np.int64)
    positions = np.zeros((*shape, tokenizer.axes), np.int64)
    support = np.broadcast_to(np.array([0, tokenizer.vocab_size]), (*shape, 2)).copy()
    ranges: set[tuple[int, int] | None] = set()  # the supports met, none for one by position
    placed = False
    for r, row in enumerate(rows):
        at = 0
        for number, (sequence, start, end) in enumerate(row):
            here = slice(at, at + end - start)
            ids[r, here] = sequence.ids[start:end]
            weight[r, here] = sequence.target_weight()[start:end]
            weight[r, at : at + 1] = 0  # an item may be empty
            segments[r, here] = number
            own = tokenizer.positions(len(sequence), sequence.side)
            placed |= own is not None
            positions[r, here] = np.arange(end - start)[:, None] if own is None else own[start:end]
            legal = tokenizer.support(len(sequence), sequence.side)
            if isinstance(legal, tuple):
                support[r, here] = legal
                ranges.add(legal)
            elif legal is not None:
                support[r, here] = legal[start:end]
            if not isinstance(legal, tuple):
                ranges.add(None)
            at += end - start
    packed = encoder or any(len(row) > 1 for row in rows)
    one = ranges.pop() if len(ranges) == 1 else None
    source, source_segments = _sources(rows) if encoder else (None, None)
    return Batch(
        ids,
        weight,
        positions=positions if placed or packed else None,
        segments=segments if packed else None,
        support=one or (None if (support == [0, tokenizer.vocab_size]).all() else support),
        source=source,
        source_segments=source_segments,
    )


def _sources(rows: list[list[tuple[Sequence, int, int]]]) -> tuple[Ids, Ids]:
    """The given ids of the items of each row, side by side, and which item each belongs to."""
    width = max(sum(sequence.given for sequence, _, _ in row) for row in rows)
    source = np.zeros((len(rows), width), np.int64)
    segments = np.full((len(rows), width), -1, np.int64)
    for r, row in enumerate(rows):
        at = 0
        for number, (sequence, start, _) in enumerate(row):
            if start != sequence.given - 1:
                raise ValueError("an item with a source is one piece, from its last given id on")
            here = slice(at, at + sequence.given)
            source[r, here], segments[r, here] = sequence.ids[: sequence.given], number
            at += sequence.given
    return source, segments
