"""The seams: what a domain gives the core, and what the core gives back.

A domain is a `Task` (items in, items out, metrics in its own units) and a `Tokenizer` (items to
ids and back). The core sees `Sequence`, `Batch` and `Dataset` only: ids, never what they mean.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .config import SampleConfig

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
# what rooms above hand through these seams, which know no more of it
SequenceModel = Any
Source = Any
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
    (B, T, 2), none where all are.
    """

    ids: Ids
    weight: Floats
    positions: Ids | None = None
    segments: Ids | None = None
    support: Support = None


class Dataset(Protocol):
    """Virtual rows of one length. `batch` is a pure function of its argument.

    `indices` may run past `len`: index // len says which pass over the data it is, so that a
    dataset can cut its windows elsewhere each time.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: Ids) -> Batch: ...


class Tokenizer(Protocol):
    """Items to ids and back. Its laws are in `tests/test_tokenizers.py`.

    It may have `ordered`, (low, high): ids that are steps of one quantity, in its order.
    """

    vocab_size: int
    axes: int  # of `positions`
    lossless: bool

    def encode(self, item: Any, like: Sequence | None = None) -> Sequence:
        """The item's ids; with `like`, under that sequence's side information."""
        ...

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Any: ...

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


class Items(Protocol):
    """Some of a task's items (a split). The core hands it back to the task, no more."""

    fingerprint: str  # a hash of all that the items are made of
    size: int  # in the task's units
    about: str  # 'the last 111,540 bytes of tiny.txt', for people


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


class Drawn(Protocol):
    """One draw as it grows from ids into what a person sees."""

    def feed(self, id: int) -> bytes:
        """The bytes that are certain after this id, for streaming (may always be empty)."""
        ...

    def rest(self) -> bytes:
        """The bytes that only the end makes certain."""
        ...

    def item(self) -> Any:
        """The item, when it is over."""
        ...


@dataclass(frozen=True)
class NoOptions:
    """For a task that asks nothing."""


