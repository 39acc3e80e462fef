"""A tokenizer for tfm: in text, k bases of DNA in a row are one token, everything else is bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

from tfm.core.protocols import Ids
from tfm.tokenizers._text import TextTokenizer

BASES = "ACGT"
MAX_K = 6  # 4,096 tokens


class KmerTokenizer(TextTokenizer):
    """Ids 0 ... 255 are bytes; then all words of k bases, in the order of the alphabet."""

    def __init__(self, k: int, ends: bool = False) -> None:
        words = ["".join(word) for word in product(BASES, repeat=k)]
        bytes_first = [bytes([value]) for value in range(256)]
        super().__init__(bytes_first + [word.encode() for word in words], ends)
        self.k = k
        self.ids = {word: id for id, word in enumerate(words, 256)}

    @classmethod
    def from_text(cls, texts: Iterable[str], ends: bool, argument: str) -> KmerTokenizer:
        """argument: k; without one, 3."""
        if argument and not (argument.isdecimal() and 1 <= int(argument) <= MAX_K):
            raise ValueError(f"the length of words must be 1 to {MAX_K}")
        return cls(int(argument or 3), ends)

    def tokens(self, item: str) -> Ids:
        ids: list[int] = []
        for part in re.split(f"([{BASES}]{{{self.k}}})", item):
            ids += [self.ids[part]] if part in self.ids else part.encode()
        return np.array(ids, np.int64)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"k": self.k, "ends": self.ends}, {}
