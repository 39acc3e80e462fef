"""The slots of a `Decoder`, one for each row that is decoded: what it has read, and the logits of
its next id.

Whatever a slot reads, its logits are the same bits, whichever slots are fed beside it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..model.sequence_model import DecodingState, SequenceModel
from ..ops.cuda_graphs import GraphCache
from ..protocols import Ids

ALIGNED = 16  # positions: where a row begins in memory must not change how products are summed


class Slots(Protocol):
    def read(self, ids: Ids, positions: Ids | None, given: int) -> Any:
        """What reading a prompt by itself leaves: ids (T,), positions (T, axes) or none; given: how
        many of the ids are the source of a model with an encoder."""
        ...

    def assign(self, row: int, read: Any) -> None:
        """Slot `row` has read what `read` gave."""
        ...

    def feed(self, rows: Ids, ids: Ids, at: Ids, positions: Ids | None) -> None:
        """Each of some slots reads its next id: rows and ids (n,), positions (n, axes) or none;
        at (R,): how many ids each of all slots has read. A slot that is not fed keeps its state."""
        ...

    def logits(self) -> Tensor:
        """(R, V) float32, of each slot behind the last id that it read."""
        ...


class TorchSlots:
    """By `model.step`. A step always has the same shapes, all rows and the whole length, and a
    prompt is read alone: that keeps the bits. (Measured: they agree where a head's width is a
    multiple of 4, as every named size has it.) A single slot on a CPU has no neighbours, so its
    steps read only what there is: a third faster."""

    def __init__(self, model: SequenceModel, rows: int, length: int) -> None:
        self.model, self.rows, self.device = model.eval(), rows, model.head.weight.device
        self.length = -(-length // ALIGNED) * ALIGNED
        self.alone = rows == 1 and self.device.type == "cpu"
        self.state = model.start(rows, self.length)
        if not self.alone:
            self.state.at = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.hidden = torch.zeros(rows, model.config.width, device=self.device)
        self._step = GraphCache(self._stepped) if self.device.type == "cuda" else self._plain

    @torch.no_grad()
    def read(self, ids: Ids, positions: Ids | None, given: int) -> tuple[DecodingState, Tensor]:
        state = self.model.start(1, self.length if self.alone else len(ids))
        places = None if positions is None else torch.from_numpy(positions)[None].to(self.device)
        inputs = torch.from_numpy(ids)[None].to(self.device)
        hidden = self.model.read(inputs, state, places, given)
        return state, hidden[0, -1]

    def assign(self, row: int, read: tuple[DecodingState, Tensor]) -> None:
        state, hidden = read
        if self.alone:  # a copy: other draws may continue the same prompt
            self.state = state.select(torch.zeros(1, dtype=torch.int64))
        else:
            self.state.assign(row, state)
        self.hidden[row] = hidden

    @torch.no_grad()
    def feed(self, rows: Ids, ids: Ids, at: Ids, positions: Ids | None) -> None:
        inputs = {"ids": np.zeros((self.rows, 1), np.int64), "lengths": np.zeros(self.rows, int)}
        inputs["ids"][rows, 0], inputs["lengths"][rows] = ids, 1
        if positions is not None:
            inputs["positions"] = np.zeros((self.rows, 1, positions.shape[1]), np.int64)
            inputs["positions"][rows, 0] = positions
        tensors = {name: torch.from_numpy(x).to(self.device) for name, x in inputs.items()}
        hidden = self._step(len(tensors), tensors)[:, 0]
        fed = tensors["lengths"].bool()[:, None]
        self.hidden = torch.where(fed, hidden, self.hidden)

    def _stepped(self, inputs: dict[str, Tensor]) -> Tensor:
        places = inputs.get("positions")
        lengths = None if self.alone else inputs["lengths"]
        return self.model.step(inputs["ids"], self.state, places, lengths)

    def _plain(self, kind: object, inputs: dict[str, Tensor]) -> Tensor:
        return self._stepped(inputs)

    @torch.no_grad()
    def logits(self) -> Tensor:
        return self.model.logits(self.hidden)
