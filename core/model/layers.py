"""The layers of a block beside its mixer: linear, norm, dropout, feed-forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import operations as ops


class Linear(nn.Linear):
    """A linear layer that knows which rows of its weight are matrices of their own.

    `rows` splits the output features (queries, keys, values in one product); Muon
    orthogonalises each part by itself. `output` marks a projection back into the residual stream.
    """

    def __init__(
        self, inputs: int, rows: tuple[int, ...], *, bias: bool, output: bool = False
    ) -> None:
        super().__init__(inputs, sum(rows), bias=bias)
        self.rows = rows
        self.output = output

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # whose random fill would import torch's compiler
            super().reset_parameters()

    def forward(self, x: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """The outputs low ... high - 1; all of them by default."""
        if low == 0 and high in (None, self.out_features):
            return F.linear(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias[low:high]
        return F.linear(x, self.weight[low:high], bias)


class NoNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019, over the width. `products`: the output only goes into matrix
    products, so it is given in their dtype."""

    def __init__(self, width: int, eps: float, products: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.products = eps, products

    def forward(self, x: Tensor) -> Tensor:
        dtype = ops.product_dtype(x) if self.products else x.dtype
        return ops.rms_norm(x, self.weight, self.eps, dtype)


def make_norm(config: ModelConfig) -> nn.Module:
    """LayerNorm (Ba et al. 2016), RMSNorm or none, over the width."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, config.norm_eps, config.norm_position == "pre")
    return NoNorm()


class Dropout(nn.Module):
    """While training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.rate) if self.training else x


class Residual(nn.Module):
    """The residual stream x plus what a layer adds to it, y, with dropout on y while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.add_dropout(x, y, self.rate if self.training else 0.0)


class FeedForward(nn.Module):
    """x (B, T, D) -> (B, T, D), each position by itself.

    relu and gelu as in Vaswani et al. 2017 and GPT-2 (tanh form); relu2 is ReLU squared (So et
    al. 2021, Primer); swiglu is Shazeer 2020, eq. 6.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.ffn
        hidden = config.hidden
        rows = (hidden, hidden) if self.kind == "swiglu" else (hidden,)
        self.up = Linear(config.width, rows, bias=config.bias)
        self.down = Linear(hidden, (config.width,), bias=config.bias, output=True)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.kind == "swiglu":
            gate, value = up.chunk(2, dim=-1)
            hidden = F.silu(gate) * value
        elif self.kind == "relu2":
            hidden = ops.relu_squared(up)
        elif self.kind == "gelu":
            hidden = F.gelu(up, approximate="tanh")
        else:
            hidden = F.relu(up)
        out: Tensor = self.down(hidden)
        return out


KNOTS = (16, 64, 256)


def between_knots(count: int) -> Tensor:
    """(count, knots): each of `count` ordered rows as weights of the knots around it, linear in
    between, at each of the resolutions KNOTS that is coarser than the rows."""
    tables = [torch.zeros(count, 0)]
    for knots in KNOTS:
        if 2 * knots <= count:
            at = torch.linspace(0, knots - 1, count, dtype=torch.float64)[:, None]
            tables.append((1 - (at - torch.arange(knots)).abs()).clamp(min=0).float())
    return torch.cat(tables, dim=1)
