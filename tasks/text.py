"""Running text, or lines, files and records of text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np

from ..core.data.byte_stream import ByteStream
from ..core.data.compressed import plain_name
from ..core.data.keyed_random import key, mix
from ..core.data.scratch import scratch_file
from ..core.data.source import Source
from ..core.data.tables import KINDS
from ..core.errors import ConfigError, DataError
from ..core.protocols import ByteTokenizer, Ids, Sequence
from ..tokenizers.bpe import BpeTokenizer
from ._text.fitting import fit_text_tokenizer, too_few_merges
from ._text.python_docs import start_writing, write
from ._text.running import Running, RunningOptions
from ._text.spans import Spans

BPE_DROPOUT = 0.1
MIN_VARIANT_PASSES = 24  # passes over the text from which BPE-dropout adds tokenizations
MAX_VARIANTS, MAX_VARIANT_BYTES = 64, 1 << 30  # tokenizations of a text; text bytes in all
# the name of the column of texts, in the heading of CSV or in a line of JSON
TEXT_COLUMN = re.compile(rb"(?i)(^|[,;\t|{\s])[\"']?text[\"']?\s*([,;\t|:\r]|$)")
# processes that write the default text, started early, and their files
_prefetched: list[tuple[Popen[bytes], Path]] = []


@dataclass(frozen=True)
class TextOptions(RunningOptions):
    errors: str = field(
        default="strict",
        metadata={
            "help": "How to train on bytes that are not valid UTF-8: fail, or take each as it is "
            "(a tokenizer without an id for every byte: as U+FFFD).",
            "choices": ("strict", "replace"),
        },
    )
    bpe_dropout: float | None = field(
        default=None,
        metadata={
            "help": "BPE-dropout: share of the merges left out of every second tokenization "
            "of the training text, if training makes 24 passes over it or more; 0.1 by default.",
            "training": True,
        },
    )

    def __post_init__(self) -> None:
        if self.bpe_dropout is not None and not 0 <= self.bpe_dropout < 1:
            raise ConfigError(f"--bpe-dropout {self.bpe_dropout}: must be at least 0, below 1")


class TextTask(Running):
    name = "text"
    about = "running text, or lines, files and records of text"
    default_tokenizer = "bpe"
    Options = TextOptions

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        if Path(plain_name(path)).suffix in KINDS:
            heading = head[:1000].partition(b"\n")[0]
            return 0.9 if TEXT_COLUMN.search(heading) else 0.5
        try:
            head[: max(0, len(head) - 3)].decode()
        except UnicodeDecodeError as error:
            if error.start < len(head) - 8:
                return 0.0
        return 0.0 if b"\0" in head else 0.5

    @classmethod
    def prefetch(cls) -> None:
        path = scratch_file("python-docs-early.txt")
        process = start_writing(path)
        if process is not None:
            _prefetched.append((process, path))

    def default_source(self) -> Source:
        """The documentation text that ships with CPython, written to a scratch file."""
        path = scratch_file("python-docs.txt")
        if _prefetched:
            process, written = _prefetched.pop()
            if process.wait() == 0:
                path = written
        if not path.exists():
            write(path)
        about = "Python's language reference and the docstrings of its standard library"
        return Source((str(path),), about=about)

    def value(self, data: bytes, where: tuple[ByteStream, int] | None = None) -> str:
        try:
            return data.decode("utf-8", self.options.errors)
        except UnicodeDecodeError as error:
            name, offset = "the text", error.start
            if where is not None:
                name, offset = where[0].where(where[1] + error.start)
            raise DataError(
                f"{name}: not UTF-8 text at byte {offset}; the byte task takes any bytes, and a "
                "text run trained with --errors replace accepts any bytes too"
            ) from None

    def ids(
        self,
        data: bytes,
        tokenizer: ByteTokenizer,
        where: tuple[ByteStream, int] | None = None,
        any_bytes: bool = False,
    ) -> Ids:
        """With --errors replace, and where text is scored, bytes that are not UTF-8 are ids of
        single bytes, so that bits per byte count them; a tokenizer that is not lossless reads them
        as U+FFFD."""
        if tokenizer.lossless and (any_bytes or self.options.errors == "replace"):
            return tokenizer.ids_of_bytes(data)
        return tokenizer.tokens(self.value(data, where))

    def adapt(self, tokenizer: ByteTokenizer) -> ByteTokenizer:
        return self._with_merges(super().adapt(tokenizer))

    def _with_merges(self, tokenizer: ByteTokenizer) -> ByteTokenizer:
        """The tokenizer. ConfigError if merges are to be left out and it has none."""
        if self.options.bpe_dropout and not isinstance(tokenizer, BpeTokenizer):
            raise ConfigError(
                f"--bpe-dropout {self.options.bpe_dropout}: needs a BPE tokenizer, which has merges"
            )
        return tokenizer

    def fit_tokenizer(self, spec: str, train: Spans) -> ByteTokenizer:
        """`spec`: byte, char, bpe, bpe:SIZE, hf:PATH_OR_NAME or a tokenizer.json. ConfigError for
        any other."""
        return self._with_merges(self._fitted(spec, train))

    def _fitted(self, spec: str, train: Spans) -> ByteTokenizer:
        ends = not self.running
        return fit_text_tokenizer(spec, lambda size: self._texts(train, size), train.size, ends)

    def about_tokenizer(self, spec: str, tokenizer: ByteTokenizer) -> str | None:
        return too_few_merges(spec, tokenizer)

    def _texts(self, train: Spans, size: int) -> Iterator[str]:
        for start, stop, _ in train.sample(size):
            data = train.stream.read(start, stop)
            if self.options.errors == "replace":  # what is no text has ids of its own
                yield data.decode("utf-8", "ignore")
            else:
                yield self.value(data, (train.stream, start))

    @property
    def bpe_dropout(self) -> float:
        rate = self.options.bpe_dropout
        return BPE_DROPOUT if rate is None else rate

    def variant_count(self, train: Spans, tokenizer: ByteTokenizer, passes: float) -> int:
        """One tokenization a pass with BPE-dropout, from MIN_VARIANT_PASSES passes on; else 1."""
        varied = isinstance(tokenizer, BpeTokenizer) and tokenizer.merge_count
        if not (varied and self.bpe_dropout) or passes < MIN_VARIANT_PASSES:
            return 1
        return max(1, min(round(passes), MAX_VARIANTS, MAX_VARIANT_BYTES // train.size))

    def variant(self, tokenizer: BpeTokenizer, number: int) -> BpeTokenizer:
        """BPE-dropout (`--bpe-dropout`) in odd variants; even ones keep all merges."""
        if number % 2 == 0:
            return tokenizer
        random = mix(np.arange(tokenizer.merge_count), key("merges", number)) / 2.0**64
        return tokenizer.without(random < self.bpe_dropout)

    def counts(self, data: bytes) -> dict[str, Any]:
        """A byte that is not UTF-8 is a character; a character that is cut off at the end is none.
        Words are separated by whitespace; a newline is one too, as word perplexity counts."""
        text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(data)
        words = len(text.split()) + text.count("\n")
        return {"byte": len(data), "char": len(text), "word": words}

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        """A perplexity above e^700 is None, so that the JSON has null instead of infinity."""

        def per(unit: str) -> float | None:
            return nll / units[unit] if lossless and units.get(unit) else None

        def perplexity(nats: float | None) -> float | None:
            return float(np.exp(nats)) if nats is not None and nats < 700 else None

        char = per("char")
        return {
            "bits_per_char": None if char is None else char / float(np.log(2)),
            "nats_per_char": char,
            "perplexity_per_token": perplexity(nll / max(tokens, 1)),
            "perplexity_per_word": perplexity(per("word")),
        }

    def prompt(self, data: bytes | None, tokenizer: ByteTokenizer, sampling: Any) -> Sequence:
        """Without `data`, the prompt of a running text is a newline: samples start a line."""
        if data is None:
            data = b"\n" if self.running else b""
        ids = self.ids(data, tokenizer, None, True)
        return Sequence(np.concatenate(([tokenizer.begin], ids)).astype(np.int64))


Task = TextTask