class Task(Protocol):
    """One domain. Built from its options: `Task(Task.Options(...))`."""

    name: ClassVar[str]
    about: ClassVar[str]  # one line, for `tfm tasks`
    unit: ClassVar[str]  # of the likelihood: byte, dim, sample, point
    default_tokenizer: ClassVar[str]
    binary: ClassVar[bool]  # whether what it writes is unfit for a terminal
    Options: ClassVar[type]  # frozen dataclass; its fields are flags of `train`
    SampleOptions: ClassVar[type]  # the same for `sample`: a label, a number of paths ...

    def __init__(self, options: Any) -> None: ...

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        """How surely a file of this name and first bytes is of this domain (0 to 1)."""
        ...

    def default_source(self) -> Source:
        """Real data that every machine has."""
        ...

    def items(self, source: Source) -> Items: ...

    def split(self, items: Items, holdout: float | None) -> tuple[Items, Items]:
        """(train, held out); `holdout` is a fraction, none for the task's default."""
        ...

    def fit_tokenizer(self, spec: str, train: Items) -> Tokenizer:
        """The tokenizer that `--tokenizer SPEC` names, a function of the training items alone."""
        ...

    def longest(self, train: Items, tokenizer: Tokenizer) -> int | None:
        """Ids of the longest item that should be seen whole; none where any context will do."""
        ...

    def dataset(
        self,
        train: Items,
        tokenizer: Tokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> Dataset:
        """Rows of context + 1 ids; at least `tokens` ids are prepared, none for all there are.
        What is worth keeping on disk goes below `cache`."""
        ...

    def sequences(self, items: Items, tokenizer: Tokenizer) -> Iterator[Sequence]:
        """Every item once, to be scored."""
        ...

    def floor(self, train: Items, held: Items) -> dict[str, float]:
        """What trivial answers reach on the same items, in bits per unit, labelled by name."""
        ...

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        """How many of each unit these items hold (`unit` first)."""
        ...

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        """What `eval` adds in the domain's own units; null where a figure cannot be exact."""
        ...

    def probe(
        self,
        model: SequenceModel,
        tokenizer: Tokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
    ) -> dict[str, Any]:
        """What `eval` adds that needs the model itself: accuracy, forecasts. UsageError for a
        protocol that the task does not have."""
        ...

    def prompt(self, data: bytes | None, tokenizer: Tokenizer, asked: Any) -> Sequence:
        """A beginning to go on from; `given` are the ids that stay when the window moves on.
        data: what the user gave, none for the task's own beginning; asked: `SampleOptions`."""
        ...

    def length(self, prompt: Sequence, asked: Any) -> int | None:
        """New ids that complete the item, where that is known; none for the user's or 256."""
        ...

    def ends(self, tokenizer: Tokenizer) -> int | None:
        """The id after which an item is over, where there is one."""
        ...

    def drawn(self, tokenizer: Tokenizer, prompt: Sequence) -> Drawn: ...

    def write(self, items: list[Any], prompt: Sequence | None, asked: Any, out: BinaryIO) -> None:
        """All draws of one prompt, to a file or a pipe: texts one after another, pictures as a
        grid, paths as a forecast."""
        ...

    def preview(
        self, items: list[Any], prompt: Sequence | None, asked: Any, width: int
    ) -> str | None:
        """The draws as characters for a terminal `width` columns wide, none where `write` does."""
        ...


# A task may have these beside: `floor_unit` (what its floors are measured in, where not in bits),
# `headline` (names of the metrics that its users look at first),
# `probe_tokens(sequences, protocol)` (what `probe` costs, in ids that are scored, so that a budget
# leaves time for it),
# `defaults(train, tokenizer)` (fields that this data asks for, as {"model": {"dropout": 0.3}} where
# there is little of it; `--set` overrides them), `names(items)` (what to call each of
# `sequences(items)`, where not by its `id` or its file), and the following.


@runtime_checkable
class Follows(Protocol):
    """A task whose held-out data may go on where its training data ends."""

    def follow(self, train: Items, held: Items, between: Items | None = None) -> Items:
        """`held` (what `--valid` or `--test` named) as the continuation of `train`, or of what is
        held out `between` them."""
        ...


@runtime_checkable
class Slides(Protocol):
    """A task whose held-out windows may overlap: `eval --stride` says how far apart they begin."""

    def slide(
        self, sequences: Iterable[Sequence], tokenizer: Tokenizer, stride: int
    ) -> list[Sequence]:
        """Windows that many units apart, of items that `sequences` are windows of."""
        ...

    def probe_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        """What `probe` costs, in ids that are scored."""
        ...

    def floor_of(
        self,
        train: Items | None,
        sequences: Iterable[Sequence],
        tokenizer: Tokenizer,
        protocol: str | None,
    ) -> dict[str, float]:
        """What trivial answers reach on these very windows; without `train`, those that need
        none."""
        ...


@runtime_checkable
class OfBytes(Protocol):
    """A task whose items are stretches of bytes: a line is one."""

    running: bool  # whether items are pieces of a running text rather than whole

    def sequence(
        self, data: bytes, tokenizer: Any, where: tuple[Any, int] | None = None, ends: bool = True
    ) -> Sequence:
        """An item, or a piece of one, begun anew; `ends`: whether the item ends here."""
        ...


@runtime_checkable
class Halves(Protocol):
    """A task whose held-out items can be halved, so that one half chooses among weights and the
    other measures what was chosen."""

    def halves(self, held: Items) -> tuple[Items, Items]:
        """DataError where there is too little."""
        ...


@runtime_checkable
class DrawsWhole(Protocol):
    """A task that draws all of a prompt at once, rather than an id at a time: many series, many
    paths. Its prompts are files. What it draws has `record()`, for JSON."""

    def draw(
        self,
        model: SequenceModel,
        tokenizer: Tokenizer,
        data: bytes | None,
        own: Iterable[Sequence],
        config: SampleConfig,
        asked: Any,
    ) -> list[Any]:
        """data: what the user gave; none to go on from `own`, what the run holds out. A
        `config.length` of 0 is the task's own."""
        ...


@runtime_checkable
class Converts(Protocol):
    """A task that `tfm tokenize` asks for whole items, where `sequences` are parts of them, and
    that writes them as they were, where `write` is of what is drawn."""

    def whole(self, items: Items, tokenizer: Tokenizer) -> Iterator[Sequence]:
        """Every item as one sequence."""
        ...

    def write_whole(self, items: Iterable[tuple[Any, Mapping[str, Any]]], out: BinaryIO) -> None:
        """Decoded items with their side information."""
        ...
