"""Pairs of texts, a source and its target: translation, correction, transcription, formatting.

A model with an encoder reads the source there; a decoder-only one reads it as a prefix. The loss is
on the target alone: ids are the source's, the begin token, the target's, the end token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from ..core import task
from ..core.config import SampleConfig
from ..core.data.compressed import plain_name
from ..core.data.datasets import Packed
from ..core.data.scratch import scratch_file
from ..core.data.sequence_store import cached_store
from ..core.data.source import Source
from ..core.data.tables import KINDS
from ..core.errors import UsageError
from ..core.protocols import ByteTokenizer, Dataset, Ids, Sequence
from ..core.task import DataWarning, Description, ignored
from ._pairs import dates
from ._pairs.metrics import METRICS, baselines, metrics
from ._pairs.reading import Pairs, read_pairs
from ._text.decoder import TextDecoder
from ._text.fitting import fit_text_tokenizer, too_few_merges

HOLDOUT, MAX_HELD_OUT = 0.1, 2000  # of the pairs, without --holdout
DECODING_COST = 40  # generating an id costs as much time as scoring so many
MAX_LENGTH = 1024  # of a pair, in ids, without --context
MAX_LONGER = 1.25  # a held-out pair may be so much longer than all training pairs
EXAMPLES = 3  # shown after training
SHOWN = 60  # characters of an item in a message
# the columns of pairs in the heading of a table or in a line of JSON
COLUMNS = re.compile(rb"(?i)[\"']?\bsource\b[\"']?.*\btarget\b|[\"']?\btarget\b[\"']?.*\bsource\b")


@dataclass(frozen=True)
class PairsOptions:
    source: str | None = field(
        default=None,
        metadata={"help": "The column of sources (else `source`, or the first of two)."},
    )
    target: str | None = field(
        default=None,
        metadata={"help": "The column of targets (else `target`, or the second of two)."},
    )


class PairsTask(task.Task):
    name = "pairs"
    about = "pairs of texts: a source and the target to make of it"
    unit = "byte"
    default_tokenizer = "char"
    Options: ClassVar[type] = PairsOptions
    headline: ClassVar[tuple[str, ...]] = METRICS
    pairs = True
    greedy = True

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        if Path(plain_name(path)).suffix not in KINDS:
            return 0.0
        return 0.8 if COLUMNS.search(head[:1000].partition(b"\n")[0]) else 0.0

    def default_source(self) -> Source:
        """Generated dates, written to a scratch file."""
        path = scratch_file("dates.tsv")
        if not path.exists():
            dates.write(path)
        about = f"{dates.COUNT:,} generated dates in sixteen formats, with their ISO form"
        return Source((str(path),), about=about)

    # -- pairs ---------------------------------------------------------------------------------

    def items(self, source: Source) -> Pairs:
        return read_pairs(source, (self.options.source, self.options.target))

    def describe(self, items: Pairs) -> Description | None:
        first = shortened(items.sources[0]), shortened(items.targets[0])
        lines = [f"{len(items):,} pairs, such as {' -> '.join(first)}"]
        if items.skipped:
            lines.append(f"left out: {items.skipped:,} rows without a source or a target")
        return Description(tuple(lines), {"pairs": len(items), "skipped": items.skipped})

    def split(self, items: Pairs, holdout: float | None) -> tuple[Pairs, Pairs]:
        fraction = min(HOLDOUT, MAX_HELD_OUT / len(items)) if holdout is None else holdout
        return items.split(fraction, "split")

    def halves(self, held: Pairs) -> tuple[Pairs, Pairs]:
        return held.split(0.5, "halves")

    # -- ids -----------------------------------------------------------------------------------

    def fit_tokenizer(self, spec: str, train: Pairs) -> ByteTokenizer:
        """One vocabulary for both sides. `spec`: as for text."""

        def texts(size: int) -> Iterator[str]:
            read = 0
            for source, target in train:
                yield from (source + "\n", target + "\n")
                read += len(source) + len(target)
                if read >= size:
                    return

        size = train.size + sum(map(len, train.sources))
        return fit_text_tokenizer(spec, texts, size, ends=True)

    def about_tokenizer(self, spec: str, tokenizer: ByteTokenizer) -> str | None:
        return too_few_merges(spec, tokenizer)

    def longest(self, train: Pairs, tokenizer: ByteTokenizer) -> int:
        longest = max(len(self._sequence(*pair, tokenizer)) for pair in _longest(train))
        return min(MAX_LENGTH, int(MAX_LONGER * longest))

    def dataset(
        self,
        train: Pairs,
        tokenizer: ByteTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> Dataset:
        about = [1, train.fingerprint, type(tokenizer).__name__, tokenizer.state()[0]]
        name = "pairs-" + hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        sequences = self.sequences(train, tokenizer)
        store = cached_store(cache / "ids", name, sequences, tokenizer.vocab_size)
        return Packed(store, tokenizer, context, whole=True)

    def sequences(self, items: Pairs, tokenizer: ByteTokenizer) -> Iterator[Sequence]:
        return (self._sequence(source, target, tokenizer) for source, target in items)

    def _sequence(self, source: str, target: str, tokenizer: ByteTokenizer) -> Sequence:
        given = self._given(source.encode(), tokenizer)
        ids = np.concatenate((given, _ids(target.encode(), tokenizer), [tokenizer.end]))
        return Sequence(ids, len(given), None, {"byte": len(target.encode()), "char": len(target)})

    def _given(self, source: bytes, tokenizer: ByteTokenizer) -> Ids:
        """The ids of a source, and the begin token."""
        return np.append(_ids(source, tokenizer), tokenizer.begin)

    def names(self, items: Pairs) -> Iterator[str]:
        return (f"{source}\t{target}" for source, target in items)

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        total = {"byte": 0.0, "char": 0.0}
        for sequence in sequences:
            for name in total:
                total[name] += sequence.side[name]
        return total

    # -- scores --------------------------------------------------------------------------------

    @property
    def floor_unit(self) -> str:
        return ""

    def floor(self, train: Pairs, held: Pairs) -> dict[str, float]:
        return baselines(train, list(held), self.headline, quick=False)

    def window_floor(
        self,
        read_train: Callable[[], Pairs | None],
        windows: Iterable[Sequence],
        tokenizer: ByteTokenizer,
        protocol: str | None,
        quick: bool = False,
        note: Callable[[str], None] = ignored,
        evaluation: Any = None,
    ) -> dict[str, float]:
        held = [texts_of(s, tokenizer) for s in windows]
        return baselines(read_train(), held, self.headline, quick)

    def model_metrics(
        self,
        model: Any,
        tokenizer: ByteTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: Any,
    ) -> dict[str, Any]:
        """protocol: greedy (None), or beam-N or beam-N-A with length penalty A."""
        kept = list(sequences)
        search = _search(protocol)
        predicted = self.predicted(model, tokenizer, kept, search)
        true = [texts_of(sequence, tokenizer)[1] for sequence in kept]
        return metrics(predicted, true, self.headline)

    def model_metrics_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        targets = sum(len(sequence) - sequence.given for sequence in sequences)
        return DECODING_COST * targets * _search(protocol).beam

    def predicted(
        self, model: Any, tokenizer: ByteTokenizer, sequences: list[Sequence], search: SampleConfig
    ) -> list[str]:
        """The predicted target of each sequence's source."""
        from ..core.decode.search import search_all

        sources = [Sequence(s.ids[: s.given], s.given) for s in sequences]
        found = search_all(model, tokenizer, sources, search, tokenizer.end)
        return [tokenizer.decode_bytes(np.array(ids)).decode("utf-8", "replace") for ids in found]

    def example(
        self, model: Any, tokenizer: ByteTokenizer, heldout: Iterable[Sequence]
    ) -> str | None:
        some = [sequence for sequence, _ in zip(heldout, range(EXAMPLES), strict=False)]
        predicted = self.predicted(model, tokenizer, some, _search(None))
        sources = [texts_of(sequence, tokenizer)[0] for sequence in some]
        shown = zip(map(shortened, sources), map(shortened, predicted), strict=True)
        return "\n".join(f"{source} -> {target}" for source, target in shown)

    # -- samples -------------------------------------------------------------------------------

    def prompt(self, data: bytes | None, tokenizer: ByteTokenizer, sampling: Any) -> Sequence:
        if data is None:
            raise UsageError(
                "--prompt: give a source with -p TEXT, or one source a line on standard input"
            )
        ids = self._given(data, tokenizer)
        return Sequence(ids, len(ids))

    def token_labels(self, ids: Ids, tokenizer: ByteTokenizer) -> list[str]:
        return task.piece_labels(ids, tokenizer.pieces, tokenizer.begin, tokenizer.end)

    def illustration(
        self, sequence: Sequence, tokenizer: Any, guesses: Ids, ids: Ids
    ) -> dict[str, Any]:
        return {"form": "text"}

    def data_warnings(
        self, train: Pairs, held: Mapping[str, Collection[Sequence]], tokenizer: Any
    ) -> Iterator[DataWarning]:
        targets = [target for _, target in islice(train, 2)]
        if len(targets) > 1 and len({target for _, target in train}) == 1:
            yield DataWarning(
                "constant_label",
                "train",
                len(list(train)),
                1.0,
                f"the target is always the same: {shortened(targets[0])}",
                "there is nothing to learn; look whether --target names the right column",
            )

    def end_token(self, tokenizer: ByteTokenizer) -> int:
        return tokenizer.end

    def stream_decoder(self, tokenizer: ByteTokenizer, prompt: Sequence) -> TextDecoder:
        return TextDecoder(tokenizer, utf8=True)

    def write(
        self, items: list[bytes], prompt: Sequence | None, sampling: Any, out: BinaryIO
    ) -> None:
        out.writelines(items)

    def write_decoded(
        self, decoded: Iterable[tuple[Any, Sequence]], tokenizer: ByteTokenizer, out: BinaryIO
    ) -> None:
        """Each pair as source, tab, target; a source alone as it is."""
        for _, sequence in decoded:
            begins = np.flatnonzero(sequence.ids == tokenizer.begin)
            sides = np.split(sequence.ids, begins[:1])
            out.write(b"\t".join(tokenizer.decode_bytes(side) for side in sides) + b"\n")


