"""A mixer of dilated causal convolutions. Its receptive field doubles with each block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .layers import Linear
from .mixer import Context, History, own_positions, state_dtype


class Convolution(nn.Module):
    """A gated convolution over x_t, x_{t-d} ... x_{t-(k-1)d} (van den Oord et al. 2016, WaveNet,
    eq. 2): y_t = V (tanh(sum_j W_j x_{t-jd}) * sigmoid(sum_j U_j x_{t-jd})).

    The dilation d is 1, 2, 4 ... in successive blocks, and starts again at 1 once they reach over
    the context (Bai et al. 2018, TCN). The taps of a position are one row, so that the convolution
    is one matrix product. The weights of each tap are in order of j: the position itself first.
    """

    dynamic = False

    def __init__(self, config: ModelConfig, block: int) -> None:
        super().__init__()
        self.width, self.kernel = config.width, config.kernel
        self.dilation = dilation(config, block)
        self.reach = (self.kernel - 1) * self.dilation
        rows = (config.width, config.width)
        self.taps = Linear(config.width * self.kernel, rows, bias=config.bias)
        self.out = Linear(config.width, (config.width,), bias=config.bias, output=True)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self._mix(self.gather(x, context))

    def gather(self, x: Tensor, context: Context) -> Tensor:
        """The taps (B, T, kernel * D) of all positions; before the first one stand zeros."""
        at = torch.arange(x.shape[1], device=x.device)
        taps = [x]
        for back in range(self.dilation, self.reach + 1, self.dilation):
            earlier = torch.zeros_like(x)
            earlier[:, back:] = x[:, :-back]
            if context.segment_start is not None:
                own = at - back >= context.segment_start
                earlier = earlier * own[..., None]
            taps.append(earlier)
        return torch.cat(taps, dim=-1)

    def start(self, batch: int, length: int) -> History:
        like = self.taps.weight
        return History((like.new_zeros(batch, length, self.width, dtype=state_dtype(like)),))

    def step(self, x: Tensor, context: Context, cache: History) -> Tensor:
        cache.append((x,), context)
        (seen,) = cache.tensors
        at = own_positions(x.shape[1], context.at, x.device).expand(len(x), -1)  # (B, T)
        backs = torch.arange(0, self.reach + 1, self.dilation, device=x.device)
        index = at[..., None] - backs  # (B, T, kernel)
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        taps = seen[rows, index.clamp(0, seen.shape[1] - 1)] * (index >= 0)[..., None]
        return self._mix(taps.flatten(2).to(x.dtype))

    def _mix(self, taps: Tensor) -> Tensor:
        """The output (B, T, D) of taps (B, T, kernel * D)."""
        value, gate = self.taps(taps).chunk(2, dim=-1)
        out: Tensor = self.out(value.tanh() * gate.sigmoid())
        return out

    def flops(self, length: int) -> float:
        return 0.0


def dilation(config: ModelConfig, block: int) -> int:
    """The dilation of a block: a cycle of powers of two, as many as reach over the context."""
    cycle = 1
    while (config.kernel - 1) * (2**cycle - 1) < config.context - 1 and config.kernel > 1:
        cycle += 1
    return int(2 ** (block % cycle))
