"""The learning rate of every architecture: held-out nats a token by optimiser and peak rate.

python benchmarks/rates.py [--arch NAME ...] [--steps 200] [--seeds 1] [--jobs 2]
                           [--muon RATE ...] [--adamw RATE ...] [--domain text|image|series]

Decoder-only architectures train on characters of tinyshakespeare at --size tiny, or on MNIST or
ETTh1 at --size nano; those with an encoder on the generated dates at --size nano. Each run has one
thread and a fixed number of steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor

from _common import DATA, heading, table, tfm_json, workspace

from tfm.core.architectures import ARCHS

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
DIVERGED = 4  # exit code
DOMAINS: dict[str, tuple[object, ...]] = {
    "text": (
        *("--data", DATA / "text/tinyshakespeare.txt", "--tokenizer", "char", "--size", "tiny"),
    ),
    "image": (
        *("--task", "image", "--data", DATA / "image/mnist", "--pixels", "14x14"),
        *("--size", "nano"),
    ),
    "series": ("--task", "series", "--data", DATA / "timeseries/ETTh1.csv", "--size", "nano"),
    "pairs": ("--task", "pairs", "--size", "nano"),
}
MUON, ADAMW = (0.01, 0.02, 0.04, 0.08), (0.001, 0.002, 0.004, 0.008)


def nats(arch: str, domain: str, optimizer: str, rate: float, steps: int, seed: int) -> float:
    """Held-out nats a token of one run."""
    name = "lr" if optimizer == "muon" else "adam_lr"
    data = DOMAINS["pairs" if ARCHS[arch].model.get("encoder_layers") else domain]
    try:
        scores = tfm_json(
            *("train", "-q", *data, "--arch", arch, "--steps", steps, "--seed", seed),
            *("--set", f"train.optimizer={optimizer}", "--set", f"train.{name}={rate}"),
            folder=workspace(),
        )
    except subprocess.CalledProcessError as error:
        if error.returncode != DIVERGED:
            raise
        return float("nan")
    return float(scores["nll"] / scores["tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", action="append", choices=ARCHS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--muon", type=float, nargs="*", default=MUON)
    parser.add_argument("--adamw", type=float, nargs="*", default=ADAMW)
    parser.add_argument("--domain", default="text", choices=("text", "image", "series"))
    args = parser.parse_args()
    heading()
    tried = {"muon": args.muon, "adamw": args.adamw}
    heads = [f"{name} {rate:g}" for name, rates in tried.items() for rate in rates]
    rows: list[list[object]] = [["", *heads]]
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = {
            arch: [
                [
                    pool.submit(nats, arch, args.domain, name, rate, args.steps, n)
                    for n in range(args.seeds)
                ]
                for name, rates in tried.items()
                for rate in rates
            ]
            for arch in args.arch or ARCHS
        }
        for arch, cells in waiting.items():
            values = [statistics.mean(each.result() for each in cell) for cell in cells]
            rows.append([arch, *(f"{value:.3f}" for value in values)])
            print("\t".join(map(str, rows[-1])), flush=True)
    print()
    table(rows)


if __name__ == "__main__":
    main()