def _longest(train: Pairs) -> Iterator[tuple[str, str]]:
    """A few pairs, one of which has the most ids: those with the most characters."""
    sizes = np.array([len(source) + len(target) for source, target in train])
    for number in np.argsort(-sizes, kind="stable")[:100].tolist():
        yield train.sources[number], train.targets[number]


def shortened(text: str) -> str:
    """A text in quotes for one line of a message."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def _ids(text: bytes, tokenizer: ByteTokenizer) -> Ids:
    return tokenizer.ids_of_bytes(text) if tokenizer.lossless else tokenizer.tokens(text.decode())


def texts_of(sequence: Sequence, tokenizer: ByteTokenizer) -> tuple[str, str]:
    """The source and the target of a sequence."""
    parts = sequence.ids[: sequence.given], sequence.ids[sequence.given :]
    source, target = (tokenizer.decode_bytes(part).decode("utf-8", "replace") for part in parts)
    return source, target


def _search(protocol: str | None) -> SampleConfig:
    """The search that a protocol names. UsageError for an unknown one."""
    greedy = SampleConfig(greedy=True)
    kind, _, rest = (protocol or "greedy").partition("-")
    width, _, alpha = rest.partition("-")
    if kind == "beam" and width.isdecimal():
        try:
            return replace(greedy, beam=int(width), length_penalty=float(alpha or 0))
        except ValueError:
            pass
    if protocol in (None, "greedy"):
        return greedy
    raise UsageError(
        f"--protocol {protocol}: must be greedy, beam-N or beam-N-A (A: the length penalty)"
    )


Task = PairsTask
