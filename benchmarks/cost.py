"""Time and memory as functions of context, batch, width, and the position of a decoded token.

python benchmarks/cost.py [--only context|batch|width|position] [--seconds 3]

Each row runs in its own process, so that peak memory is per row. Memory is the increase during a
training step. The contexts are measured at size tiny, with 16,384 tokens per step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from _common import heading, table, use_kernels

TINY = {"layers": 4, "width": 128, "heads": 4}
ROWS: dict[str, list[dict[str, Any]]] = {
    "context": [
        {**TINY, "context": context, "batch": 16384 // context, "recompute": recompute}
        for context in (256, 1024, 4096, 16384)
        for recompute in (False, True)
    ],
    "batch": [{**TINY, "context": 256, "batch": batch} for batch in (1, 4, 16, 64)],
    "width": [
        {"layers": 4, "width": width, "heads": width // 32, "context": 256, "batch": 16}
        for width in (64, 128, 256, 512)
    ],
    "position": [{**TINY, "context": 16384, "position": at} for at in (0, 1000, 4000, 16000)],
}
VOCAB = 1024


def one(row: dict[str, Any], seconds: float) -> dict[str, float | None]:
    """Measures one row in this process."""
    import torch

    from tfm.core import bench
    from tfm.core.config import ModelConfig, TrainConfig
    from tfm.core.ops.device import default_dtype, use_threads

    device = torch.device("cpu")
    threads = use_threads(0)
    use_kernels()
    shape = {k: row[k] for k in ("layers", "width", "heads", "context")}
    config = ModelConfig(vocab_size=VOCAB, **shape)
    if "position" in row:
        return {"ms": 1000 * _position(config, row["position"], seconds)}
    train = TrainConfig(
        steps=1_000_000,
        batch=row["batch"],
        threads=threads,
        recompute=row.get("recompute", False),
        dtype=default_dtype(device, config),
    )
    ran = bench.measure_training(config, train, device, seconds)
    return {"tokens_per_second": ran.tokens_per_second, "peak": ran.peak_bytes}


def _position(config: Any, position: int, seconds: float) -> float:
    import torch

    from tfm.core.bench import median_seconds
    from tfm.core.model.sequence_model import SequenceModel

    model = SequenceModel(config).eval()
    with torch.no_grad():
        state = model.start(1, config.context)
        for begin in range(0, position, 1000):
            model.step(torch.zeros(1, min(1000, position - begin), dtype=torch.long), state)
        ids = torch.zeros(1, 1, dtype=torch.long)
        room = iter(range(config.context - position - 10))

        def step() -> None:
            next(room)
            model.step(ids, state)

        return median_seconds(step, torch.device("cpu"), min(seconds, 0.2))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=ROWS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(one(json.loads(args.row), args.seconds)))
        return
    heading()
    for name in [args.only] if args.only else ROWS:
        position = name == "position"
        lines: list[list[object]] = [
            ["position", "ms a token"]
            if position
            else [name, "batch", "tokens/s", "MB", "MB recomputed", "tokens/s recomputed"]
            if name == "context"
            else [name, "tokens/s", "MB"]
        ]
        for row in ROWS[name]:
            done = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--row",
                    json.dumps(row),
                    "--seconds",
                    str(args.seconds),
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout)
            if position:
                lines.append([f"{row['position']:,}", f"{found['ms']:.2f}"])
                continue
            rate, peak = f"{found['tokens_per_second']:,.0f}", f"{(found['peak'] or 0) / 1e6:,.0f}"
            if row.get("recompute"):
                lines[-1] += [peak, rate]
            elif name == "context":
                lines.append([f"{row['context']:,}", row["batch"], rate, peak])
            else:
                lines.append([f"{row[name]:,}", rate, peak])
        table(lines)


if __name__ == "__main__":
    main()
