"""One model of several data sets, each data set that a model never saw, and its own model.

python benchmarks/zero_shot.py [--steps 2000] [--size nano] [--horizon 24]

For each of M4 hourly, ETTh1 and exchange rate: the model of that data set alone, the model of the
other two (zero-shot), and the model of all three. The files have equal weights, so that the long
ones do not decide alone. MASE is of all windows of the last tenth of each series, one horizon
apart; the ratio is the geometric mean over series of the MASE relative to the seasonal naive
forecast. M4 and exchange rate come without times: they get hours and business days, from which the
season of each series follows.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import pandas as pd
from _common import DATA, heading, table, tfm, tfm_json, workspace

SERIES = DATA / "timeseries"
START = "2000-01-03"  # a Monday


def m4(path: Path) -> None:
    """M4's hourly series one below another, with hours."""
    with (SERIES / "m4_hourly/Hourly-train.csv").open() as file:
        _, *rows = csv.reader(file)
    with path.open("w") as out:
        out.write("id,time,value\n")
        for name, *cells in rows:
            values = [cell for cell in cells if cell]
            times = pd.date_range(START, periods=len(values), freq="h")
            out.writelines(f"{name},{t},{x}\n" for t, x in zip(times, values, strict=True))


def exchange(path: Path) -> None:
    """The rates of eight countries side by side, with business days."""
    values = np.loadtxt(SERIES / "exchange_rate.txt", delimiter=",")
    times = pd.bdate_range(START, periods=len(values))
    frame = pd.DataFrame(values, index=times, columns=[f"country {n}" for n in range(1, 9)])
    frame.to_csv(path, index_label="time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--horizon", type=int, default=24)
    args = parser.parse_args()
    heading()
    folder = workspace()
    m4(folder / "m4.csv")
    exchange(folder / "exchange.csv")
    (folder / "etth1.csv").write_bytes((SERIES / "ETTh1.csv").read_bytes())
    names = ("m4", "etth1", "exchange")

    def trained(run: str, *parts: str) -> None:
        files = [word for part in parts for word in ("--data", folder / f"{part}.csv")]
        weights = ("--weights", ",".join("1" * len(parts))) if len(parts) > 1 else ()
        how = ("--steps", args.steps, "--size", args.size, "--horizon", args.horizon)
        tfm("train", "--task", "series", *files, *weights, *how, "--run", run, "-q", folder=folder)

    trained("all", *names)
    rows: list[list[object]] = [["", "MASE", "ratio to seasonal naive", "WQL"]]
    for name in names:
        trained(f"own-{name}", name)
        trained(f"others-{name}", *(other for other in names if other != name))
        for label, run in (
            ("its own model", f"own-{name}"),
            ("the model of the other two", f"others-{name}"),
            ("the model of all three", "all"),
        ):
            data = ("--data", folder / f"{name}.csv", "--holdout", 0.1)
            how = ("--protocol", "rolling", "--stride", args.horizon, "--baseline-seconds", 0)
            found = tfm_json("eval", run, *data, *how, folder=folder)
            ratio = found["mase_ratio_gmean"]
            rows.append([f"{name}: {label}", *(f"{x:.4f}" for x in (found["mase"], ratio))])
            rows[-1].append(f"{found['wql']:.4f}")
        naive = found["floor"]
        floor = [f"{naive[f'seasonal_naive_{metric}']:.4f}" for metric in ("mase", "wql")]
        rows.append([f"{name}: seasonal naive", floor[0], "1.0000", floor[1]])
        print("\t".join(map(str, rows[-1])), flush=True)
    print()
    table(rows)


if __name__ == "__main__":
    main()
