"""A mixer for tfm: each head keeps an exponential moving average of its values.

y_t is the sum of (1 - a) a^(t - s) v_s over all s <= t, with a learned decay a for each head. All
positions at once are a product with a matrix of powers of a; one after the other, they need a state
of fixed size. It is retention (Sun et al. 2023, RetNet) without queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tfm.core.config import ModelConfig
from tfm.core.model.layers import Linear
from tfm.core.model.mixer import Context, state_dtype


class Averages(nn.Module):
    """v, g = V x, G x; the output is W (y * silu(g)), where y are the averages of v."""

    reach = None  # a position depends on all before it
    dynamic = False  # the shapes of its tensors do not depend on the segments

    def __init__(self, config: ModelConfig, block: int) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.inputs = Linear(width, (width, width), bias=config.bias)
        self.decay = nn.Parameter(torch.linspace(0.0, 4.0, config.heads))  # a = sigmoid(decay)
        self.out = Linear(width, (width,), bias=config.bias, output=True)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        values, gate = self.inputs(x).chunk(2, dim=-1)
        at = torch.arange(x.shape[1], device=x.device)
        back = at[:, None] - at  # (T, T) how far key s is behind query t
        seen = back >= 0
        if context.segment_start is not None:
            seen = seen & (at >= context.segment_start[..., None])  # (B, T, T)
        decay = self.decay.float().sigmoid()[:, None, None]
        share = (1 - decay) * decay ** back.clamp(min=0)  # (heads, T, T)
        share = share * seen.unsqueeze(-3)
        average = share.to(values.dtype) @ values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self._out(average.transpose(1, 2).flatten(2), gate)

    def start(self, batch: int, length: int) -> Average:
        like = self.out.weight
        shape = (batch, self.heads, self.out.out_features // self.heads)
        return Average(like.new_zeros(shape, dtype=state_dtype(like)))

    def step(self, x: Tensor, context: Context, cache: Average) -> Tensor:
        values, gate = self.inputs(x).chunk(2, dim=-1)
        decay = self.decay.float().sigmoid()[:, None]
        averages = []
        for t, value in enumerate(values.unflatten(-1, (self.heads, -1)).unbind(1)):
            new = decay * cache.state + (1 - decay) * value
            if context.lengths is not None:  # a row that takes no more keeps its state
                new = torch.where((t < context.lengths)[:, None, None], new, cache.state)
            cache.state.copy_(new)  # in place: a CUDA graph of this step reads this memory
            averages.append(new.flatten(1))
        return self._out(torch.stack(averages, dim=1).to(x.dtype), gate)

    def _out(self, average: Tensor, gate: Tensor) -> Tensor:
        out: Tensor = self.out(average * nn.functional.silu(gate))
        return out

    def flops(self, length: int) -> float:
        """A product of (T, T) and (T, width) forward, and two backward."""
        return 6.0 * length * self.out.out_features


@dataclass
class Average:
    """The averages (B, heads, head width) after the positions so far."""

    state: Tensor

    def select(self, rows: Tensor) -> Average:
        return Average(self.state[rows])

    def assign(self, row: int, other: Average) -> None:
        self.state[row] = other.state[0]
