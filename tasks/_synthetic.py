"""Tasks with exact answers, whose items are generated: they measure what an architecture can learn
apart from any data.

Training goes on without end and never sees an item that is held out: a hash of the question decides
which of the two it belongs to. All are pairs, a question and its answer. Entry points in
pyproject.toml name them.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np

from ..core.config import SampleConfig
from ..core.data.datasets import ItemRows, too_long
from ..core.data.keyed_random import key
from ..core.data.source import Source
from ..core.errors import ConfigError, UsageError
from ..core.protocols import ByteTokenizer, Ids, Sequence
from ..core.task import Description, ignored, piece_labels
from ..tokenizers.byte import SingleByteTokenizer
from ..tokenizers.integers import IntegerTokenizer
from ._pairs.metrics import baselines
from ._pairs.reading import Pairs
from .pairs import EXAMPLES, PairsTask, shortened, texts_of

HELD_OUT = 1000  # items
HELD_OUT_SHARE = 8  # one question in so many can only be held out
MAX_TRIES = 10_000  # to generate a question of one part
ENDLESS = 1 << 40  # rows of training
MAX_DIGITS = 1000  # of a number, which Python writes in decimal
MIN_ITEM = 4  # ids of an item, at least
BASELINE_ITEMS = 2000  # of the training part
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Generated:
    """Items of one part, made when they are asked for. of: the task and its options."""

    make: Callable[[Random], tuple[str, str]]
    of: str
    held_out: bool

    @property
    def about(self) -> str:
        return f"{len(self._first):,} others" if self.held_out else self.of

    @property
    def size(self) -> int:
        """Bytes of the answers of the held-out items."""
        return sum(len(target) for _, target in self)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.of}/{self.held_out}".encode()).hexdigest()

    def item(self, seed: int, index: int) -> tuple[str, str]:
        """Item number `index` of the endless sequence of a seed. ConfigError if no question belongs
        to this part."""
        draw = Random(key(seed, self.held_out, index))
        for _ in range(MAX_TRIES):
            source, target = self.make(draw)
            digest = hashlib.blake2b(source.encode(), digest_size=4).digest()
            if (digest[0] % HELD_OUT_SHARE == 0) == self.held_out:
                return source, target
        raise ConfigError(f"{self.of}: there are too few different questions")

    @cached_property
    def _first(self) -> dict[str, str]:
        """The first HELD_OUT items, without those that come again."""
        return dict(self.item(0, index) for index in range(HELD_OUT))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._first.items())


class Endless(ItemRows):
    """Rows of generated items, as many as fit in each. item: the sequence of a number."""

    def __init__(
        self, item: Callable[[int], Sequence], tokenizer: Any, context: int, encoder: bool = False
    ) -> None:
        super().__init__(tokenizer, context, encoder)
        self.item = item
        self.most = context // MIN_ITEM + 1  # items in a row

    def __len__(self) -> int:
        return ENDLESS

    def row(self, index: int) -> list[tuple[Sequence, int, int]]:
        pieces: list[tuple[Sequence, int, int]] = []
        filled = 0
        for number in range(self.most):
            sequence = self.item(index * self.most + number)
            start = sequence.given - 1 if self.encoder else 0
            if len(sequence) - start > self.context + 1:
                raise too_long(len(sequence) - start, self.context)
            filled += len(sequence) - start
            if filled > self.context + 1:
                break
            pieces.append((sequence, start, len(sequence)))
        return pieces

    def with_sources(self) -> Endless:
        return Endless(self.item, self.tokenizer, self.context, encoder=True)


@dataclass(frozen=True)
class LengthOptions:
    min_length: int = field(default=1, metadata={"help": "The fewest symbols of a question."})
    max_length: int = field(default=20, metadata={"help": "The most symbols of a question."})

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"--min-length {self.min_length}: must be 1 to --max-length {self.max_length}"
            )

    def length(self, draw: Random) -> int:
        return draw.randint(self.min_length, self.max_length)


class Synthetic(PairsTask):
    """Base of the generated tasks. A subclass makes a question and its answer from random
    numbers."""

    default_tokenizer = "byte"
    Options: ClassVar[type] = LengthOptions
    headline: ClassVar[tuple[str, ...]] = ("exact", "edits")
    generated = True

    @abstractmethod
    def make(self, draw: Random) -> tuple[str, str]:
        """A random question and its answer."""

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        return 0.0

    def default_source(self) -> Source:
        return Source((), about=self._about())

    def _about(self) -> str:
        options = ", ".join(f"{name} {value}" for name, value in asdict(self.options).items())
        return f"generated items of the {self.name} task ({options})"

    def items(self, source: Source) -> Any:
        if source.paths:
            raise UsageError(
                f"--data, --valid, --test: the {self.name} task generates its items; --task pairs "
                "reads them"
            )
        return Generated(self.make, self._about(), held_out=False)

    def describe(self, items: Any) -> Description | None:
        source, target = map(shortened, items.item(0, 0))
        return Description((f"items such as {source} -> {target}",), {})

    def split(self, items: Any, holdout: float | None) -> tuple[Any, Any]:
        if holdout is not None:
            raise UsageError(f"--holdout: the {self.name} task holds out {HELD_OUT:,} items")
        return items, replace(items, held_out=True)

    def halves(self, held: Any) -> tuple[Any, Any]:
        return Pairs.of(held, held.about).split(0.5, "halves")

    def fit_tokenizer(self, spec: str, train: Any) -> ByteTokenizer:
        if spec != "byte":
            raise ConfigError(f"--tokenizer {spec}: known for the {self.name} task: byte")
        return SingleByteTokenizer(ends=True, text=True)

    def _pair(self, pair: tuple[str, str], tokenizer: Any) -> Sequence:
        return self._sequence(pair[0], pair[1], tokenizer)

    @abstractmethod
    def longest_item(self) -> tuple[str, str]:
        """A question and an answer, neither of which can be longer."""

    def longest(self, train: Any, tokenizer: Any) -> int:
        return len(self._pair(self.longest_item(), tokenizer))

    def dataset(
        self, train: Any, tokenizer: Any, context: int, tokens: int | None, seed: int, cache: Path
    ) -> Endless:
        def item(number: int) -> Sequence:
            return self._pair(train.item(seed, number), tokenizer)

        return Endless(item, tokenizer, context)

    def defaults(self, train: Any, tokenizer: Any) -> dict[str, dict[str, object]]:
        """Items hardly ever come again, so that nothing is overfitted."""
        return {"model": {"dropout": 0.0}, "train": {}}

    def window_floor(
        self,
        read_train: Callable[[], Any],
        windows: Iterable[Sequence],
        tokenizer: ByteTokenizer,
        protocol: str | None,
        quick: bool = False,
        note: Callable[[str], None] = ignored,
        evaluation: Any = None,
    ) -> dict[str, float]:
        known = self.items(self.default_source())
        train = Pairs.of((known.item(0, index) for index in range(BASELINE_ITEMS)), known.of)
        held = [texts_of(sequence, tokenizer) for sequence in windows]
        return baselines(train, held, self.headline, quick)


class CopyTask(Synthetic):
    name, about = "copy", "generated: letters, to copy"

    def make(self, draw: Random) -> tuple[str, str]:
        letters = "".join(draw.choices(LETTERS, k=self.options.length(draw)))
        return letters, self.answer(letters)

    def longest_item(self) -> tuple[str, str]:
        return "a" * self.options.max_length, "a" * self.options.max_length

    def answer(self, letters: str) -> str:
        return letters


class ReverseTask(CopyTask):
    name, about = "reverse", "generated: letters, to write backwards"

    def answer(self, letters: str) -> str:
        return letters[::-1]


class SortTask(CopyTask):
    name, about = "sort", "generated: letters, to sort"

    def answer(self, letters: str) -> str:
        return "".join(sorted(letters))


class ParityTask(Synthetic):
    """A running state of one bit, which a recurrent layer can keep and attention has to count."""

    name, about = "parity", "generated: bits; whether their sum is even (0) or odd (1)"

    def make(self, draw: Random) -> tuple[str, str]:
        bits = "".join(draw.choices("01", k=self.options.length(draw)))
        return bits, str(bits.count("1") % 2)

    def longest_item(self) -> tuple[str, str]:
        return "0" * self.options.max_length, "0"


@dataclass(frozen=True)
class AdditionOptions(LengthOptions):
    min_length: int = field(default=1, metadata={"help": "The fewest digits of a number."})
    max_length: int = field(default=4, metadata={"help": "The most digits of a number."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length > MAX_DIGITS:
            raise ConfigError(f"--max-length {self.max_length}: must be at most {MAX_DIGITS}")


class AdditionTask(Synthetic):
    name, about = "addition", "generated: two numbers, to add"
    Options = AdditionOptions

    def make(self, draw: Random) -> tuple[str, str]:
        one, other = (self._number(draw, self.options.length(draw)) for _ in range(2))
        return f"{one}+{other}", str(one + other)

    @staticmethod
    def _number(draw: Random, digits: int) -> int:
        return draw.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)

    def longest_item(self) -> tuple[str, str]:
        most = int("9" * self.options.max_length)
        return f"{most}+{most}", str(2 * most)


@dataclass(frozen=True)
class InductionOptions(LengthOptions):
    min_length: int = field(default=4, metadata={"help": "The fewest symbols of a question."})
    max_length: int = field(default=64, metadata={"help": "The most symbols of a question."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_length < 3:
            raise ConfigError(f"--min-length {self.min_length}: must be at least 3")


class InductionTask(Synthetic):
    """The letter that followed a mark, when the mark comes again (Fu et al. 2023, H3, section
    3.1)."""

    name, about = "induction", "generated: letters; the one that followed the mark * before"
    Options = InductionOptions

    def make(self, draw: Random) -> tuple[str, str]:
        length = self.options.length(draw)
        letters = draw.choices(LETTERS, k=length)
        at = draw.randrange(length - 2)
        letters[at], letters[-1] = "*", "*"
        return "".join(letters), letters[at + 1]

    def longest_item(self) -> tuple[str, str]:
        return "a" * self.options.max_length, "a"


@dataclass(frozen=True)
class RecallOptions:
    length: int = field(default=64, metadata={"help": "Tokens of an item."})
    pairs: int = field(default=4, metadata={"help": "Pairs of a key and its value."})
    min_length: int = field(
        default=0,
        metadata={
            "help": "Items of this length too, and of all between whose length is --length halved "
            "again and again, with as many pairs for their length (0: of --length alone)."
        },
    )
    vocabulary: int = field(
        default=8192, metadata={"help": "Numbers: keys are its first half.", "inherited": True}
    )
    power: float = field(
        default=0.01, metadata={"help": "Exponent of the law of the gaps before a query."}
    )
    fillers: str = field(
        default="zeros",
        metadata={"help": "What stands between the queries.", "choices": ("zeros", "random")},
    )

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ConfigError(f"--pairs {self.pairs}: must be at least 1")
        if self.length % 2 or self.length < 4 * self.pairs:
            raise ConfigError(
                f"--length {self.length}: must be even, and at least 4 times --pairs {self.pairs}"
            )
        if self.min_length and not 4 <= self.min_length <= self.length:
            raise ConfigError(
                f"--min-length {self.min_length}: must be 4 to --length {self.length}, or 0"
            )
        if not 0 <= self.power <= 10:
            raise ConfigError(f"--power {self.power}: must be 0 to 10")
        if self.vocabulary <= self.length:
            raise ConfigError(f"--vocabulary {self.vocabulary}: must exceed --length {self.length}")

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The lengths of items, each with its number of pairs, the longest first."""
        found = [(self.length, self.pairs)]
        while 0 < 2 * self.min_length <= found[-1][0]:
            length, pairs = found[-1]
            found.append((length // 4 * 2, max(1, pairs // 2)))
        return found


@cache
def _law_of_gaps(space: int, power: float) -> list[float]:
    """The sums of the weights of the first places."""
    return list(accumulate((place + 1) ** (power - 1) for place in range(space)))


class RecallTask(Synthetic):
    """Multi-query associative recall (Arora et al. 2023, Zoology, section 3; the defaults are the
    first setting of their figure 2).

    Pairs of a key and its value; then each key once more, at gaps that follow a power law, to be
    answered by its value. The loss is on these values alone. Here the value stands after its query;
    in Zoology the next token is a filler.
    """

    name, about = "recall", "generated: keys and values; the value of each key that comes again"
    unit = "value"
    default_tokenizer = "integers"
    Options = RecallOptions
    headline = ("accuracy",)

    def make(self, draw: Random) -> tuple[str, str]:
        """The pairs, and the rest of the item with its fillers."""
        o = self.options
        length, count = draw.choice(o.shapes) if o.min_length else (o.length, o.pairs)
        half = o.vocabulary // 2
        keys = draw.sample(range(1, half), count)
        values = draw.sample(range(half, o.vocabulary), count)
        pairs = [number for pair in zip(keys, values, strict=True) for number in pair]
        rest = [0] * (length - 2 * count)
        if o.fillers == "random":
            rest = [self._filler(draw, keys) for _ in rest]
        for gap, asked, value in zip(self._gaps(draw, length, count), keys, values, strict=True):
            rest[2 * gap : 2 * gap + 2] = asked, value
        return " ".join(map(str, pairs)), " ".join(map(str, rest))

    def longest_item(self) -> tuple[str, str]:
        pairs = 2 * self.options.pairs
        return " ".join("0" * pairs), " ".join("0" * (self.options.length - pairs))

    def _filler(self, draw: Random, keys: list[int]) -> int:
        """Any number but the keys, so that only queries are keys."""
        while (number := draw.randrange(self.options.vocabulary)) in keys:
            pass
        return number

    def _gaps(self, draw: Random, length: int, count: int) -> list[int]:
        """Distinct places of the queries, in pairs of tokens, by the law p(g) ~ g^(power - 1)."""
        space = (length - 2 * count) // 2
        law = _law_of_gaps(space, self.options.power)
        found: list[int] = []
        while len(found) < count:
            (place,) = draw.choices(range(space), cum_weights=law)
            if place not in found:
                found.append(place)
        return found

    def defaults(self, train: Any, tokenizer: Any) -> dict[str, dict[str, object]]:
        """What learns it in minutes, as in Zoology: one head, which can point at a single
        position, and positions that are learned, so that it can tell values from keys. The head
        shares the embeddings, for an id is to be copied; they are large enough for a copied id to
        stand out among all."""
        shape = {"heads": 1, "positions": "learned", "qk_norm": False, "tied": True}
        return {
            "model": {"dropout": 0.0, "embedding_std": 0.35, **shape},
            "train": {"batch": 32, "weight_decay": 0.01},
        }

    def fit_tokenizer(self, spec: str, train: Any) -> Any:
        if spec != "integers":
            raise ConfigError(f"--tokenizer {spec}: known for the {self.name} task: integers")
        return IntegerTokenizer(self.options.vocabulary, ends=True)

    def _sequence(self, source: str, target: str, tokenizer: Any) -> Sequence:
        """Only the values after the queries have a weight; there is no end token."""
        pairs, rest = tokenizer.tokens(source), tokenizer.tokens(target)
        values = dict(zip(pairs[::2].tolist(), pairs[1::2].tolist(), strict=True))
        ids = np.concatenate((pairs, [tokenizer.begin], rest))
        weight = np.zeros(len(ids), np.float32)
        for at in range(0, len(rest), 2):
            if values.get(int(rest[at])) == rest[at + 1]:
                weight[len(pairs) + 2 + at] = 1
        return Sequence(ids, len(pairs) + 1, weight, {"value": len(values)})

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        return {"value": float(sum(sequence.side["value"] for sequence in sequences))}

    def prompt(self, data: bytes | None, tokenizer: Any, sampling: Any) -> Sequence:
        """Keys and values, then a key to recall."""
        if data is None:
            raise UsageError(
                "--prompt: give keys with their values and a key, such as '5 17 3 9 5'"
            )
        ids = tokenizer.tokens(data.decode("utf-8", "replace"))
        if len(ids) % 2 == 0:
            raise UsageError("--prompt: give keys with their values, then one key: '5 17 3 9 5'")
        return Sequence(np.array([*ids[:-1], tokenizer.begin, ids[-1]]), len(ids))

    def token_labels(self, ids: Ids, tokenizer: Any) -> list[str]:
        return piece_labels(ids, [], tokenizer.begin, None)

    def illustration(
        self, sequence: Sequence, tokenizer: Any, guesses: Ids, ids: Ids
    ) -> dict[str, Any]:
        return {"form": "ids"}

    def new_tokens(self, prompt: Sequence, sampling: Any) -> int:
        return 1

    def example(self, model: Any, tokenizer: Any, heldout: Iterable[Sequence]) -> str | None:
        """The first query of a few items, and what the model recalls."""
        from ..core.decode.search import search_all

        prompts = []
        for sequence, _ in zip(heldout, range(EXAMPLES), strict=False):
            first = int(np.flatnonzero(sequence.target_weight())[0])  # the first value
            ids = np.append(sequence.ids[: sequence.given], sequence.ids[first - 1])
            prompts.append(Sequence(ids, sequence.given))
        found = search_all(model, tokenizer, prompts, SampleConfig(greedy=True), None)
        texts = [tokenizer.decode(prompt.ids, {}) for prompt in prompts]
        answers = [tokenizer.decode(np.array(ids[:1]), {}) for ids in found]
        return "\n".join(f"{t} -> {a}" for t, a in zip(texts, answers, strict=True))

    def model_metrics(
        self,
        model: Any,
        tokenizer: Any,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: Any,
    ) -> dict[str, Any]:
        """accuracy: the share of queries whose value is the likeliest id."""
        from ..core.score.likelihood import accuracy

        if protocol is not None:
            raise UsageError(f"--beam, --protocol {protocol}: not for the {self.name} task")
        return {"accuracy": accuracy(model, tokenizer, sequences)}

    def model_metrics_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        return sum(map(len, sequences))

    def window_floor(
        self,
        read_train: Callable[[], Any],
        windows: Iterable[Sequence],
        tokenizer: ByteTokenizer,
        protocol: str | None,
        quick: bool = False,
        note: Callable[[str], None] = ignored,
        evaluation: Any = None,
    ) -> dict[str, float]:
        """A guess among the values of the item."""
        counts = [pairs for _, pairs in self.options.shapes]
        return {"guess_accuracy": len(counts) / sum(counts)}
