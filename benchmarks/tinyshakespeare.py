"""Held-out loss on tiny-shakespeare after 90 seconds on two cores, next to published figures.

python benchmarks/tinyshakespeare.py [--budget 90s] [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

from _common import DATA, heading, table, tfm, tfm_json, workspace


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", default="90s")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    heading()
    text = DATA / "text" / "tinyshakespeare.txt"
    rows: list[list[object]] = [["seed", "seconds", "model", "steps", "nats per char"]]
    found = []
    for seed in range(args.seeds):
        folder = workspace()
        began = time.monotonic()
        tfm("train", "--data", text, "--budget", args.budget, "--seed", seed, "-q", folder=folder)
        seconds = time.monotonic() - began
        scores = tfm_json("eval", folder=folder)
        info = tfm_json("info", folder=folder)
        found.append(scores["nats_per_char"])
        rows.append(
            [seed, f"{seconds:.1f}", info["size"], scores["step"], f"{scores['nats_per_char']:.4f}"]
        )
    rows.append(["mean", "", "", "", f"{statistics.mean(found):.4f}"])
    table(rows)
    floor = {name: bits * 0.6931 for name, bits in scores["floor"].items()}
    table(
        [
            ["the same 111,540 characters", "nats per char"],
            *[[name, f"{nats:.3f}"] for name, nats in floor.items()],
            [
                "nanoGPT's CPU recipe after 83 s on two cores (reference; its README says 1.88)",
                "1.886",
            ],
            ["nanoGPT's GPU recipe, three minutes of an A100 (its README)", "1.470"],
        ]
    )


if __name__ == "__main__":
    main()
