"""Pairs of sequences: generated dates, and vowels restored in Shakespeare's lines.

python benchmarks/pairs.py [--dates 60s] [--vowels 5m] [--arch NAME ...] [--beam 4]
                           [--only dates|vowels]

The vowels task is made from tinyshakespeare: a source is a line of speech without its vowels, its
target is the line. The last tenth of the text is held out; a line of it that also stands in the
rest is left out. The last baseline of it knows words: the most frequent one of the training part
for each word without vowels. All architectures have the same time budget.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from _common import DATA, heading, table, tfm_json, workspace

from tfm.core.architectures import ARCHS
from tfm.tasks._pairs.metrics import metrics

METRICS = ("exact", "edits", "chrf", "bleu")
FLOORS = ("copy", "frequent", "nearest")
DEFAULT = ("encoder-decoder", "transformer", "vaswani", "attention-rnn", "lstm")


def without_vowels(line: str) -> str:
    return re.sub("[aeiouAEIOU]", "", line)


def write_vowels(folder: Path) -> tuple[Path, Path]:
    """The files of pairs for training and of those that are held out."""
    text = (DATA / "text/tinyshakespeare.txt").read_text()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if without_vowels(line).strip() and not line.endswith(":")]
    first = len(lines) * 9 // 10
    known, held = lines[:first], lines[first:]
    seen = set(known)
    held = [line for line in dict.fromkeys(held) if line not in seen]
    files = folder / "train.tsv", folder / "held.tsv"
    for file, part in zip(files, (known, held), strict=True):
        file.write_text("".join(f"{without_vowels(line)}\t{line}\n" for line in part))
    return files


def by_words(known: Path, held: Path) -> dict[str, float | None]:
    """The metrics of the most frequent words."""
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for word in (word for _, target in read(known) for word in target.split()):
        words[without_vowels(word)][word] += 1
    pairs = read(held)
    usual = {bare: found.most_common(1)[0][0] for bare, found in words.items()}
    # a word of vowels alone is an empty piece between two spaces, which is looked up like others
    predicted = [
        " ".join(usual.get(bare, bare) for bare in source.split(" ")) for source, _ in pairs
    ]
    return metrics(predicted, [target for _, target in pairs])


def read(file: Path) -> list[tuple[str, str]]:
    lines = (line.split("\t") for line in file.read_text().splitlines())
    return [(source, target) for source, target in lines]


def row_of(name: object, scores: Mapping[str, Any], prefix: str = "") -> list[object]:
    return [name, *(f"{scores[prefix + metric]:.4g}" for metric in METRICS)]


def measure(
    data: tuple[object, ...],
    budget: str,
    archs: list[str],
    beam: int,
    more: Mapping[str, Mapping[str, float | None]] = MappingProxyType({}),
) -> None:
    """Prints the table of one task. more: metrics of other baselines, by name."""
    rows: list[list[object]] = [["", "", *METRICS]]
    floors: list[list[object]] = []
    for arch in archs:
        folder = workspace()
        tfm_json(
            *("train", "-q", "--task", "pairs", *data, "--arch", arch, "--budget", budget),
            *("--run", folder / "run"),
            folder=folder,
        )
        for search in ((), ("--beam", beam)):
            scores = tfm_json("eval", "run", *search, folder=folder)
            name = f"beam {beam}" if search else "greedy"
            rows.append([arch, *row_of(name, scores)])
            print("\t".join(map(str, rows[-1])), flush=True)
        floors = [
            ["baseline", *row_of(each, scores["floor"], f"{each}_")]
            for each in FLOORS
            if f"{each}_chrf" in scores["floor"]
        ]
    print()
    floors += [["baseline", *row_of(name, found)] for name, found in more.items()]
    table([*rows, *floors])
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dates", default="60s")
    parser.add_argument("--vowels", default="5m")
    parser.add_argument("--arch", action="append", choices=ARCHS)
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--only", choices=("dates", "vowels"))
    args = parser.parse_args()
    heading()
    archs = args.arch or list(DEFAULT)
    if args.only != "vowels":
        print(f"Dates to ISO 8601, trained for {args.dates}:\n")
        measure((), args.dates, archs, args.beam)
    if args.only != "dates":
        known, held = write_vowels(workspace())
        counts = (len(file.read_text().splitlines()) for file in (known, held))
        print("Vowels restored, trained on {:,} lines, {:,} held out,".format(*counts), end=" ")
        print(f"trained for {args.vowels}:\n")
        data = ("--data", known, "--valid", held)
        measure(data, args.vowels, archs, args.beam, {"words": by_words(known, held)})


if __name__ == "__main__":
    main()
