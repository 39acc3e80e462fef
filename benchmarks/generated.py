"""What architectures reach on generated tasks, whose answers are exact.

python benchmarks/generated.py [--task recall ...] [--arch NAME ...] [--budget 2m] [--seeds 2]

The score is that of the held-out items: the share of right values for recall, of exact answers for
the others. In parentheses the best baseline; then the steps of the first seed.
"""

from __future__ import annotations

import argparse

from _common import heading, table, tfm_json, workspace

from tfm.core.architectures import ARCHS

TASKS = ("copy", "reverse", "sort", "recall", "induction", "parity", "addition")


def score(task: str, arch: str, budget: str, seed: int) -> tuple[float, float, int]:
    """(score, best baseline, optimiser steps) of one run."""
    folder = workspace()
    train = ("train", "-q", "--task", task, "--arch", arch, "--budget", budget, "--seed", seed)
    scores = tfm_json(*train, "--run", folder / "run", folder=folder)
    name = "accuracy" if task == "recall" else "exact"
    floors = [value for key, value in scores["floor"].items() if key.endswith(f"_{name}")]
    return float(scores[name]), max(floors), int(scores["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", action="append", choices=TASKS)
    parser.add_argument("--arch", action="append", choices=ARCHS)
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    heading()
    archs = args.arch or ["transformer"]
    rows: list[list[object]] = [["", *archs]]
    for task in args.task or TASKS:
        cells = []
        for arch in archs:
            found = [score(task, arch, args.budget, seed) for seed in range(args.seeds)]
            scores = " / ".join(f"{own:.4f}" for own, _, _ in found)
            cells.append(f"{scores} ({found[0][1]:.3f}), {found[0][2]:,} steps")
        rows.append([task, *cells])
        print("\t".join(map(str, rows[-1])), flush=True)
    print()
    table(rows)


if __name__ == "__main__":
    main()
