"""The rows of a `Decoder`: what each has read, and the logits of what comes next.

read(ids, positions)      what reading a prompt by itself, (T,) and (T, axes) or none, leaves
put(row, read)            a row has read that
feed(rows, ids, at, positions)   the next id of some rows, (n,) each, positions (n, axes) or none;
                          at (R,): how many ids each of all rows has read
logits()                  (rows, V) float32, of each row behind the last id that it read

Whatever a row reads, its logits are the same bits, whichever rows are fed beside it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..model.sequence_model import DecodingState, SequenceModel
from ..protocols import Ids
from .traced import Step, traced

ALIGNED = 16  # positions: where a row begins in memory must not change how products are summed
SHORTEST = 16  # ids that a prompt is padded to; then the next power of two


class Rows(Protocol):
    def read(self, ids: Ids, positions: Ids | None) -> Any: ...

    def put(self, row: int, read: Any) -> None: ...

    def feed(self, rows: Ids, ids: Ids, at: Ids, positions: Ids | None) -> None: ...

    def logits(self) -> Tensor: ...


def padded(length: int) -> int:
    """The next power of two, or SHORTEST."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


class TorchRows:
    """By `model.step_rows`. A step always has the same shapes, all rows x the whole length, and a
    prompt is padded to a length that depends on it alone: that is what keeps bits. (Measured: they
    agree where a head's width is a multiple of 4, as every named size has it.)"""

    def __init__(self, model: SequenceModel, rows: int, length: int) -> None:
        self.model, self.rows, self.device = model.eval(), rows, model.head.weight.device
        self.state = model.start(rows, -(-length // ALIGNED) * ALIGNED)
        self._steps: dict[int, Step] = {}
        self.hidden = torch.zeros(rows, model.config.width, device=self.device)

    @torch.no_grad()
    def read(self, ids: Ids, positions: Ids | None) -> tuple[DecodingState, Tensor]:
        length = min(self.model.config.context, padded(len(ids)))
        missing = length - len(ids)
        inputs = torch.from_numpy(np.pad(ids, (0, missing)))[None].to(self.device)
        places = None
        if positions is not None:
            places = torch.from_numpy(np.pad(positions, ((0, missing), (0, 0))))[None]
            places = places.to(self.device)
        state = self.model.start(1, length)
        return state, self.model.step(inputs, state, places)[0, len(ids) - 1]

    def put(self, row: int, read: tuple[DecodingState, Tensor]) -> None:
        state, hidden = read
        self.model.adopt(self.state, row, state)
        self.hidden[row] = hidden

    @torch.no_grad()
    def feed(self, rows: Ids, ids: Ids, at: Ids, positions: Ids | None) -> None:
        """A row that is not fed writes where its next id will."""
        all_ids = np.zeros((self.rows, 1), np.int64)
        all_ids[rows, 0] = ids
        inputs = [all_ids, at]
        if positions is not None:
            places = np.zeros((self.rows, 1, positions.shape[1]), np.int64)
            places[rows, 0] = positions
            inputs.append(places)
        tensors = [torch.from_numpy(each).to(self.device) for each in inputs]
        if len(tensors) not in self._steps:
            self._steps[len(tensors)] = traced(self.model, self.state, *tensors)
        hidden = self._steps[len(tensors)](*tensors)[:, 0]
        if len(rows) == self.rows:
            self.hidden = hidden
        else:
            fed = torch.zeros(self.rows, 1, dtype=torch.bool)
            fed[rows] = True
            self.hidden = torch.where(fed.to(self.device), hidden, self.hidden)

    @torch.no_grad()
    def logits(self) -> Tensor:
        return self.model.logits(self.hidden)
