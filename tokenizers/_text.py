"""The base class of text tokenizers: a begin token, an optional end token, and the bytes of each
id."""

from __future__ import annotations

import functools
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError
from ..core.protocols import Ids, Sequence, Tokenizer


class TextTokenizer(Tokenizer):
    """Ids 0 ... n - 1 are `pieces` of text; then the end token (if `ends`), then the begin token.

    An item is encoded as begin, its pieces, end. The model never predicts the begin token. A
    subclass defines `tokens` and `state`; one that `--tokenizer NAME:ARGUMENT` makes of training
    text, also `from_text`.
    """

    axes = 1
    lossless = True
    ordered: tuple[tuple[int, int], ...] = ()
    byte_level = True

    def __init__(self, pieces: list[bytes], ends: bool) -> None:
        self.pieces = pieces
        self.ends = ends
        self.end = len(pieces)
        self.begin = len(pieces) + ends
        self.vocab_size = self.begin + 1

    @classmethod
    def from_text(cls, texts: Iterable[str], ends: bool, argument: str) -> TextTokenizer:
        """The tokenizer of `--tokenizer NAME:ARGUMENT`, fitted to training text. ends: whether
        items have an end token. ValueError says what is wrong with the argument."""
        raise ValueError("not a tokenizer of any text")

    def with_ends(self, ends: bool) -> TextTokenizer | None:
        """See `protocols.ByteTokenizer`."""
        return self if ends == self.ends else None

    @abstractmethod
    def tokens(self, item: Any) -> Ids:
        """The ids of a text, without begin and end tokens."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """See `protocols.Tokenizer`."""

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> TextTokenizer:
        """See `protocols.Tokenizer`; by default the state has the arguments of the class."""
        return cls(**state)

    def ids_of_bytes(self, data: bytes) -> Ids:
        """The ids of arbitrary bytes, the inverse of `decode_bytes`: of the text in them, and of
        each byte that is not UTF-8 by itself. DataError if this tokenizer is not lossless."""
        if not self.lossless:
            raise DataError(
                "the tokens of this tokenizer.json do not stand for arbitrary bytes; those of "
                "byte, char and bpe do"
            )
        try:
            return self.tokens(data.decode())
        except UnicodeDecodeError:
            pass
        ids: list[Ids] = []
        text = data.decode("utf-8", "surrogateescape")
        for part in re.split("([\udc80-\udcff]+)", text):
            if part and "\udc80" <= part[0] <= "\udcff":
                invalid = part.encode("utf-8", "surrogateescape")
                ids.append(self.byte_ids[np.frombuffer(invalid, np.uint8)])
            elif part:
                ids.append(self.tokens(part))
        return np.concatenate(ids)

    @functools.cached_property
    def byte_ids(self) -> Ids:
        """(256,) the id of each single byte, of a lossless tokenizer."""
        ids = np.zeros(256, np.int64)
        for id, piece in enumerate(self.pieces):
            if len(piece) == 1:
                ids[piece[0]] = id
        return ids

    def encode(self, item: Any, like: Sequence | None = None) -> Sequence:
        closing = [self.end] if self.ends else []
        return Sequence(np.concatenate(([self.begin], self.tokens(item), closing)).astype(np.int64))

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of the ids; begin and end tokens have none."""
        known = len(self.pieces)
        return b"".join(self.pieces[id] for id in ids.tolist() if id < known)

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Any:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def support(self, length: int, side: Mapping[str, Any]) -> tuple[int, int]:
        return (0, self.begin)

    def positions(self, length: int, side: Mapping[str, Any]) -> None:
        return None

    def tokenizer_json(self) -> dict[str, Any] | None:
        """See `protocols.Tokenizer`. A subclass makes it with `_as_tokenizer_json`."""
        return None

    def _as_tokenizer_json(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """`parts` of a tokenizer.json and what all of ours have: special tokens for begin and end,
        the first of which begins each text."""
        vocab = parts["model"]["vocab"]
        added = [dict(token) for token in parts.get("added_tokens", ())]
        known = {*vocab, *(token["content"] for token in added)}
        ids = {"<|end|>": self.end} if self.ends else {}
        for name, id in {**ids, "<|begin|>": self.begin}.items():
            while name in known:
                name = f"<{name}>"
            strip = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": id, "content": name, "special": True, **strip})
        begin = {"SpecialToken": {"id": name, "type_id": 0}}
        template = {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, *({"Sequence": {"id": x, "type_id": 0}} for x in "AB")],
            "special_tokens": {name: {"id": name, "ids": [self.begin], "tokens": [name]}},
        }
        empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer"))
        own = {"added_tokens": added, "post_processor": template}
        return {"version": "1.0", **empty, **parts, **own}


def byte_symbols() -> dict[str, int]:
    """Byte by the printable character that represents it in GPT-2's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    return symbols | {chr(256 + number): byte for number, byte in enumerate(rest)}


def bpe_model(vocab: Mapping[str, int], byte_fallback: bool) -> dict[str, Any]:
    """The model of a tokenizer.json without merges. byte_fallback: a character that is not in the
    vocabulary becomes bytes, which it names <0x00> ... <0xFF>."""
    empty = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    flags = {"fuse_unk": False, "byte_fallback": byte_fallback, "ignore_merges": False}
    return {"type": "BPE", **dict.fromkeys(empty), **flags, "vocab": dict(vocab), "merges": []}
