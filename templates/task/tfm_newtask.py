"""The task `newtask`: items are sequences of whole numbers, one a line. Replace what differs.

The order in which to write a domain of your own:

1. `Item` and `read`: what an item is, and how a file becomes items
2. `NewtaskTokenizer`: ids for an item, and the item back; the test of its laws says what is wrong
3. `units` and `floor`: what is counted, and what a model must beat
4. `write`: what `tfm sample` puts out

Everything else has a default: see `Task` in tfm/core/task.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from tfm.core.data.item_list import ItemList, ListTask
from tfm.core.protocols import Ids, Sequence, Tokenizer

# An item can be text, bytes, a number, an array, or lists, dictionaries or dataclasses of these.
Item = list[int]
LIMIT = 100  # numbers are 0 ... 99
END, BEGIN = LIMIT, LIMIT + 1  # ids: the numbers themselves, the end token, the begin token


class NewtaskTokenizer(Tokenizer):
    """The begin token, the numbers, the end token. The begin token is the last id: it is given and
    never predicted."""

    vocab_size, begin = LIMIT + 2, BEGIN
    # axes = 2, with `positions`, is for items with coordinates, such as rows and columns
    # lossless = False is for a tokenizer that rounds: its scores are not of the items themselves

    def encode(self, item: Item, like: Sequence | None = None) -> Sequence:
        return Sequence(np.array([BEGIN, *item, END], np.int64))

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Item:
        item: Item = ids[ids < LIMIT].tolist()
        return item


class NewtaskTask(ListTask[Item]):
    name, about = "newtask", "lines of whole numbers from 0 to 99"
    unit = "number"  # scores are in bits per number
    default_tokenizer, Tokenizer = "newtask", NewtaskTokenizer  # by the name in pyproject.toml
    # Options and SampleOptions, frozen dataclasses, become flags of `tfm train` and `tfm sample`

    def read(self, data: bytes) -> Iterator[Item]:
        """The items of a file. The text of a ValueError follows the name of the file."""
        for number, line in enumerate(data.decode().splitlines(), 1):
            item = [int(word) for word in line.split() if word.isdecimal()]
            if len(item) < len(line.split()) or max(item, default=0) >= LIMIT:
                raise ValueError(f"line {number}: must be whole numbers below {LIMIT}")
            yield item

    def end_token(self, tokenizer: NewtaskTokenizer) -> int:
        return END

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        return {"number": sum(int((sequence.ids < LIMIT).sum()) for sequence in sequences)}

    def floor(self, train: ItemList[Item], held: ItemList[Item]) -> dict[str, float]:
        """Bits per number of the held-out items, if ids are independent: a unigram model."""
        counts = np.bincount(predicted(train), minlength=BEGIN) + 1
        bits = -np.log2(counts / counts.sum())[predicted(held)].sum()
        return {"unigram": float(bits) / max(1, sum(map(len, held)))}

    def write(self, items: list[Item], prompt: Any, sampling: Any, out: BinaryIO) -> None:
        for item in items:
            out.write(" ".join(map(str, item)).encode() + b"\n")


def predicted(items: Iterable[Item]) -> Ids:
    """The ids that a model predicts of all items."""
    return np.array([id for item in items for id in (*item, END)], np.int64)
