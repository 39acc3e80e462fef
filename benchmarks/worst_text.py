"""Tokenizing time is linear in the text: adversarial texts at a length and at twice that length.

python benchmarks/worst_text.py
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from _common import heading, interleaved, table

from tfm.tokenizers.bpe import BpeTokenizer
from tfm.tokenizers.byte import SingleByteTokenizer
from tfm.tokenizers.char import CharTokenizer

SIZE = 500_000  # characters; measured again with twice as many
TEXTS: dict[str, Callable[[int], str]] = {
    "one letter": lambda n: "a" * n,
    "two letters in turn": lambda n: "ab" * (n // 2),
    "no space": lambda n: "".join(random.Random(0).choices("abcdefgh", k=n)),
    "spaces": lambda n: " " * n,
    "line ends": lambda n: "\n" * n,
    "emoji": lambda n: "\U0001f600" * n,
    "any characters": lambda n: "".join(map(chr, random.Random(0).choices(range(1, 55000), k=n))),
}


def main() -> None:
    heading()
    prose = " ".join(
        random.Random(0).choices(["the", "aaaa", "abab", "fox", "  ", "\n\n"], k=30_000)
    )
    tokenizers = {
        "byte": SingleByteTokenizer(False, text=True),
        "char": CharTokenizer.fit([prose]),
        "bpe": BpeTokenizer.fit([prose], 1024),
    }
    rows: list[list[object]] = [["text", "tokenizer", "MB/s", "time of twice as much"]]
    worst = 0.0
    for name, make in TEXTS.items():
        once, twice = make(SIZE), make(2 * SIZE)
        for kind, tokenizer in tokenizers.items():
            times = interleaved(
                {"1": partial(tokenizer.tokens, once), "2": partial(tokenizer.tokens, twice)},
                rounds=5,
            )
            ratio = times["2"][1] / times["1"][1]
            worst = max(worst, ratio)
            speed = len(once.encode()) / times["1"][0] / 1e6
            rows.append([name, kind, f"{speed:,.1f}", f"{ratio:.2f}"])
    table(rows)
    print(f"worst: {worst:.2f} (2.6 is asked at most)")


if __name__ == "__main__":
    main()
