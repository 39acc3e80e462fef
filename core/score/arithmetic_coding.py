"""Arithmetic coding of ids with a model's next-token probabilities.

Encoder and decoder both iterate over `_tables`, which calls the model with the same shapes in the
same order, so that the probabilities agree bit for bit. With the C code of `NativeSlots` they are
also the same for any number of threads. Ids are cut into segments, coded as rows of
one batch. Each segment uses the windows of `evaluate` at a stride of half a context, so that
`eval --as-coded` gives the compressed size.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..decode.native_model import NativeModel
from ..decode.native_slots import NativeSlots
from ..errors import DamagedError
from ..model.sequence_model import SequenceModel
from ..protocols import ByteTokenizer, Ids, Sequence
from .likelihood import windows
from .range_coder import Decoder, Encoder

MIN_SEGMENT_IDS = 1 << 14  # ids are cut into more segments only if each has this many
MAX_SEGMENTS = 64
COUNT_TOTAL = 1 << 24  # probabilities are rounded to integer counts of at most this sum

Tables = npt.NDArray[np.int64]
Progress = Callable[[float], None]


def no_progress(fraction: float) -> None:
    return


def item(tokenizer: ByteTokenizer, data: bytes) -> Sequence:
    """Any bytes as one item, after the begin token. DataError if the tokenizer lacks a byte."""
    ids = np.concatenate(([tokenizer.begin], tokenizer.ids_of_bytes(data)))
    return Sequence(ids.astype(np.int64), side={"byte": len(data)})


def segment_sizes(count: int) -> list[int]:
    """The lengths of the segments that `count` ids are cut into, longer ones first."""
    rows = min(MAX_SEGMENTS, max(1, count // MIN_SEGMENT_IDS))
    return [count // rows + (row < count % rows) for row in range(rows)]


def segments(sequence: Sequence) -> list[Sequence]:
    """The segments that a sequence is coded as, each after the given ids. Only the first keeps the
    side information, so that units are counted once."""
    given, rest = sequence.ids[: sequence.given], sequence.ids[sequence.given :]
    cuts = np.cumsum(segment_sizes(len(rest)))[:-1]
    return [
        Sequence(np.concatenate((given, part)), sequence.given, None, {} if i else sequence.side)
        for i, part in enumerate(np.split(rest, cuts))
    ]


def stride(context: int) -> int:
    """The stride of the coder's windows, in ids."""
    return max(1, context // 2)


def counts(logits: torch.Tensor) -> Tables:
    """(B, V + 1) cumulative counts of the probabilities of logits (B, V), at least 1 per id."""
    z = logits.double().cpu().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    each = np.floor(p * (COUNT_TOTAL - p.shape[1])).astype(np.int64) + 1
    return np.concatenate((np.zeros((len(each), 1), np.int64), each.cumsum(1)), axis=1)


class _Predictor(Protocol):
    """Rows of ids that grow by one id each at a time."""

    def begin(self, ids: Ids) -> None:
        """Forgets the rows, and starts with ids (B, T)."""
        ...

    def feed(self, ids: Ids) -> None:
        """Appends an id to each row: ids (B,)."""
        ...

    def logits(self) -> torch.Tensor:
        """(B, V) of the next ids."""
        ...


class _TorchPredictor:
    def __init__(self, model: SequenceModel, rows: int) -> None:
        self.model, self.rows = model.eval(), rows

    def begin(self, ids: Ids) -> None:
        self.state = self.model.start(self.rows, self.model.config.context)
        self._step(ids)

    def feed(self, ids: Ids) -> None:
        self._step(ids[:, None])

    @torch.no_grad()
    def _step(self, ids: Ids) -> None:
        inputs = torch.from_numpy(np.ascontiguousarray(ids)).to(self.model.head.weight.device)
        self.hidden = self.model.step(inputs, self.state)[:, -1]

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        return self.model.logits(self.hidden)


class _NativePredictor:
    def __init__(self, model: NativeModel, rows: int) -> None:
        self.slots = NativeSlots(model, rows, model.config.context)
        self.all = np.arange(rows)

    def begin(self, ids: Ids) -> None:
        for row, own in enumerate(ids):
            self.slots.assign(row, self.slots.prefill(own, None, 1))
        self.lengths = np.full(len(ids), ids.shape[1])

    def feed(self, ids: Ids) -> None:
        self.slots.feed(self.all, ids, self.lengths, None)
        self.lengths += 1

    def logits(self) -> torch.Tensor:
        return self.slots.logits()


def _tables(
    model: SequenceModel | NativeModel,
    support: tuple[int, int],
    given: Ids,
    lengths: list[int],
    progress: Progress,
) -> Generator[Tables, Ids, None]:
    """Yields the cumulative counts of each row's next id; expects the ids by `send`."""
    context, count = model.config.context, len(lengths)
    predictor: _Predictor = (
        _NativePredictor(model, count)
        if isinstance(model, NativeModel)
        else _TorchPredictor(model, count)
    )
    rows = np.zeros((count, len(given) + max(lengths)), np.int64)
    rows[:, : len(given)] = given
    for window in windows(0, rows.shape[1], context, stride(context)):
        first = max(window.scored, len(given))
        predictor.begin(rows[:, window.start : first])
        for at in range(first, window.end):
            rows[:, at] = yield counts(predictor.logits()[:, slice(*support)])
            if at + 1 < window.end:
                predictor.feed(rows[:, at])
        progress((window.end - len(given)) / max(lengths))


def encode(
    model: SequenceModel | NativeModel,
    support: tuple[int, int],
    sequence: Sequence,
    progress: Progress = no_progress,
) -> bytes:
    """The coded bytes of the sequence after its given ids, which must lie within `support`.
    progress: is told the fraction that is coded."""
    given, ids = sequence.ids[: sequence.given], sequence.ids[sequence.given :]
    encoder, low = Encoder(), support[0]
    if not len(ids):
        return b""
    lengths = segment_sizes(len(ids))
    parts = np.split(ids - low, np.cumsum(lengths)[:-1])
    padded = np.zeros((len(parts), max(lengths)), np.int64)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    tables = _tables(model, support, given, lengths, progress)
    table = next(tables)
    for at in range(max(lengths)):
        chosen = padded[:, at]
        coded = [row for row, length in enumerate(lengths) if at < length]
        starts = table[coded, chosen[coded]].tolist()
        ends = table[coded, chosen[coded] + 1].tolist()
        for start, end, total in zip(starts, ends, table[coded, -1].tolist(), strict=True):
            encoder.encode(start, end, total)
        if at + 1 < max(lengths):
            table = tables.send(chosen + low)
    progress(1.0)
    return encoder.finish()


def decode(
    model: SequenceModel | NativeModel,
    support: tuple[int, int],
    given: Ids,
    count: int,
    data: bytes,
    progress: Progress = no_progress,
) -> Ids:
    """The `count` ids that `encode` coded as `data`. DamagedError."""
    decoder, low = Decoder(data), support[0]
    if not count:
        if data:
            raise DamagedError("the coded bytes are damaged: something follows their end")
        return np.zeros(0, np.int64)
    lengths = segment_sizes(count)
    padded = np.zeros((len(lengths), max(lengths)), np.int64)
    tables = _tables(model, support, given, lengths, progress)
    table = next(tables)
    for at in range(max(lengths)):
        for row, length in enumerate(lengths):
            if at < length:
                padded[row, at] = _next(decoder, table[row])
        if decoder.position > len(data) + 8:
            raise DamagedError("the coded bytes are damaged: they end too early")
        if at + 1 < max(lengths):
            table = tables.send(padded[:, at] + low)
    progress(1.0)
    if decoder.position < len(data):
        raise DamagedError("the coded bytes are damaged: something follows their end")
    return np.concatenate([row[:length] for row, length in zip(padded, lengths, strict=True)]) + low


def _next(decoder: Decoder, table: Any) -> int:
    total = int(table[-1])
    index = int(np.searchsorted(table, decoder.target(total), side="right")) - 1
    decoder.take(int(table[index]), int(table[index + 1]), total)
    return index
