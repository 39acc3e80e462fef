"""Tokenizers of text by the name that --tokenizer gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ...core.data.hub import look_for
from ...core.entry_points import entry_points, load
from ...core.errors import ConfigError
from ...core.protocols import ByteTokenizer
from ...tokenizers._text import TextTokenizer
from ...tokenizers.bpe import BpeTokenizer
from ...tokenizers.byte import SingleByteTokenizer
from ...tokenizers.char import CharTokenizer

TOKENIZER_FIT_BYTES = 8 << 20  # of text, at most, that merges are learned from


def fit_text_tokenizer(
    spec: str, texts: Callable[[int], Iterable[str]], size: int, ends: bool
) -> ByteTokenizer:
    """`spec`: byte, char, bpe, bpe:SIZE, hf:PATH_OR_NAME, a tokenizer.json, or NAME[:ARGUMENT] of a
    text tokenizer of another package. texts(n): training text of about n bytes, of `size` bytes in
    all. ends: whether items have an end token. ConfigError for any other spec."""
    kind, _, argument = spec.partition(":")
    if kind == "byte" and not argument:
        return SingleByteTokenizer(ends, text=True)
    if kind == "char" and not argument:
        return CharTokenizer.fit(texts(size), ends)
    if kind == "bpe":
        count = bpe_size(size)
        if argument:
            if not argument.isdigit() or not 256 <= int(argument) <= 1_000_000:
                raise ConfigError(f"--tokenizer {spec}: the size must be 256 to 1000000")
            count = int(argument)
        return BpeTokenizer.fit(texts(TOKENIZER_FIT_BYTES), count, ends)
    if (kind == "hf" and argument) or spec.endswith(".json"):
        name = spec.removeprefix("hf:")
        look_for(name)
        return BpeTokenizer.load(name, ends)
    if kind in entry_points("tokenizers"):
        found = load("tokenizers", kind)
        if issubclass(found, TextTokenizer):
            try:
                made: TextTokenizer = found.from_text(texts(TOKENIZER_FIT_BYTES), ends, argument)
                return made
            except ValueError as error:
                raise ConfigError(f"--tokenizer {spec}: {error}") from error
    raise ConfigError(
        f"--tokenizer {spec}: known: byte, char, bpe, bpe:SIZE, hf:PATH_OR_NAME, a tokenizer.json"
    )


def bpe_size(train_bytes: int) -> int:
    """Default vocabulary size for a corpus of `train_bytes`: 1,024 at 1 MB, half as many for a
    quarter of that; a power of two, from 320 to 4,096. On a small budget, a larger vocabulary
    costs more time than it gains in loss (benchmarks/sweep.py)."""
    power = round(np.log2(1024 * (max(train_bytes, 1) / 1e6) ** 0.5))
    return max(320, int(2 ** min(power, 12)))


def too_few_merges(spec: str, tokenizer: ByteTokenizer) -> str | None:
    """That a BPE tokenizer has fewer tokens than its spec asks for, or None."""
    kind, _, size = spec.partition(":")
    found = len(tokenizer.pieces)
    if kind == "bpe" and size and found < int(size):
        return f"--tokenizer {spec}: {found:,} tokens; the text has no more pairs that occur twice"
    return None
