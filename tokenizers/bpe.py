"""Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2), trained and run by HuggingFace
`tokenizers`; or any `tokenizer.json` of that library.

Special tokens are never parsed from data: their spelling in a text is encoded as plain text.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import DamagedError, DataError
from ..core.protocols import Ids
from ._text import TextTokenizer, byte_symbols

BYTE_NAME = re.compile("<0x[0-9A-F]{2}>")
PIECE_CHARS = 1 << 14  # text is encoded in pieces of this size, several in parallel
WORD_CHARS = 32  # merges are learned from words of at most this length
LONG_WORDS_CHARS = 1 << 19  # in longer words, at most, that merges are learned from
# runs of letters, digits, other signs or spaces: words of a byte-level tokenizer
LONG_WORD = re.compile(
    "|".join(
        kind + f"{{{WORD_CHARS + 1},}}" for kind in (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)", r"\s")
    )
)


class BpeTokenizer(TextTokenizer):
    """Items are str. `spec` is the JSON of a HuggingFace tokenizer (DamagedError if it is not)."""

    def __init__(self, spec: str, ends: bool = False) -> None:
        import tokenizers

        try:
            parts = json.loads(spec)
            if not isinstance(parts, dict) or not isinstance(parts.get("model"), dict):
                raise ValueError("it has no model")
            parts["model"]["dropout"] = None  # text has the same ids every time
            spec = json.dumps(parts)
            self.inner = tokenizers.Tokenizer.from_str(spec)
            if not self.inner.get_vocab_size(with_added_tokens=True):
                raise ValueError("its vocabulary is empty")
        except Exception as error:  # the library raises bare Exception
            raise DamagedError(f"not a tokenizer.json ({error})") from error
        self.inner.encode_special_tokens = True
        self.inner.no_truncation()
        self.inner.no_padding()
        size = max(self.inner.get_vocab(with_added_tokens=True).values()) + 1
        names = [self.inner.id_to_token(id) or "" for id in range(size)]
        symbols = byte_symbols()
        added = {id: t.content for id, t in self.inner.get_added_tokens_decoder().items()}
        kind = _spelling(parts)
        self.byte_level = bool(kind)

        def piece(id: int, name: str) -> bytes:
            if id in added:
                return str(added[id]).encode()
            if kind == "ByteLevel" and all(c in symbols for c in name):
                return bytes(symbols[c] for c in name)
            if kind == "ByteFallback" and BYTE_NAME.fullmatch(name):
                return bytes([int(name[3:5], 16)])
            return name.encode()

        pieces = [piece(id, name) for id, name in enumerate(names)]
        super().__init__(pieces, ends)
        self.lossless = self.byte_level and _is_lossless(parts)
        self.merge_count = len(parts["model"].get("merges") or ())

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int, ends: bool = False) -> BpeTokenizer:
        """Learn merges from `texts` until the vocabulary, with 256 bytes, has `vocab_size` ids.
        Learning from words without an end, such as a genome on one line, takes long: they are cut,
        and only some of them are used (`_bounded`)."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=sorted(byte_symbols()),
        )
        _in_thread(lambda: inner.train_from_iterator(_bounded(texts), trainer))
        return cls(inner.to_str(), ends)

    @classmethod
    def load(cls, name: str, ends: bool = False) -> BpeTokenizer:
        """From a `tokenizer.json`, a folder with one, or a HuggingFace hub name. DataError."""
        path = Path(name) / "tokenizer.json" if os.path.isdir(name) else Path(name)
        if os.path.exists(path):
            try:
                return cls(path.read_text(encoding="utf-8"), ends)
            except (OSError, UnicodeDecodeError, DamagedError) as error:
                raise DataError(f"--tokenizer {name}: {error}") from error
        try:
            import tokenizers

            return cls(tokenizers.Tokenizer.from_pretrained(name).to_str(), ends)
        except Exception as error:
            raise DataError(
                f"--tokenizer hf:{name}: no such file, and cannot be loaded from the hub"
            ) from error

    def without(self, merges: npt.NDArray[np.bool_]) -> BpeTokenizer:
        """The same vocabulary without the marked merges (`merge_count`,), as in BPE-dropout
        (Provilkov et al. 2020): other tokenizations teach the model what words consist of.
        The paper samples merges for each word; here one sample serves all of a text."""
        spec = json.loads(self.inner.to_str())
        spec["model"]["merges"] = [
            merge
            for merge, out in zip(spec["model"]["merges"], merges.tolist(), strict=True)
            if not out
        ]
        return BpeTokenizer(json.dumps(spec), self.ends)

    def tokens(self, item: str) -> Ids:
        cuts = [item] if len(item) <= PIECE_CHARS else _cut_at_lines(item)
        try:
            encoded = self.inner.encode_batch_fast(cuts, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception: no unknown token
            raise DataError(
                f"the tokenizer.json has no token for a part of the text, and no unknown token "
                f"({error})"
            ) from error
        return np.concatenate([np.array(e.ids, np.int64) for e in encoded])

    def decode_bytes(self, ids: Ids) -> bytes:
        if self.byte_level:
            return super().decode_bytes(ids)
        kept = [id for id in ids.tolist() if id < len(self.pieces) and self.pieces[id]]
        decoded: str = self.inner.decode(kept, skip_special_tokens=False)
        return decoded.encode()

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def tokenizer_json(self) -> dict[str, Any] | None:
        return self._as_tokenizer_json(json.loads(self.inner.to_str()))

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        return {"ends": self.ends, "tokenizer": json.loads(self.inner.to_str())}, {}

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> BpeTokenizer:
        return cls(json.dumps(state["tokenizer"]), state["ends"])


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    """The texts, long words in them cut; those after the first LONG_WORDS_CHARS of them left out.
    The time to learn merges grows with the length of distinct words."""
    left = LONG_WORDS_CHARS
    for text in texts:
        start = 0
        for word in LONG_WORD.finditer(text):
            yield text[start : word.start()]
            start, used = word.end(), word[0][: max(0, left)]
            left -= len(used)
            yield from (used[at : at + WORD_CHARS] for at in range(0, len(used), WORD_CHARS))
        yield text[start:]


def _in_thread(work: Callable[[], None]) -> None:
    """Does work that holds no lock of Python in a thread, so that this one can handle signals."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
    if failed:
        raise failed[0]


def _spelling(parts: dict[str, Any]) -> str:
    """How tokens spell bytes, if decoding concatenates those of each: as in GPT-2 (ByteLevel), or
    with names of single bytes (ByteFallback), as in the files that `CharTokenizer` writes."""
    decoder = parts.get("decoder") or {}
    steps = [step.get("type") for step in decoder.get("decoders", [decoder])]
    if steps == ["ByteLevel"]:
        return "ByteLevel"
    return "ByteFallback" if steps == ["ByteFallback", "Fuse"] else ""


def _is_lossless(parts: dict[str, Any]) -> bool:
    """Whether decoding is guaranteed to restore the text: every byte has a token, and nothing is
    normalised, added or dropped between pieces."""
    model, pre = parts["model"], parts.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre]) if pre else []
    names = {f"<0x{byte:02X}>" for byte in range(256)}
    fallback = _spelling(parts) == "ByteFallback"
    return (
        model.get("type") == "BPE"
        and (names if fallback else set(byte_symbols())) <= set(model["vocab"])
        and not (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"))
        and not parts.get("normalizer")
        and any(step.get("type") == "ByteLevel" for step in steps) != fallback
        and (bool(model.get("byte_fallback")) or not fallback)
        and all(
            step.get("type") in ("ByteLevel", "Split", "Digits", "Punctuation")
            and step.get("behavior") != "Removed"
            and not step.get("add_prefix_space")
            for step in steps
        )
        and not any(
            token["lstrip"] or token["rstrip"]
            for token in parts.get("added_tokens", [])
            if not token["special"]
        )
    )


def _cut_at_lines(text: str) -> list[str]:
    """Pieces of at most PIECE_CHARS characters, cut before a newline if one is near the end."""
    cuts, start = [], 0
    while start < len(text):
        stop = start + PIECE_CHARS
        if stop < len(text):
            line = text.rfind("\n", start + PIECE_CHARS // 2, stop)
            stop = line if line > start else stop
        cuts.append(text[start:stop])
        start = stop
    return cuts


Tokenizer = BpeTokenizer
