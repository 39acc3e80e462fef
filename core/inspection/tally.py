"""The counts of one split, of sequences that are read once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..protocols import Ids, Sequence, Tokenizer
from ..task import Task

MIN_CONSTANT = 8  # ids of an item without places, at least, for it to be called constant


class Tally:
    """What is counted. An item can come as several sequences (the pieces of a running text); lists
    have an entry an item. digests: hashes of the items' ids; sizes: how many ids are compared; ids:
    the names in the side information; empty, constant: numbers of such items."""

    def __init__(
        self, task: Task, tokenizer: Tokenizer, names: Iterator[str | None] | None
    ) -> None:
        """names: None for a sequence that goes on with the item before it; without names, a running
        text is one item."""
        self.task, self.tokenizer, self.names = task, tokenizer, names
        self.end = task.end_token(tokenizer)
        self.min_constant = 2 if task.comparison(tokenizer) == "places" else MIN_CONSTANT
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)  # of each id
        self.labels: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.tokens = 0
        self.lengths: list[int] = []
        self.digests: list[int] = []
        self.sizes: list[int] = []
        self.ids: list[str | None] = []
        self.empty: list[int] = []
        self.constant: list[int] = []
        self._hash = hashlib.blake2b(digest_size=8)

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, chunk: list[Sequence], contents: list[Ids]) -> None:
        """Takes sequences, and the ids of each that are compared."""
        if not chunk:
            return
        self.units.update(self.task.units(chunk))
        joined = np.concatenate(contents)
        self.counts += np.bincount(joined, minlength=len(self.counts))[: len(self.counts)]
        for sequence, content in zip(chunk, contents, strict=True):
            self._add(sequence, content)

    def _add(self, sequence: Sequence, content: Ids) -> None:
        if not self.task.running:
            begins = True
        elif self.names is None:
            begins = not self.lengths
        else:
            begins = next(self.names) is not None or not self.lengths
        if begins:
            self._hash = hashlib.blake2b(digest_size=8)
            for values in (self.lengths, self.sizes, self.digests):
                values.append(0)
            name = sequence.side.get("id")
            self.ids.append(None if name is None else str(name))
        if sequence.weight is None:
            self.tokens += len(sequence) - sequence.given
        else:
            self.tokens += int((sequence.target_weight() > 0).sum())
        self.lengths[-1] += len(sequence)
        self.sizes[-1] += len(content)
        self._hash.update(content.tobytes())
        self.digests[-1] = int.from_bytes(self._hash.digest(), "little")
        if not self.task.running:
            self._judge(sequence, content)

    def _judge(self, sequence: Sequence, content: Ids) -> None:
        number = len(self.lengths) - 1
        answer = len(sequence) - sequence.given - (sequence.ids[-1] == self.end)
        if not len(content) or (self.task.pairs and (sequence.given < 2 or answer < 1)):
            self.empty.append(number)
        elif len(content) >= self.min_constant and (content == content[0]).all():
            self.constant.append(number)
        label = self.task.label(sequence, self.tokenizer)
        if label is not None:
            self.labels[label] += 1

    def hashes(self) -> npt.NDArray[np.uint64]:
        """(items,) a hash of the ids of each."""
        return np.array(self.digests, np.uint64)

    def repeated(self) -> Ids:
        """The numbers of the items that equal an earlier one."""
        hashes = self.hashes()
        _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
        return np.flatnonzero(first[which] != np.arange(len(hashes)))

    def figures(self) -> dict[str, Any]:
        """The counts for JSON. tokens: ids that are predicted, as `eval` counts; lengths in ids."""
        units = self.units[self.task.unit]
        lengths = sorted(self.lengths)
        found: dict[str, Any] = {
            "items": len(self),
            "units": int(units) if units == int(units) else units,
            "tokens": self.tokens,
            "shortest": lengths[0] if lengths else None,
            "median": lengths[len(lengths) // 2] if lengths else None,
            "longest": lengths[-1] if lengths else None,
            "duplicates": len(self.repeated()),
        }
        if self.task.unit == "byte":
            found["bytes_per_token"] = units / self.tokens if self.tokens else None
        if self.labels:
            found["labels"] = dict(sorted(self.labels.items()))
        return found
