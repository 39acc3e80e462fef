"""Training steps against nanoGPT's, in turn: forward, backward and optimiser on the same shapes.

python benchmarks/training.py [--nanogpt CLONE] [--rounds 7]

Two of nanoGPT's shapes: 10.65M parameters at 16 x 256 tokens, and its CPU recipe of 0.8M at
12 x 64; vocabulary 65. CLONE is a checkout of karpathy/nanoGPT, run as shipped (float32, AdamW) and
under bfloat16 autocast. tfm trains with its defaults (Muon and AdamW, bfloat16 if that is faster);
on a processor with AMX tiles it is also measured without them.
Utilisation is the model FLOP/s (`SequenceModel.flops_per_token`) over those of a large matrix
product in the same dtype.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import torch
from _common import heading, interleaved, table, use_kernels

from tfm.core import bench
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import native_calls
from tfm.core.ops.device import default_dtype, use_threads
from tfm.core.train.loop import train
from tfm.core.train.optim import make_optimizers

VOCAB = 65
CPU = torch.device("cpu")
# name -> layers, heads, width, context, batch
SHAPES = {"10.65M": (6, 6, 384, 256, 16), "0.8M": (4, 4, 128, 64, 12)}


def wiring(shape: tuple[int, ...]) -> ModelConfig:
    layers, heads, width, context, _ = shape
    return ModelConfig(vocab_size=VOCAB, context=context, layers=layers, width=width, heads=heads)


def ours(
    shape: tuple[int, ...], dtype: str, optimizer: str = "muon"
) -> tuple[Callable[[], object], float]:
    """(a function that runs one step, FLOPs per token)."""
    *_, context, batch = shape
    config = TrainConfig(
        steps=1_000_000, batch=batch, dtype=dtype, threads=use_threads(0), optimizer=optimizer
    )
    model = SequenceModel(wiring(shape))
    data: Any = bench.RandomRows(VOCAB, context)
    steps = train(model, data, config, make_optimizers(model, config))
    return lambda: next(steps), model.flops_per_token()


def without_tiles(step: Callable[[], object], library: Any) -> Callable[[], object]:
    def call() -> None:
        native_calls.load(library, tiles=False)
        step()
        native_calls.load(library)

    return call


def nanogpt(clone: Path, shape: tuple[int, ...], half: bool) -> Callable[[], object]:
    layers, heads, width, context, batch = shape
    model = _common.nanogpt(clone, layers, heads, width, VOCAB, context).train()
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    ids = torch.randint(0, VOCAB, (batch, context + 1))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            _, loss = model(ids[:, :-1], ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nanogpt", type=Path, metavar="CLONE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=SHAPES)
    args = parser.parse_args()
    heading()
    library = use_kernels()
    peaks = {d: bench.matmul_peak(CPU, getattr(torch, d), 1.0) for d in ("float32", "bfloat16")}
    print(", ".join(f"{d} {p / 1e9:,.0f} GFLOP/s" for d, p in peaks.items()) + "\n")
    for name in [args.only] if args.only else SHAPES:
        shape = SHAPES[name]
        tokens = shape[3] * shape[4]
        dtype = default_dtype(CPU, wiring(shape))
        calls: dict[str, Callable[[], object]] = {}
        calls[f"tfm, {dtype}, the default"], flops = ours(shape, dtype)
        calls[f"tfm, {dtype}, AdamW"], _ = ours(shape, dtype, "adamw")
        if native_calls.has_tiles():
            step, _ = ours(shape, dtype)
            calls[f"tfm, {dtype}, the default, without tiles"] = without_tiles(step, library)
        if dtype != "float32":
            calls["tfm, float32"], _ = ours(shape, "float32")
        if args.nanogpt:
            calls["nanoGPT as it ships"] = nanogpt(args.nanogpt, shape, False)
            calls["nanoGPT, bfloat16 autocast"] = nanogpt(args.nanogpt, shape, True)
        times = interleaved(calls, args.rounds)
        base = times[next(iter(calls))][0]
        rows: list[list[object]] = [
            [
                f"{name} at {shape[4]} x {shape[3]}",
                "tokens/s",
                "least",
                "most",
                "utilisation",
                "the default is faster by",
            ]
        ]
        for kind, (median, least, most) in times.items():
            rates = [f"{tokens / t:,.0f}" for t in (median, most, least)]
            share = ""
            if kind.startswith("tfm"):
                peak = peaks["bfloat16" if "bfloat16" in kind else "float32"]
                share = f"{tokens / median * flops / peak:.0%}"
            rows.append([kind, *rates, share, f"{median / base:.2f}"])
        table(rows)


if __name__ == "__main__":
    main()
