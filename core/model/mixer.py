"""What a block asks of the part that mixes positions, and what that part may know of them.

A law for each mixer (tests/test_model.py): `step` over any split of a sequence equals `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Context:
    """Where the positions at hand stand, and what they may look at beside each other.

    B rows of T positions; every field but `at` may be none, for the usual case.
    """

    rotary: tuple[Tensor, Tensor] | None = None  # cos and sin, (B or 1, 1, T, head width)
    segment_start: Tensor | None = None  # (B, T) int32, where the item of each position begins
    at: int | Tensor = 0  # positions that were read before these: of every row, or (B,)
    lengths: Tensor | None = None  # (B,) how many of the T positions each row takes (none: all)
    memory: Tensor | None = None  # (B, S, D) what an encoder made of the source
    memory_segments: Tensor | None = None  # (B, S) which item each source position belongs to
    segments: Tensor | None = None  # (B, T) which item each position belongs to


class Cache(Protocol):
    """What a mixer keeps of the positions that it has read: keys and values, a recurrent state."""

    def select(self, rows: Tensor) -> Any:
        """A cache whose row i is row rows[i] of this one: forks of a prompt, the beams that stay.
        It may share memory with this one, which is not stepped any further."""
        ...

    def assign(self, row: int, other: Any) -> None:
        """Row `row` becomes the one row of `other`, in place: other rows stay where they are."""
        ...


class Mixer(Protocol):
    """Causal within a segment: no position depends on a later one or on another item's."""

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """All positions at once: (B, T, D) -> (B, T, D)."""
        ...

    def start(self, batch: int, length: int) -> Cache:
        """An empty cache of `batch` rows with room for `length` positions."""
        ...

    def step(self, x: Tensor, context: Context, cache: Any) -> Tensor:
        """The next T positions of each row, (B, T, D) -> (B, T, D), which the cache takes up.
        A row takes context.lengths of them; one that takes none keeps its state."""
        ...

    def flops(self, length: int) -> float:
        """FLOPs of one position among `length`, forward and backward, beside those of the weights
        (six a weight)."""
        ...
