"""Labels that a model predicts as the last id of an item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

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
    import torch

    from ...core.data.datasets import collate
    from ...core.model.loss import hidden_states
    from ...core.model.sequence_model import SequenceModel
    from ...core.score.likelihood import as_tensors

    assert isinstance(model, SequenceModel)
    low, high = tokenizer.label_ids
    was_training = model.training
    model.eval()
    try:
        for chunk in _batches(sequences):
            labels = [last_label(s, tokenizer) for s in chunk]
            # the id at the place of a missing label is not read by the model
            padded = [
                s if label is not None else Sequence(np.append(s.ids, low), s.given, side=s.side)
                for s, label in zip(chunk, labels, strict=True)
            ]
            width = max(map(len, padded))
            batch = collate([[(s, 0, len(s))] for s in padded], tokenizer, width)
            with torch.no_grad():
                hidden = hidden_states(model, as_tensors(batch, model.head.weight.device))
                ends = torch.tensor([len(s) - 2 for s in padded], device=hidden.device)
                last = hidden[torch.arange(len(padded), device=hidden.device), ends]
                best = model.logits(last, low, high).double().softmax(-1).max(-1)
            for label, value, index in zip(
                labels, best.values.tolist(), best.indices.tolist(), strict=True
            ):
                yield Prediction(label, tokenizer.labels[index], value)
    finally:
        model.train(was_training)


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
