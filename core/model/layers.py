"""Norms, feed-forwards and positions: what a block is made of beside its mixer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import cpu_kernels
from ..ops.autograd_ops import dropout, relu_squared, rms_norm


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

    def part(self, x: Tensor, low: int, high: int | None) -> Tensor:
        """Of the outputs, low ... high - 1 alone."""
        return F.linear(x, self.weight[low:high])


class NoNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019, over the width."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def beside(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The stream x, to go on with, and its norm, to go into products."""
    if isinstance(norm, RMSNorm) and x.dtype == torch.float32 and cpu_kernels.serve(x):
        return cpu_kernels.rms_norm(x, norm.weight, norm.eps)
    return x, norm(x)


def make_norm(config: ModelConfig) -> nn.Module:
    """LayerNorm (Ba et al. 2016), RMSNorm or none, over the width."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, config.norm_eps)
    return NoNorm()


class Dropout(nn.Module):
    """While training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training else x

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        """x and what is left of y."""
        if x.dtype == torch.float32 and cpu_kernels.serve(y):
            return cpu_kernels.add(x, y, self.rate if self.training else 0.0)
        out: Tensor = x + self(y)
        return out


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
            hidden = cpu_kernels.relu_squared(up) if cpu_kernels.serve(up) else relu_squared(up)
        elif self.kind == "gelu":
            hidden = F.gelu(up, approximate="tanh")
        else:
            hidden = F.relu(up)
        out: Tensor = self.down(hidden)
        return out


def rotary_angles(positions: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin, each (..., T, head_width), for positions (..., T, axes), as `rotate` takes them.

    Su et al. 2021 (RoFormer) for one axis, in the half-split layout of Llama. With more axes,
    frequency j turns with axis j mod axes, so that each axis has slow and fast ones.
    """
    pairs = config.head_width // 2
    index = torch.arange(pairs, device=positions.device)
    frequency = config.rope_theta ** (-index.float() / pairs)
    angles = positions.float()[..., index % config.axes] * frequency
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """(..., T, width) of positions (..., T): Vaswani et al. 2017, section 3.5."""
    even = torch.arange(0, width, 2, device=positions.device)
    angles = positions.float()[..., None] * torch.exp(even.float() * (-math.log(10000.0) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width]


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
