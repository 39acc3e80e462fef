"""Negative log-likelihood of held-out items, per token, in nats: the basis of all scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import Part, collate, too_long
from ..divided import Unit, divided
from ..errors import UsageError
from ..model.loss import hidden_states, token_nll
from ..model.sequence_model import SequenceModel
from ..ops.reference import masked_to_support
from ..protocols import Array, Batch, Score, Sequence, Tokenizer

BATCH_TOKENS = 8192  # the maximum of a forward pass
BATCH_LOGITS = 1 << 24  # the maximum of a forward pass: 64 MB for any vocabulary
ACCURACY_ROWS = 64  # of a forward pass that compares the likeliest ids
BUFFER_TOKENS = 32 * BATCH_TOKENS  # read ahead, to batch items of similar length


@dataclass(frozen=True)
class Window:
    """The first `head` ids of an item, and its ids start ... end - 1; the ids scored ... end - 1
    are scored."""

    item: int
    start: int
    end: int
    scored: int
    head: int = 0

    @property
    def size(self) -> int:
        return self.head + self.end - self.start


def windows(item: int, length: int, context: int, stride: int, head: int = 0) -> Iterator[Window]:
    """Windows of at most context + 1 ids that score each id but the first exactly once.

    The first window scores all its ids but the first; each later one ends `stride` ids further and
    scores these. stride == context is blockwise evaluation: every window starts anew. head: the
    number of given ids that stand before every window (none if they leave no room).
    """
    head = head if head < context else 0
    room = context + 1 - head
    stride = min(stride, room) if head else stride
    scored, end = 1, min(length, context + 1)
    while scored < length:
        cut = max(0, end - context - 1)
        yield Window(item, cut + head, end, scored, head) if cut else Window(item, 0, end, scored)
        scored, end = end, min(length, end + stride)


def evaluate(
    model: SequenceModel,
    tokenizer: Tokenizer,
    sequences: Iterable[Sequence],
    stride: int | None = None,
) -> Iterator[Score]:
    """Each item's nats, in order. Runs in the dtype of the model, without dropout.

    stride: of the windows over an item longer than the context (None: the context). DataError if
    such an item cannot be cut, UsageError for a stride outside 1 ... context.
    """
    context = model.config.context
    stride = stride or context
    if not 1 <= stride <= context:
        raise UsageError(f"--stride: must be 1 to the context {context}, got {stride}")
    was_training = model.training
    model.eval()
    try:
        waiting: list[Sequence] = []
        tokens = 0
        for sequence in sequences:
            length = len(sequence) - (sequence.given - 1 if model.has_encoder else 0)
            uncut = (
                model.has_encoder or tokenizer.positions(len(sequence), sequence.side) is not None
            )
            if length > context + 1 and uncut:
                raise too_long(length, context)
            waiting.append(sequence)
            tokens += len(sequence)
            if tokens >= BUFFER_TOKENS:
                yield from _evaluate_all(model, tokenizer, waiting, stride)
                waiting, tokens = [], 0
        yield from _evaluate_all(model, tokenizer, waiting, stride)
    finally:
        model.train(was_training)


def _evaluate_all(
    model: SequenceModel, tokenizer: Tokenizer, sequences: list[Sequence], stride: int
) -> Iterator[Score]:
    context = model.config.context
    nats = [np.zeros(len(sequence)) for sequence in sequences]
    if model.has_encoder:  # the given ids are its source; the decoder starts at the last of them
        waiting = [Window(i, s.given - 1, len(s), s.given) for i, s in enumerate(sequences)]
    else:
        waiting = [
            window
            for i, s in enumerate(sequences)
            for window in windows(i, len(s), context, stride, s.given if s.given > 1 else 0)
        ]
    waiting.sort(key=lambda w: w.size)
    groups: list[list[Window]] = []  # of a forward pass each
    while waiting:
        rows = max(1, min(BATCH_TOKENS, BATCH_LOGITS // tokenizer.vocab_size) // waiting[-1].size)
        groups.append(waiting[-rows:])
        del waiting[-rows:]

    def batches() -> Iterator[Unit]:
        for group in groups:
            pieces = [[Part(sequences[w.item], w.start, w.end, w.head)] for w in group]
            yield as_unit(collate(pieces, tokenizer, group[-1].size, model.has_encoder))

    for group, found in zip(groups, divided(batch_nats, (model,), batches()), strict=True):
        for window, row in zip(group, found["nats"], strict=True):
            first = window.head + window.scored - window.start
            nats[window.item][window.scored : window.end] = row[first - 1 : window.size - 1]
    for sequence, each in zip(sequences, nats, strict=True):
        yield Score(sequence, each[sequence.given :])


@torch.no_grad()
def accuracy(
    model: SequenceModel, tokenizer: Tokenizer, sequences: Iterable[Sequence]
) -> float | None:
    """The share of the targets with a weight whose id is the likeliest of the legal ones, of items
    that fit the context; None if there are no targets."""
    model.eval()
    waiting = list(sequences)

    def batches() -> Iterator[Unit]:
        for first in range(0, len(waiting), ACCURACY_ROWS):
            some = waiting[first : first + ACCURACY_ROWS]
            pieces = [[(s, s.given - 1 if model.has_encoder else 0, len(s))] for s in some]
            width = max(map(len, some))
            yield as_unit(collate(pieces, tokenizer, width, model.has_encoder))

    right = total = 0
    for found in divided(batch_accuracy, (model,), batches()):
        right += found["right"]
        total += found["total"]
    return right / total if total else None


# -- forward passes, which several processes divide ------------------------------------------------


def batch_nats(model: SequenceModel, **fields: Any) -> Unit:
    """`nats` (B, T - 1) of each id but the first of a batch, float64. fields: of `as_unit`."""
    return {"nats": batch_nll(model, from_unit(fields)).cpu().double().numpy()}


@torch.no_grad()
def batch_accuracy(model: SequenceModel, **fields: Any) -> Unit:
    """`total`, the targets of a batch with a weight, and `right`, those whose id is the likeliest.
    fields: of `as_unit`."""
    batch = as_tensors(from_unit(fields), model.head.weight.device)
    counted = batch.weight[:, 1:] > 0
    logits = model.logits(hidden_states(model, batch)[counted])
    support = batch.support
    if isinstance(support, tuple):
        support = torch.tensor(support, device=logits.device).expand(len(logits), 2)
    elif support is not None:
        support = support[:, 1:][counted]
    if support is not None:
        logits = masked_to_support(logits, support)
    right = (logits.argmax(-1) == batch.ids[:, 1:][counted]).sum()
    return {"right": int(right), "total": int(counted.sum())}


def as_unit(batch: Batch[Array]) -> Unit:
    """The fields of a batch, for `divided`."""
    return {field.name: getattr(batch, field.name) for field in fields_of(batch)}


def from_unit(fields: Unit) -> Batch[Array]:
    """The batch of `as_unit`."""
    support = fields["support"]
    return Batch(**{**fields, "support": tuple(support) if isinstance(support, list) else support})


@torch.no_grad()
def batch_nll(model: SequenceModel, batch: Batch[Array]) -> Tensor:
    """`token_nll` of a dataset's batch, without gradients."""
    return token_nll(model, as_tensors(batch, model.head.weight.device))


def as_tensors(batch: Batch[Array], device: torch.device) -> Batch[Tensor]:
    """The batch as tensors on the device."""

    def moved(value: Array | tuple[int, int] | None) -> Tensor | tuple[int, int] | None:
        if not isinstance(value, np.ndarray):
            return value
        tensor = torch.from_numpy(value)
        if device.type == "cuda":  # the copy is asynchronous only from pinned memory
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    by_name: dict[str, Any] = {f.name: moved(getattr(batch, f.name)) for f in fields_of(batch)}
    return Batch(**by_name)
