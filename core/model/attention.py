"""Self-attention, a mixer that attends to all earlier positions, and its KV cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import operations as ops
from .layers import Linear, RMSNorm
from .mixer import Context, own_positions, state_dtype
from .positions import alibi_slopes


class Attention(nn.Module):
    """Causal self-attention: softmax(Q K^T / sqrt(w)) V (Vaswani et al. 2017, eq. 1), with grouped
    keys and values (Ainslie et al. 2023). With `config.qk_norm`, queries and keys are
    RMS-normalised (Henry et al. 2020), with weights where `config.qk_norm_weights` (Qwen 3). With
    `config.window`, a position sees the last ones only
    (Beltagy et al. 2020, Longformer)."""

    dynamic = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = config.heads, config.groups, config.head_width
        self.eps = config.norm_eps if config.qk_norm else None
        self.dropout, self.window = config.dropout, config.window
        self.reach = config.window - 1 if config.window else None
        self.alibi = config.positions == "alibi"
        inner, kv = self.heads * self.head_width, self.groups * self.head_width
        self.qkv = Linear(config.width, (inner, kv, kv), bias=config.bias or config.qkv_bias)
        self.out = Linear(inner, (config.width,), bias=config.bias, output=True)
        weighted = config.qk_norm and config.qk_norm_weights
        self.q_norm, self.k_norm = (
            RMSNorm(self.head_width, config.norm_eps, False) if weighted else None for _ in "qk"
        )

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.project(x, context)
        rate = self.dropout if self.training else 0.0
        first, slopes = self.first_visible(x, context), self._slopes(x)
        mixed = ops.attention(q, k, v, first, rate=rate, slopes=slopes)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def start(self, batch: int, length: int) -> KeyValues:
        shape = (batch, self.groups, length, self.head_width)
        like = self.qkv.weight  # zeros: unused positions get weight 0, but 0 * NaN is NaN
        keys, values = (like.new_zeros(shape, dtype=state_dtype(like)) for _ in range(2))
        return KeyValues(keys, values, shares=not (self.window or self.alibi))

    def step(self, x: Tensor, context: Context, cache: KeyValues) -> Tensor:
        q, k, v = self.project(x, context)
        if cache.prefix is None:
            cache.append(k, v, context.at, context.lengths)
            keys, values = cache.read(q.dtype)
            first, slopes = self.first_visible(x, context), self._slopes(x)
            mixed = ops.attention(q, keys, values, first, at=context.at, slopes=slopes)
        else:
            mixed = self._attend_to_prefix(q, k, v, cache)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def flops(self, length: int) -> float:
        """FLOPs of the scores and the weighted sums of values, counted without the causal mask
        (Chowdhery et al. 2022, PaLM, appendix B)."""
        return 12.0 * self.heads * self.head_width * min(length, self.window or length)

    def first_visible(self, x: Tensor, context: Context) -> Tensor | None:
        """(B, T) int32, the first position that each one sees; None for 0."""
        if not self.window:
            return context.segment_start
        first = (own_positions(x.shape[1], context.at, x.device) - self.window + 1).clamp(min=0)
        first = first.to(torch.int32).expand(x.shape[0], -1)
        if context.segment_start is not None:
            first = torch.maximum(first, context.segment_start)
        return first.contiguous()

    def _slopes(self, x: Tensor) -> Tensor | None:
        return alibi_slopes(self.heads, x.device) if self.alibi else None

    def project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, heads, T, w), keys and values (B, groups, T, w), normalised and rotated."""
        if self.q_norm is None or self.k_norm is None:
            return ops.split_heads(self.qkv(x), self.heads, self.groups, context.rotary, self.eps)
        q, k, v = ops.split_heads(self.qkv(x), self.heads, self.groups, None, None)
        q, k = self.q_norm(q), self.k_norm(k)
        if context.rotary is not None:
            q, k = (ops.rotate(each, *context.rotary) for each in (q, k))
        return q, k, v

    def _attend_to_prefix(self, q: Tensor, k: Tensor, v: Tensor, cache: KeyValues) -> Tensor:
        """Attention of one new position per row, q (B, heads, 1, w), to the row's own keys and to
        prefixes (P, groups, S, w), each shared by B / P rows: it is read once for all of them."""
        if q.shape[2] != 1 or cache.prefix is None:
            raise ValueError("rows that share a prefix go on by one position at a time")
        prefix_keys, prefix_values = (x.to(q.dtype) for x in cache.prefix)
        cache.append(k, v, cache.seen or 0)
        keys, values = cache.read(q.dtype)
        each = self.heads // self.groups
        parents, times = len(prefix_keys), len(q) // len(prefix_keys)

        def by_parent(x: Tensor) -> Tensor:
            """(B, groups, each, N) as (P, groups, times * each, N), grouped by prefix."""
            return x.reshape(parents, times, *x.shape[1:]).transpose(1, 2).flatten(2, 3)

        def by_row(x: Tensor) -> Tensor:
            return x.view(parents, self.groups, times, each, -1).transpose(1, 2).flatten(0, 1)

        own = q.view(-1, self.groups, each, self.head_width)
        over_prefix = by_row(by_parent(own) @ prefix_keys.mT)  # (B, groups, each, S)
        scores = torch.cat((over_prefix, own @ keys.mT), dim=-1) * self.head_width**-0.5
        p_prefix, p_own = scores.softmax(-1).split((over_prefix.shape[-1], keys.shape[2]), dim=-1)
        mixed: Tensor = by_row(by_parent(p_prefix) @ prefix_values) + p_own @ values
        return mixed.reshape(q.shape)


