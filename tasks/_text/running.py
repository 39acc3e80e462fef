"""What the tasks of running text and bytes share: spans over a mapped stream of bytes, their
split, their ids on disk, their floor.

`--each stream`: a running text, cut in windows, a begin token before each file. Otherwise an item
is a line, a file or a record of a table, with a begin and an end.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...core.data.datasets import Packed, Windows
from ...core.data.keyed_random import key, mix, uniform
from ...core.data.sequence_store import cached_store
from ...core.data.source import ByteStream, Source, scratch_file
from ...core.errors import DataError, UsageError
from ...core.protocols import Dataset, NoOptions, Sequence
from .spans import PIECE, Spans, beginning, lines

FIT_BYTES = 8 << 20  # bytes that a tokenizer learns from
HOLDOUT = 0.1
JUDGED = 1 << 16  # bytes, at least, by which it is judged how many make an id
HOLDOUT_BYTES = 10_000_000  # of a running text, at most, unless --holdout says more
SEEN_OFTEN, WAYS = 24, 64  # passes from which a text is cut in several ways; how many, at most
WAYS_BYTES = 1 << 30  # of text, at most, that all ways together are of
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


class Running:
    """The common part of `text` and `byte`. A subclass says what an item is as a value."""

    name = ""
    unit = "byte"
    binary = False
    Options: type = RunningOptions
    SampleOptions: type = NoOptions

    def __init__(self, options: Any) -> None:
        self.options = options
        self.running = options.each == "stream"

    def value(self, data: bytes, where: tuple[ByteStream, int] | None = None) -> Any:
        """The item that these bytes are; `where` they stand, for messages."""
        raise NotImplementedError

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
            return self._split_by_place(items, fraction, capped=holdout is None)
        return self._split_by_hash(items, fraction, "split")

    def halves(self, held: Spans) -> tuple[Spans, Spans]:
        if held.running:
            return self._split_by_place(held, 0.5, capped=False)
        return self._split_by_hash(held, 0.5, "halves")

    def _split_by_hash(self, items: Spans, fraction: float, key: str) -> tuple[Spans, Spans]:
        drawn = np.array(
            [
                uniform(key, hashlib.sha256(items.read(i)).hexdigest())
                for i in range(len(items.spans))
            ]
        )
        if drawn.min() == drawn.max():
            raise DataError(
                f"--data {items.about}: one item ({items.size} bytes), need at least 2 that "
                "differ so that one is held out; use --valid, or --each stream"
            )
        hidden = drawn < fraction
        if not hidden.any():
            hidden = drawn == drawn.min()
        if hidden.all():
            hidden = drawn < drawn.max()
        parts = [
            Spans(
                items.stream,
                items.spans[which],
                False,
                f"{items.fingerprint}/{name}{fraction}",
                f"{int(which.sum()):,} of {len(which):,} items",
            )
            for name, which in (("train", ~hidden), ("held", hidden))
        ]
        return parts[0], parts[1]

    def _split_by_place(self, items: Spans, fraction: float, capped: bool) -> tuple[Spans, Spans]:
        too_little = DataError(
            f"--data {items.about}: need at least {max(3, int(1 / fraction) + 1)} bytes to "
            f"train on and hold some out, got {items.size}"
        )
        held = int(items.size * fraction)
        if capped:
            held = min(held, HOLDOUT_BYTES)
        if held < 1 or items.size - held < 2:
            raise too_little
        before = np.cumsum(items.spans[:, 1] - items.spans[:, 0])
        number = int(np.searchsorted(before, items.size - held, side="right"))
        number = min(number, len(before) - 1)
        start, end = items.spans[number].tolist()
        cut = items.whole_character(end - int(before[number] - (items.size - held)), end)
        if cut == end and number == len(before) - 1:  # nothing would be held out
            cut = items.last_character(start, end)
        train = [*items.spans[:number].tolist(), [start, cut]]
        rest = [[cut, end], *items.spans[number + 1 :].tolist()]
        parts = []
        for name, spans in (("train", train), ("held", rest)):
            kept = np.array([s for s in spans if s[1] > s[0]], np.int64).reshape(-1, 2)
            size = int((kept[:, 1] - kept[:, 0]).sum())
            which = "first" if name == "train" else "last"
            parts.append(
                Spans(
                    items.stream,
                    kept,
                    True,
                    f"{items.fingerprint}/{name}{cut}",
                    f"the {which} {size:,} bytes",
                )
            )
        if parts[0].size < 2:  # the rest is one character
            raise too_little
        return parts[0], parts[1]

    # -- ids ---------------------------------------------------------------------------------

    def longest(self, train: Spans, tokenizer: Any) -> int | None:
        """Of items: what 95 in 100 fit into, at most 512 ids. Longer ones are cut."""
        if train.running:
            return None
        spans = train.spans[:: max(1, len(train.spans) // 1000)].tolist()
        sizes = [len(tokenizer.encode(self.value(train.stream.read(a, b)))) for a, b in spans]
        return int(min(np.ceil(np.percentile(sizes, 95)), 512))

    def dataset(
        self, train: Spans, tokenizer: Any, context: int, tokens: int | None, seed: int, cache: Path
    ) -> Dataset:
        wanted = train.size if tokens is None else self._bytes_for(tokens, train, tokenizer)
        passes = wanted / train.size
        ways = self._ways(train, tokenizer, passes)
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
                for cut in (self._way(tokenizer, number) for number in range(ways))
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

    def _ways(self, train: Spans, tokenizer: Any, passes: float) -> int:
        """In how many ways a text is cut that is read so often: one a pass, where there is more
        than one."""
        varied = getattr(self.options, "bpe_dropout", 0.0) and getattr(tokenizer, "merge_count", 0)
        if not varied or passes < SEEN_OFTEN:
            return 1
        return max(1, min(round(passes), WAYS, WAYS_BYTES // train.size))

    def _way(self, tokenizer: Any, number: int) -> Any:
        """A tokenizer of the same ids: every other one as it will be scored by."""
        if number % 2 == 0:
            return tokenizer
        drawn = mix(np.arange(tokenizer.merge_count), key("merges", number)) / 2.0**64
        return tokenizer.without(drawn < self.options.bpe_dropout)

    def _bytes_for(self, tokens: int, train: Spans, tokenizer: Any) -> int:
        size = count = 0
        for start, stop, first in train.sample(JUDGED):
            data = self.value(train.stream.read(start, stop), (train.stream, start))
            size, count = size + stop - start, count + len(tokenizer.tokens(data)) + first
        return int(tokens * size / max(count, 1))

    def _stretches(
        self, train: Spans, pieces: Iterable[tuple[int, int, bool]], tokenizer: Any
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

    def sequences(self, items: Spans, tokenizer: Any) -> Iterator[Sequence]:
        """A running text in pieces of `PIECE` bytes, each begun anew; else every item whole."""
        spans = items.pieces(PIECE) if items.running else ((*s, True) for s in items.spans.tolist())
        for start, stop, _ in spans:
            data = items.stream.read(start, stop)
            yield self.sequence(data, tokenizer, (items.stream, start))

    def sequence(
        self,
        data: bytes,
        tokenizer: Any,
        where: tuple[ByteStream, int] | None = None,
        ends: bool = True,
    ) -> Sequence:
        """An item, or a piece of running text, begun anew; `ends`: whether the item ends here."""
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

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        return {}

    # -- floors ------------------------------------------------------------------------------

    def floor(self, train: Spans, held: Spans) -> dict[str, float]:
        from .baselines import compressors, ngram

        glue = b"" if held.running else b"\n"
        hidden = beginning(held, FLOOR_HELD, glue)
        return {**compressors(hidden), "ngram": ngram(beginning(train, FLOOR_TRAIN, glue), hidden)}

    def probe(
        self, model: Any, tokenizer: Any, sequences: Iterable[Sequence], protocol: str | None
    ) -> dict[str, Any]:
        if protocol is not None:
            raise UsageError(f"--protocol {protocol}: the {self.name} task has none; see --stride")
        return {}

    # -- samples -----------------------------------------------------------------------------

    def length(self, prompt: Sequence, asked: Any) -> None:
        return None

    def ends(self, tokenizer: Any) -> int | None:
        return tokenizer.end if tokenizer.ends else None

    def drawn(self, tokenizer: Any, prompt: Sequence) -> RunningText:
        return RunningText(tokenizer, utf8=not self.binary)

    def write(self, items: list[bytes], prompt: Sequence, asked: Any, out: BinaryIO) -> None:
        for item in items:
            out.write(item)

    def preview(self, items: list[bytes], prompt: Sequence, asked: Any, width: int) -> None:
        return None


class RunningText:
    """Ids to bytes as they come; with `utf8`, only whole characters, invalid ones as U+FFFD."""

    def __init__(self, tokenizer: Any, utf8: bool) -> None:
        self.tokenizer, self.utf8 = tokenizer, utf8
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.ids: list[int] = []  # of a tokenizer whose ids are no bytes by themselves
        self.data = b""

    def feed(self, id: int) -> bytes:
        if getattr(self.tokenizer, "by_bytes", True):
            data: bytes = self.tokenizer.decode_bytes(np.array([id]))
            return self._new(self.decoder.decode(data).encode() if self.utf8 else data)
        self.ids.append(id)
        whole: bytes = self.tokenizer.decode(np.array(self.ids), {}).encode()
        unsure = whole.endswith("\ufffd".encode()) or not whole.startswith(self.data)
        return b"" if unsure else self._new(whole[len(self.data) :])

    def rest(self) -> bytes:
        if self.ids:
            whole: bytes = self.tokenizer.decode(np.array(self.ids), {}).encode()
            return self._new(whole[len(self.data) :])
        return self._new(self.decoder.decode(b"", final=True).encode() if self.utf8 else b"")

    def _new(self, data: bytes) -> bytes:
        self.data += data
        return data

    def item(self) -> bytes:
        return self.data
