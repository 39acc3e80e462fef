"""c/training_ops.c beside the plain forms: values and gradients, alone and in models; and that
no bit hangs on the number of threads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Tfm
from helpers import assert_agree, gradients, prose, random_angles, random_tensor, small_model
from torch import Tensor

from tfm.core.config import ARCHS, TrainConfig
from tfm.core.model.attention import plain_attention
from tfm.core.model.layers import Linear
from tfm.core.model.loss import weighted_nll
from tfm.core.model.sequence_model import SequenceModel, token_nll
from tfm.core.ops import autograd_ops, cpu_kernels
from tfm.core.ops.device import autocast
from tfm.core.train.backend import make_pass
from tfm.core.train.muon import Muon

pytestmark = pytest.mark.usefixtures("kernels_in_c")
HALF = torch.bfloat16


@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 16), (70, 33), (2, 40, 128)], ids=str)
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, weight = random_tensor(*shape), random_tensor(shape[-1], seed=1)

    def plain() -> Tensor:
        return F.rms_norm(x, shape[-1:], weight, 1e-5)

    assert_agree(cpu_kernels.rms_norm(x, weight, 1e-5)[1], plain(), x, weight, tolerance=3e-6)
    both = torch.cat(cpu_kernels.rms_norm(x, weight, 1e-5), -1)
    assert_agree(both, torch.cat((x, plain()), -1), x, weight, tolerance=3e-6)
    with autocast(torch.device("cpu"), "bfloat16"):
        _, half = cpu_kernels.rms_norm(x, weight, 1e-5)
    assert_agree(half, plain().to(HALF), x, weight, tolerance=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("count", [1, 16, 37, 5000])
def test_add_and_relu_squared(count: int, dtype: torch.dtype) -> None:
    x, y = random_tensor(count), random_tensor(count, seed=1, dtype=dtype)
    assert_agree(cpu_kernels.add(x, y, 0.0), x + y, x, y)
    assert_agree(
        cpu_kernels.relu_squared(y),
        F.relu(y).square(),
        y,
        tolerance=1e-6 if dtype != HALF else 1e-2,
    )


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.tensor([1.0, float("nan"), 2.0], requires_grad=True)
    assert cpu_kernels.relu_squared(x).isnan().tolist() == [False, True, False]
    half = cpu_kernels.add(x, x.to(HALF), 0.0)
    assert half.isnan().tolist() == [False, True, False]
    assert cpu_kernels.rms_norm(x, torch.ones(3), 1e-6)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_a_share_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, y = torch.zeros(400, 501), torch.ones(400, 501, dtype=dtype, requires_grad=True)
    out, again = cpu_kernels.add(x, y, rate), cpu_kernels.add(x, y, rate)
    gone = (out == 0).float()
    assert float(gone.mean()) == pytest.approx(rate, abs=0.005)
    assert float((gone * (again == 0)).mean()) == pytest.approx(rate**2, abs=0.005), "alike"
    neighbours = (gone[:, 1:] * gone[:, :-1]).mean(), (gone[1:] * gone[:-1]).mean()
    assert all(float(n) == pytest.approx(rate**2, abs=0.005) for n in neighbours)
    assert float(out.detach().mean()) == pytest.approx(1, abs=0.02)
    out.backward(torch.full(y.shape, 3.0))
    assert y.grad is not None
    torch.testing.assert_close(y.grad.float(), 3 * out.detach(), rtol=0.01, atol=0)


def plain_split(qkv: Tensor, heads: int, groups: int, rotary: Any, eps: float | None) -> Any:
    qk, v = qkv.transpose(1, 2).split((heads + groups, groups), dim=1)
    if eps is not None:
        qk = autograd_ops.rms_norm(qk, None, eps)
    if rotary is not None:
        qk = autograd_ops.rotate(qk, *rotary)
    return (*qk.split((heads, groups), dim=1), v)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("width", [6, 32, 80])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 3])  # 0: not turned
def test_split(rows: int, normed: bool, width: int, groups: int, dtype: torch.dtype) -> None:
    qkv = random_tensor(3, 5, 4 + 2 * groups, width, dtype=dtype)
    rotary = random_angles(rows, 5, width // 2) if rows else None
    ours = cpu_kernels.split(qkv, 4, groups, rotary, 1e-5 if normed else None)
    plain = plain_split(qkv, 4, groups, rotary, 1e-5 if normed else None)
    tolerance = 3e-6 if dtype != HALF else 3e-2
    assert_agree(torch.cat(ours, 1), torch.cat(plain, 1), qkv, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 70])
@pytest.mark.parametrize("pieces", [False, True])
def test_attention(pieces: bool, length: int, groups: int, dtype: torch.dtype) -> None:
    q, k, v = (random_tensor(3, h, length, 8, seed=h, dtype=dtype) for h in (4, groups, groups))
    first, visible = None, None
    if pieces:
        at = torch.arange(length, dtype=torch.int32)
        first = torch.stack([at // size * size for size in (1, 7, 33)])
        visible = ((at[:, None] >= at) & (first[..., None] <= at))[:, None]
    plain = plain_attention(q, k, v, visible, 0.0)
    tolerance = 3e-6 if dtype != HALF else 4e-2
    assert_agree(cpu_kernels.attention(q, k, v, first, 0.0), plain, q, k, v, tolerance=tolerance)


def test_attention_with_dropout() -> None:
    """Against what it says that it dropped: with values that are the identity, attention's
    output is what was left of the probabilities."""
    length, rate = 24, 0.3
    q, k = random_tensor(2, 3, length, 8, seed=1), random_tensor(2, 3, length, 8, seed=2)
    v = torch.eye(length).expand(2, 3, -1, -1).contiguous().requires_grad_()
    wider = (length / 8) ** 0.25  # so that the scores are those of heads as wide as the values

    def wide(x: Tensor) -> Tensor:
        return F.pad(x * wider, (0, length - 8))

    torch.manual_seed(0)
    out = cpu_kernels.attention(wide(q), wide(k), v, None, rate)
    later = torch.ones(length, length).triu(1).bool()
    p = (q @ k.mT * 8**-0.5).masked_fill(later, -torch.inf).softmax(-1)
    kept = (out.detach() != 0) / (1 - rate)
    assert_agree(out, (p * kept) @ v, q, k, v, tolerance=1e-5)
    seen = ~later.expand_as(kept)
    assert float((kept == 0)[seen].float().mean()) == pytest.approx(rate, abs=0.04)


CASES: dict[str, dict[str, Any]] = {
    **{f"arch {name}": fields for name, fields in ARCHS.items()},
    "grouped, capped": dict(kv_heads=2, softcap=3.0),
    "tied, sinusoidal": dict(tied=True, positions="sinusoidal"),
    "no norms, biases": dict(norm="none", bias=True, qk_norm=False, positions="none"),
    "odd widths": dict(width=40, ffn_width=50),
    "post-norm": dict(norm_position="post", norm="rmsnorm"),
    "two axes": dict(axes=2),
}


def batch_for(model: SequenceModel, name: str) -> dict[str, Any]:
    torch.manual_seed(1)
    ids, rows = torch.randint(3, 19, (5, 41)), torch.rand(5, 41)
    weight = rows * (rows > 0.3)
    batch: dict[str, Any] = dict(ids=ids, weight=weight)
    if name == "two axes":
        batch["positions"] = torch.randint(0, 40, (5, 41, 2))
    if name == "grouped, capped":
        batch["segments"] = torch.randint(0, 2, ids.shape).cumsum(1)
        low = torch.randint(0, 3, ids.shape)
        batch["support"] = torch.stack((low, torch.randint(19, 23, ids.shape)), dim=-1)
    return batch


@pytest.mark.parametrize("name", CASES)
def test_a_model_learns_the_same(name: str, library: Any) -> None:
    model = small_model(**{**dict(heads=4, context=40), **CASES[name]})
    batch = batch_for(model, name)
    cpu_kernels.use(None)
    plain = gradients(model, lambda: (token_nll(model, **batch) * batch["weight"][:, 1:]).sum())
    cpu_kernels.use(library)
    ours = gradients(model, lambda: weighted_nll(model, **batch))
    assert ours.keys() == plain.keys()
    for key, expected in plain.items():
        size = max(1, float(expected.abs().max()))
        assert float((ours[key] - expected).abs().max()) <= 2e-5 * size, key


@pytest.mark.parametrize("name", ["arch transformer", "grouped, capped"])
def test_in_half_precision_it_is_as_near_as_without(name: str, library: Any) -> None:
    model = small_model(**{**dict(width=64, heads=4, context=40), **CASES[name]})
    batch = batch_for(model, name)

    def half() -> Tensor:
        with autocast(torch.device("cpu"), "bfloat16"):
            return weighted_nll(model, **batch)

    cpu_kernels.use(None)
    exact, plain = gradients(model, lambda: weighted_nll(model, **batch)), gradients(model, half)
    cpu_kernels.use(library)
    ours = gradients(model, half)
    for key, expected in exact.items():
        scale = float(expected.square().mean().sqrt())
        off, of_plain = (float((x[key] - expected).square().mean().sqrt()) for x in (ours, plain))
        assert off <= max(1.5 * of_plain, 1e-3 * scale), key


def test_no_bit_hangs_on_the_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x, weight = random_tensor(600, 64), random_tensor(64, seed=1)
            x_too, out = cpu_kernels.rms_norm(x, weight, 1e-6)
            torch.manual_seed(0)
            out = cpu_kernels.add(x_too, out.to(HALF), 0.3)
            out.backward(random_tensor(600, 64, seed=2))
            logits = random_tensor(600, 50, seed=3).detach().clone()
            loss = cpu_kernels.nll_(logits, torch.arange(600) % 50, torch.ones(600), None, 0.0)
            qkv = random_tensor(6, 100, 6, 32, seed=4)
            heads = cpu_kernels.split(qkv, 2, 2, random_angles(1, 100, 16), 1e-6)
            torch.cat(heads, 1).backward(random_tensor(6, 6, 100, 32, seed=5).detach())
            scores = cpu_kernels.attention(*(h.detach().requires_grad_() for h in heads), None, 0.3)
            found.append(
                [out.detach(), x.grad, weight.grad, logits, loss, *heads, qkv.grad, scores]
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


def test_what_is_worked_out_again_drops_the_same() -> None:
    model = small_model(width=64, heads=4, context=40, dropout=0.3).train()
    batch = batch_for(model, "")

    def total() -> Tensor:
        torch.manual_seed(5)
        return weighted_nll(model, **batch)

    kept = gradients(model, total)
    make_pass(model, TrainConfig(recompute=True))
    again = gradients(model, total)
    assert all(torch.equal(again[name], gradient) for name, gradient in kept.items())


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_muon_moves_weights_as_by_torch(dtype: torch.dtype, library: Any) -> None:
    """Of a fused weight, a tall one, and one whose numbers fill no whole vector."""
    rows = [(12, 4, 20), (60,), (7,)]
    layers = {kind: [Linear(9, each, bias=False) for each in rows] for kind in ("C", "torch")}
    for ours, plain in zip(*layers.values(), strict=True):
        plain.load_state_dict(ours.state_dict())
    muons = {kind: Muon(each, 0.1, 0.9, 0.2, dtype) for kind, each in layers.items()}
    for step in range(4):
        for kind, muon in muons.items():
            torch.manual_seed(step)
            for each in layers[kind]:
                each.weight.grad = torch.randn(each.weight.shape)
            cpu_kernels.use(library if kind == "C" else None)
            muon.step()
    cpu_kernels.use(library)
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
    torch.testing.assert_close(cpu_kernels.norm_of(tensors).double(), exact, rtol=1e-6, atol=0)
    tensors[-1][-1] = float("nan")
    assert cpu_kernels.norm_of(tensors).isnan()
