"""The interface of mixers, the layers of a block that mix positions, such as self-attention.

Every mixer obeys a law (tests/test_model.py): `step` over any split of a sequence equals `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """Where the T positions of B rows are in their sequences, and what else they may attend to.

    Every field but `at` may be None, for the usual case.
    """

    rotary: tuple[Tensor, Tensor] | None = None  # cos and sin, (B or 1, 1, T, head width)
    segment_start: Tensor | None = None  # (B, T) int32, the first position of each one's item
    at: int | Tensor = 0  # the number of cached positions: of all rows, or (B,)
    lengths: Tensor | None = None  # (B,) how many of the T positions each row takes (None: all)
    memory: Tensor | None = None  # (B, S, D) the encoder's hidden states of the source
    memory_segments: Tensor | None = None  # (B, S) the item of each source position
    segments: Tensor | None = None  # (B, T) the item of each position


class Cache(Protocol):
    """A mixer's state of the positions so far: keys and values, or a recurrent state."""

    def select(self, rows: Tensor) -> Any:
        """A cache whose row i is row rows[i] of this one, to fork prompts or to select beams. It
        may share memory with this one, which must not be stepped any further."""
        ...

    def assign(self, row: int, other: Any) -> None:
        """Replaces row `row` by the only row of `other`, in place. Other rows do not change."""
        ...


class Mixer(Protocol):
    """Causal within a segment: no position depends on a later one or on another item."""

    # how many positions before its own a position depends on; None: on all
    reach: int | None
    # whether the shapes of its tensors depend on the batch's segments, which a CUDA graph forbids
    dynamic: bool

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """All positions at once: (B, T, D) -> (B, T, D)."""
        ...

    def start(self, batch: int, length: int) -> Cache:
        """An empty cache of `batch` rows with room for `length` positions."""
        ...

    def step(self, x: Tensor, context: Context, cache: Any) -> Tensor:
        """The next T positions of each row, (B, T, D) -> (B, T, D), which are added to the cache.
        A row takes the first context.lengths of them; one that takes 0 keeps its state."""
        ...

    def flops(self, length: int) -> float:
        """FLOPs of one position among `length`, forward and backward, without those of the weights,
        which are six per weight."""
        ...


@dataclass
class History:
    """A cache of what a mixer keeps of every position: tensors (B, length, ...)."""

    tensors: tuple[Tensor, ...]

    def append(self, new: tuple[Tensor, ...], context: Context) -> None:
        """Writes tensors (B, T, ...) after the cached positions of each row, the first
        context.lengths of the T positions."""
        at, count = context.at, new[0].shape[1]
        if isinstance(at, int):
            if context.lengths is not None:
                raise ValueError("rows that take different numbers of positions stand apart")
            for cached, fresh in zip(self.tensors, new, strict=True):
                cached[:, at : at + count] = fresh
            return
        rows = torch.arange(len(at), device=at.device)[:, None]
        steps = torch.arange(count, device=at.device)
        index = (at[:, None] + steps).clamp(max=self.tensors[0].shape[1] - 1)  # (B, T)
        for cached, fresh in zip(self.tensors, new, strict=True):
            fresh = fresh.to(cached.dtype)
            if context.lengths is not None:
                taken = steps < context.lengths[:, None]
                taken = taken.view(*taken.shape, *[1] * (fresh.ndim - 2))
                fresh = torch.where(taken, fresh, cached[rows, index])
            cached[rows, index] = fresh

    def select(self, rows: Tensor) -> History:
        return History(tuple(cached[rows] for cached in self.tensors))

    def assign(self, row: int, other: History) -> None:
        for cached, one in zip(self.tensors, other.tensors, strict=True):
            cached[row, : one.shape[1]] = one[0]


def own_positions(count: int, at: int | Tensor, device: torch.device) -> Tensor:
    """(1 or B, count) the positions of `count` new ones after `at` cached ones."""
    start = at[:, None] if isinstance(at, Tensor) else at
    return start + torch.arange(count, device=device)[None]


def state_dtype(like: Tensor) -> torch.dtype:
    """The dtype of a cache beside weights such as `like`: float32 at least."""
    return torch.promote_types(like.dtype, torch.float32)
