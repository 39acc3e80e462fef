"""The held-out windows that a probe reads: a random sample, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.datasets import Part, collate, too_long
from ..errors import DataError
from ..model.sequence_model import SequenceModel
from ..progress import tracked
from ..protocols import Batch, Ids, Sequence, Tokenizer
from ..score.likelihood import BATCH_LOGITS, BATCH_TOKENS, Window, as_tensors, windows


@dataclass(frozen=True)
class Group:
    """Windows in one batch. numbers (B,): which ones of the sample; sizes (B,): how many ids each
    has, all but the last of which the model reads."""

    numbers: Ids
    sizes: Ids
    batch: Batch[Tensor]

    def read(self) -> Tensor:
        """(B, T - 1): whether the model reads an id of the window there, rather than padding."""
        at = torch.arange(self.batch.ids.shape[1] - 1)
        return (at < torch.from_numpy(self.sizes)[:, None] - 1).to(self.batch.ids.device)

    def read_source(self) -> Tensor:
        """(B, S): the same of the source of an encoder; as `read` without one."""
        segments = self.batch.source_segments
        return self.read() if segments is None else segments >= 0


@dataclass(frozen=True)
class Sample:
    """parts: the windows, in random order; first: the first id of each that is scored, as a place
    in the window; total: how many windows there are to draw from."""

    parts: list[Part]
    first: list[int]
    total: int
    tokenizer: Tokenizer
    model: SequenceModel

    def __len__(self) -> int:
        return len(self.parts)

    def batches(self) -> list[list[int]]:
        """The numbers of the windows in batches that fit into memory, the longest first."""
        order = sorted(range(len(self)), key=lambda number: -_size(self.parts[number]))
        tokens = min(BATCH_TOKENS, BATCH_LOGITS // self.tokenizer.vocab_size)
        found: list[list[int]] = []
        while order:
            rows = max(1, tokens // _size(self.parts[order[0]]))
            found.append(order[:rows])
            order = order[rows:]
        return found

    def groups(self, unit: str = "") -> Iterator[Group]:
        """The windows in batches. unit: what the progress of the loop is called, if it is shown."""
        batches = self.batches()
        for numbers in tracked(batches, len(batches), unit) if unit else batches:
            yield self.group(numbers)

    def group(self, numbers: list[int]) -> Group:
        """These windows of the sample in one batch, on the device of the model."""
        parts = [self.parts[number] for number in numbers]
        sizes = np.array([_size(part) for part in parts], np.int64)
        rows = [[part] for part in parts]
        batch = collate(rows, self.tokenizer, int(sizes.max()), self.model.has_encoder)
        for row, number in zip(batch.weight, numbers, strict=True):
            row[: self.first[number]] = 0
        on_device = as_tensors(batch, self.model.head.weight.device)
        return Group(np.array(numbers, np.int64), sizes, on_device)

    def ids(self) -> npt.NDArray[np.int64]:
        """(N, T) the ids that the model reads of each window, -1 beyond their end."""
        found = np.full((len(self), max(map(_size, self.parts)) - 1), -1, np.int64)
        for row, part in zip(found, self.parts, strict=True):
            row[: _size(part) - 1] = part.sequence.ids[_columns(part)][:-1]
        return found

    def scored(self) -> list[Ids]:
        """Of each window, after which of the ids that it reads the next one is scored."""
        found = []
        for part, first in zip(self.parts, self.first, strict=True):
            weight = part.sequence.target_weight()[_columns(part)]
            weight[:first] = 0
            found.append(np.flatnonzero(weight[1:] > 0))
        return found


def moved(batch: Batch[Tensor], device: torch.device) -> Batch[Tensor]:
    """The batch on another device."""

    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return Batch(**{f.name: there(getattr(batch, f.name)) for f in fields(batch)})


def _size(part: Part) -> int:
    return part.head + part.end - part.start


def _columns(part: Part) -> Ids:
    """The places in the sequence of the ids of a window."""
    return np.concatenate((np.arange(part.head), np.arange(part.start, part.end)))


def draw(
    model: SequenceModel, tokenizer: Tokenizer, sequences: Iterable[Sequence], count: int, seed: int
) -> Sample:
    """`count` of the windows over all items, or all if there are fewer. Each id is scored in one
    window, see `likelihood.windows`. DataError if there are none, or if an item that must be seen
    whole does not fit the context."""
    items: list[Sequence] = []
    found: list[Window] = []
    for number, sequence in enumerate(sequences):
        items.append(sequence)
        found += _windows(model, tokenizer, number, sequence)
    if not found:
        raise DataError("the held-out items have no window of two tokens or more")
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    drawn = [found[at] for at in chosen.tolist()]
    parts = [Part(items[w.item], w.start, w.end, w.head) for w in drawn]
    first = [w.head + w.scored - w.start for w in drawn]
    return Sample(parts, first, len(found), tokenizer, model)


def _windows(
    model: SequenceModel, tokenizer: Tokenizer, number: int, sequence: Sequence
) -> Iterator[Window]:
    """The windows over one item that `likelihood.evaluate` scores, without those of one id."""
    context, length = model.config.context, len(sequence)
    start = sequence.given - 1 if model.has_encoder else 0
    whole = model.has_encoder or tokenizer.positions(length, sequence.side) is not None
    if whole:
        if length - start > context + 1:
            raise too_long(length - start, context)
        found = iter([Window(number, start, length, start + 1)])
    else:
        head = sequence.given if sequence.given > 1 else 0
        found = windows(number, length, context, context, head)
    return (window for window in found if window.size > 1)
