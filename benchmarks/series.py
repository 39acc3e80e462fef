"""Forecasts beside seasonal naive and published figures: M4 hourly and ETTh1, 24 hours ahead.

python benchmarks/series.py [--budget 15m] [--only m4|etth1] [--size tiny] [--seed 0]

The last window of each series, as Ansari et al. 2024 (Chronos): MASE by the seasonal error of the
history, WQL over the quantiles 0.1 ... 0.9. Nothing is trained on or chosen by what is forecast:
M4's test file, and the last 24 rows of ETTh1.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from _common import DATA, heading, table, tfm, tfm_json, workspace

SERIES = DATA / "timeseries"
M4 = SERIES / "m4_hourly"
TASKS: dict[str, dict[str, Any]] = {
    "m4": {
        "title": "M4 hourly, 414 series, horizon 48",
        "args": ("--data", M4 / "Hourly-train.csv", "--valid", M4 / "Hourly-test.csv",
                 "--season", 24, "--horizon", 48),
        "reference": [("Chronos-T5 tiny, 8M (its repository; trained on M4 hourly)", .817, .0275),
                      ("Chronos-T5 small, 46M", .730, .0247),
                      ("Chronos-Bolt tiny, 9M", .935, .0211)],
    },
    "etth1": {
        "title": "ETTh1, 7 series, horizon 24",
        "args": ("--data", SERIES / "ETTh1.csv", "--holdout", 0.001, "--season", 24,
                 "--horizon", 24),
        "reference": [],
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    heading()
    for name in [args.only] if args.only else TASKS:
        task = TASKS[name]
        folder = workspace()
        began = time.monotonic()
        tfm(
            "train", "--task", "series", *task["args"], "--budget", args.budget, "--size",
            args.size, "--seed", args.seed, "--run", "run", "-q", folder=folder,
        )  # fmt: skip
        seconds = time.monotonic() - began
        scores = tfm_json("eval", "run", folder=folder)
        print(f"{task['title']}; trained for {seconds:.0f} s in all, {scores['step']} steps\n")
        floor = scores["floor"]
        rows: list[list[object]] = [["", "MASE", "WQL"]]
        rows.append([f"tfm, {args.size}", f"{scores['mase']:.4f}", f"{scores['wql']:.4f}"])
        for label in dict.fromkeys(key.rpartition("_")[0] for key in floor):
            figures = [f"{floor[f'{label}_{metric}']:.4f}" for metric in ("mase", "wql")]
            rows.append([label.replace("_", " "), *figures])
        rows += [list(row) for row in task["reference"]]
        table(rows)
        if name == "m4":
            print(weights())


def weights() -> str:
    """How few series WQL is decided by: it weighs by size."""
    lines = (M4 / "Hourly-test.csv").read_text().splitlines()[1:]
    sizes = [
        sum(abs(float(x)) for x in line.replace('"', "").split(",")[1:] if x) for line in lines
    ]
    largest = sorted(sizes, reverse=True)
    shares = {count: sum(largest[:count]) / sum(largest) for count in (2, 12)}
    return (f"of WQL's weight the 2 largest series have {shares[2]:.0%}, "
            f"the 12 largest {shares[12]:.0%}")  # fmt: skip


if __name__ == "__main__":
    main()
