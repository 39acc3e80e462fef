"""What mixes positions. A block knows a mixer by these calls and nothing of its inside:

forward(x, place)        all positions at once: (B, T, D) -> (B, T, D), causal within a segment
start(batch, length)     an empty memory for up to `length` positions
fork(memory, times)      the memory of each row `times` over: draws that share a beginning
adopt(memory, row, other)  a row becomes the one row of another memory
step(x, place, memory)   the next t positions, (B, t, D) -> (B, t, D), given all before; one, where
                         each row stands at a place of its own (`place.at`)

A law for each (tests/test_model.py): `step` over any split of a sequence equals `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import cpu_kernels
from ..ops.autograd_ops import dropout as drop
from ..ops.autograd_ops import rms_norm, rotate
from .layers import Linear


@dataclass(frozen=True)
class Place:
    """Where the positions at hand stand: rotary cos and sin, each (B or 1, 1, T, w), or none;
    `first` (B, T), where the item of each begins, none where a row is one item; `at` (B,), where
    each row of a memory stands, none where all stand at one place."""

    rotary: tuple[Tensor, Tensor] | None = None
    first: Tensor | None = None
    visible: Tensor | None = None  # (B, 1, T, S), what each position sees
    at: Tensor | None = None


class Mixer(Protocol):
    def __call__(self, x: Tensor, place: Place) -> Tensor: ...

    def start(self, batch: int, length: int) -> Any: ...

    def fork(self, memory: Any, times: int) -> Any: ...

    def adopt(self, memory: Any, row: int, other: Any) -> None: ...

    def step(self, x: Tensor, place: Place, memory: Any) -> Tensor: ...


@dataclass
class KeyValues:
    """Keys and values of the positions seen: two (B, groups, length, head_width); `shared` are
    those of a beginning that each run of B / shared rows has in common."""

    keys: Tensor
    values: Tensor
    seen: int = 0
    shared: tuple[Tensor, Tensor] | None = None


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017) with grouped keys and values (Ainslie et al.
    2023), RMS-normalised queries and keys (Henry et al. 2020) where `qk_norm`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = config.heads, config.groups, config.head_width
        self.qk_norm, self.eps, self.dropout = config.qk_norm, config.norm_eps, config.dropout
        kv = self.groups * self.head_width
        self.qkv = Linear(config.width, (config.width, kv, kv), bias=config.bias)
        self.out = Linear(config.width, (config.width,), bias=config.bias, output=True)

    def _split(self, x: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, heads, T, w), keys and values (B, groups, T, w), normalised and turned."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_width))
        if cpu_kernels.serve(qkv):
            eps = self.eps if self.qk_norm else None
            return cpu_kernels.split(qkv, self.heads, self.groups, place.rotary, eps)
        qkv = qkv.transpose(1, 2)
        qk, v = qkv.split((self.heads + self.groups, self.groups), dim=1)
        if self.qk_norm:
            qk = rms_norm(qk, None, self.eps)
        if place.rotary is not None:
            qk = rotate(qk, *place.rotary)
        q, k = qk.split((self.heads, self.groups), dim=1)
        return q, k, v

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        whole = q.device.type == "cpu" and q.shape[-2] == k.shape[-2]
        if whole and (dropout or (q.dtype == torch.bfloat16 and q.shape[-2] <= SHORT)):
            mixed = plain_attention(q, k, v, visible, dropout)
        else:
            mixed = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=visible,
                is_causal=causal,
                dropout_p=dropout,
                enable_gqa=self.groups != self.heads,
            )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor, place: Place) -> Tensor:
        q, k, v = self._split(x, place)
        dropout = self.dropout if self.training else 0.0
        if cpu_kernels.serve(q) and (dropout or q.shape[-2] <= SHORT):
            mixed = cpu_kernels.attention(q, k, v, place.first, dropout)
            return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
        return self._attend(q, k, v, place.visible, causal=place.visible is None)

    def start(self, batch: int, length: int) -> KeyValues:
        shape = (batch, self.groups, length, self.head_width)
        like = self.qkv.weight  # zeros: what is not seen yet may be multiplied by 0
        dtype = torch.promote_types(like.dtype, torch.float32)
        return KeyValues(like.new_zeros(shape, dtype=dtype), like.new_zeros(shape, dtype=dtype))

    def fork(self, memory: KeyValues, times: int) -> KeyValues:
        """Reads the beginning once for all draws; they add their own keys behind it."""
        batch, groups, length, width = memory.keys.shape
        shape = (batch * times, groups, length - memory.seen, width)
        past = memory.keys[:, :, : memory.seen], memory.values[:, :, : memory.seen]
        return KeyValues(memory.keys.new_empty(shape), memory.values.new_empty(shape), 0, past)

    def adopt(self, memory: KeyValues, row: int, other: KeyValues) -> None:
        memory.keys[row, :, : other.seen] = other.keys[0, :, : other.seen]
        memory.values[row, :, : other.seen] = other.values[0, :, : other.seen]

    def _step_rows(self, x: Tensor, place: Place, memory: KeyValues) -> Tensor:
        """One new position of each row, each at a place of its own. Plain products where there
        are several: the fused kernel rounds differently from one thread to the next, so by which
        row it is."""
        q, k, v = self._split(x, place)
        rows = torch.arange(len(x), device=x.device)
        memory.keys[rows, :, place.at] = k[:, :, 0].to(memory.keys.dtype)
        memory.values[rows, :, place.at] = v[:, :, 0].to(memory.values.dtype)
        if len(x) == 1:
            return self._attend(q, memory.keys, memory.values, place.visible, causal=False)
        own = q.view(len(x), self.groups, -1, self.head_width)  # (B, groups, each, w)
        scores = own @ memory.keys.to(q.dtype).mT * self.head_width**-0.5
        p = scores.masked_fill(~place.visible, -torch.inf).softmax(-1)  # type: ignore[operator]
        out: Tensor = self.out((p @ memory.values.to(q.dtype)).flatten(1)[:, None])
        return out

    def step(self, x: Tensor, place: Place, memory: KeyValues) -> Tensor:
        if place.at is not None:
            return self._step_rows(x, place, memory)
        q, k, v = self._split(x, place)
        start, end = memory.seen, memory.seen + x.shape[1]
        memory.keys.narrow(2, start, end - start).copy_(k)
        memory.values.narrow(2, start, end - start).copy_(v)
        memory.seen = end
        keys, values = memory.keys[:, :, :end].to(q.dtype), memory.values[:, :, :end].to(q.dtype)
        if memory.shared is not None:
            return self._attend_forked(q, keys, values, *memory.shared)
        visible = None
        if end - start > 1 and start > 0:  # several new positions behind old ones
            visible = torch.ones(end - start, end, dtype=torch.bool, device=x.device).tril(start)
        return self._attend(q, keys, values, visible, causal=start == 0 and end > 1)

    def _attend_forked(
        self, q: Tensor, keys: Tensor, values: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> Tensor:
        """One new position of each draw: q (B, heads, 1, w) over a past (P, groups, S, w) that
        B / P rows share, then over keys of their own (B, groups, T, w)."""
        if q.shape[2] != 1:
            raise ValueError("forked rows go on by one position at a time")
        each = self.heads // self.groups
        parents, times = len(past_keys), len(q) // len(past_keys)

        def together(x: Tensor) -> Tensor:
            """(B, groups, each, N) as (P, groups, times * each, N): all draws of a parent."""
            return x.reshape(parents, times, *x.shape[1:]).transpose(1, 2).flatten(2, 3)

        def apart(x: Tensor) -> Tensor:
            return x.view(parents, self.groups, times, each, -1).transpose(1, 2).flatten(0, 1)

        own = q.view(-1, self.groups, each, self.head_width)
        over_past = apart(together(own) @ past_keys.to(q.dtype).mT)  # (B, groups, each, S)
        scores = torch.cat((over_past, own @ keys.mT), dim=-1) * self.head_width**-0.5
        p_past, p_own = scores.softmax(-1).split((past_keys.shape[2], keys.shape[2]), dim=-1)
        mixed = apart(together(p_past) @ past_values.to(q.dtype)) + p_own @ values
        out: Tensor = self.out(mixed.flatten(1)[:, None])
        return out


SHORT = 256  # positions up to which `plain_attention` beats the fused kernel on a CPU


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float
) -> Tensor:
    """What `scaled_dot_product_attention` computes, causal where `visible` is none, as plain
    batched products: on a CPU in bfloat16 the fused kernel takes 1.5 to 4.5 times as long
    at short lengths, and at any with dropout, for which torch has no fused kernel there
    (benchmarks/attention.py). q (B, heads, T, w); k, v (B, groups, T, w).
    """
    batch, heads, length, width = q.shape
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
        v = v.repeat_interleave(heads // v.shape[1], dim=1)
    if visible is None:
        visible = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    bias = torch.zeros(visible.shape, dtype=q.dtype).masked_fill_(~visible, -torch.inf)
    bias = bias.expand(batch, heads, -1, -1).flatten(0, 1) if bias.ndim == 4 else bias
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=width**-0.5)
    p = drop(scores.softmax(-1), dropout)
    return torch.bmm(p, v.flatten(0, 1)).view(batch, heads, length, width)


MIXERS = {"attention": Attention}


def make_mixer(config: ModelConfig) -> Attention:
    return MIXERS[config.mixer](config)
