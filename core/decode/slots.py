"""The slots of a `Decoder`, one for each row: its KV cache and the logits of its next id.

The logits of a slot do not depend on which other slots are fed in the same step, to the last bit.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..model.sequence_model import DecodingState, SequenceModel
from ..ops.cuda_graphs import GraphCache
from ..protocols import Ids

ROW_ALIGNMENT = 16  # positions, so that all rows have one alignment and products sum alike


class Slots(Protocol):
    def prefill(self, ids: Ids, positions: Ids | None, given: int) -> Any:
        """The cached prompt, for `assign`: ids (T,), positions (T, axes) or None. given: the first
        `given` ids are the source of a model with an encoder."""
        ...

    def assign(self, row: int, prompt: Any) -> None:
        """Slot `row` continues the prompt that `prefill` returned."""
        ...

    def feed(self, rows: Ids, ids: Ids, lengths: Ids, positions: Ids | None) -> None:
        """Appends ids (n,) to the slots `rows` (n,), at positions (n, axes) or None. lengths (R,):
        the ids that each of all R slots holds so far. Slots that are not fed keep their state."""
        ...

    def logits(self) -> Tensor:
        """(R, V) float32: the next-id logits of each slot."""
        ...


class TorchSlots:
    """Slots in torch, by `model.step`. Every step has the same shapes (all rows, the full length),
    and each prompt is prefilled by itself, so that logits are bit-identical whatever the other rows
    hold. (Measured: they are where the head width is a multiple of 4, as in every named size.) A
    single slot on a CPU has no other rows, so its steps read only the filled part of the cache: a
    third faster."""

    def __init__(self, model: SequenceModel, rows: int, length: int) -> None:
        self.model, self.rows, self.device = model.eval(), rows, model.head.weight.device
        self.length = -(-length // ROW_ALIGNMENT) * ROW_ALIGNMENT
        self.single_row = rows == 1 and self.device.type == "cpu"
        self.state = model.start(rows, self.length)
        if not self.single_row:
            self.state.at = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.hidden = torch.zeros(rows, model.config.width, device=self.device)
        self._step = GraphCache(self._run) if self.device.type == "cuda" else self._run_plain

    @torch.no_grad()
    def prefill(self, ids: Ids, positions: Ids | None, given: int) -> tuple[DecodingState, Tensor]:
        state = self.model.start(1, self.length if self.single_row else len(ids))
        at = None if positions is None else torch.from_numpy(positions)[None].to(self.device)
        inputs = torch.from_numpy(ids)[None].to(self.device)
        hidden = self.model.prefill(inputs, state, at, given)
        return state, hidden[0, -1]

    def assign(self, row: int, prompt: tuple[DecodingState, Tensor]) -> None:
        state, hidden = prompt
        if self.single_row:  # a copy: other draws may continue the same prompt
            self.state = state.select(torch.zeros(1, dtype=torch.int64))
        else:
            self.state.assign(row, state)
        self.hidden[row] = hidden

    @torch.no_grad()
    def feed(self, rows: Ids, ids: Ids, lengths: Ids, positions: Ids | None) -> None:
        inputs = {"ids": np.zeros((self.rows, 1), np.int64), "lengths": np.zeros(self.rows, int)}
        inputs["ids"][rows, 0], inputs["lengths"][rows] = ids, 1
        if positions is not None:
            inputs["positions"] = np.zeros((self.rows, 1, positions.shape[1]), np.int64)
            inputs["positions"][rows, 0] = positions
        tensors = {name: torch.from_numpy(x).to(self.device) for name, x in inputs.items()}
        hidden = self._step(len(tensors), tensors)[:, 0]
        fed = tensors["lengths"].bool()[:, None]
        self.hidden = torch.where(fed, hidden, self.hidden)

    def _run(self, inputs: dict[str, Tensor]) -> Tensor:
        lengths = None if self.single_row else inputs["lengths"]
        return self.model.step(inputs["ids"], self.state, inputs.get("positions"), lengths)

    def _run_plain(self, kind: object, inputs: dict[str, Tensor]) -> Tensor:
        return self._run(inputs)

    @torch.no_grad()
    def logits(self) -> Tensor:
        return self.model.logits(self.hidden)
