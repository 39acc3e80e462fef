"""Encodings of positions: rotary angles, sinusoids and linear biases."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ..config import ModelConfig


def rotary_angles(positions: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin, each (..., T, head_width), of positions (..., T, axes), for `operations.rotate`.

    For one axis as Su et al. 2021 (RoFormer), in the half-split layout of Llama. With several axes,
    frequency j belongs to axis j mod axes, so that each axis has low and high frequencies. Where
    all coordinates of a position are the same, that is the rotation of one axis.
    """
    pairs = config.head_width // 2
    index = torch.arange(pairs, device=positions.device)
    frequency = scaled(config.rope_theta ** (-index.float() / pairs), config)
    angles = positions.float()[..., index % positions.shape[-1]] * frequency
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def scaled(frequency: Tensor, config: ModelConfig) -> Tensor:
    """Rotary frequencies (N,), in radians a position, changed as `config.rope_scaling` says.

    linear: all divided by a factor (Chen et al. 2023, position interpolation). llama3: those whose
    wave is longer than CONTEXT / LOW positions divided by FACTOR, those with one shorter than
    CONTEXT / HIGH kept, and between them a mixture (Llama 3.1; `_compute_llama3_parameters` of
    transformers)."""
    kind, numbers = config.rope_scale
    if not kind:
        return frequency
    if kind == "linear":
        return frequency / numbers[0]
    factor, low, high, context = numbers
    kept = ((context * frequency / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequency / factor + kept * frequency


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """(..., T, width) embeddings of positions (..., T): Vaswani et al. 2017, section 3.5."""
    even = torch.arange(0, width, 2, device=positions.device)
    angles = positions.float()[..., None] * torch.exp(even.float() * (-math.log(10000.0) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width].contiguous()


@functools.cache
def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """(heads,) the slope of each head (Press et al. 2022, ALiBi): a geometric series from 2^(-8/n)
    to 2^-8 for n heads, n a power of two; for other numbers, as their code does, the series of the
    next smaller power, then every second one of the next larger."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes, device=device)
