"""Pictures as rows for training, and the accuracy of a label behind them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from ...core.data.keyed_random import key, mix
from ...core.protocols import Batch, Floats, Ids, Sequence
from ...tokenizers.patches import PatchTokenizer
from .pictures import Pictures, quantised

PROBE_ROWS = 64


class PictureRows:
    """Rows of context + 1 ids, a picture each, padded with weight 0. Stochastic pixels are drawn
    anew in each pass over the data."""

    def __init__(
        self,
        items: Pictures,
        tokenizer: PatchTokenizer,
        context: int,
        label_weight: float,
        seed: int,
    ) -> None:
        self.items, self.tokenizer, self.seed = items, tokenizer, seed
        form, place = items.form, tokenizer.label_position
        side = tokenizer.side(form.height, form.width)
        length = tokenizer.length(form.height, form.width)
        self.context, self.pad = context, context + 1 - length
        self.weight: Floats = np.ones(context + 1, np.float32)
        self.weight[0] = 0
        self.weight[length:] = 0
        if place != "none":
            self.weight[1 if place == "first" else length - 1] = label_weight
        self.positions = tokenizer.positions(context + 1, side)
        support = tokenizer.support(length, side)
        if isinstance(support, np.ndarray):
            whole = [[0, tokenizer.vocab_size]]  # padding: anything, as it weighs nothing
            support = np.concatenate((support, np.repeat(whole, self.pad, axis=0)))
        self.support = support
        self.labels = [
            tokenizer.label_id(label) if place != "none" and label is not None else -1
            for label in items.labels
        ]
        # exact patches are packed as they are asked for, codes of a codebook once
        self.codes: Ids | None = None
        if not tokenizer.lossless:
            if "codes" not in items.kept:
                items.kept["codes"] = tokenizer.patch_ids_of(items.pixels())
            self.codes = items.kept["codes"]

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Ids) -> Batch:
        which = indices % len(self)
        if self.codes is not None:
            patches = self.codes[which]
        elif self.items.form.binarise == "stochastic":
            draw = mix(indices, key(self.seed, "draw")).astype(np.int64)
            pixels = quantised(self.items.raw[which], self.items.form, draw)
            patches = self.tokenizer.patch_ids_of(pixels)
        else:
            patches = self.tokenizer.patch_ids_of(self.items.pixels()[which])
        rows = len(indices)
        parts = [np.full((rows, 1), self.tokenizer.begin), patches]
        if self.tokenizer.label_position != "none":
            named = np.array([self.labels[i] for i in which.tolist()])[:, None]
            parts.insert(1 if self.tokenizer.label_position == "first" else 2, named)
        parts.append(np.zeros((rows, self.pad), np.int64))
        support = self.support
        return Batch(
            np.concatenate(parts, axis=1).astype(np.int64),
            np.tile(self.weight, (rows, 1)),
            positions=np.tile(self.positions, (rows, 1, 1)),
            support=np.tile(support, (rows, 1, 1)) if isinstance(support, np.ndarray) else support,
        )


def accuracy(model: object, tokenizer: PatchTokenizer, sequences: Iterable[Sequence]) -> float:
    """How often the likeliest label behind a picture's pixels is its own."""
    import torch

    from ...core.data.datasets import collate
    from ...core.model.sequence_model import SequenceModel
    from ...core.score.likelihood import as_tensors

    assert isinstance(model, SequenceModel)
    low, high = tokenizer.patch_ids, tokenizer.begin
    labelled = (s for s in sequences if low <= s.ids[-1] < high)
    right = total = 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        while some := list(islice(labelled, PROBE_ROWS)):
            width = max(map(len, some))
            batch = collate([[(s, 0, len(s))] for s in some], tokenizer, width)
            tensors = as_tensors(batch, model.head.weight.device)
            hidden = model(tensors["ids"][:, :-1], tensors["positions"][:, :-1])
            ends = torch.tensor([len(s) - 2 for s in some], device=hidden.device)
            last = hidden[torch.arange(len(some), device=hidden.device), ends]
            guess = model.logits(last, low, high).argmax(-1).cpu().numpy() + low
            right += int((guess == np.array([s.ids[-1] for s in some])).sum())
            total += len(some)
    model.train(was_training)
    return right / total if total else float("nan")
