"""What covariates of series change: on a made set, and ETTh1's oil temperature with its loads.

python benchmarks/covariates.py [--steps 400] [--size nano] [--seeds 3] [--only made|etth1]

made: 20 series of 300 days. The sales of a day follow a promotion and a category of two days before
it, and the price of the day; `noise` is unrelated. etth1: the last tenth of the file in windows of
24 hours; the covariates are the six loads, until the forecast begins, and the times. Scores are of
all held-out windows: medians over seeds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from _common import DATA, heading, table, tfm, tfm_json, workspace

SETS: dict[str, tuple[tuple[object, ...], dict[str, tuple[object, ...]]]] = {
    "made": (
        ("--data", "made.csv", "--target", "sales", "--season", 7, "--horizon", 14),
        {
            "none": (),
            "--known promo,price,kind": ("--known", "promo,price,kind"),
            "--past promo,price,kind": ("--past", "promo,price,kind"),
            "--known noise": ("--known", "noise"),
            "--calendar": ("--calendar",),
        },
    ),
    "etth1": (
        ("--data", DATA / "timeseries" / "ETTh1.csv", "--target", "OT", "--horizon", 24),
        {
            "none": (),
            "--past HUFL,HULL,MUFL,MULL,LUFL,LULL": ("--past", "HUFL,HULL,MUFL,MULL,LUFL,LULL"),
            "--calendar": ("--calendar",),
            "both": ("--past", "HUFL,HULL,MUFL,MULL,LUFL,LULL", "--calendar"),
        },
    ),
}
LAG, SERIES, DAYS = 2, 20, 300


def made(path: Path) -> None:
    import numpy as np

    draw = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("id,day,sales,promo,price,kind,noise\n")
        for number in range(SERIES):
            promo = (draw.random(DAYS + LAG) < 0.2).astype(int)
            price = 10 + np.cumsum(draw.normal(0, 0.3, DAYS + LAG))
            kind = draw.integers(0, 3, DAYS + LAG)
            level = 50 + 20 * draw.random()
            for day in range(DAYS):
                now = day + LAG
                sales = level + 30 * promo[day] + 10 * (kind[day] - 1) - 3 * (price[now] - 10)
                sales += draw.normal(0, 2)
                date = np.datetime64("2020-01-01") + day
                cells = f"{sales:.3f},{promo[now]},{price[now]:.3f},{'abc'[kind[now]]}"
                file.write(f"s{number},{date},{cells},{draw.normal():.3f}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=tuple(SETS))
    args = parser.parse_args()
    heading()
    folder = workspace()
    made(folder / "made.csv")
    for name, (data, variants) in SETS.items():
        if args.only not in (None, name):
            continue
        rows: list[list[object]] = [[name, "MASE", "WQL"]]
        for label, flags in variants.items():
            found = []
            for seed in range(args.seeds):
                run = f"{name}-{len(rows)}-{seed}"
                shape = ("--size", args.size, "--steps", args.steps, "--seed", seed)
                task = ("train", "--task", "series", *data, *flags)
                tfm(*task, *shape, "--run", run, "-q", folder=folder)
                rolling = ("--protocol", "rolling", "--baseline-seconds", 0, "-q")
                found.append(tfm_json("eval", run, *rolling, folder=folder))
            rows.append(
                [label, *(spread([s[metric] for s in found]) for metric in ("mase", "wql"))]
            )
        table(rows)


def spread(values: list[float]) -> str:
    return f"{median(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
