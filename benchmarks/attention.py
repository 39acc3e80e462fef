"""Forward and backward of causal attention on a CPU: the fused kernel against plain products.

python benchmarks/attention.py [--rounds 7]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _common import heading, interleaved, table

from tfm.core.ops.autograd_ops import batched_attention


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    heading()
    rows: list[list[object]] = [
        [
            "batch, heads, positions, head width",
            "fused, bf16",
            "plain, bf16",
            "fused, fp32",
            "fused bf16 / plain bf16",
            "with dropout",
        ]
    ]
    for shape in ((48, 4, 64, 32), (32, 4, 128, 64), (16, 6, 256, 64), (8, 8, 512, 64)):
        times = interleaved(
            {
                "fused": contender(shape, torch.bfloat16, fused),
                "plain": contender(shape, torch.bfloat16, plain),
                "fused32": contender(shape, torch.float32, fused),
                "fused, dropout": contender(shape, torch.bfloat16, partial(fused, dropout=0.1)),
                "plain, dropout": contender(shape, torch.bfloat16, partial(plain, dropout=0.1)),
            },
            args.rounds,
        )
        ms = {name: f"{1000 * median:.1f} ms" for name, (median, _, _) in times.items()}
        ratio = times["fused"][0] / times["plain"][0]
        dropped = times["fused, dropout"][0] / times["plain, dropout"][0]
        rows.append(
            [
                ", ".join(map(str, shape)),
                ms["fused"],
                ms["plain"],
                ms["fused32"],
                f"{ratio:.1f}",
                f"{dropped:.1f}",
            ]
        )
    table(rows)


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    return batched_attention(q, k, v, None, dropout)


def contender(
    shape: tuple[int, ...], dtype: torch.dtype, attend: Callable[..., torch.Tensor]
) -> Callable[[], object]:
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    return lambda: attend(q, k, v).sum().backward()


if __name__ == "__main__":
    main()
