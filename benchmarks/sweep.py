"""The data behind the planner's rules: held-out bits per byte on corpora of many sizes and kinds.

python benchmarks/sweep.py [--only sizes|rates|passes|decay|ways|often|
                            vocabulary] [--jobs 2]

Each run has one thread and a fixed number of tokens instead of seconds, so that its score does not
depend on the load of the machine; "core seconds" are its cost, and in comparisons of sizes the rows
of a table have about the same cost.
"""

from __future__ import annotations

import argparse
import gzip
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from _common import DATA, heading, table, tfm_json, workspace

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


@dataclass(frozen=True)
class Run:
    """One training: `bytes` of a corpus (0: all), and settings in place of the planner's."""

    corpus: str
    size: str
    vocabulary: int
    rows: int  # of 64 tokens
    thousands: int  # of tokens
    rate: float = 0.04
    dropout: float = 0.0
    bytes: int = 0
    decay: float = 0.01
    bpe_dropout: float = 0.0


SHAKESPEARE, WIKITEXT = "tinyshakespeare", "wikitext-2"
BOOK, PAPER, SMILES = "calgary book1", "calgary paper1", "zinc smiles"
SWEEP: dict[str, list[Run]] = {
    "sizes": [
        *[
            run
            for corpus, v in ((SHAKESPEARE, 1024), (WIKITEXT, 2048))
            for run in (
                Run(corpus, "nano", v, 48, 1000),
                Run(corpus, "tiny", v, 48, 240),
                Run(corpus, "tiny", v, 12, 200),
                Run(corpus, "nano", v, 48, 3000),
                Run(corpus, "tiny", v, 48, 700),
                Run(corpus, "tiny", v, 24, 650),
            )
        ]
    ],
    "rates": [Run(SHAKESPEARE, "tiny", 1024, 48, 700, rate) for rate in (0.02, 0.04, 0.06)]
    + [Run(SMILES, "nano", 512, 48, 3000, rate) for rate in (0.02, 0.04)],
    "passes": [
        Run(BOOK, "tiny", 320, 48, thousands, 0.04, dropout, 60_000)
        for thousands, dropout in ((200, 0.0), (200, 0.1), (600, 0.0), (600, 0.1), (600, 0.2))
    ]
    + [
        Run(BOOK, "nano", 320, 48, 2400, 0.04, 0.2, 60_000),
        Run(BOOK, "small", 320, 48, 150, 0.04, 0.1, 60_000),
    ],
    "decay": [
        *[
            Run(SHAKESPEARE, "tiny", 1024, 48, thousands, 0.02, dropout, decay=decay)
            for thousands, dropout, decay in (
                (1230, 0.0, 0.01),
                (1230, 0.0, 0.5),
                (3565, 0.0, 0.01),
                (3565, 0.0, 0.5),
                (3565, 0.05, 0.5),
            )
        ],
        *[
            Run(corpus, "tiny", v, 48, thousands, 0.02, decay=decay)
            for corpus, v, thousands in ((WIKITEXT, 2048, 700), (SMILES, 1024, 600))
            for decay in (0.01, 0.5)
        ],
        *[
            Run(BOOK, "tiny", 320, 48, 600, 0.02, dropout, 60_000, decay=0.5)
            for dropout in (0.0, 0.1, 0.2)
        ],
    ],
    "ways": [
        Run(BOOK, "tiny", 320, 48, thousands, 0.02, dropout, 60_000, decay=0.5, bpe_dropout=merges)
        for thousands, dropout, merges in (
            (600, 0.1, 0.0),
            (600, 0.2, 0.0),
            (600, 0.1, 0.1),
            (600, 0.05, 0.1),
            (600, 0.05, 0.2),
            (3072, 0.1, 0.1),
            (3072, 0.2, 0.1),
        )
    ],
    "often": [  # 15 to 360 epochs, with models of several sizes
        Run(BOOK, size, v, rows, thousands, 0.02, dropout, bytes, decay=0.5, bpe_dropout=0.1)
        for bytes, v, size, rows, thousands, rates in (
            (60_000, 320, "nano", 48, 6144, (0.2, 0.3)),
            (60_000, 320, "tiny", 48, 3072, (0.2, 0.3, 0.4)),
            (60_000, 320, "tiny", 48, 9216, (0.4,)),
            (60_000, 320, "small", 64, 2048, (0.3, 0.4)),
            (300_000, 512, "tiny", 48, 7373, (0.12,)),
            (300_000, 512, "small", 64, 2540, (0.1, 0.25)),
        )
        for dropout in rates
    ]
    + [
        Run(SHAKESPEARE, "tiny", 1024, 48, 5837, 0.02, dropout, decay=0.5)
        for dropout in (0.0, 0.05, 0.1)
    ],
    "vocabulary": [
        Run(corpus, "tiny", v, 48, thousands)
        for corpus, vs, thousands in (
            (PAPER, (320, 512), 100),
            (SMILES, (320, 512, 1024), 600),
            (WIKITEXT, (1024, 2048, 4096), 700),
        )
        for v in vs
    ],
}


def text_of(corpus: str) -> str:
    if corpus == WIKITEXT:
        with gzip.open(DATA / "text" / "wikitext-2" / "train.txt.gz", "rt") as file:
            return file.read()
    if corpus == SMILES:
        return (DATA / "symbolic" / "zinc_24k.smi").read_text()
    if corpus == SHAKESPEARE:
        return (DATA / "text" / "tinyshakespeare.txt").read_text()
    (path,) = (DATA / "bytes").rglob(corpus.split()[1])
    return path.read_bytes().decode("latin-1")


def trained(run: Run, folder: Path) -> list[object]:
    """Trains, and returns a row of the table."""
    data = folder / f"{run.corpus}-{run.bytes}.txt"
    steps = run.thousands * 1000 // (64 * run.rows)
    began = time.monotonic()
    scores = tfm_json(
        "train",
        "--task",
        "text",
        "--data",
        data,
        "--steps",
        steps,
        "--size",
        run.size,
        "--context",
        64,
        "--tokenizer",
        f"bpe:{run.vocabulary}",
        "--set",
        f"train.batch={run.rows}",
        "--set",
        f"train.lr={run.rate}",
        "--set",
        f"model.dropout={run.dropout}",
        "--set",
        f"train.weight_decay={run.decay}",
        "--bpe-dropout",
        run.bpe_dropout,
        "--run",
        folder / f"{abs(hash(run))}",
        "-q",
        folder=folder,
    )
    seconds = time.monotonic() - began
    return [
        run.corpus,
        f"{data.stat().st_size / 1e6:.2f}",
        run.size,
        run.vocabulary,
        run.rows * 64,
        steps,
        run.rate,
        run.dropout,
        run.bpe_dropout,
        run.decay,
        f"{seconds:.0f}",
        f"{scores['bits_per_byte']:.3f}",
    ]


def rows_of(runs: list[Run], jobs: int) -> Iterator[list[object]]:
    folder = workspace()
    for corpus, size in {(run.corpus, run.bytes) for run in runs}:
        text = text_of(corpus)
        (folder / f"{corpus}-{size}.txt").write_text(text[:size] if size else text)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda run: trained(run, folder), runs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=SWEEP)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    heading()
    head: list[object] = [
        "corpus",
        "MB",
        "size",
        "ids",
        "tokens a step",
        "steps",
        "rate",
        "dropout",
        "merges left out",
        "decay",
        "core seconds",
        "bits per byte",
    ]
    for name in [args.only] if args.only else SWEEP:
        print(f"{name}\n")
        table([head, *rows_of(SWEEP[name], args.jobs)])


if __name__ == "__main__":
    main()
