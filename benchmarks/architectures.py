"""Every architecture on one text, one image set and one series, at equal parameters and tokens.

python benchmarks/architectures.py [--arch NAME ...] [--seeds 2] [--size nano]

tinyshakespeare by characters (bits a character), MNIST at 14 x 14 (bits per dim), ETTh1 (WQL of the
last windows). Seconds are those of the optimiser steps alone. A dash: the architecture does not
serve the domain.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from _common import DATA, heading, table, tfm_json, workspace

from tfm.core.architectures import ARCHS

DOMAINS: dict[str, tuple[str, int, tuple[object, ...]]] = {
    "text": (
        "bits_per_char",
        600_000,
        ("--task", "text", "--data", DATA / "text/tinyshakespeare.txt", "--tokenizer", "char"),
    ),
    "image": (
        "bits_per_dim",
        400_000,
        ("--task", "image", "--data", DATA / "image/mnist", "--pixels", "14x14"),
    ),
    "series": ("wql", 400_000, ("--task", "series", "--data", DATA / "timeseries/ETTh1.csv")),
}
ONE_AXIS = ("learned", "sinusoidal")


def serves(arch: str, domain: str) -> bool:
    return domain != "image" or ARCHS[arch].model.get("positions") not in ONE_AXIS


def measure(arch: str, domain: str, size: str, seed: int) -> tuple[float, float]:
    """(score, seconds of all steps) of one run."""
    metric, tokens, data = DOMAINS[domain]
    folder = workspace()
    scores: dict[str, Any] = tfm_json(
        *("train", "-q", *data, "--arch", arch, "--size", size, "--tokens", tokens),
        *("--seed", seed, "--run", folder / "run"),
        folder=folder,
    )
    log = (folder / "run" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in log]
    seconds = sum(entry.get("seconds", 0.0) for entry in steps if "loss" in entry)
    return float(scores[metric]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    decoders = [name for name, arch in ARCHS.items() if not arch.model.get("encoder_layers")]
    parser.add_argument("--arch", action="append", choices=decoders)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", default="nano")
    args = parser.parse_args()
    heading()
    heads = [f"{name}: {DOMAINS[name][0]} (s)" for name in DOMAINS]
    rows: list[list[object]] = [["", *heads]]
    for arch in args.arch or decoders:
        cells = []
        for domain in DOMAINS:
            if not serves(arch, domain):
                cells.append("-")
                continue
            runs = [measure(arch, domain, args.size, seed) for seed in range(args.seeds)]
            scores = " / ".join(f"{score:.3f}" for score, _ in runs)
            cells.append(f"{scores} ({statistics.mean(run[1] for run in runs):.0f})")
        rows.append([arch, *cells])
        print("\t".join(map(str, rows[-1])), flush=True)
    print()
    table(rows)


if __name__ == "__main__":
    main()
