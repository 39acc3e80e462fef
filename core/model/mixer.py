"""The interface of mixers, the layers of a block that mix positions, such as self-attention.

Every mixer obeys a law (tests/test_model.py): `step` over any split of a sequence equals `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

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