@dataclass
class KeyValues:
    """A KV cache: keys and values, each (B, groups, length, w). prefix: the keys and values
    (P, groups, S, w) of earlier positions, each shared by B / P consecutive rows."""

    keys: Tensor
    values: Tensor
    seen: int | None = 0  # positions in the cache; None where rows differ
    prefix: tuple[Tensor, Tensor] | None = None
    shares: bool = True  # whether `select` may make a prefix

    def append(self, k: Tensor, v: Tensor, at: int | Tensor, lengths: Tensor | None = None) -> None:
        """Writes k and v (B, groups, T, w) after the `at` cached positions of each row. lengths
        (B,): how many of the T positions each row takes; None: all."""
        if isinstance(at, int):
            if lengths is not None:
                raise ValueError("rows that take different numbers of positions stand apart")
            end = at + k.shape[2]
            self.keys[:, :, at:end] = k
            self.values[:, :, at:end] = v
            self.seen = end
            return
        self.seen = None
        rows = torch.arange(len(k), device=k.device)[:, None]
        new = torch.arange(k.shape[2], device=k.device)
        index = (at[:, None] + new).clamp(max=self.keys.shape[2] - 1)  # (B, T)
        taken = None if lengths is None else (new < lengths[:, None])[..., None, None]
        for cached, fresh in ((self.keys, k), (self.values, v)):
            fresh = fresh.transpose(1, 2).to(cached.dtype)  # (B, T, groups, w) as the indexed cache
            if taken is not None:
                fresh = torch.where(taken, fresh, cached[rows, :, index])
            cached[rows, :, index] = fresh

    def read(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The cached keys and values, in the dtype of the queries."""
        seen = self.keys.shape[2] if self.seen is None else self.seen
        return self.keys[:, :, :seen].to(dtype), self.values[:, :, :seen].to(dtype)

    def select(self, rows: Tensor) -> KeyValues:
        """If `rows` repeats each row equally often, in order, the copies of a row share its cached
        positions as their prefix."""
        count = len(self.keys)
        times = len(rows) // count
        in_order = torch.arange(count, device=rows.device).repeat_interleave(times)
        alike = self.shares and self.seen and times > 1 and torch.equal(rows, in_order)
        if self.prefix is None and self.seen and alike:
            batch, groups, length, width = self.keys.shape
            shape = (len(rows), groups, length - self.seen, width)
            prefix = self.keys[:, :, : self.seen], self.values[:, :, : self.seen]
            return KeyValues(self.keys.new_empty(shape), self.values.new_empty(shape), 0, prefix)
        if self.prefix is None:
            return KeyValues(self.keys[rows], self.values[rows], self.seen, shares=self.shares)
        keys, values = self.prefix  # every row of the result gets its own copy
        parents = rows // (count // len(keys))
        own = keys[parents], values[parents]
        return KeyValues(self.keys[rows], self.values[rows], self.seen, own)

    def assign(self, row: int, other: KeyValues) -> None:
        self.seen = None
        end = other.keys.shape[2] if other.seen is None else other.seen
        self.keys[row, :, :end] = other.keys[0, :, :end]
        self.values[row, :, :end] = other.values[0, :, :end]
