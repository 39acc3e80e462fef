"""Temperatures and conformal intervals: do they improve the WQL of held-out windows?

python benchmarks/calibration.py RUN [RUN ...] [--every 1]

For each run of series: WQL, MASE and the coverage of the central 80 % at several temperatures, of
the held-out windows and of the last horizon of each training series, which the run has trained on.
A correction that is fitted there takes the temperature with the lowest WQL there. --every N: only
one of N windows.

Then split conformal intervals (Romano et al. 2019, with the score scaled by the forecast's own
interval): the distance of all paths from their median is multiplied by the one factor with which
the central 80 % holds 80 % of the values of a calibration part. That part is the end of the
training data, or every second held-out window, and WQL is of the other held-out windows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _common import heading, table, use_kernels

TEMPERATURES = (0.8, 0.9, 1.0, 1.1, 1.2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    heading()
    use_kernels()
    rows: list[list[object]] = [
        ["run", "temperature", "WQL, tail", "WQL", "MASE, tail", "MASE", "80 %, tail", "80 %"]
    ]
    conformal: list[list[object]] = [
        ["run", "calibrated on", "factor", "WQL before", "WQL after", "80 % before", "80 % after"]
    ]
    for path in args.runs:
        temperatures, intervals = measured(path, args.every)
        rows += temperatures
        conformal += intervals
    table(rows)
    table(conformal)


def widened(made: list[Any], factor: float) -> list[Any]:
    """Forecasts whose paths are `factor` times as far from their median."""
    middle = [np.median(paths, axis=0) for _, paths in made]
    pairs = zip(made, middle, strict=True)
    return [(case, m + factor * (paths - m)) for (case, paths), m in pairs]


def conformal_factor(made: list[Any]) -> float:
    """The factor by which the central 80 % must be wider to hold 80 % of the actual values."""
    scores = []
    for case, paths in made:
        low, middle, high = np.quantile(paths, (0.1, 0.5, 0.9), axis=0)
        side = np.where(case.actual >= middle, high - middle, middle - low)
        scores.append(np.abs(case.actual - middle) / np.where(side > 0, side, np.nan))
    known = np.concatenate(scores)
    return float(np.quantile(known[np.isfinite(known)], 0.8))


def measured(path: Path, every: int) -> tuple[list[list[object]], list[list[object]]]:
    import torch

    from tfm.core.config import SampleConfig
    from tfm.core.runs.run import Run
    from tfm.core.train.prepare import training_items
    from tfm.tasks._series.cases import forecast_cases, forecasts, score_forecasts
    from tfm.tasks._series.collection import split

    run = Run(path)
    task, tokenizer = run.task(), run.tokenizer()
    model = run.load_model("last", torch.device("cpu"))
    train: Any = training_items(run, task)
    _, tail = split(train, 0.0)
    held = {
        "tail": list(task.sequences(tail, tokenizer)),
        "held out": list(run.heldout(run.config["final_split"])),
    }
    protocol = "rolling" if len(train.series) < 20 else None
    found: dict[str, list[dict[str, float]]] = {}
    plain: dict[str, list[Any]] = {}
    for name, windows in held.items():
        cases = forecast_cases(windows, protocol, tokenizer)[::every]
        found[name] = []
        for temperature in TEMPERATURES:
            config = SampleConfig(temperature=temperature)
            made = list(forecasts(model, tokenizer, cases, 100, config))
            found[name].append(score_forecasts(made).scores())
            if temperature == 1.0:
                plain[name] = made
    scored = plain["held out"][1::2]
    before = score_forecasts(scored).scores()
    intervals: list[list[object]] = []
    for name, part in (("tail", plain["tail"]), ("held out", plain["held out"][::2])):
        factor = conformal_factor(part)
        after = score_forecasts(widened(scored, factor)).scores()
        pairs = [f"{s[key]:.4f}" for key in ("wql", "coverage_80") for s in (before, after)]
        intervals.append([path.name, name, f"{factor:.3f}", *pairs])
    return [
        [
            path.name,
            temperature,
            *(
                f"{found[part][at][metric]:.4f}"
                for metric in ("wql", "mase", "coverage_80")
                for part in ("tail", "held out")
            ),
        ]
        for at, temperature in enumerate(TEMPERATURES)
    ], intervals


if __name__ == "__main__":
    main()
