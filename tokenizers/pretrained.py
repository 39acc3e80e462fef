"""The tokenizer of an imported model: a `tokenizer.json`, begin and end tokens among its own ids,
and as many ids as the model has."""

from __future__ import annotations

import json
from typing import Any

import numpy.typing as npt

from ..core.errors import DamagedError
from .bpe import BpeTokenizer


class PretrainedTokenizer(BpeTokenizer):
    """Items are str. begin, end: ids, which can be the same; vocab_size: of the model, at least
    that of `spec`. DamagedError if they do not fit `spec`.

    All ids are legal, as the model was trained to predict them. A text is not normalised to NFC
    where that is all that `spec` asks for: the ids of one that is NFC are the same, and decoding
    restores any.
    """

    def __init__(
        self, spec: str, begin: int, end: int, vocab_size: int, ends: bool = False
    ) -> None:
        parts = json.loads(spec)
        if isinstance(parts, dict) and (parts.get("normalizer") or {}) == {"type": "NFC"}:
            parts["normalizer"] = None
        super().__init__(json.dumps(parts), ends)
        known = len(self.pieces)
        if not (known <= vocab_size and 0 <= begin < vocab_size and 0 <= end < vocab_size):
            raise DamagedError(
                f"its {known:,} ids, begin token {begin} and end token {end} are not those of a "
                f"model with {vocab_size:,} ids"
            )
        self.pieces += [b""] * (vocab_size - known)  # ids that no text has
        self.pieces[begin] = self.pieces[end] = b""
        self.begin, self.end, self.vocab_size = begin, end, vocab_size

    def without(self, merges: npt.NDArray[Any]) -> PretrainedTokenizer:
        fewer = json.loads(super().without(merges).inner.to_str())
        return self.from_state({**self.state()[0], "tokenizer": fewer}, {})

    def with_ends(self, ends: bool) -> PretrainedTokenizer:
        return self.from_state({**self.state()[0], "ends": ends}, {})

    def support(self, length: int, side: Any) -> tuple[int, int]:
        return (0, self.vocab_size)

    def tokenizer_json(self) -> dict[str, Any]:
        own: dict[str, Any] = json.loads(self.inner.to_str())
        return own

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        own = {name: getattr(self, name) for name in ("begin", "end", "vocab_size", "ends")}
        return {**own, "tokenizer": self.tokenizer_json()}, {}

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> PretrainedTokenizer:
        own = {**state}
        return cls(json.dumps(own.pop("tokenizer")), **own)


Tokenizer = PretrainedTokenizer
