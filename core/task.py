"""`Task`: the interface of a domain such as text, images or time series.

A subclass must define how items are read, split, tokenized, counted and written. Everything else
has a default. The core and the command line use no other members. Nothing here imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np

from .display import marked
from .errors import UsageError
from .protocols import ByteTokenizer, Dataset, Ids, Items, Sequence, StreamDecoder, Tokenizer
from .terms import Terms

if TYPE_CHECKING:
    from .config import SampleConfig

# classes of packages that this module must not import
SequenceModel = Any
Source = Any
Shards = Any
Piece = Any
# objects that the task itself created (by `items`, `fit_tokenizer`, `Options`, `SampleOptions`); a
# subclass annotates its own classes instead
OwnItems = Any
OwnTokenizer = Any
OwnOptions = Any


def ignored(text: str) -> None:
    """A note that nobody reads."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a task without options."""


@dataclass(frozen=True)
class Description:
    """What a task found in its data: lines for people, and the same as an object for JSON."""

    lines: tuple[str, ...]
    record: dict[str, Any]


@dataclass(frozen=True)
class DataWarning:
    """What is doubtful about data, for `tfm data`.

    kind: a name for scripts, such as duplicates; split: train, valid, test or report; count: of how
    many items, or of ids; share: of those of the split, 0 to 1; items: names of some of them;
    message: what is wrong, in words that follow the split's name; advice: what to do about it.
    """

    kind: str
    split: str
    count: int
    share: float
    message: str
    advice: str
    items: tuple[str, ...] = ()
    listed: bool = True  # whether `items` are some of what is counted


@dataclass(frozen=True)
class Prediction:
    """The label that a model predicts for an item. label: the true one, None if it is unknown."""

    label: str | None
    predicted: str
    probability: float


