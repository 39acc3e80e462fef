"""Whole numbers are tokens: items are numbers from 0 to a limit, written with spaces between."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError
from ..core.protocols import Ids
from ._text import TextTokenizer


class IntegerTokenizer(TextTokenizer):
    """The id of a number is the number itself, 0 ... count - 1. Items are numbers without leading
    zeros, with single spaces between them."""

    def __init__(self, count: int, ends: bool = False) -> None:
        super().__init__([b"%d " % number for number in range(count)], ends)
        self.count = count

    def tokens(self, item: str) -> Ids:
        words = item.split()
        for word in words:
            if not (word.isascii() and word.isdigit() and int(word) < self.count):
                raise DataError(f"{word!r}: not a whole number from 0 to {self.count - 1}")
        return np.array([int(word) for word in words], np.int64)

    def decode(self, ids: Ids, side: Any) -> str:
        return self.decode_bytes(ids).decode().strip()

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        return {"count": self.count, "ends": self.ends}, {}


Tokenizer = IntegerTokenizer
