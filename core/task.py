"""A domain: text, pictures, time series ... as a subclass of `Task`.

A subclass must say what its items are, how they become sequences of ids, in which unit they are
counted and how they are written. Everything else has a default here. The core and the command line
ask a task for nothing that this class does not have. Nothing here imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np

from .errors import UsageError
from .protocols import ByteTokenizer, Dataset, Items, Sequence, StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from .config import SampleConfig

# classes of rooms above this one
SequenceModel = Any
Source = Any
# what the task itself made, by `items`, `fit_tokenizer`, `Options` and `SampleOptions`, and is
# handed back: a subclass writes its own classes there
OwnItems = Any
OwnTokenizer = Any
OwnOptions = Any


@dataclass(frozen=True)
class NoOptions:
    """Of a task that has none."""


class Task(ABC):
    """One domain. It is built from its options: `Kind(Kind.Options(...))`.

    `about` to `headline` are facts about the class, which commands read without an instance.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # one line, for `tfm tasks`
    unit: ClassVar[str]  # what bits are counted by: byte, dim, point ...
    default_tokenizer: ClassVar[str]
    Options: ClassVar[type] = NoOptions  # frozen dataclass; its fields are flags of `train`
    SampleOptions: ClassVar[type] = NoOptions  # the same for `sample`: a label, how many paths ...
    binary: ClassVar[bool] = False  # whether what `write` writes is unfit for a terminal
    headline: ClassVar[tuple[str, ...]] = ()  # the metrics that users of the domain look at first
    # whether `eval --stride N` is the task's: `slide` moves its windows by N units; otherwise the
    # core moves the model's context by N tokens
    slides: ClassVar[bool] = False
    # whether prompts are files, of which `draw` makes all draws; otherwise a prompt is continued
    # id by id, from `prompt` to `end_token`
    draws_files: ClassVar[bool] = False
    # whether the sequences of one file are pieces of one running text, scored together
    running: bool = False

    def __init__(self, options: OwnOptions) -> None:
        self.options = options

    # -- required ------------------------------------------------------------------------------

    @abstractmethod
    def items(self, source: Source) -> Items:
        """All items of a source. DataError where there is none, or one that cannot be read."""

    @abstractmethod
    def split(self, items: OwnItems, holdout: float | None) -> tuple[Items, Items]:
        """(train, held out). `holdout` is a fraction; None stands for the task's usual one.
        DataError where there is too little to hold some out."""

    @abstractmethod
    def fit_tokenizer(self, spec: str, train: OwnItems) -> Tokenizer:
        """The tokenizer that `--tokenizer SPEC` names, a function of the training items alone.
        ConfigError for a spec that the task does not know."""

    @abstractmethod
    def dataset(
        self,
        train: OwnItems,
        tokenizer: OwnTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> Dataset:
        """Training rows of context + 1 ids. At least `tokens` ids are prepared, all of them where
        it is None. Files worth keeping go below the folder `cache`."""

    @abstractmethod
    def sequences(self, items: OwnItems, tokenizer: OwnTokenizer) -> Iterator[Sequence]:
        """Every item once, as it is scored; an item may come as several sequences."""

    @abstractmethod
    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        """How many units these sequences hold: `unit` first, others that `metrics` needs."""

    @abstractmethod
    def floor(self, train: OwnItems, held: OwnItems) -> dict[str, float]:
        """By name, what trivial answers reach on the held-out items, in `floor_unit`."""

    @abstractmethod
    def write(
        self, items: list[Any], prompt: Sequence | None, sampling: OwnOptions, out: BinaryIO
    ) -> None:
        """Writes all draws of one prompt (None where `draw` made them) to a file or a pipe: texts
        one after another, pictures as a grid, paths as a forecast."""

    # -- data ----------------------------------------------------------------------------------

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        """How surely a file of this name and first bytes is of this domain, 0 to 1."""
        return 0.0

    def default_source(self) -> Source:
        """Real data that every machine has, for `train` without --data."""
        raise UsageError(f"--data: needed, the {self.name} task has no data of its own")

    def follow(self, train: OwnItems, held: OwnItems, between: OwnItems | None = None) -> Items:
        """`held`, which --valid or --test named, as the continuation of `train`, or of the held-out
        items `between` them. By default held-out items stand alone."""
        found: Items = held
        return found

    def halves(self, held: OwnItems) -> tuple[Items, Items]:
        """Two halves of held-out items: the first chooses among weights, the second measures what
        was chosen. DataError where there is too little. By default --test must be given."""
        raise UsageError(f"--patience, --until: the {self.name} task needs --test beside them")

    def names(self, items: OwnItems) -> Iterator[str] | None:
        """What `score` calls each of `sequences(items)`. None: by the `id` in its side
        information, else by its file."""
        return None

    # -- training ------------------------------------------------------------------------------

    def longest(self, train: OwnItems, tokenizer: OwnTokenizer) -> int | None:
        """How many ids an item has at most that must be seen whole; None where any context
        does."""
        return None

    def defaults(self, train: OwnItems, tokenizer: OwnTokenizer) -> dict[str, dict[str, object]]:
        """Config fields that this data asks for, which --set overrides: {"model": {"dropout":
        0.3}}. Where there are none, dropout and the largest size follow from how often the
        training data is read."""
        return {}

    # -- scores --------------------------------------------------------------------------------

    @property
    def floor_unit(self) -> str:
        """What `floor` is measured in, for people; empty where its names say it."""
        return f"bits per {self.unit}"

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        """Figures of the domain that follow from the likelihood. nll in nats, over `tokens` ids
        and `units`; a figure that cannot be exact is None."""
        return {}

    def model_metrics(
        self,
        model: SequenceModel,
        tokenizer: OwnTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
    ) -> dict[str, Any]:
        """Figures of the domain that need the model itself: accuracy, errors of forecasts.
        UsageError for a `--protocol` that the task does not have."""
        if protocol is not None:
            raise UsageError(f"--protocol {protocol}: the {self.name} task has none")
        return {}

    def model_metrics_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        """What `model_metrics` costs, in ids that could be scored in the same time."""
        return 0

    def slide(
        self, sequences: Iterable[Sequence], tokenizer: OwnTokenizer, stride: int
    ) -> Collection[Sequence]:
        """Windows `stride` units apart of the items that `sequences` are windows of, for a task
        that `slides`."""
        raise NotImplementedError(f"the {self.name} task does not slide")

    def window_floor(
        self,
        read_train: Callable[[], OwnItems | None],
        windows: Iterable[Sequence],
        tokenizer: OwnTokenizer,
        protocol: str | None,
    ) -> dict[str, float] | None:
        """`floor` on these very windows, where `train` measured none; None where the task cannot
        say. `read_train` reads the training items: None where they are no longer there."""
        return None

    # -- samples -------------------------------------------------------------------------------

    def prompt(self, data: bytes | None, tokenizer: OwnTokenizer, sampling: OwnOptions) -> Sequence:
        """The ids that a draw continues. Those that are `given` stay when the context moves on.
        data: what the user gave, None for nothing. By default a draw follows the begin token, and
        any data is a UsageError."""
        if data:
            raise UsageError(f"--prompt: the {self.name} task begins every draw anew")
        return Sequence(np.array([tokenizer.begin]))

    def new_tokens(self, prompt: Sequence, sampling: OwnOptions) -> int | None:
        """How many ids complete the item; None where that is not known: --length, else 256."""
        return None

    def end_token(self, tokenizer: OwnTokenizer) -> int | None:
        """The id that ends an item, where there is one."""
        return None

    def stream_decoder(self, tokenizer: OwnTokenizer, prompt: Sequence) -> StreamDecoder:
        """What turns the ids of one draw into bytes as they come. By default there are none
        before the item is complete."""
        return ItemDecoder(tokenizer, prompt)

    def draw(
        self,
        model: SequenceModel,
        tokenizer: OwnTokenizer,
        data: bytes | None,
        heldout: Iterable[Sequence],
        config: SampleConfig,
        sampling: OwnOptions,
    ) -> list[Any]:
        """All draws of one prompt, for a task that `draws_files`. What it draws has `record()`,
        an object for JSON. data: the file that the user gave; None to continue `heldout`, what
        the run holds out. A `config.length` of 0 stands for the task's own."""
        raise NotImplementedError(f"the {self.name} task draws id by id")

    def preview(
        self, items: list[Any], prompt: Sequence | None, sampling: OwnOptions, width: int
    ) -> str | None:
        """The draws as characters for a terminal `width` columns wide; None where what `write`
        writes can be read."""
        return None

    # -- items and ids, without a model --------------------------------------------------------

    def byte_tokenizer(self, tokenizer: OwnTokenizer) -> ByteTokenizer | None:
        """The same tokenizer, where items are bytes or text: lines are then items, files can be
        compressed, and likelihoods are compared by blocks of bytes. None for other domains."""
        return None

    def encode_bytes(self, data: bytes, tokenizer: ByteTokenizer, ends: bool = True) -> Sequence:
        """One item (or one piece of a long one, `ends`: the last) of a task that has a
        `byte_tokenizer`. DataError for bytes that are no item."""
        raise NotImplementedError(f"the items of the {self.name} task are not bytes")

    def tokenize(self, items: OwnItems, tokenizer: OwnTokenizer) -> Iterator[Sequence]:
        """Every item as one sequence, for `tfm tokenize`."""
        return self.sequences(items, tokenizer)

    def write_decoded(self, decoded: Iterable[tuple[Any, Sequence]], out: BinaryIO) -> None:
        """Writes items that `tfm detokenize` decoded, each with the sequence it was; by default
        like draws."""
        pairs = list(decoded)
        if pairs:
            self.write([item for item, _ in pairs], pairs[0][1], self.SampleOptions(), out)


class ItemDecoder:
    """Collects the ids of a draw behind those of its prompt, and decodes them together."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence) -> None:
        self.tokenizer, self.side = tokenizer, prompt.side
        self.ids: list[int] = prompt.ids.tolist()

    def feed(self, id: int) -> bytes:
        self.ids.append(id)
        return b""

    def finish(self) -> bytes:
        return b""

    def item(self) -> Any:
        return self.tokenizer.decode(np.array(self.ids, np.int64), self.side)
