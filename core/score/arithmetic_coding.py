"""Arithmetic coding of ids with a model's next-token probabilities.

Encoder and decoder both iterate over `_tables`, which calls the model with the same shapes in the
same order, so that the probabilities agree bit for bit. Ids are cut into segments, coded as rows of
one batch. Each segment uses the windows of `evaluate` at a stride of half a context, so that
`eval --as-coded` gives the compressed size.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import DamagedError
from ..model.sequence_model import SequenceModel
from ..protocols import ByteTokenizer, Ids, Sequence
from .likelihood import windows
from .range_coder import Decoder, Encoder

MIN_SEGMENT_IDS = 1 << 14  # ids are cut into more segments only if each has this many
MAX_SEGMENTS = 64
COUNT_TOTAL = 1 << 24  # probabilities are rounded to integer counts of at most this sum

Tables = npt.NDArray[np.int64]


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


@torch.no_grad()
def _tables(
    model: SequenceModel, support: tuple[int, int], given: Ids, lengths: list[int]
) -> Generator[Tables, Ids, None]:
    """Yields the cumulative counts of each row's next id; expects the ids by `send`."""
    model.eval()
    context, device = model.config.context, model.head.weight.device
    rows = np.zeros((len(lengths), len(given) + max(lengths)), np.int64)
    rows[:, : len(given)] = given
    for window in windows(0, rows.shape[1], context, stride(context)):
        state = model.start(len(rows), context)
        first = max(window.scored, len(given))
        hidden = model.step(torch.from_numpy(rows[:, window.start : first]).to(device), state)
        for at in range(first, window.end):
            rows[:, at] = yield counts(model.logits(hidden[:, -1], *support))
            if at + 1 < window.end:
                new = torch.from_numpy(rows[:, at, None]).to(device)
                hidden = model.step(new, state)


def encode(model: SequenceModel, support: tuple[int, int], sequence: Sequence) -> bytes:
    """The coded bytes of the sequence after its given ids, which must lie within `support`."""
    given, ids = sequence.ids[: sequence.given], sequence.ids[sequence.given :]
    encoder, low = Encoder(), support[0]
    if not len(ids):
        return b""
    lengths = segment_sizes(len(ids))
    parts = np.split(ids - low, np.cumsum(lengths)[:-1])
    padded = np.zeros((len(parts), max(lengths)), np.int64)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    tables = _tables(model, support, given, lengths)
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
    return encoder.finish()


def decode(
    model: SequenceModel, support: tuple[int, int], given: Ids, count: int, data: bytes
) -> Ids:
    """The `count` ids that `encode` coded as `data`. DamagedError."""
    decoder, low = Decoder(data), support[0]
    if not count:
        if data:
            raise DamagedError("the coded bytes are damaged: something follows their end")
        return np.zeros(0, np.int64)
    lengths = segment_sizes(count)
    padded = np.zeros((len(lengths), max(lengths)), np.int64)
    tables = _tables(model, support, given, lengths)
    table = next(tables)
    for at in range(max(lengths)):
        for row, length in enumerate(lengths):
            if at < length:
                padded[row, at] = _next(decoder, table[row])
        if decoder.position > len(data) + 8:
            raise DamagedError("the coded bytes are damaged: they end too early")
        if at + 1 < max(lengths):
            table = tables.send(padded[:, at] + low)
    if decoder.position < len(data):
        raise DamagedError("the coded bytes are damaged: something follows their end")
    return np.concatenate([row[:length] for row, length in zip(padded, lengths, strict=True)]) + low


def _next(decoder: Decoder, table: Any) -> int:
    total = int(table[-1])
    index = int(np.searchsorted(table, decoder.target(total), side="right")) - 1
    decoder.take(int(table[index]), int(table[index + 1]), total)
    return index
