"""What the tasks of running text and bytes share: spans over a mapped stream of bytes, their
split, their ids on disk, their floor.

`--each stream`: a running text, cut in windows, a begin token before each file. Otherwise an item
is a line, a file or a record of a table, with a begin and an end.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from ...core.data.datasets import Packed, Windows
from ...core.data.sequence_store import cached_store
from ...core.data.source import ByteStream, Source, scratch_file
from ...core.errors import DataError, UsageError
from ...core.protocols import ByteTokenizer, Dataset, Sequence
from ...core.task import Task
from .decoder import TextDecoder
from .spans import PIECE, Spans, beginning, lines
from .split import split_by_hash, split_by_place

FIT_BYTES = 8 << 20  # bytes that a tokenizer learns from
HOLDOUT = 0.1
JUDGED = 1 << 16  # bytes, at least, by which it is judged how many make an id
HOLDOUT_BYTES = 10_000_000  # of a running text, at most, unless --holdout says more
FLOOR_TRAIN, FLOOR_HELD = 10_000_000, 1_000_000  # bytes


@dataclass(frozen=True)
class RunningOptions:
    each: str = field(
        default="stream",
        metadata={
            "help": "What one item is: a running text cut in windows, or a line, a file or a "
            "record with a beginning and an end.",
            "choices": ("stream", "line", "file", "record"),
        },
    )


class Running(Task):
    """The common part of `text` and `byte`. A subclass says what an item is as a value."""

    unit = "byte"
    Options: ClassVar[type] = RunningOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.running = options.each == "stream"

    @abstractmethod
    def value(self, data: bytes, where: tuple[ByteStream, int] | None = None) -> Any:
        """The item that these bytes are; `where` they stand, for messages."""

    # -- items -------------------------------------------------------------------------------

    def items(self, source: Source) -> Spans:
        if source.is_table() or self.options.each == "record":
            if not source.is_table():
                source.files()  # if they are there
                raise UsageError(
                    "--each record: needs rows (.jsonl, .csv, .parquet or hf:); "
                    f"{source.describe()} is none; use --each line or file"
                )
            return self._records(source)
        if source.column is not None:
            raise UsageError(
                f"--column {source.column}: needs a table (.jsonl, .csv, .parquet or hf:); "
                f"{source.describe()} is none"
            )
        files = source.files()
        stream = ByteStream(files)
        if not len(stream):
            raise DataError(f"--data {source.describe()}: empty, need at least 2 bytes")
        spans = np.stack((stream.starts[:-1], stream.starts[1:]), axis=1).astype(np.int64)
        spans = spans[spans[:, 1] > spans[:, 0]]
        if self.options.each == "line":
            spans = lines(stream, spans)
        return Spans(stream, spans, self.running, source.fingerprint(files), source.describe())

    def _records(self, source: Source) -> Spans:
        """The chosen column of a table, written end to end into one scratch file."""
        path, ends, digest = scratch_file("records"), [0], hashlib.sha256()
        with path.open("wb") as out:
            for value in source.column_values():
                data = value if isinstance(value, bytes) else str(value).encode()
                digest.update(data + b"\0")
                out.write(data)
                ends.append(ends[-1] + len(data))
        spans = np.stack((ends[:-1], ends[1:]), axis=1).astype(np.int64)
        spans = spans[spans[:, 1] > spans[:, 0]]
        if not len(spans):
            raise DataError(f"--data {source.describe()}: no text in it")
        about = source.describe()
        return Spans(ByteStream([path], [about]), spans, self.running, digest.hexdigest(), about)

    def split(self, items: Spans, holdout: float | None) -> tuple[Spans, Spans]:
        """A running text by place, the last part held out; items by a hash of their content, so
        that equal ones stay together."""
        fraction = HOLDOUT if holdout is None else holdout
        if items.running:
            most = HOLDOUT_BYTES if holdout is None else None
            return split_by_place(items, fraction, most)
        return split_by_hash(items, fraction, "split")

    def halves(self, held: Spans) -> tuple[Spans, Spans]:
        if held.running:
            return split_by_place(held, 0.5)
        return split_by_hash(held, 0.5, "halves")

    # -- ids ---------------------------------------------------------------------------------

    def longest(self, train: Spans, tokenizer: ByteTokenizer) -> int | None:
        """Of items: what 95 in 100 fit into, at most 512 ids. Longer ones are cut."""
        if train.running:
            return None
        spans = train.spans[:: max(1, len(train.spans) // 1000)].tolist()
        sizes = [len(tokenizer.encode(self.value(train.stream.read(a, b)))) for a, b in spans]
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
        wanted = train.size if tokens is None else self._bytes_for(tokens, train, tokenizer)
        passes = wanted / train.size
        ways = self.ways(train, tokenizer, passes)
        if train.running and tokens is not None and tokens <= passes * context:
            ways = 1  # a window must not hold the same place twice
        wanted = int(1.1 * wanted) + PIECE
        if not train.running:
            train = train.some(wanted)
        pieces = train.sample(wanted)
        name = hashlib.sha256(
            json.dumps(
                [
                    3,
                    train.fingerprint,
                    train.running,
                    len(train.spans),
                    pieces[0],
                    pieces[-1],
                    len(pieces),
                    ways,
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
                for cut in (self.way(tokenizer, number) for number in range(ways))
                for sequence in (
                    self._stretches(train, pieces, cut)
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

    def ways(self, train: Spans, tokenizer: ByteTokenizer, passes: float) -> int:
        """In how many ways a text is cut into ids that is read so often."""
        return 1

    def way(self, tokenizer: Any, number: int) -> Any:
        """A tokenizer of the same ids, for each of `ways`: the first as it will be scored by."""
        return tokenizer

    def _bytes_for(self, tokens: int, train: Spans, tokenizer: ByteTokenizer) -> int:
        size = count = 0
        for start, stop, first in train.sample(JUDGED):
            data = self.value(train.stream.read(start, stop), (train.stream, start))
            size, count = size + stop - start, count + len(tokenizer.tokens(data)) + first
        return int(tokens * size / max(count, 1))

    def _stretches(
        self, train: Spans, pieces: Iterable[tuple[int, int, bool]], tokenizer: ByteTokenizer
    ) -> Iterator[Sequence]:
        """Running ids, a begin token where a file starts or text was left out before."""
        reached = -1
        for start, stop, first in pieces:
            data = self.value(train.stream.read(start, stop), (train.stream, start))
            ids = tokenizer.tokens(data)
            if first or start != reached:
                ids = np.concatenate(([tokenizer.begin], ids))
            reached = stop
            yield Sequence(ids)

    def sequences(self, items: Spans, tokenizer: ByteTokenizer) -> Iterator[Sequence]:
        """A running text in pieces of `PIECE` bytes, each begun anew; else every item whole."""
        spans = items.pieces(PIECE) if items.running else ((*s, True) for s in items.spans.tolist())
        for start, stop, _ in spans:
            data = items.stream.read(start, stop)
            yield self._sequence(data, tokenizer, (items.stream, start))

    def byte_tokenizer(self, tokenizer: ByteTokenizer) -> ByteTokenizer:
        return tokenizer

    def encode_bytes(self, data: bytes, tokenizer: ByteTokenizer, ends: bool = True) -> Sequence:
        """An item, or a piece of one, each begun anew."""
        return self._sequence(data, tokenizer, None, ends)

    def _sequence(
        self,
        data: bytes,
        tokenizer: ByteTokenizer,
        where: tuple[ByteStream, int] | None,
        ends: bool = True,
    ) -> Sequence:
        value = self.value(data, where)
        closing = [tokenizer.end] if ends and tokenizer.ends else []
        ids = np.concatenate(([tokenizer.begin], tokenizer.tokens(value), closing))
        return Sequence(ids.astype(np.int64), side=self.counts(value, len(data)))

    def names(self, items: Spans) -> Iterator[str]:
        """What each of `sequences` is called: by its file, or by what it says."""
        whole = items.running or self.options.each == "file"
        spans = items.pieces(PIECE) if items.running else ((*s, True) for s in items.spans.tolist())
        for start, stop, _ in spans:
            if whole:
                yield items.stream.where(start)[0]
            else:
                yield items.stream.read(start, min(stop, start + PIECE)).decode("utf-8", "replace")

    def counts(self, item: Any, size: int) -> dict[str, Any]:
        return {"byte": size}

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        total: dict[str, float] = {self.unit: 0}
        for sequence in sequences:
            for name, value in sequence.side.items():
                total[name] = total.get(name, 0) + value
        return total

    # -- floors ------------------------------------------------------------------------------

    def floor(self, train: Spans, held: Spans) -> dict[str, float]:
        from .baselines import compressors, ngram

        glue = b"" if held.running else b"\n"
        hidden = beginning(held, FLOOR_HELD, glue)
        return {**compressors(hidden), "ngram": ngram(beginning(train, FLOOR_TRAIN, glue), hidden)}

    def model_metrics(
        self,
        model: Any,
        tokenizer: ByteTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
    ) -> dict[str, Any]:
        if protocol is not None:
            raise UsageError(f"--protocol {protocol}: the {self.name} task has none; see --stride")
        return {}

    # -- samples -----------------------------------------------------------------------------

    def end_token(self, tokenizer: ByteTokenizer) -> int | None:
        return tokenizer.end if tokenizer.ends else None

    def stream_decoder(self, tokenizer: ByteTokenizer, prompt: Sequence) -> TextDecoder:
        return TextDecoder(tokenizer, utf8=not self.binary)

    def write(
        self, items: list[bytes], prompt: Sequence | None, sampling: Any, out: BinaryIO
    ) -> None:
        for item in items:
            out.write(item)
