"""Forecasts against seasonal naive and published figures: M4 hourly, ETTh1 24 and 96 hours ahead.

python benchmarks/series.py [--budget 15m] [--only m4|etth1|rolling|ltsf] [--size tiny]
                            [--seed 0] [--seeds 1] [--stride 24]

m4, etth1: the last window of each series, as in Ansari et al. 2024 (Chronos): MASE scaled by the
seasonal error of the history, WQL over the quantiles 0.1 ... 0.9. The forecast data (M4's test file
and the last 24 rows of ETTh1) are used neither for training nor for model selection.

Each table has a row for forecasts that are moved half of the way to those of ridge regression
(--ridge 0.5 of eval).

rolling: many windows instead of ETTh1's last day, `--stride` hours apart over the last tenth of the
file before that day, which is held out. Use it to measure changes to training.

ltsf: MSE and MAE of windows over the test months, z-scored by the training months, as Zhou et al.
2021 (Informer) and Zeng et al. 2023 (DLinear) split them: 12, 4 and 4 months of 30 days. Their
windows start at every hour, for which a hundred sample paths per window take about an hour. The
naive forecasts are also scored on those, to show that the windows agree.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

from _common import DATA, heading, table, tfm, tfm_json, workspace

SERIES = DATA / "timeseries"
M4 = SERIES / "m4_hourly"
TASKS: dict[str, dict[str, Any]] = {
    "m4": {
        "title": "M4 hourly, 414 series, horizon 48",
        "args": (
            "--data",
            M4 / "Hourly-train.csv",
            "--valid",
            M4 / "Hourly-test.csv",
            "--season",
            24,
            "--horizon",
            48,
        ),
        "reference": [
            ("Chronos-T5 tiny, 8M (its repository; trained on M4 hourly)", 0.817, 0.0275),
            ("Chronos-T5 small, 46M", 0.730, 0.0247),
            ("Chronos-Bolt tiny, 9M", 0.935, 0.0211),
        ],
    },
    "etth1": {
        "title": "ETTh1, 7 series, horizon 24",
        "args": (
            "--data",
            SERIES / "ETTh1.csv",
            "--holdout",
            0.001,
            "--season",
            24,
            "--horizon",
            24,
        ),
        "reference": [],
    },
    "rolling": {
        "title": "ETTh1 before its last day, windows of 24 hours over its last tenth",
        "args": ("--data", "before.csv", "--holdout", 0.1, "--season", 24, "--horizon", 24),
        "reference": [],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--only", choices=[*TASKS, "ltsf"])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="of m4, etth1, rolling: the median")
    parser.add_argument(
        "--stride", type=int, default=24, help="of the windows of rolling and ltsf, in hours"
    )
    args = parser.parse_args()
    heading()
    for name in [args.only] if args.only else [*TASKS, "ltsf"]:
        folder = workspace()
        if name == "ltsf":
            ltsf(folder, args)
            continue
        task = TASKS[name]
        rolling = ("--protocol", "rolling", "--stride", args.stride) if name == "rolling" else ()
        if rolling:
            lines = (SERIES / "ETTh1.csv").read_text().splitlines()
            (folder / "before.csv").write_text("\n".join(lines[:-24]) + "\n")
        rows: list[list[object]] = [["", "MASE", "WQL"]]
        found: list[dict[str, Any]] = []
        for seed in range(args.seed, args.seed + args.seeds):
            seconds = trained(folder, args, *task["args"], seed=seed)
            scores = tfm_json("eval", f"run-{seed}", *rolling, folder=folder)
            print(
                f"{task['title']}; seed {seed} trained for {seconds:.0f} s in all, "
                f"{scores['step']} steps"
            )
            found.append(scores)
            half = tfm_json("eval", f"run-{seed}", *rolling, *HALF, folder=folder)
            rows.append([f"tfm, {args.size}, seed {seed}", *_figures(scores)])
            rows.append(["half of the way to ridge", *_figures(half)])
        if len(found) > 1:
            medians = {name: median(s[name] for s in found) for name in ("mase", "wql")}
            rows.append([f"median of {len(found)} seeds", *_figures(medians)])
        print()
        floor = found[0]["floor"]
        for label in (key.removesuffix("_mase") for key in floor if key.endswith("_mase")):
            figures = [f"{floor[f'{label}_{metric}']:.4f}" for metric in ("mase", "wql")]
            rows.append([label.replace("_", " "), *figures])
        rows += [list(row) for row in task["reference"]]
        table(rows)
        if name == "m4":
            print(weights())


HALF = ("--ridge", 0.5, "--baseline-seconds", 0)


def _figures(scores: dict[str, Any]) -> list[str]:
    return [f"{scores[name]:.4f}" for name in ("mase", "wql")]


def trained(folder: Path, args: argparse.Namespace, *data: object, seed: int) -> float:
    """Trains run-SEED, and returns the seconds that it took."""
    began = time.monotonic()
    tfm(
        "train",
        "--task",
        "series",
        *data,
        "--budget",
        args.budget,
        "--size",
        args.size,
        "--seed",
        seed,
        "--run",
        f"run-{seed}",
        "-q",
        folder=folder,
    )
    return time.monotonic() - began


PUBLISHED_LTSF = [
    ("PatchTST/64 (its Table 3)", 0.370, 0.400),
    ("DLinear", 0.375, 0.399),
    ("Informer", 0.865, 0.713),
]


def ltsf(folder: Path, args: argparse.Namespace) -> None:
    head, *rows = (SERIES / "ETTh1.csv").read_text().splitlines()
    ends = {"train": (0, 8640), "valid": (8640, 11520), "test": (11520, 14400)}
    for part, (first, end) in ends.items():
        (folder / f"{part}.csv").write_text("\n".join([head, *rows[first:end]]) + "\n")
    files = [
        (f"--{flag}", f"{part}.csv")
        for flag, part in (("data", "train"), ("valid", "valid"), ("test", "test"))
    ]
    data = [word for pair in files for word in pair]
    seconds = trained(folder, args, *data, "--season", 24, "--horizon", 96, seed=args.seed)
    run = f"run-{args.seed}"
    protocol = ("--protocol", "rolling", "--stride", args.stride)
    found = tfm_json("eval", run, *protocol, folder=folder)
    half = tfm_json("eval", run, *protocol, *HALF, folder=folder)
    best = ("--checkpoint", "best")
    chosen = tfm_json("eval", run, *protocol, *best, "--baseline-seconds", 0, folder=folder)
    chosen_half = tfm_json("eval", run, *protocol, *best, *HALF, folder=folder)
    print(
        f"ETTh1, 7 series, horizon 96, rolling; trained for {seconds:.0f} s in all, "
        f"{found['step']} steps\n"
    )
    stride = f"{found['windows']:,} windows {args.stride} h apart"
    rows_: list[list[object]] = [["", "windows", "MSE", "MAE"]]
    for label, scores in (
        (f"tfm, {args.size}", found),
        ("half of the way to ridge", half),
        (f"its best checkpoint, step {chosen['step']:,}", chosen),
        ("half of the way to ridge", chosen_half),
    ):
        rows_.append([label, stride, f"{scores['mse']:.3f}", f"{scores['mae']:.3f}"])
    count, every = every_hour(folder / run)
    for windows, floor in ((stride, found["floor"]), (f"{count:,} windows, every hour", every)):
        for label in (key.removesuffix("_mse") for key in floor if key.endswith("_mse")):
            figures = [f"{floor[f'{label}_{metric}']:.3f}" for metric in ("mse", "mae")]
            rows_.append([label.replace("_", " "), windows, *figures])
    rows_ += [[name, "every hour", *figures] for name, *figures in PUBLISHED_LTSF]
    table(rows_)


def every_hour(path: Path) -> tuple[int, dict[str, float]]:
    """The number of windows one hour apart, and the scores of naive forecasts on them."""
    from tfm.core.runs.run import Run
    from tfm.core.train.prepare import training_items

    run = Run(path)
    task, tokenizer = run.task(), run.tokenizer()
    windows = task.slide(run.heldout("test"), tokenizer, 1)
    train = training_items(run, task)
    return len(windows), task.window_floor(lambda: train, windows, tokenizer, "rolling")


def weights() -> str:
    """The share of the largest series in WQL, which weights series by magnitude."""
    lines = (M4 / "Hourly-test.csv").read_text().splitlines()[1:]
    sizes = [
        sum(abs(float(x)) for x in line.replace('"', "").split(",")[1:] if x) for line in lines
    ]
    largest = sorted(sizes, reverse=True)
    shares = {count: sum(largest[:count]) / sum(largest) for count in (2, 12)}
    return (
        f"of WQL's weight the 2 largest series have {shares[2]:.0%}, "
        f"the 12 largest {shares[12]:.0%}"
    )


if __name__ == "__main__":
    main()
