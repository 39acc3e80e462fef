"""A training step with and without keeping freed memory (core/device.py), in turn.

    python benchmarks/memory_kept.py [--rounds 3] [--steps 40]

Each measurement is a process of its own: malloc's settings last as long as one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from _common import heading, table

STEP = """
import sys, numpy, torch
from tfm.core.config import TrainConfig, model_config
from tfm.core.data import Windows
from tfm.core.device import keep_freed_memory
from tfm.core.model import SequenceModel
from tfm.core.optim import make_optimizers
from tfm.core.train import train
if sys.argv[1] == "kept":
    keep_freed_memory()
stream = numpy.random.default_rng(0).integers(0, 1024, 400_000).astype(numpy.uint16)
model = SequenceModel(model_config("transformer", "tiny", vocab_size=1025, context=64))
config = TrainConfig(steps=int(sys.argv[2]), dtype="bfloat16")
data = Windows(stream, 64, 0, 1024, (0, 1024))
steps = train(model, data, config, make_optimizers(model, config))
seconds = sorted(step.seconds for step in steps)
print(seconds[len(seconds) // 2])
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    heading()
    times: dict[str, list[float]] = {"given back": [], "kept": []}
    for _ in range(args.rounds):
        for name, found in times.items():
            command = [sys.executable, "-c", STEP, name, str(args.steps)]
            found.append(float(subprocess.run(command, capture_output=True, check=True).stdout))
    rows: list[list[object]] = [["freed memory", "median step", "rounds"]]
    for name, found in times.items():
        each = ", ".join(f"{1000 * t:.0f}" for t in found)
        rows.append([name, f"{1000 * statistics.median(found):.0f} ms", each])
    table(rows)


if __name__ == "__main__":
    main()
