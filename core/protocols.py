"""What a domain and the core exchange: sequences of ids, batches of them, tokenizers.

A domain is a `Task` (core/task.py) and a `Tokenizer`. The core sees `Sequence`, `Batch` and
`Dataset` only: ids, never what they mean. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Support = tuple[int, int] | npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Sequence:
    """What a tokenizer makes of one item.

    ids (T,); `given`: how many leading ids are given rather than predicted; `weight` (T,): how
    much each id counts as a target (none: 1, and 0 for the given ones); `side`: small JSON that
    the model never sees and decoding needs.
    """

    ids: Ids
    given: int = 1
    weight: Floats | None = None
    side: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def target_weight(self) -> Floats:
        """(T,) the weight of each id as a target, the given ones at 0."""
        weight = np.ones(len(self.ids), np.float32) if self.weight is None else self.weight.copy()
        weight[: self.given] = 0
        return weight


@dataclass(frozen=True)
class Batch:
    """Rows of ids; position t is predicted from those before it, so T is the context plus one.

    ids (B, T); weight (B, T), 0 where an id is given or padding; positions (B, T, axes), none for
    0, 1, 2 ...; segments (B, T), none where a row is one item (packed items do not see each
    other); support: the half-open range of ids that are legal, one for all as (low, high) or
    (B, T, 2), none where all are. For a model with an encoder: source (B, S), the given ids of the
    row's items, and source_segments (B, S), which item each belongs to, -1 for padding.
    """

    ids: Ids
    weight: Floats
    positions: Ids | None = None
    segments: Ids | None = None
    support: Support = None
    source: Ids | None = None
    source_segments: Ids | None = None


class Dataset(Protocol):
    """Virtual rows of one length. `batch` is a pure function of its argument.

    `indices` may run past `len`: index // len says which pass over the data it is, so that a
    dataset can cut its windows elsewhere each time.
    """

    context: int  # a row has one id more

    def __len__(self) -> int: ...

    def batch(self, indices: Ids) -> Batch: ...


class Tokenizer(Protocol):
    """Items to ids and back. Its laws are in `tests/test_tokenizers.py`."""

    vocab_size: int
    axes: int  # of `positions`
    lossless: bool  # whether `decode` gives back the item that `encode` took
    begin: int  # the id that every sequence begins with; it is given, never predicted
    ordered: tuple[int, int]  # low <= id < high: steps of one quantity, in order; (0, 0) for none

    def encode(self, item: Any, like: Sequence | None = None) -> Sequence:
        """The item's ids; with `like`, under that sequence's side information."""
        ...

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Any:
        """The item that ids (T,) stand for, begin and end tokens among them or not."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON and plain arrays that `from_state` of the same class takes."""
        ...

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> Tokenizer: ...

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        """Which ids are legal: one half-open range for all positions, (length, 2), or all."""
        ...

    def positions(self, length: int, side: Mapping[str, Any]) -> Ids | None:
        """(length, axes) where each id stands, or none for 0, 1, 2 ...

        An item with positions of its own is one picture, never cut into windows.
        """
        ...


class ByteTokenizer(Tokenizer, Protocol):
    """A tokenizer of text or bytes: each id stands for some bytes, so that ids can be taken piece
    by piece and counted in bytes."""

    pieces: list[bytes]  # what each id stands for, without the end and begin tokens behind them
    ends: bool  # whether an item is closed by an end token
    end: int  # its id
    byte_level: bool  # whether the bytes of several ids are those of each, one after another

    def tokens(self, item: Any) -> Ids:
        """The ids of a part of an item, without begin and end tokens."""
        ...

    def ids_of_bytes(self, data: bytes) -> Ids:
        """The ids of any bytes at all, which `decode_bytes` gives back. DataError where the
        tokenizer has none."""
        ...

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes that ids stand for; begin and end tokens stand for none."""
        ...


class Items(Protocol):
    """Some of a task's items (a split). The core hands them back to the task, no more."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that the items are made of."""
        ...

    @property
    def size(self) -> int:
        """In the task's units."""
        ...

    @property
    def about(self) -> str:
        """For people: 'the last 111,540 bytes of tiny.txt'."""
        ...


class StreamDecoder(Protocol):
    """The ids of one draw in, one by one; bytes out, as soon as they are certain."""

    def feed(self, id: int) -> bytes:
        """The bytes that this id makes certain: none where the item is shown at its end only."""
        ...

    def finish(self) -> bytes:
        """The bytes that only the end makes certain."""
        ...

    def item(self) -> Any:
        """The item, after `finish`."""
        ...


@dataclass(frozen=True)
class Score:
    """One item's negative log-likelihood: nats (T - given,), weighted 0 where it does not count."""

    sequence: Sequence
    nats: npt.NDArray[np.float64]

    @property
    def nll(self) -> float:
        return float((self.nats * self.sequence.target_weight()[self.sequence.given :]).sum())

    @property
    def tokens(self) -> int:
        return int((self.sequence.target_weight() > 0).sum())
