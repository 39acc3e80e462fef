"""Labels that a model predicts after the pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from ...core.protocols import Sequence
from ...core.task import Prediction
from ...tokenizers.patches import PatchTokenizer

BATCH_ROWS = 64


def predictions(
    model: object, tokenizer: PatchTokenizer, sequences: Iterable[Sequence]
) -> Iterator[Prediction]:
    """The most likely label after the pixels of each sequence, of a tokenizer with last labels."""
    import torch

    from ...core.data.datasets import collate
    from ...core.model.loss import hidden_states
    from ...core.model.sequence_model import SequenceModel
    from ...core.score.likelihood import as_tensors

    assert isinstance(model, SequenceModel)
    low, high = tokenizer.patch_ids, tokenizer.begin
    rest = iter(sequences)
    was_training = model.training
    model.eval()
    try:
        while chunk := list(islice(rest, BATCH_ROWS)):
            labels = [_label(s, tokenizer) for s in chunk]
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


def _label(sequence: Sequence, tokenizer: PatchTokenizer) -> str | None:
    last = int(sequence.ids[-1])
    known = tokenizer.patch_ids <= last < tokenizer.begin
    return tokenizer.labels[last - tokenizer.patch_ids] if known else None


def accuracy(found: Iterable[Prediction]) -> float | None:
    """Share of labelled pictures whose predicted label is correct; None if none has a label."""
    correct = [each.label == each.predicted for each in found if each.label is not None]
    return sum(correct) / len(correct) if correct else None
