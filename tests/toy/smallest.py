"""The smallest task, lines of digits: it defines only the required methods."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tfm.core.data.datasets import Packed
from tfm.core.data.sequence_store import cached_store
from tfm.core.data.source import Source
from tfm.core.protocols import Sequence
from tfm.core.task import Task
from tfm.tokenizers.byte import SingleByteTokenizer


@dataclass(frozen=True)
class Lines:
    lines: list[bytes]
    about: str = "lines"

    @property
    def size(self) -> int:
        return sum(map(len, self.lines))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"\n".join(self.lines)).hexdigest()


class DigitsTask(Task):
    name, about, unit, default_tokenizer = "digits", "lines of digits", "digit", "byte"

    def items(self, source: Source) -> Lines:
        return Lines([line for path in source.files() for line in path.read_bytes().split()])

    def split(self, items: Lines, holdout: float | None) -> tuple[Lines, Lines]:
        return Lines(items.lines[1:]), Lines(items.lines[:1])

    def fit_tokenizer(self, spec: str, train: Lines) -> SingleByteTokenizer:
        return SingleByteTokenizer()

    def dataset(
        self, train: Lines, tokenizer: Any, context: int, tokens: int | None, seed: int, cache: Path
    ) -> Packed:
        sequences = self.sequences(train, tokenizer)
        store = cached_store(cache, train.fingerprint[:32], sequences, tokenizer.vocab_size)
        return Packed(store, tokenizer, context)

    def sequences(self, items: Lines, tokenizer: Any) -> Iterator[Sequence]:
        return (tokenizer.encode(line) for line in items.lines)

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        return {"digit": sum(len(sequence) - 1 for sequence in sequences)}

    def floor(self, train: Lines, held: Lines) -> dict[str, float]:
        return {"uniform": 3.32}

    def write(
        self, items: list[bytes], prompt: Sequence | None, sampling: Any, out: BinaryIO
    ) -> None:
        out.writelines(item + b"\n" for item in items)
