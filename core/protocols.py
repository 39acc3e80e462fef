"""The types that tasks and the core exchange: sequences of ids, batches, datasets, tokenizers.

A domain is a `Task` (core/task.py) and a `Tokenizer`. The core sees only ids, never what they
mean. Nothing here imports torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Support = tuple[int, int] | npt.NDArray[np.int64] | None
Array = npt.NDArray[Any]
A = TypeVar("A")


@dataclass(frozen=True)
class Sequence:
    """A tokenized item.

    ids (T,); given: the number of leading ids that are conditioned on, never predicted; weight
    (T,): of each id as a target (None: 1 for all but the given ids); side: side information for
    decoding, small JSON that the model never sees.
    """

    ids: Ids
    given: int = 1
    weight: Floats | None = None
    side: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def target_weight(self) -> Floats:
        """(T,) the weight of each id as a target; 0 for the given ids."""
        weight = np.ones(len(self.ids), np.float32) if self.weight is None else self.weight.copy()
        weight[: self.given] = 0
        return weight


@dataclass(frozen=True)
class Batch(Generic[A]):
    """Rows of ids, each predicted from the ids before it, so T is the context plus one. The fields
    are numpy arrays in a `Batch[Array]`, as datasets give them, and tensors in a `Batch[Tensor]`.

    ids (B, T); weight (B, T), 0 for given ids and padding; positions (B, T, axes), None for
    0, 1, 2 ...; segments (B, T), the item that each id belongs to (items do not attend to each
    other), None where a row is one item; support: the half-open range of legal ids, (low, high)
    for all positions or (B, T, 2), None if all ids are legal; features (B, T, F) float32, numbers
    beside each id, None where the tokenizer has none. For a model with an encoder: source
    (B, S), the given ids of the row's items, and source_segments (B, S), their items, -1 for
    padding.
    """

    ids: A
    weight: A
    positions: A | None = None
    segments: A | None = None
    support: tuple[int, int] | A | None = None
    features: A | None = None
    source: A | None = None
    source_segments: A | None = None


class Dataset(Protocol):
    """Training rows of equal length. `batch` is a pure function of its argument.

    `indices` continue past `len` in later epochs: index // len is the epoch, so that a dataset can
    cut its windows differently in each.
    """

    context: int  # a row has context + 1 ids

    def __len__(self) -> int: ...

    def batch(self, indices: Ids) -> Batch[Array]: ...


class Tokenizer(Protocol):
    """Encodes items as ids and decodes them. `check_tokenizer` in core/laws.py tests its laws.

    A class that derives from this one gets the usual value of every member that has one: a
    lossless tokenizer without parameters defines only vocab_size, begin, encode and decode.
    """

    vocab_size: int
    axes: int = 1  # coordinates of a position, see `positions`
    features: int = 0  # numbers beside each id, see `feature_rows`
    lossless: bool = True  # whether `decode` returns exactly the item that was encoded
    begin: int  # the begin token, the first id of every sequence; it is given, never predicted
    # ranges (low, high): ids low ... high - 1 are bins of an ordered quantity; empty: none
    ordered: tuple[tuple[int, int], ...] = ()

    @abstractmethod
    def encode(self, item: Any, like: Sequence | None = None) -> Sequence:
        """The item's ids. like: a sequence whose side information (such as a scale) is reused."""

    @abstractmethod
    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Any:
        """The item that ids (T,) encode, with or without begin and end tokens."""

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """The fitted tokenizer as JSON and arrays, for `from_state` of the same class."""
        return {}, {}

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Tokenizer:
        """The tokenizer of a `state`; by default its JSON has the arguments of the class."""
        return cls(**state)

    def tokenizer_json(self) -> dict[str, Any] | None:
        """The tokenizer.json of HuggingFace `tokenizers` that gives a text the same ids, for
        `tfm export`; None for items that are no text."""
        return None

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        """The legal ids: a half-open range for all positions, (length, 2), or None for all ids. By
        default all but the begin token, if that is the last id; else all."""
        return (0, self.begin) if self.begin == self.vocab_size - 1 else None

    def positions(self, length: int, side: Mapping[str, Any]) -> Ids | None:
        """(length, axes) the coordinates of each id, or None for 0, 1, 2 ...

        An item with coordinates (an image) is never cut into windows.
        """
        return None

    def feature_rows(self, length: int, side: Mapping[str, Any]) -> Floats:
        """(length, features) what the model knows beside each id when it predicts the next one,
        such as the price of the next day beside the sales of this one."""
        return np.zeros((length, self.features), np.float32)


class ByteTokenizer(Tokenizer, Protocol):
    """A tokenizer of text or bytes, each of whose ids encodes some bytes."""

    pieces: list[bytes]  # the bytes of each id; the end and begin tokens come after these ids
    ends: bool  # whether an item ends with an end token
    end: int  # the id of the end token
    byte_level: bool  # whether decoding ids concatenates their `pieces`

    def with_ends(self, ends: bool) -> ByteTokenizer | None:
        """The tokenizer with the same ids whose `ends` is this; None if there is none."""
        return self if ends == self.ends else None

    def tokens(self, item: Any) -> Ids:
        """The ids of a part of an item, without begin and end tokens."""
        ...

    def ids_of_bytes(self, data: bytes) -> Ids:
        """Ids that `decode_bytes` decodes to exactly `data`, whatever the bytes. DataError if the
        vocabulary lacks one."""
        ...

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes that ids encode. Begin and end tokens have none."""
        ...


class Items(Protocol):
    """A split of a task's items. The core only passes them back to the task."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content of all items."""
        ...

    @property
    def size(self) -> int:
        """The number of units of the task (bytes, pixels ...) in all items, or about so many."""
        ...

    @property
    def about(self) -> str:
        """A description for messages: 'the last 111,540 bytes of tiny.txt'."""
        ...


class StreamDecoder(Protocol):
    """Decodes the ids of one sample while they are generated, for streaming output."""

    def feed(self, id: int) -> bytes:
        """Adds an id and returns the bytes to output now: those that later ids cannot change."""
        ...

    def finish(self) -> bytes:
        """The remaining bytes, after the last id."""
        ...

    def item(self) -> Any:
        """The decoded item, after `finish`."""
        ...


@dataclass(frozen=True)
class Score:
    """One item's negative log-likelihood: nats (T - given,) of its predicted ids, unweighted."""

    sequence: Sequence
    nats: npt.NDArray[np.float64]

    @property
    def nll(self) -> float:
        """The weighted sum, in nats."""
        return float((self.nats * self.sequence.target_weight()[self.sequence.given :]).sum())

    @property
    def tokens(self) -> int:
        """The number of ids with a non-zero weight as a target."""
        return int((self.sequence.target_weight() > 0).sum())