class Task(ABC):
    """A domain. An instance is built from its options: `TextTask(TextTask.Options(...))`.

    Commands read the class attributes without an instance.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # one line, for `tfm tasks`
    unit: ClassVar[str]  # the unit of "bits per unit": byte, dim, point ...
    default_tokenizer: ClassVar[str]  # a SPEC of --tokenizer
    Options: ClassVar[type] = NoOptions  # frozen dataclass; its fields are flags of `train`
    # frozen dataclass; its fields are flags of `sample`; metadata `file`: a file that is written
    SampleOptions: ClassVar[type] = NoOptions
    EvalOptions: ClassVar[type] = NoOptions  # the same, of `eval`
    binary: ClassVar[bool] = False  # whether `write` outputs bytes that a terminal cannot show
    headline: ClassVar[tuple[str, ...]] = ()  # the main metrics of the domain
    generated: ClassVar[bool] = False  # whether the task makes its items: there is no --data
    pairs: ClassVar[bool] = False  # whether the given ids of an item are a source to read
    # whether `sample` takes the most likely ids unless a flag says otherwise
    greedy: ClassVar[bool] = False
    # whether `eval --stride N` moves the task's own windows by N units (see `slide`); otherwise it
    # moves the model's context by N tokens
    slides: ClassVar[bool] = False
    # suffixes of the files that `write_as` can make, the default first; empty: samples are bytes or
    # text that can follow one another in one file of any name
    file_types: ClassVar[tuple[str, ...]] = ()
    # whether prompts are files and `draw` generates all samples of one; otherwise the core samples
    # id by id, from `prompt` to `end_token`
    draws_files: ClassVar[bool] = False
    # options by which the task reads data that it refuses without them, such as uneven times;
    # `tfm data` then shows the data, and warns
    lenient: ClassVar[Mapping[str, object]] = {}
    # whether training data can be tokenized ahead by `tfm prepare`: `pieces` and `prepared`
    prepares: ClassVar[bool] = False
    # whether the sequences of one file are pieces of one continuous text, scored together
    running: bool = False

    def __init__(self, options: OwnOptions) -> None:
        self.options = options

    # -- required ------------------------------------------------------------------------------

    @abstractmethod
    def items(self, source: Source) -> Items:
        """All items of a source. DataError if there are none or one cannot be read."""

    @abstractmethod
    def split(self, items: OwnItems, holdout: float | None) -> tuple[Items, Items]:
        """(training items, held-out items). holdout: the held-out fraction; None: the task's
        default. DataError if there are too few items."""

    @abstractmethod
    def fit_tokenizer(self, spec: str, train: OwnItems) -> Tokenizer:
        """The tokenizer of `--tokenizer SPEC`, fitted to the training items only. ConfigError for
        an unknown spec."""

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
        """Training rows of context + 1 ids. tokens: how many ids must be tokenized at least, None
        for all; cache: a folder for files that later runs can reuse."""

    @abstractmethod
    def sequences(self, items: OwnItems, tokenizer: OwnTokenizer) -> Iterator[Sequence]:
        """The sequences to score: every item once. An item can become several sequences."""

    @abstractmethod
    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        """The number of units in these sequences: `unit` first, then others that `metrics` uses."""

    @abstractmethod
    def floor(self, train: OwnItems, held: OwnItems) -> dict[str, float]:
        """The scores of trivial baselines on the held-out items by name, in `floor_unit`. It is not
        used where `window_floor` has baselines on the windows of the model."""

    @abstractmethod
    def write(
        self, items: list[Any], prompt: Sequence | None, sampling: OwnOptions, out: BinaryIO
    ) -> None:
        """Writes all samples of one prompt (None if from `draw`) to a file or a pipe: texts one
        after another, images as a grid, sample paths as a forecast."""

    def shortened(self, sequence: Sequence, length: int, tokenizer: OwnTokenizer) -> Sequence:
        """The first `length` ids of a sequence as one that can be scored, for a task whose items
        can be cut; else the sequence as it is."""
        return sequence

    # -- data ----------------------------------------------------------------------------------

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        """How certainly (0 to 1) a file of this name and first bytes belongs to this domain."""
        return 0.0

    @classmethod
    def prefetch(cls) -> None:
        """Starts to make the data of `default_source` in a process of its own, while this one
        imports torch. By default nothing."""
        return

    def default_source(self) -> Source:
        """Data that every machine has, for `train` without --data."""
        raise UsageError(f"--data: required, the {self.name} task has no built-in data")

    def follow(self, train: OwnItems, held: OwnItems, between: OwnItems | None = None) -> Items:
        """The items `held` of --valid or --test, marked as the continuation of the training items
        (of `between`, if that split lies between them). By default items are independent."""
        items: Items = held
        return items

    def halves(self, held: OwnItems) -> tuple[Items, Items]:
        """Two halves of held-out items: the first selects the best weights, the second scores
        them. DataError if there are too few. By default --test is required instead."""
        raise UsageError(f"--patience, --until: the {self.name} task needs --test as well")

    def describe(self, items: OwnItems) -> Description | None:
        """How the data was read and what was found in it, if there is anything to say."""
        return None

    def parts(self, items: OwnItems) -> Mapping[str, Items]:
        """The parts that the data itself names: `train`, with `valid`, `test` or both. Empty if it
        names none."""
        return {}

    def members(self, train: OwnItems, tokenizer: OwnTokenizer) -> dict[str, dict[str, Any]]:
        """For a task of several domains: the name of each, with the fields of config.json that a
        run of that domain alone would have."""
        return {}

    def names(self, items: OwnItems) -> Iterator[str | None] | None:
        """The names that `tfm score` prints for `sequences(items)`; None for one that goes on with
        the item before it. Without names at all: the `id` in the side information, else the file
        name."""
        return None

    # -- training ------------------------------------------------------------------------------

    @classmethod
    def init_options(cls, options: OwnOptions, tokenizer: OwnTokenizer) -> dict[str, object]:
        """The options that a run started from another (--init) keeps from that run, with these
        options and this tokenizer, unless they are set. An option whose metadata has `inherited`
        is kept in any case: setting it is an error."""
        return {}

    def conform(
        self, items: OwnItems, tokenizer: OwnTokenizer, note: Callable[[str], None]
    ) -> Items:
        """Data that is new to a run (of --init, of `eval --data`), in the form that the tokenizer
        of the run has. note: receives what was changed. DataError if that is impossible."""
        same: Items = items
        return same

    def adapt(self, tokenizer: OwnTokenizer) -> Tokenizer:
        """The tokenizer of another run, for data read with this task's options. ConfigError if they
        do not fit together."""
        same: Tokenizer = tokenizer
        return same

    def start_from(self, kind: str, tokenizer: OwnTokenizer) -> None:
        """Takes up the tokenizer of a run of another task, whose weights training starts from.
        UsageError if this task cannot; only one of several domains can."""
        raise UsageError(f"--task {self.name}: the run of --init is a {kind} run")

    def first_id(self, tokenizer: OwnTokenizer) -> int:
        """Where the ids of the run of --init begin in the vocabulary of `tokenizer`."""
        return 0

    def about_tokenizer(self, spec: str, tokenizer: OwnTokenizer) -> str | None:
        """What a user does not expect of the tokenizer that `fit_tokenizer` made of a spec."""
        return None

    def longest(self, train: OwnItems, tokenizer: OwnTokenizer) -> int | None:
        """The number of ids of the longest item, if items must fit into the context; None if they
        can be cut."""
        return None

    def defaults(self, train: OwnItems, tokenizer: OwnTokenizer) -> dict[str, dict[str, object]]:
        """Config fields for this data where neither flags nor the architecture have them:
        {"model": {"dropout": 0.3}}; a context where items can be cut. If empty, dropout and the
        largest size follow from the number of epochs."""
        return {}

    # -- prepared data, for a task that `prepares` ---------------------------------------------

    def pieces(
        self, train: OwnItems, tokenizer: OwnTokenizer, size: int
    ) -> Iterator[tuple[int, Iterator[Piece]]]:
        """The training items in parts of about `size` units: the units of each part, and its
        sequences, which are made when they are asked for. They are those of `sequences`."""
        raise NotImplementedError(f"the {self.name} task has no pieces")

    def figures(self, train: OwnItems, tokenizer: OwnTokenizer) -> dict[str, Any]:
        """What else `prepared` must know of the training items, as JSON."""
        return {}

    def prepared(
        self, shards: Shards, tokenizer: OwnTokenizer, fingerprint: str, figures: Mapping[str, Any]
    ) -> Items:
        """The training items of which `shards` has the `pieces`, equal to them for training."""
        raise NotImplementedError(f"the {self.name} task has no pieces")

    # -- scores --------------------------------------------------------------------------------

    @property
    def floor_unit(self) -> str:
        """The unit of `floor` in messages; empty if the names of its scores include it."""
        return f"bits per {self.unit}"

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        """Metrics of the domain that follow from the likelihood. nll: in nats, over `tokens` ids
        and `units`. A metric that cannot be exact is None."""
        return {}

    def model_metrics(
        self,
        model: SequenceModel,
        tokenizer: OwnTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: OwnOptions,
    ) -> dict[str, Any]:
        """Metrics of the domain that need the model: accuracy, forecast errors. UsageError for an
        unknown `--protocol`. evaluation: the flags of `EvalOptions`."""
        if protocol is not None:
            raise UsageError(f"--protocol {protocol}: the {self.name} task has none")
        return {}

    def model_metrics_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        """The cost of `model_metrics`, as the number of ids that could be scored in its time."""
        return 0

    def measures(self, tokenizer: OwnTokenizer) -> Mapping[str, bool]:
        """The metrics in `terms`, which `--until` and `compare --metric` take, and whether more of
        each is better."""
        return {}

    def terms(
        self,
        model: SequenceModel,
        tokenizer: OwnTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
    ) -> Terms:
        """What `measures` are ratios of, item by item. UsageError for an unknown `--protocol`."""
        raise NotImplementedError(f"the {self.name} task has no measures")

    def predict(
        self, model: SequenceModel, tokenizer: OwnTokenizer, sequences: Iterable[Sequence]
    ) -> Iterator[Prediction]:
        """The most likely label of each sequence. UsageError if the run predicts no labels."""
        raise UsageError(f"--predictions: the {self.name} task has no labels")

    def incomparable(self, one: OwnTokenizer, other: OwnTokenizer) -> str | None:
        """Why the likelihoods of two runs with these tokenizers are of different things; None if
        they can be compared."""
        return None

    def slide(
        self, sequences: Iterable[Sequence], tokenizer: OwnTokenizer, stride: int
    ) -> Collection[Sequence]:
        """For a task that `slides`: windows `stride` units apart over the items of `sequences`."""
        raise NotImplementedError(f"the {self.name} task does not slide")

    def window_floor(
        self,
        read_train: Callable[[], OwnItems | None],
        windows: Iterable[Sequence],
        tokenizer: OwnTokenizer,
        protocol: str | None,
        quick: bool = False,
        note: Callable[[str], None] = ignored,
        evaluation: Any = None,
    ) -> dict[str, float] | None:
        """The scores of baselines on the same windows as the model, for a task that forecasts; else
        None. read_train: reads the training items, None if they are not available any more; quick:
        leaves out baselines that take seconds; note: receives what is left out; evaluation: see
        `model_metrics`."""
        return None

    def baselines(
        self,
        train: OwnItems,
        held: OwnItems,
        windows: Iterable[Sequence],
        tokenizer: OwnTokenizer,
        quick: bool,
    ) -> tuple[dict[str, float], bool]:
        """(the scores of `window_floor`, or else of `floor`; whether slow ones are left out).
        windows: the sequences of the held-out items."""
        found = self.window_floor(lambda: train, windows, tokenizer, None, quick)
        return (self.floor(train, held), False) if found is None else (found, quick)

    # -- samples -------------------------------------------------------------------------------

    def prompt(self, data: bytes | None, tokenizer: OwnTokenizer, sampling: OwnOptions) -> Sequence:
        """The ids that a sample continues. Its `given` ids stay when a long sample moves the
        context. data: the user's prompt, None without one. By default the prompt is the begin
        token, and any data is a UsageError."""
        if data:
            raise UsageError(f"--prompt: the {self.name} task has no prompts")
        return Sequence(np.array([tokenizer.begin]))

    def example(
        self, model: SequenceModel, tokenizer: OwnTokenizer, heldout: Iterable[Sequence]
    ) -> str | None:
        """What the model makes of a few held-out items, as text to show after training; None for a
        task that shows a sample."""
        return None

    def new_tokens(self, prompt: Sequence, sampling: OwnOptions) -> int | None:
        """The number of ids that complete the item; None if unknown: then --length, else 256."""
        return None

    def end_token(self, tokenizer: OwnTokenizer) -> int | None:
        """The id of the end token, or None."""
        return None

    def stream_decoder(self, tokenizer: OwnTokenizer, prompt: Sequence) -> StreamDecoder:
        """A decoder for streaming output of one sample. By default it outputs no bytes before the
        item is complete."""
        return ItemDecoder(tokenizer, prompt)

    def draw(
        self,
        model: SequenceModel,
        tokenizer: OwnTokenizer,
        data: bytes | None,
        heldout: Iterable[Sequence],
        config: SampleConfig,
        sampling: OwnOptions,
        note: Callable[[str], None],
    ) -> list[Any]:
        """All samples of one prompt, for a task that `draws_files`. Each has `record()`, an object
        for JSON. data: the content of the user's file; None to continue `heldout`, the held-out
        items of the run. A `config.length` of 0 means the task's default. note: receives what the
        user should know."""
        raise NotImplementedError(f"the {self.name} task samples id by id")

    def write_as(
        self,
        suffix: str,
        items: list[Any],
        prompt: Sequence | None,
        sampling: OwnOptions,
        out: BinaryIO,
    ) -> None:
        """Writes samples of one prompt or of several in the format of a suffix of `file_types`; the
        default format if it is empty."""
        self.write(items, prompt, sampling, out)

    def record(self, item: Any) -> dict[str, Any]:
        """What a sample is, beside its ids, in the JSON records of `sample`."""
        return {}

    def plot(self, items: list[Any], sampling: OwnOptions) -> None:
        """Draws the file of a plotting option, if it is set: after all samples are written."""
        return

    def preview(
        self, items: list[Any], prompt: Sequence | None, sampling: OwnOptions, width: int
    ) -> str | None:
        """The samples as text for a terminal of `width` columns; None if the output of `write` is
        readable itself."""
        return None

    # -- what a person sees of ids -------------------------------------------------------------

    def to_read(
        self, data: bytes, tokenizer: OwnTokenizer, note: Callable[[str], None]
    ) -> Sequence:
        """The ids of what a user gives `tfm view` to read; by default those of a prompt. note:
        receives what the user should know."""
        return self.prompt(data, tokenizer, self.SampleOptions())

    def token_labels(self, ids: Ids, tokenizer: OwnTokenizer) -> list[str]:
        """A short name of each id, wherever it stands: by default its text, or else its number."""
        of_bytes = self.byte_tokenizer(tokenizer)
        pieces = [] if of_bytes is None else of_bytes.pieces
        return piece_labels(ids, pieces, tokenizer.begin, self.end_token(tokenizer))

    def illustration(
        self, sequence: Sequence, tokenizer: OwnTokenizer, guesses: Ids, ids: Ids
    ) -> dict[str, Any]:
        """What an item is to a person, as JSON for `tfm view`. `form` says how it is drawn: text,
        ids (of no known form), picture, series; the other keys belong to the form.

        guesses (levels, T): ids that stand in the place of the T after the first one (of the
        sequence, or of the target that a decoder reads); ids: all that the page names."""
        return {"form": "ids" if self.byte_tokenizer(tokenizer) is None else "text"}

    # -- what a person sees of data, for `tfm data` --------------------------------------------

    def show(self, sequence: Sequence, tokenizer: OwnTokenizer, width: int, colour: bool) -> str:
        """An item as the model sees it, as lines of text of at most `width` columns: by default the
        labels of its ids with a boundary between any two. colour: whether ANSI colours may be used;
        control characters are escaped in any case."""
        return marked(self.token_labels(sequence.ids, tokenizer), width, colour)

    def label(self, sequence: Sequence, tokenizer: OwnTokenizer) -> str | None:
        """The label of a labelled item; None where there is none."""
        return None

    def comparison(self, tokenizer: OwnTokenizer) -> str:
        """How items are compared with one another. `shingles`: by the n-grams of their ids;
        `places`: id by id, for items of one layout; `runs`: by long runs of ids that occur in both,
        for running text; `none`: not at all, as `data_warnings` does."""
        return "runs" if self.running else "places" if tokenizer.axes > 1 else "shingles"

    def content(self, sequence: Sequence, tokenizer: OwnTokenizer) -> Ids:
        """The ids that are compared: by default all but the begin and end tokens."""
        kept = sequence.ids != tokenizer.begin
        if (end := self.end_token(tokenizer)) is not None:
            kept &= sequence.ids != end
        found: Ids = sequence.ids[kept]
        return found

    def sampled(self, items: OwnItems, size: int) -> Items:
        """About `size` units of the items, chosen at random; the items themselves if they are
        fewer. By default always all of them."""
        same: Items = items
        return same

    def examined(self, items: OwnItems, tokenizer: OwnTokenizer) -> Iterator[Sequence]:
        """The training items as sequences, each part of them once; by default as they are
        scored."""
        return self.sequences(items, tokenizer)

    def data_warnings(
        self, train: OwnItems, held: Mapping[str, Collection[Sequence]], tokenizer: OwnTokenizer
    ) -> Iterator[DataWarning]:
        """What only the domain can find doubtful. held: the held-out sequences by split."""
        return iter(())

    def domains(
        self, train: OwnItems, held: Mapping[str, Collection[Sequence]], tokenizer: OwnTokenizer
    ) -> Mapping[str, tuple[Task, Items, Mapping[str, Collection[Sequence]], Tokenizer]]:
        """For a task of several domains: each with its own training items, held-out sequences and
        tokenizer. Empty for a task of one."""
        return {}

    # -- items and ids, without a model --------------------------------------------------------

    def byte_tokenizer(self, tokenizer: OwnTokenizer) -> ByteTokenizer | None:
        """The same tokenizer if items are bytes or text, else None. It enables items by line,
        compression of files, and comparison of models by blocks of bytes."""
        return None

    def encode_bytes(self, data: bytes, tokenizer: ByteTokenizer, ends: bool = True) -> Sequence:
        """Bytes as one item, for a task with a `byte_tokenizer`. ends: False for any but the last
        piece of a long item. DataError for bytes that are not a valid item."""
        raise NotImplementedError(f"the items of the {self.name} task are not bytes")

    def tokenize(self, items: OwnItems, tokenizer: OwnTokenizer) -> Iterator[Sequence]:
        """Every item as one sequence, for `tfm tokenize`."""
        return self.sequences(items, tokenizer)

    def write_decoded(
        self, decoded: Iterable[tuple[Any, Sequence]], tokenizer: OwnTokenizer, out: BinaryIO
    ) -> None:
        """Writes items that `tfm detokenize` decoded, each with its sequence; by default like
        samples."""
        pairs = list(decoded)
        if pairs:
            self.write([item for item, _ in pairs], pairs[0][1], self.SampleOptions(), out)


def piece_labels(ids: Ids, pieces: list[bytes], begin: int, end: int | None) -> list[str]:
    """A name of each id: its piece as text, or else <begin>, <end> or its number. Bytes that are no
    text become \\xNN."""
    names = {end: "<end>", begin: "<begin>"}
    return [
        pieces[id].decode("utf-8", "backslashreplace")
        if id < len(pieces)
        else names.get(id, str(id))
        for id in ids.tolist()
    ]


class ItemDecoder:
    """Collects the ids of prompt and sample, and decodes them together at the end."""

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
