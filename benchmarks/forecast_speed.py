"""Seconds that forecasts of many series take: `tfm sample` and `tfm eval`, the command as a whole.

python benchmarks/forecast_speed.py [--plain] [--only panel|m4]

panel: 2,000 series of 40 to 120 monthly points, 6 points ahead, by a model of size nano. m4: M4
hourly, 414 series, 48 points ahead, by nano and tiny. The models are trained for a few steps: their
quality does not matter here. --plain: also without the C code (an unusable CC).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from _common import DATA, heading, table, tfm, workspace

M4 = DATA / "timeseries" / "m4_hourly"
SERIES, STEPS = 2000, 6


def panel(path: Path) -> None:
    """2,000 monthly series with a yearly wave, of different lengths."""
    import numpy as np

    draw = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("id,month,value\n")
        for number in range(SERIES):
            months = np.datetime64("2010-01") + np.arange(int(draw.integers(40, 121)))
            wave = 10 * np.sin(np.arange(len(months)) * np.pi / 6 + draw.random())
            values = 100 + wave + draw.normal(0, 3, len(months))
            rows = zip(months, values, strict=True)
            file.writelines(f"s{number},{month},{value:.3f}\n" for month, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--only", choices=("panel", "m4"))
    args = parser.parse_args()
    heading()
    folder = workspace()
    train: dict[str, tuple[Any, ...]] = {}
    if args.only != "m4":
        panel(folder / "panel.csv")
        shape = ("--horizon", STEPS, "--size", "nano")
        train["2,000 series x 6 steps, nano"] = ("--data", "panel.csv", *shape)
    if args.only != "panel":
        files = ("--data", M4 / "Hourly-train.csv", "--valid", M4 / "Hourly-test.csv")
        for size in ("nano", "tiny"):
            shape = ("--season", 24, "--horizon", 48, "--size", size)
            train[f"M4 hourly, 414 series x 48 steps, {size}"] = (*files, *shape)
    rows: list[list[object]] = [["", "sample, s", "eval, s"]]
    for name, flags in train.items():
        run = f"run-{len(rows)}"
        tfm("train", "--task", "series", *flags, "--steps", 3, "--run", run, "-q", folder=folder)
        for how, compiler in (("", None), (", without C", "no-compiler")):
            if compiler and not args.plain:
                continue
            if compiler:
                os.environ["CC"] = compiler
            figures = []
            for command in ("sample", "eval"):
                began = time.monotonic()
                extra = ("--baseline-seconds", 0) if command == "eval" else ()
                tfm(command, run, *extra, folder=folder)
                figures.append(f"{time.monotonic() - began:.1f}")
            os.environ.pop("CC", None)
            rows.append([name + how, *figures])
    table(rows)


if __name__ == "__main__":
    main()
