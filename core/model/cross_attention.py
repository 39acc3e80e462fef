"""The two kinds of attention that only models with an encoder have: over the whole source, and from
the target to the source."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import operations as ops
from .attention import Attention
from .layers import Linear
from .mixer import Context, state_dtype


class WholeAttention(Attention):
    """Self-attention of an encoder: a position sees all positions of its own source, in both
    directions (Vaswani et al. 2017, section 3.2.3)."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.project(x, context)
        rate = self.dropout if self.training else 0.0
        mixed = ops.masked_attention(
            q, k, v, same_item(context.segments, context.segments, x.device), rate
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class CrossAttention(nn.Module):
    """Attention from the positions of a target to those of its source (Vaswani et al. 2017, section
    3.2.3): softmax(Q K^T / sqrt(w)) V with queries of the target, keys and values of the source."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = config.heads, config.groups, config.head_width
        self.eps = config.norm_eps if config.qk_norm else None
        self.dropout, self.positions = config.dropout, config.context
        inner, kv = self.heads * self.head_width, self.groups * self.head_width
        biased = config.bias or config.qkv_bias
        self.query = Linear(config.width, (inner,), bias=biased)
        self.kv = Linear(config.width, (kv, kv), bias=biased)
        self.out = Linear(inner, (config.width,), bias=config.bias, output=True)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if context.memory is None:
            raise ValueError("a model with an encoder needs a source")
        keys, values = self.read(context.memory)
        seen = same_item(context.segments, context.memory_segments, x.device)
        return self._attend(x, keys, values, seen)

    def start(self, batch: int) -> SourceCache:
        like = self.kv.weight
        shape = (batch, self.groups, self.positions, self.head_width)
        keys, values = (like.new_zeros(shape, dtype=state_dtype(like)) for _ in range(2))
        lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return SourceCache(keys, values, lengths)

    def step(self, x: Tensor, context: Context, cache: SourceCache) -> Tensor:
        """As `Mixer.step`. A step with a `context.memory` (B, S, D) reads the source, whole rows of
        one item, into the cache."""
        if context.memory is not None:
            cache.fill(*self.read(context.memory))
        at = torch.arange(self.positions, device=x.device)
        seen = (at < cache.lengths[:, None])[:, None, None]
        return self._attend(x, cache.keys.to(x.dtype), cache.values.to(x.dtype), seen)

    def flops(self, length: int) -> float:
        return 12.0 * self.heads * self.head_width * length

    def read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, groups, S, w) of a source (B, S, D)."""
        kv = self.kv(memory).view(*memory.shape[:2], 2 * self.groups, -1).transpose(1, 2)
        keys, values = kv.chunk(2, dim=1)
        return keys if self.eps is None else ops.rms_norm(keys, None, self.eps), values

    def ask(self, x: Tensor) -> Tensor:
        """Queries (B, heads, T, w) of a target's positions x (B, T, D)."""
        q = self.query(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        return q if self.eps is None else ops.rms_norm(q, None, self.eps)

    def _attend(self, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        mixed = ops.masked_attention(self.ask(x), keys, values, seen, rate)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


@dataclass
class SourceCache:
    """The keys and values (B, groups, positions, w) of each row's source, and its length (B,)."""

    keys: Tensor
    values: Tensor
    lengths: Tensor

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Takes keys and values (B, groups, S, w). ValueError if S exceeds the room."""
        count = keys.shape[2]
        if count > self.keys.shape[2]:
            raise ValueError(f"a source of {count} ids, in a context of {self.keys.shape[2]}")
        self.keys[:, :, :count], self.values[:, :, :count] = keys, values
        self.lengths[:] = count

    def select(self, rows: Tensor) -> SourceCache:
        return SourceCache(self.keys[rows], self.values[rows], self.lengths[rows])

    def assign(self, row: int, other: SourceCache) -> None:
        self.keys[row], self.values[row] = other.keys[0], other.values[0]
        self.lengths[row] = other.lengths[0]


def same_item(ones: Tensor | None, others: Tensor | None, device: torch.device) -> Tensor:
    """(B or 1, 1, T, S): whether positions of items ones (B, T) and others (B, S) are of the same
    item; all are where either is None."""
    if ones is None or others is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    return (ones[:, :, None] == others[:, None])[:, None]
