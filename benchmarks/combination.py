"""Forecasts combined with those of ridge regression (--ridge): at which weights, on which data?

python benchmarks/combination.py [--size nano] [--steps 400] [--only NAME]

Trains on each data set and scores every held-out window (`--protocol rolling`; of M4 the last one
of each series) at several weights. The data: ETTh1 without its last day, exchange rates and M4
hourly of ../shared/data, and tables of statsmodels: weekly CO2, monthly sea temperatures (El Nino)
and yearly sunspots. "alone" in the last column is the ridge regression.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import DATA, heading, table, tfm, tfm_json, workspace

WEIGHTS = (0.0, 0.25, 0.5, 0.75)
SERIES = DATA / "timeseries"
Words = tuple[object, ...]


def etth1(folder: Path) -> tuple[Words, Words]:
    lines = (SERIES / "ETTh1.csv").read_text().splitlines()
    (folder / "etth1.csv").write_text("\n".join(lines[:-24]) + "\n")
    return ("--data", "etth1.csv", "--season", 24, "--horizon", 24), rolling(24)


def exchange(folder: Path) -> tuple[Words, Words]:
    return ("--data", SERIES / "exchange_rate.txt", "--season", 5, "--horizon", 30), rolling(30)


def m4(folder: Path) -> tuple[Words, Words]:
    train, test = (SERIES / "m4_hourly" / f"Hourly-{part}.csv" for part in ("train", "test"))
    return ("--data", train, "--valid", test, "--season", 24, "--horizon", 48), ()


def co2(folder: Path) -> tuple[Words, Words]:
    frame = statsmodels("co2").reset_index()
    frame.to_csv(folder / "co2.csv", index=False)
    return ("--data", "co2.csv", "--resample"), rolling(4)


def elnino(folder: Path) -> tuple[Words, Words]:
    frame = statsmodels("elnino").set_index("YEAR")
    lines = [
        f"{int(year)}-{month:02d}-01,{value}"
        for year, row in frame.iterrows()
        for month, value in enumerate(row, 1)
    ]
    (folder / "elnino.csv").write_text("\n".join(["month,value", *lines]) + "\n")
    return ("--data", "elnino.csv"), rolling(4)


def sunspots(folder: Path) -> tuple[Words, Words]:
    frame = statsmodels("sunspots").astype({"YEAR": int})
    frame.to_csv(folder / "sunspots.csv", index=False)
    return ("--data", "sunspots.csv"), rolling(4)


def statsmodels(name: str) -> Any:
    import statsmodels.api

    return getattr(statsmodels.api.datasets, name).load_pandas().data


def rolling(stride: int) -> Words:
    return "--protocol", "rolling", "--stride", stride


SETS: dict[str, Callable[[Path], tuple[Words, Words]]] = {
    "ETTh1": etth1,
    "exchange rates": exchange,
    "M4 hourly": m4,
    "CO2": co2,
    "El Nino": elnino,
    "sunspots": sunspots,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="nano")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", choices=SETS)
    args = parser.parse_args()
    heading()
    folder = workspace()
    head = [f"{weight:g}" for weight in WEIGHTS]
    mase: list[list[object]] = [["MASE", "windows", *head, "alone"]]
    wql: list[list[object]] = [["WQL", "windows", *head, "alone"]]
    for number, name in enumerate([args.only] if args.only else SETS):
        data, protocol = SETS[name](folder)
        train = ("--size", args.size, "--steps", args.steps, "--run", f"run-{number}", "-q")
        tfm("train", "--task", "series", *data, *train, folder=folder)
        found = []
        for weight in WEIGHTS:
            more = ("--ridge", weight, "--baseline-seconds", 0)
            found.append(tfm_json("eval", f"run-{number}", *protocol, *more, folder=folder))
        floor = found[0]["floor"]
        for metric, rows in (("mase", mase), ("wql", wql)):
            scores = [f"{one[metric]:.4f}" for one in found]
            rows.append([name, found[0]["windows"], *scores, f"{floor[f'ridge_{metric}']:.4f}"])
    table(mase)
    print()
    table(wql)


if __name__ == "__main__":
    main()
