"""Recurrent mixers: torch's own layers, one in each block. Their cache is a state of fixed size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .mixer import Context, state_dtype

CELLS: dict[str, tuple[type[nn.RNNBase], int]] = {  # and how many gates each has
    "rnn": (nn.RNN, 1),
    "gru": (nn.GRU, 3),
    "lstm": (nn.LSTM, 4),
}


class Recurrent(nn.Module):
    """A layer h_t = f(x_t, h_{t-1}), one position after the other, of one of three kinds.

    rnn   Elman 1990: h_t = tanh(W x_t + U h_{t-1} + b)
    gru   Cho et al. 2014, eqs. 5 to 8: gates r and z; n_t = tanh(W x_t + r_t * (U h_{t-1} + b));
          h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    lstm  Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000: gates i, f, o;
          c_t = f_t * c_{t-1} + i_t * tanh(W x_t + U h_{t-1} + b); h_t = o_t * tanh(c_t)
    """

    reach = None
    dynamic = True

    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        layer, self.gates = CELLS[kind]
        self.states = 2 if kind == "lstm" else 1
        self.cell = _without_initial_values(layer)(
            config.width, config.width, bias=config.bias, batch_first=True
        )
        self.rows = (config.width,) * self.gates  # of each of its two matrices

    @torch.no_grad()
    def initialise(self) -> None:
        """Glorot & Bengio 2010 for the input matrices, orthogonal recurrent ones (Saxe et al.
        2014), and a forget gate that starts open, with bias 1 (Jozefowicz et al. 2015)."""
        for name, parameter in self.cell.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
                continue
            for gate in parameter.chunk(self.gates):
                if "ih" in name:
                    nn.init.xavier_uniform_(gate)
                else:
                    nn.init.orthogonal_(gate)
        if self.states == 2 and self.cell.bias:
            width = self.cell.hidden_size
            self.cell.bias_ih_l0[width : 2 * width] = 1  # torch's order of gates: i, f, g, o

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if context.segment_start is None:
            out: Tensor = self.cell(x)[0]
            return out
        return each_segment(x, context.segment_start, lambda rows: self.cell(rows)[0])

    def start(self, batch: int, length: int) -> RecurrentState:
        like = self.cell.weight_hh_l0
        shape = (batch, self.cell.hidden_size)
        zeros = [like.new_zeros(shape, dtype=state_dtype(like)) for _ in range(self.states)]
        return RecurrentState(zeros)

    def step(self, x: Tensor, context: Context, cache: RecurrentState) -> Tensor:
        if context.lengths is None:
            return self._advance(x, cache, None)
        steps = [
            self._advance(x[:, t : t + 1], cache, t < context.lengths) for t in range(x.shape[1])
        ]
        return torch.cat(steps, dim=1)

    def _advance(self, x: Tensor, cache: RecurrentState, active: Tensor | None) -> Tensor:
        """Takes x (B, T, D) into the state of the rows that are active (B,), None: of all."""
        before = [state[None].to(x.dtype) for state in cache.states]
        out, after = self.cell(x, tuple(before) if self.states == 2 else before[0])
        for number, new in enumerate(after if self.states == 2 else (after,)):
            old = cache.states[number]
            new = new[0].to(old.dtype)
            if active is not None:
                new = torch.where(active[:, None], new, old)
            old.copy_(new)  # in place: a CUDA graph of this step reads this memory
        hidden: Tensor = out
        return hidden

    def flops(self, length: int) -> float:
        return 0.0


@dataclass
class RecurrentState:
    """The states (B, D) after the positions so far: h, and for an LSTM c."""

    states: list[Tensor]

    def select(self, rows: Tensor) -> RecurrentState:
        return RecurrentState([state[rows] for state in self.states])

    def assign(self, row: int, other: RecurrentState) -> None:
        for state, one in zip(self.states, other.states, strict=True):
            state[row] = one[0]


def each_segment(x: Tensor, segment_start: Tensor, run: Any) -> Tensor:
    """run((N, L, D)) -> (N, L, ...) for every segment of x (B, T, D) as a row of its own, padded at
    its end; the result has the order of x. segment_start (B, T): see `Context`."""
    batch, length = segment_start.shape
    place = torch.arange(length, device=x.device) - segment_start  # within the segment
    if not bool(segment_start.any()):
        out: Tensor = run(x)
        return out
    number = (place == 0).flatten().cumsum(0) - 1  # of the segment, over all rows
    index = number * int(place.max() + 1) + place.flatten()
    rows = x.new_zeros((int(number[-1]) + 1) * int(place.max() + 1), x.shape[2])
    rows = rows.index_copy(0, index, x.flatten(0, 1))
    mixed = run(rows.view(int(number[-1]) + 1, -1, x.shape[2]))
    return mixed.flatten(0, 1)[index].view(batch, length, -1)  # type: ignore[no-any-return]


def _without_initial_values(layer: type[nn.RNNBase]) -> Any:
    """The layer without torch's own initial values, which on the meta device would import torch's
    compiler; `initialise` sets them."""
    return type(layer.__name__, (layer,), {"reset_parameters": lambda self: None})
