"""A temperature fitted on the end of the training data: does it improve held-out WQL?

python benchmarks/calibration.py RUN [RUN ...] [--every 1]

For each run of series: WQL, MASE and the coverage of the central 80 % at several temperatures, of
the held-out windows and of the last horizon of each training series, which the run has trained on.
A correction that is fitted there takes the temperature with the lowest WQL there. --every N: only
one of N windows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    for path in args.runs:
        rows += measured(path, args.every)
    table(rows)


def measured(path: Path, every: int) -> list[list[object]]:
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
    for name, windows in held.items():
        cases = forecast_cases(windows, protocol, tokenizer)[::every]
        found[name] = [
            score_forecasts(
                forecasts(model, tokenizer, cases, 100, SampleConfig(temperature=temperature))
            ).scores()
            for temperature in TEMPERATURES
        ]
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
    ]


if __name__ == "__main__":
    main()
