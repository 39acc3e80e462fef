"""Ids to bytes and back through a model's probabilities: arithmetic coding.

Encoder and decoder walk through the same `_tables`: the same calls of the model with the same
shapes in the same order, so that both see the same numbers to the last bit. Ids are cut into
segments that are coded side by side as rows of one batch; each is walked through in the windows of
`evaluate` at half a context's stride, so `eval --as-coded` says what coding costs.
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

SEGMENT = 1 << 14  # ids that are worth a row of their own
ROWS = 64  # at most
TOTAL = 1 << 24  # counts that probabilities are rounded to

Tables = npt.NDArray[np.int64]


def item(tokenizer: ByteTokenizer, data: bytes) -> Sequence:
    """Any bytes as one item, behind the begin id. DataError where there are no ids of them."""
    ids = np.concatenate(([tokenizer.begin], tokenizer.ids_of_bytes(data)))
    return Sequence(ids.astype(np.int64), side={"byte": len(data)})


def sizes(count: int) -> list[int]:
    """Ids of each segment of `count`, the longer ones first."""
    rows = min(ROWS, max(1, count // SEGMENT))
    return [count // rows + (row < count % rows) for row in range(rows)]


def segments(sequence: Sequence) -> list[Sequence]:
    """The sequence as it is coded: each segment behind the given ids. What was counted of it (its
    side) stays with the first."""
    given, rest = sequence.ids[: sequence.given], sequence.ids[sequence.given :]
    cuts = np.cumsum(sizes(len(rest)))[:-1]
    return [
        Sequence(np.concatenate((given, part)), sequence.given, None, {} if at else sequence.side)
        for at, part in enumerate(np.split(rest, cuts))
    ]


def stride(context: int) -> int:
    """How far the window of the coder moves."""
    return max(1, context // 2)


def counts(logits: torch.Tensor) -> Tables:
    """(B, V + 1) cumulative counts of logits (B, V): every id has one at least."""
    z = logits.double().cpu().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    each = np.floor(p * (TOTAL - p.shape[1])).astype(np.int64) + 1
    return np.concatenate((np.zeros((len(each), 1), np.int64), each.cumsum(1)), axis=1)


@torch.no_grad()
def _tables(
    model: SequenceModel, support: tuple[int, int], given: Ids, lengths: list[int]
) -> Generator[Tables, Ids, None]:
    """The counts of each row's next id; the ids that came are sent back."""
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
    """What follows the given ids of the sequence, all within `support`."""
    given, ids = sequence.ids[: sequence.given], sequence.ids[sequence.given :]
    encoder, low = Encoder(), support[0]
    if not len(ids):
        return b""
    lengths = sizes(len(ids))
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
    """The `count` ids that `encode` made `data` of. DamagedError where it cannot have."""
    decoder, low = Decoder(data), support[0]
    if not count:
        if data:
            raise DamagedError("the coded bytes are damaged: something follows their end")
        return np.zeros(0, np.int64)
    lengths = sizes(count)
    padded = np.zeros((len(lengths), max(lengths)), np.int64)
    tables = _tables(model, support, given, lengths)
    table = next(tables)
    for at in range(max(lengths)):
        for row, length in enumerate(lengths):
            if at < length:
                padded[row, at] = _next(decoder, table[row])
        if decoder.at > len(data) + 8:
            raise DamagedError("the coded bytes are damaged: they end too early")
        if at + 1 < max(lengths):
            table = tables.send(padded[:, at] + low)
    if decoder.at < len(data):
        raise DamagedError("the coded bytes are damaged: something follows their end")
    return np.concatenate([row[:length] for row, length in zip(padded, lengths, strict=True)]) + low


def _next(decoder: Decoder, table: Any) -> int:
    total = int(table[-1])
    index = int(np.searchsorted(table, decoder.target(total), side="right")) - 1
    decoder.take(int(table[index]), int(table[index + 1]), total)
    return index
