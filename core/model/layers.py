"""The layers of a block apart from its mixer: linear, norm, dropout, residual, feed-forward."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import operations as ops
from ..ops.reference import product_dtype


class Linear(nn.Linear):
    """A linear layer whose weight may fuse several matrices, as for queries, keys and values.

    `rows`: the output features of each matrix; Muon orthogonalises each by itself. `output` marks a
    projection back into the residual stream.
    """

    def __init__(
        self, inputs: int, rows: tuple[int, ...], *, bias: bool, output: bool = False
    ) -> None:
        super().__init__(inputs, sum(rows), bias=bias)
        self.rows = rows
        self.output = output

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # on the meta device it would import torch's compiler
            super().reset_parameters()

    def forward(self, x: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """The outputs low ... high - 1; by default all."""
        if low == 0 and high in (None, self.out_features):
            return F.linear(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias[low:high]
        return F.linear(x, self.weight[low:high], bias)


class NoNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class RMSNorm(nn.Module):
    """RMSNorm over the width (Zhang & Sennrich 2019). for_matmul: only matrix products read the
    output, so it is in their dtype."""

    def __init__(self, width: int, eps: float, for_matmul: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.for_matmul = eps, for_matmul

    def forward(self, x: Tensor) -> Tensor:
        dtype = product_dtype(x) if self.for_matmul else x.dtype
        return ops.rms_norm(x, self.weight, self.eps, dtype)


def make_norm(config: ModelConfig, for_matmul: bool) -> nn.Module:
    """The config's norm over the width: LayerNorm (Ba et al. 2016), RMSNorm or none. for_matmul:
    see `RMSNorm`."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, config.norm_eps, for_matmul)
    return NoNorm()


class Dropout(nn.Module):
    """Dropout, in training mode only."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.rate) if self.training else x


class Residual(nn.Module):
    """The residual stream x plus a layer's output y, with dropout on y in training mode. Without a
    residual stream, y alone."""

    def __init__(self, rate: float, residual: bool = True) -> None:
        super().__init__()
        self.rate, self.residual = rate, residual

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        rate = self.rate if self.training else 0.0
        return ops.add_dropout(x, y, rate) if self.residual else ops.dropout(y, rate)


class FeedForward(nn.Module):
    """x (B, T, D) -> (B, T, D), each position by itself.

    relu and gelu as in Vaswani et al. 2017 and GPT-2 (tanh form); relu2 is ReLU squared (So et
    al. 2021, Primer). The others are gated, down(f(gate) * value) (Dauphin et al. 2017; Shazeer
    2020, eqs. 5 and 6), with f the sigmoid (glu), nothing (bilinear), ReLU, GELU or SiLU (swiglu).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind, self.gated = config.ffn, config.gated
        hidden = config.hidden
        rows = (hidden, hidden) if self.gated else (hidden,)
        self.up = Linear(config.width, rows, bias=config.bias)
        self.down = Linear(hidden, (config.width,), bias=config.bias, output=True)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.gated:
            gate, value = up.chunk(2, dim=-1)
            hidden = ACTIVATIONS[self.kind](gate) * value
        else:
            hidden = ACTIVATIONS[self.kind](up)
        out: Tensor = self.down(hidden)
        return out


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": _gelu,
    "relu2": ops.relu_squared,
    "glu": torch.sigmoid,
    "bilinear": lambda x: x,
    "reglu": F.relu,
    "geglu": _gelu,
    "swiglu": F.silu,
}


KNOT_COUNTS = (16, 64, 256)


def knot_weights(count: int) -> Tensor:
    """(count, knots): the weights that interpolate `count` ordered rows linearly between evenly
    spaced knots. The columns are the knots of each of KNOT_COUNTS up to half of `count`."""
    tables = [torch.zeros(count, 0)]
    for knots in KNOT_COUNTS:
        if 2 * knots <= count:
            position = torch.linspace(0, knots - 1, count, dtype=torch.float64)[:, None]
            tables.append((1 - (position - torch.arange(knots)).abs()).clamp(min=0).float())
    return torch.cat(tables, dim=1)
