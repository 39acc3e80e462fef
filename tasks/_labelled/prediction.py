"""Labels that a model predicts as the last id of an item."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from ...core.divided import Unit, divided
from ...core.protocols import Sequence, Tokenizer
from ...core.task import Prediction
from ...core.terms import Terms

BATCH_ROWS, BATCH_TOKENS = 64, 16384  # of a forward pass, at most


class LabelTokenizer(Tokenizer, Protocol):
    """A tokenizer whose items can end with a label. label_ids: the half-open range of their ids,
    in the order of `labels`."""

    labels: tuple[str, ...]
    label_ids: tuple[int, int]
    label_position: str


def predictions(
    model: object, tokenizer: LabelTokenizer, sequences: Iterable[Sequence]
) -> Iterator[Prediction]:
    """The most likely label at the end of each sequence, of a tokenizer with last labels."""
    from ...core.data.datasets import collate
    from ...core.model.sequence_model import SequenceModel
    from ...core.score.likelihood import as_unit

    assert isinstance(model, SequenceModel)
    low, high = tokenizer.label_ids
    waiting: deque[list[str | None]] = deque()  # the labels of batches that are being computed

    def units() -> Iterator[Unit]:
        for chunk in _batches(sequences):
            labels = [last_label(s, tokenizer) for s in chunk]
            waiting.append(labels)
            # the id at the place of a missing label is not read by the model
            padded = [
                s if label is not None else Sequence(np.append(s.ids, low), s.given, side=s.side)
                for s, label in zip(chunk, labels, strict=True)
            ]
            width = max(map(len, padded))
            batch = collate([[(s, 0, len(s))] for s in padded], tokenizer, width)
            ends = [len(s) - 2 for s in padded]
            yield {"ends": ends, "low": low, "high": high, **as_unit(batch)}

    was_training = model.training
    model.eval()
    try:
        for found in divided(likeliest_labels, (model,), units()):
            for label, value, index in zip(
                waiting.popleft(), found["values"], found["indices"], strict=True
            ):
                yield Prediction(label, tokenizer.labels[index], value)
    finally:
        model.train(was_training)


def likeliest_labels(model: Any, ends: list[int], low: int, high: int, **fields: Any) -> Unit:
    """`indices`: of low ... high - 1, the likeliest id after each row's id at `ends`, and `values`,
    its probability among these. fields: of `as_unit`."""
    import torch

    from ...core.model.loss import hidden_states
    from ...core.score.likelihood import as_tensors, from_unit

    with torch.no_grad():
        hidden = hidden_states(model, as_tensors(from_unit(fields), model.head.weight.device))
        places = torch.tensor(ends, device=hidden.device)
        last = hidden[torch.arange(len(ends), device=hidden.device), places]
        best = model.logits(last, low, high).double().softmax(-1).max(-1)
    return {"values": best.values.tolist(), "indices": best.indices.tolist()}


def _batches(sequences: Iterable[Sequence]) -> Iterator[list[Sequence]]:
    """In order, as many as a forward pass takes."""
    chunk: list[Sequence] = []
    width = 0
    for sequence in sequences:
        wider = max(width, len(sequence) + 1)
        if chunk and (len(chunk) == BATCH_ROWS or wider * (len(chunk) + 1) > BATCH_TOKENS):
            yield chunk
            chunk, wider = [], len(sequence) + 1
        chunk.append(sequence)
        width = wider
    if chunk:
        yield chunk


def last_label(sequence: Sequence, tokenizer: LabelTokenizer) -> str | None:
    """The label at the end of a sequence, None without one."""
    low, high = tokenizer.label_ids
    last = int(sequence.ids[-1])
    return tokenizer.labels[last - low] if low <= last < high else None


def accuracy(found: Iterable[Prediction]) -> float | None:
    """Share of labelled items whose predicted label is correct; None if none has a label."""
    correct = [each.label == each.predicted for each in found if each.label is not None]
    return sum(correct) / len(correct) if correct else None


def measures(tokenizer: LabelTokenizer) -> dict[str, bool]:
    """`Task.measures`: accuracy, where labels are the last ids."""
    return {"accuracy": True} if tokenizer.label_position == "last" else {}


def label_terms(model: object, tokenizer: LabelTokenizer, sequences: Iterable[Sequence]) -> Terms:
    """`Task.terms` of accuracy: 1 over 1 for a correct label, 0 over 0 for an item without one."""
    kept = list(sequences)
    found = list(predictions(model, tokenizer, kept))
    names = [str(s.side.get("id", number)) for number, s in enumerate(kept)]
    right = np.array([p.label == p.predicted for p in found], np.float64)
    known = np.array([p.label is not None for p in found], np.float64)
    contents = [f"{name}\0{p.label}".encode() for name, p in zip(names, found, strict=True)]
    return Terms(contents, names, {"accuracy": (right * known, known)})
