"""What a model predicts: logits of the legal ids, and how many answers of each item are right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..model.loss import hidden_states
from ..model.sequence_model import SequenceModel
from ..ops.reference import masked_to_support
from ..protocols import Batch
from .estimate import Floats
from .sample import Sample


def legal_logits(
    model: SequenceModel, batch: Batch[Tensor], rows: Tensor, places: Tensor
) -> Tensor:
    """(N, V) the logits of the ids after N places of a batch; -inf where an id is not legal."""
    logits = model.logits(hidden_states(model, batch)[rows, places])
    support = batch.support
    if isinstance(support, tuple):
        support = torch.tensor(support, device=logits.device).expand(len(rows), 2)
    elif support is not None:
        support = support[rows, places + 1]
    return logits if support is None else masked_to_support(logits, support)


@torch.no_grad()
def right_answers(sample: Sample, end: int | None = None) -> tuple[Floats, Floats, float]:
    """Of each item of a sample, (N,) both: how many of its scored ids are the likeliest ones, given
    all ids before, and how many there are; without the id `end` of an end token. Last, the share of
    them that is right if the answer is always the most frequent id."""
    right, count = np.zeros(len(sample)), np.zeros(len(sample))
    seen: list[Tensor] = []
    for group in sample.groups("batches, accuracy"):
        targets = group.batch.ids[:, 1:]
        scored = group.batch.weight[:, 1:] > 0
        if end is not None:
            scored = scored & (targets != end)
        rows, places = scored.nonzero(as_tuple=True)
        likeliest = legal_logits(sample.model, group.batch, rows, places).argmax(-1)
        is_right = likeliest == targets[rows, places]
        numbers = group.numbers[rows.cpu().numpy()]
        np.add.at(right, numbers, is_right.cpu().numpy())
        np.add.at(count, numbers, 1)
        seen.append(targets[rows, places].cpu())
    ids = torch.cat(seen)
    constant = float(ids.bincount().max() / len(ids)) if len(ids) else 0.0
    return right, count, constant
