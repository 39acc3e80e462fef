"""C kernels on a CPU: results do not depend on the number of threads; optimiser steps in C; runs
record which kernels they used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tfm
from helpers import gradients, prose, random_angles, random_tensor, small_model
from torch import Tensor

from tfm.core.config import TrainConfig
from tfm.core.model.layers import Linear
from tfm.core.model.loss import Objective
from tfm.core.ops import cpu_kernels, native_calls, optimizer_kernels
from tfm.core.protocols import Batch
from tfm.core.train.backend import choose_run_block
from tfm.core.train.muon import Muon

pytestmark = pytest.mark.usefixtures("kernels_in_c")
HALF = torch.bfloat16


def test_no_bit_depends_on_the_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x, weight = random_tensor(600, 64), random_tensor(64, seed=1)
            out = cpu_kernels.rms_norm(x, weight, 1e-6, HALF)
            torch.manual_seed(0)
            out = cpu_kernels.add_dropout(x, out, 0.3)
            out.backward(random_tensor(600, 64, seed=2))
            logits = random_tensor(600, 50, seed=3).detach().clone()
            targets, ones = torch.arange(600) % 50, torch.ones(600)
            loss, gradient = cpu_kernels.nll_and_gradient(logits, targets, ones, None, 0.0)
            qkv = random_tensor(6, 100, 6 * 32, seed=4)
            heads = cpu_kernels.split_heads(qkv, 2, 2, random_angles(1, 100, 16), 1e-6)
            torch.cat(heads, 1).backward(random_tensor(6, 6, 100, 32, seed=5).detach())
            q, k, v = (h.detach().requires_grad_() for h in heads)
            scores = cpu_kernels.attention(q, k, v, None, 0, 0.3)
            found.append(
                [out.detach(), x.grad, weight.grad, gradient, loss, *heads, qkv.grad, scores]
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_run_says_by_what_it_learned(tfm: Tfm, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(prose(400))
    losses = []
    for kernels_, env in (("torch", {"CC": "no-such-compiler-here"}), ("C", {})):
        run = tmp_path / kernels_
        given = ("--data", tmp_path / "text", "--size", "nano", "--steps", 6, "--run", run, "-q")
        sets = ("--set", "train.batch=4", "--set", "train.dtype=float32")
        tfm("train", "--task", "byte", *given, *sets, env=env)
        used = json.loads((run / "config.json").read_text())["versions"]["kernels"]
        assert used.split()[0] == kernels_
        lines = (run / "log.jsonl").read_text().splitlines()
        losses.append([entry["loss"] for entry in map(json.loads, lines) if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3) and len(losses[0]) == 6
    again = tfm("rerun", tmp_path / "torch", "--run", tmp_path / "again", "--json", code=5)
    assert again.json()["versions"] == [f"kernels torch then, {used} now"]


def test_a_recomputed_block_drops_the_same() -> None:
    model = small_model(width=64, heads=4, context=40, dropout=0.3).train()
    torch.manual_seed(1)
    ids, weight = torch.randint(3, 19, (5, 41)), torch.rand(5, 41)

    def total(config: TrainConfig) -> Tensor:
        torch.manual_seed(5)
        objective = Objective(model, choose_run_block(model, config))
        return objective(Batch(ids, weight))  # type: ignore[no-any-return]

    kept = gradients(model, lambda: total(TrainConfig()))
    again = gradients(model, lambda: total(TrainConfig(recompute=True)))
    assert all(torch.equal(again[name], gradient) for name, gradient in kept.items())


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_muon_moves_weights_as_by_torch(dtype: torch.dtype, library: Any) -> None:
    """With a fused weight, a tall one, and one whose size is not a multiple of a vector."""
    rows = [(12, 4, 20), (60,), (7,)]
    layers = {kind: [Linear(9, each, bias=False) for each in rows] for kind in ("C", "torch")}
    for ours, plain in zip(*layers.values(), strict=True):
        plain.load_state_dict(ours.state_dict())
    muons = {
        kind: Muon({layer.weight: layer.rows for layer in each}, 0.1, 0.9, 0.2, dtype)
        for kind, each in layers.items()
    }
    for step in range(4):
        for kind, muon in muons.items():
            torch.manual_seed(step)
            for each in layers[kind]:
                each.weight.grad = torch.randn(each.weight.shape)
            native_calls.load(library if kind == "C" else None)
            muon.step()
    native_calls.load(library)
    tolerance = 2e-5 if dtype == torch.float32 else 3e-3  # a step moves a weight by about 0.02
    for ours, plain in zip(*layers.values(), strict=True):
        torch.testing.assert_close(ours.weight, plain.weight, rtol=0, atol=tolerance)
    for ours, plain in zip(
        muons["C"].saved().values(), muons["torch"].saved().values(), strict=True
    ):
        torch.testing.assert_close(ours["momentum"], plain["momentum"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("sizes", [[1], [5, 100, 3000], [70_000, 16]], ids=str)
def test_the_norm_of_all_gradients(sizes: list[int]) -> None:
    tensors = [random_tensor(size, seed=seed).detach() for seed, size in enumerate(sizes)]
    exact = torch.cat(tensors).double().norm()
    torch.testing.assert_close(
        optimizer_kernels.global_norm(tensors).double(), exact, rtol=1e-6, atol=0
    )
    tensors[-1][-1] = float("nan")
    assert optimizer_kernels.global_norm(tensors).isnan()
