"""A character of the training text is a token; any other character becomes its UTF-8 bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.protocols import Ids
from ._text import TextTokenizer, bpe_model


class CharTokenizer(TextTokenizer):
    """Ids 0 ... 255 are bytes; then the characters of the training text by code point."""

    def __init__(self, characters: str, ends: bool = False) -> None:
        pieces = [bytes([value]) for value in range(256)]
        super().__init__(pieces + [character.encode() for character in characters], ends)
        self.characters = characters
        self.points = np.array([ord(character) for character in characters], np.int64)

    @classmethod
    def fit(cls, texts: Iterable[str], ends: bool = False) -> CharTokenizer:
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls("".join(sorted(seen)), ends)

    def tokens(self, item: str) -> Ids:
        points = np.frombuffer(item.encode("utf-32-le"), np.uint32).astype(np.int64)
        index = np.searchsorted(self.points, points)
        known = np.zeros(len(points), bool)
        in_range = index < len(self.points)
        known[in_range] = self.points[index[in_range]] == points[in_range]
        if known.all():
            return index + 256
        ids: list[npt.NDArray[np.int64]] = []
        start = 0
        for at in np.flatnonzero(~known).tolist():
            utf8 = np.frombuffer(item[at].encode(), np.uint8).astype(np.int64)
            ids += [index[start:at] + 256, utf8]
            start = at + 1
        return np.concatenate([*ids, index[start:] + 256])

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        return {"ends": self.ends, "characters": self.characters}, {}

    def tokenizer_json(self) -> dict[str, Any]:
        vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
        vocab |= {character: id for id, character in enumerate(self.characters, 256)}
        decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
        model = bpe_model(vocab, byte_fallback=True)
        return self._as_tokenizer_json({"decoder": decoder, "model": model})


Tokenizer = CharTokenizer
