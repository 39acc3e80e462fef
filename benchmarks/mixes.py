"""What one model of three domains costs or gains each of them, beside a model of each alone.

python benchmarks/mixes.py [--size nano --size tiny] [--tokens 600000] [--seeds 3]

Every domain has the same number of training tokens in the mix as alone. tinyshakespeare by
characters (bits a byte), MNIST at 14 x 14 (bits per dim), ETTh1 (WQL of the last windows; nats a
token). Mean and range of the seeds.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from _common import DATA, heading, table, tfm_json, workspace

DOMAINS: dict[str, tuple[tuple[str, ...], str, tuple[object, ...]]] = {
    "text": (
        ("bits_per_byte",),
        f"text:{DATA / 'text/tinyshakespeare.txt'},tokenizer=char",
        ("--task", "text", "--data", DATA / "text/tinyshakespeare.txt", "--tokenizer", "char"),
    ),
    "image": (
        ("bits_per_dim",),
        f"image:{DATA / 'image/mnist'},pixels=14x14",
        ("--task", "image", "--data", DATA / "image/mnist", "--pixels", "14x14"),
    ),
    "series": (
        ("wql", "nll"),
        f"series:{DATA / 'timeseries/ETTh1.csv'}",
        ("--task", "series", "--data", DATA / "timeseries/ETTh1.csv"),
    ),
}


def trained(*flags: object) -> dict[str, Any]:
    folder = workspace()
    return tfm_json("train", "-q", *flags, "--run", folder / "run", folder=folder)


def value(scores: dict[str, Any], metric: str) -> float:
    return float(scores["nll"] / scores["tokens"] if metric == "nll" else scores[metric])


def cell(values: list[float]) -> str:
    return f"{statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append")
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    heading()
    rows: list[list[object]] = [["size", "domain", "metric", "alone", "in the mix", "change"]]
    mix = [word for _, spec, _ in DOMAINS.values() for word in ("--mix", spec)]
    for size in args.size or ["nano", "tiny"]:
        alone: dict[str, list[dict[str, Any]]] = {name: [] for name in DOMAINS}
        mixed: list[dict[str, Any]] = []
        for seed in range(args.seeds):
            common = ("--size", size, "--seed", seed)
            for name, (_, _, data) in DOMAINS.items():
                alone[name].append(trained(*data, *common, "--tokens", args.tokens))
            mixed.append(trained(*mix, *common, "--tokens", args.tokens * len(DOMAINS)))
        for name, (metrics, _, _) in DOMAINS.items():
            for metric in metrics:
                one = [value(scores, metric) for scores in alone[name]]
                all_of = [value(scores["parts"][name], metric) for scores in mixed]
                change = statistics.fmean(all_of) / statistics.fmean(one) - 1
                label = "nats a token" if metric == "nll" else metric
                rows.append([size, name, label, cell(one), cell(all_of), f"{change:+.1%}"])
                print("\t".join(map(str, rows[-1])), flush=True)
    print()
    table(rows)


if __name__ == "__main__":
    main()
