"""The matrix products of one decoded token, with torch's kernels for constant weights.

python benchmarks/products.py [--rounds 30]

The 24 products of six layers of width 384 (10.6M weights), for 1 and 32 rows: the candidates of
core/decode/quantized_linear.py. One weight in a loop would stay in the cache; 24 in turn do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _common import heading, interleaved, table
from torch.nn import functional as F

from tfm.core.decode.quantized_linear import FbgemmLinear, Int8Linear, OneDnnLinear
from tfm.core.model.layers import Linear

SHAPES = [(1152, 384), (384, 384), (1536, 384), (384, 1536)] * 6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    heading()
    torch.manual_seed(0)
    layers = [Linear(inputs, (outputs,), bias=False) for outputs, inputs in SHAPES]
    lines: list[list[object]] = [["24 products, ms", "1 row", "least", "32 rows", "least"]]
    columns: dict[str, list[str]] = {}
    with torch.no_grad():
        for rows in (1, 32):
            xs = {width: torch.randn(rows, width) for width in (384, 1536)}
            kinds: dict[str, list[Callable[[torch.Tensor], torch.Tensor]]] = {
                "float32, F.linear": [lambda x, w=n.weight: F.linear(x, w) for n in layers],
                "float32, oneDNN": [OneDnnLinear(n, torch.float32, rows) for n in layers],
                "bfloat16, oneDNN": [OneDnnLinear(n, torch.bfloat16, rows) for n in layers],
                "float16, FBGEMM": [FbgemmLinear(n) for n in layers],
                "int8": [Int8Linear(n) for n in layers],
            }

            def run(
                calls: list[Callable[[torch.Tensor], torch.Tensor]], xs: dict[int, torch.Tensor]
            ) -> None:
                for (_, width), call in zip(SHAPES, calls, strict=True):
                    call(xs[width])

            times = interleaved(
                {name: lambda c=calls, x=xs: run(c, x) for name, calls in kinds.items()},
                args.rounds,
            )
            for name, (median, least, _) in times.items():
                columns.setdefault(name, []).extend([f"{1e3 * median:.2f}", f"{1e3 * least:.2f}"])
    table([*lines, *([name, *figures] for name, figures in columns.items())])


if __name__ == "__main__":
    main()
