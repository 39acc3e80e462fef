"""The base class of the text and byte tasks: items as spans of a memory-mapped stream of bytes,
their held-out split, their ids on disk, their baselines.

`--each stream`: one running text, cut into windows, with a begin token before each file. Otherwise
an item is a line, a file or a record of a table, between a begin token and an end token.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from ...core.data.byte_stream import ByteStream
from ...core.data.datasets import Packed, Windows
from ...core.data.keyed_random import key, mix
from ...core.data.sequence_store import cached_store
from ...core.data.shards import Piece, Shards
from ...core.data.source import Source
from ...core.errors import ConfigError, UsageError
from ...core.protocols import ByteTokenizer, Dataset, Ids, Sequence
from ...core.task import Description, Task
from .decoder import TextDecoder
from .reading import read
from .spans import PIECE_BYTES, Figures, Spans, beginning
from .split import Largest, split_by_hash, split_by_position
from .stored import StoredSpans, StoredText, pieces

HOLDOUT = 0.1
TOKEN_RATIO_BYTES = 1 << 16  # of text, at least, to measure bytes per token on
MAX_HELD_OUT_BYTES, MAX_HELD_OUT_ITEMS = 10_000_000, 50_000  # without --holdout
BASELINE_TRAIN_BYTES, BASELINE_HELD_OUT_BYTES = 10_000_000, 1_000_000  # at most


@dataclass(frozen=True)
class RunningOptions:
    each: str = field(
        default="stream",
        metadata={
            "help": "What one item is: a window of running text (stream), or a line, a file or "
            "a table record, each with a beginning and an end.",
            "choices": ("stream", "line", "file", "record"),
        },
    )


class Running(Task):
    """Base of the text and byte tasks. A subclass converts an item's bytes with `value`."""

    unit = "byte"
    Options: ClassVar[type] = RunningOptions
    prepares = True
    rows_unasked: ClassVar[bool] = True  # whether tables are read by rows without --column

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.running = options.each == "stream"

    @abstractmethod
    def value(self, data: bytes, where: tuple[ByteStream, int] | None = None) -> Any:
        """The item as the tokenizer takes it; `where`: stream and offset, for error messages.
        DataError for bytes that are not an item."""

    def ids(
        self,
        data: bytes,
        tokenizer: ByteTokenizer,
        where: tuple[ByteStream, int] | None = None,
        any_bytes: bool = False,
    ) -> Ids:
        """The ids of a part of an item. any_bytes: bytes that are not an item have ids too, if the
        tokenizer has an id for every byte; else DataError."""
        return tokenizer.tokens(self.value(data, where))

    @classmethod
    def init_options(cls, options: RunningOptions, tokenizer: ByteTokenizer) -> dict[str, object]:
        return {"each": options.each}

    def adapt(self, tokenizer: ByteTokenizer) -> ByteTokenizer:
        """ConfigError if only one of the run and the data has items with an end, unless there was
        an end token in the model before it was imported."""
        adapted = tokenizer.with_ends(not self.running)
        if adapted is None:
            known = "line, file or record" if tokenizer.ends else "stream"
            raise ConfigError(
                f"--each {self.options.each}: the run of --init was trained with --each {known}"
            )
        return adapted

    def conform(self, items: Spans, tokenizer: ByteTokenizer, note: Callable[[str], None]) -> Spans:
        """Items that are scored: bytes that are no item are spelled where the tokenizer can."""
        return replace(items, any_bytes=True)

    # -- items -------------------------------------------------------------------------------

    def items(self, source: Source) -> Spans:
        return read(source, self.options.each, self.rows_unasked)

    def describe(self, items: Spans) -> Description | None:
        return items.description

    def split(self, items: Spans, holdout: float | None) -> tuple[Spans, Spans]:
        """(train, held out). Of a running text, the last part is held out; items are split by a
        hash of their content, so that equal ones stay together."""
        fraction = HOLDOUT if holdout is None else holdout
        largest = Largest(MAX_HELD_OUT_ITEMS, MAX_HELD_OUT_BYTES) if holdout is None else None
        if items.running:
            return split_by_position(items, fraction, largest.size if largest else None)
        return split_by_hash(items, fraction, "split", largest)

    def halves(self, held: Spans) -> tuple[Spans, Spans]:
        if held.running:
            return split_by_position(held, 0.5)
        return split_by_hash(held, 0.5, "halves")

    # -- ids ---------------------------------------------------------------------------------

    def longest(self, train: Spans, tokenizer: ByteTokenizer) -> int | None:
        """The 95th percentile of item lengths in ids, at most 512 (longer items are cut). None for
        running text."""
        if train.running:
            return None
        if train.figures is not None:
            return train.figures.longest
        spans = train.spans[:: max(1, len(train.spans) // 1000)].tolist()
        ids = (self.ids(train.stream.read(a, b), tokenizer, (train.stream, a)) for a, b in spans)
        sizes = [1 + len(each) + tokenizer.ends for each in ids]
        return int(min(np.ceil(np.percentile(sizes, 95)), 512))

    def dataset(
        self,
        train: Spans,
        tokenizer: ByteTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> Dataset:
        wanted = train.size if tokens is None else self._bytes_of_tokens(tokens, train, tokenizer)
        passes = wanted / train.size
        variants = self.variant_count(train, tokenizer, passes)
        if train.running and tokens is not None and tokens <= passes * context:
            variants = 1  # else a window could contain the same text twice
        wanted = int(1.1 * wanted) + PIECE_BYTES
        if isinstance(train, StoredSpans):
            train.stream.shards.check(cache)
            if variants == 1:
                return train.dataset(wanted, tokenizer, context, seed)
        if not train.running:
            train = train.some(wanted)
        pieces = train.sample(wanted) if train.running else []
        name = hashlib.sha256(
            json.dumps(
                [
                    4,
                    train.fingerprint,
                    train.running,
                    train.spans[[0, -1]].tolist(),
                    len(train.spans),
                    pieces[:1],
                    pieces[-1:],
                    len(pieces),
                    variants,
                    tokenizer.state()[0],
                    type(tokenizer).__name__,
                    str(self.options),
                ]
            ).encode()
        )
        store = cached_store(
            cache / "ids",
            name.hexdigest()[:32],
            (
                sequence
                for cut in (self.variant(tokenizer, number) for number in range(variants))
                for sequence in (
                    self._running_ids(train, pieces, cut)
                    if train.running
                    else self.sequences(train, cut)
                )
            ),
            tokenizer.vocab_size,
        )
        if not train.running:
            return Packed(store, tokenizer, context)
        support = tokenizer.support(context, {})
        return Windows(store.ids, context, seed, tokenizer.begin, support)

    def variant_count(self, train: Spans, tokenizer: ByteTokenizer, passes: float) -> int:
        """Number of tokenizations of the training text to store, for so many passes over it."""
        return 1

    def variant(self, tokenizer: Any, number: int) -> Any:
        """The tokenizer of one of `variant_count`, all with the same ids; number 0 is the one that
        scores."""
        return tokenizer

    def _bytes_of_tokens(self, tokens: int, train: Spans, tokenizer: ByteTokenizer) -> int:
        size, count = self._sample(train, tokenizer)
        return int(tokens * size / max(count, 1))

    def _sample(self, train: Spans, tokenizer: ByteTokenizer) -> tuple[int, int]:
        """(bytes, ids) of a sample of the items."""
        if train.figures is not None:
            return train.figures.sample
        size = count = 0
        for start, stop, first in train.sample(TOKEN_RATIO_BYTES):
            ids = self.ids(train.stream.read(start, stop), tokenizer, (train.stream, start))
            size, count = size + stop - start, count + len(ids) + first
        return size, count

    def _running_ids(
        self, train: Spans, pieces: Iterable[tuple[int, int, bool]], tokenizer: ByteTokenizer
    ) -> Iterator[Sequence]:
        """Ids of pieces; a begin token at the start of a file and wherever text was skipped."""
        reached = -1
        for start, stop, first in pieces:
            ids = self.ids(train.stream.read(start, stop), tokenizer, (train.stream, start))
            if first or start != reached:
                ids = np.concatenate(([tokenizer.begin], ids))
            reached = stop
            yield Sequence(ids)

    def sequences(self, items: Spans, tokenizer: ByteTokenizer) -> Iterator[Sequence]:
        """One sequence a piece of PIECE_BYTES of running text, or one an item; each starts with
        the begin token."""
        for start, stop, _ in items.sequences():
            data = items.stream.read(start, stop)
            ids = self.ids(data, tokenizer, (items.stream, start), items.any_bytes)
            yield self._sequence(ids, data, tokenizer)

    # -- prepared data -----------------------------------------------------------------------

    def pieces(
        self, train: Spans, tokenizer: ByteTokenizer, size: int
    ) -> Iterator[tuple[int, Iterator[Piece]]]:
        def encode(data: bytes, where: tuple[ByteStream, int]) -> Ids:
            ids = self.ids(data, tokenizer, where, train.any_bytes and not train.running)
            return _enclosed(ids, tokenizer)

        return pieces(train, encode, size)

    def figures(self, train: Spans, tokenizer: ByteTokenizer) -> dict[str, Any]:
        return asdict(Figures(self.longest(train, tokenizer), self._sample(train, tokenizer)))

    def prepared(
        self, shards: Shards, tokenizer: ByteTokenizer, fingerprint: str, figures: Mapping[str, Any]
    ) -> StoredSpans:
        known = Figures(figures["longest"], tuple(figures["sample"]))
        text = StoredText(shards, tokenizer)
        return StoredSpans.of(text, self.running, fingerprint, known)

    def byte_tokenizer(self, tokenizer: ByteTokenizer) -> ByteTokenizer:
        return tokenizer

    def encode_bytes(self, data: bytes, tokenizer: ByteTokenizer, ends: bool = True) -> Sequence:
        """The sequence of an item or of a piece of one, begin token first."""
        return self._sequence(self.ids(data, tokenizer, None, True), data, tokenizer, ends)

    def _sequence(
        self, ids: Ids, data: bytes, tokenizer: ByteTokenizer, ends: bool = True
    ) -> Sequence:
        return Sequence(_enclosed(ids, tokenizer, ends), side=self.counts(data))

    def names(self, items: Spans) -> Iterator[str | None]:
        """The name of each of `sequences`: its file, or its own text; None for the further pieces
        of one."""
        for start, stop, first in items.sequences():
            if not first:
                yield None
            elif start < items.whole_files:
                yield items.stream.where(start)[0]
            else:
                data = items.stream.read(start, min(stop, start + PIECE_BYTES))
                yield data.decode("utf-8", "replace")

    def counts(self, data: bytes) -> dict[str, Any]:
        """The number of units in bytes that can end within a character."""
        return {"byte": len(data)}

    def shortened(self, sequence: Sequence, length: int, tokenizer: ByteTokenizer) -> Sequence:
        ids = sequence.ids[:length]
        return replace(sequence, ids=ids, side=self.counts(tokenizer.decode_bytes(ids)))

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        total: dict[str, float] = {self.unit: 0}
        for sequence in sequences:
            for name, value in sequence.side.items():
                total[name] = total.get(name, 0) + value
        return total

    def sampled(self, items: Spans, size: int) -> Spans:
        """Whole pieces of a running text, or whole items."""
        if items.size <= size:
            return items
        spans = items.spans
        if items.running:
            spans = np.array([piece[:2] for piece in items.pieces(PIECE_BYTES)], np.int64)
        chosen = mix(np.arange(len(spans)), key("sampled")) / 2.0**64 < size / items.size
        return replace(items, spans=spans[chosen] if chosen.any() else spans[:1])

    # -- baselines ---------------------------------------------------------------------------

    def floor(self, train: Spans, held: Spans) -> dict[str, float]:
        from .baselines import compressors, ngram

        glue = b"" if held.running else b"\n"
        held_out = beginning(held, BASELINE_HELD_OUT_BYTES, glue)
        counted = beginning(train, BASELINE_TRAIN_BYTES, glue)
        return {**compressors(held_out), "ngram": ngram(counted, held_out)}

    def model_metrics(
        self,
        model: Any,
        tokenizer: ByteTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: Any,
    ) -> dict[str, Any]:
        if protocol is not None:
            raise UsageError(f"--protocol {protocol}: not for the {self.name} task; see --stride")
        return {}

    # -- samples -----------------------------------------------------------------------------

    def end_token(self, tokenizer: ByteTokenizer) -> int | None:
        """The end token, if it is legal: an imported model can predict it in running text too."""
        support = tokenizer.support(1, {})
        legal = support[1] if isinstance(support, tuple) else tokenizer.vocab_size
        return tokenizer.end if tokenizer.end < legal else None

    def stream_decoder(self, tokenizer: ByteTokenizer, prompt: Sequence) -> TextDecoder:
        return TextDecoder(tokenizer, utf8=not self.binary)

    def write(
        self, items: list[bytes], prompt: Sequence | None, sampling: Any, out: BinaryIO
    ) -> None:
        for item in items:
            out.write(item)


def _enclosed(ids: Ids, tokenizer: ByteTokenizer, ends: bool = True) -> Ids:
    """The ids of an item with the begin token and, if items have one, the end token."""
    closing = [tokenizer.end] if ends and tokenizer.ends else []
    return np.concatenate(([tokenizer.begin], ids, closing)).astype(np.int64)
