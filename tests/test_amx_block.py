"""A block in one call on AMX tiles, compared with the block in torch and training_ops.c."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import gradients, random_weights
from torch import Tensor

from tfm.core.architectures import model_config
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.model.loss import Objective
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import amx_block, cpu_kernels, native_calls, optimizer_kernels
from tfm.core.ops.device import autocast
from tfm.core.protocols import Array, Batch, Ids
from tfm.core.train import muon
from tfm.core.train.backend import choose_run_block, make_micro_step
from tfm.core.train.loop import train
from tfm.core.train.optim import make_optimizers

CPU = torch.device("cpu")
BASE = ModelConfig(vocab_size=50, layers=2, heads=4, width=128, context=64)


@pytest.fixture(autouse=True)
def tiles(kernels_in_c: None) -> None:
    if not native_calls.has_tiles():
        pytest.skip("no processor with tiles here")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the library functions that were called."""
    names, plain = list[str](), native_calls.call

    def call(name: str, *arguments: Any) -> None:
        names.append(name)
        plain(name, *arguments)

    for module in (amx_block, cpu_kernels, optimizer_kernels):
        monkeypatch.setattr(module, "call", call)
    return names


def model_of(config: ModelConfig) -> SequenceModel:
    return random_weights(SequenceModel(config), 0.08, norm_std=0.3)


@pytest.mark.parametrize(
    ("batch", "length", "packed", "fields"),
    [
        (4, 64, False, {}),
        (3, 64, False, {"dropout": 0.2}),
        (4, 64, True, {"kv_heads": 2}),
        (16, 38, True, {"kv_heads": 1, "dropout": 0.3}),  # padded; one KV head
        (32, 17, False, {"qk_norm": False}),
        (8, 40, False, {"positions": "none"}),
        (3, 17, True, {}),
        (1, 1, False, {}),
        (5, 50, False, {"width": 256, "ffn_width": 96}),
        # so many weights that threads share the sum
        (3, 96, False, {"width": 256, "ffn_width": 96}),
        (2, 256, True, {"width": 64, "heads": 2, "dropout": 0.1}),
    ],
    ids=str,
)
def test_a_block_is_the_block(
    batch: int, length: int, packed: bool, fields: dict[str, Any], called: list[str], library: Any
) -> None:
    """The error against float32 is at most 1.25 times that of torch's products in bfloat16. The
    same numbers are dropped."""
    model = model_of(replace(BASE, context=length, **fields))
    ids = torch.randint(0, 50, (batch, length + 1))
    segments = (torch.arange(length + 1) // 20).expand(batch, -1) if packed else None
    objective = Objective(model, choose_run_block(model, TrainConfig(dtype="bfloat16")))

    def once(half: bool) -> Tensor:
        torch.manual_seed(5)  # seeds dropout
        with autocast(CPU, "bfloat16" if half else "float32"):
            weight = torch.ones(batch, length + 1)
            return objective(Batch(ids, weight, segments=segments))  # type: ignore[no-any-return]

    exact = gradients(model, lambda: once(False))
    assert "block" not in called
    found = gradients(model, lambda: once(True))
    assert called.count("block") == called.count("block_backward") == 2
    again = gradients(model, lambda: once(True))
    assert all(torch.equal(again[name], value) for name, value in found.items())
    native_calls.load(library, tiles=False)
    try:
        plain = gradients(model, lambda: once(True))
    finally:
        native_calls.load(library)
    for name, value in exact.items():
        off, usual = (float((each[name] - value).norm()) for each in (found, plain))
        assert off <= 1.25 * usual + 2e-3 * float(value.norm()), name


@pytest.mark.parametrize(
    ("arch", "batch", "length"),
    [("gpt2", 4, 64), ("llama", 4, 64), ("post-ln", 4, 64), ("transformer", 1, 600)],
)
def test_what_it_is_not_made_for_goes_the_other_way(
    arch: str, batch: int, length: int, called: list[str]
) -> None:
    model = SequenceModel(model_config(arch, "tiny", vocab_size=50, context=length)).train()
    once = make_micro_step(model, TrainConfig(dtype="bfloat16"))
    ids = torch.zeros(batch, length + 1, dtype=torch.long)
    once(Batch(ids, torch.ones(batch, length + 1)))
    assert "block" not in called
    known = arch == "transformer" and length <= amx_block.MAX_POSITIONS
    assert amx_block.supports_config(model.config) == known


def test_what_is_not_a_number_stays_so() -> None:
    model = model_of(BASE)
    ids = torch.randint(0, 50, (4, 65))
    once = make_micro_step(model, TrainConfig(dtype="bfloat16"))
    for name in ("mixer.qkv", "ffn.up", "ffn.down", "mixer.out"):
        with torch.no_grad():
            weight = model.blocks[1].get_submodule(name).weight
            before = weight.clone()
            weight[:] = float("nan")
        assert once(Batch(ids, torch.ones(4, 65))).isnan(), name
        with torch.no_grad():
            weight.copy_(before)


def test_it_learns_as_float32_does() -> None:
    class Rows:
        def __len__(self) -> int:
            return 1000

        def batch(self, indices: Ids) -> Batch[Array]:
            rng = np.random.default_rng(int(indices[0]))
            first = rng.integers(0, 50, (len(indices), 1))
            ids = (first + np.arange(33) * rng.integers(1, 4, (len(indices), 1))) % 50
            return Batch(ids, np.ones(ids.shape, np.float32))

    ends = []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(1)
        model = SequenceModel(replace(BASE, context=32, width=64, heads=2))
        config = TrainConfig(steps=120, batch=16, dtype=dtype)
        losses = [s.loss for s in train(model, Rows(), config, make_optimizers(model, config))]
        ends.append(losses)
    assert ends[0][-1] < 1 < ends[0][0]
    for at in (30, 60, 90, 120):
        means = [sum(losses[at - 20 : at]) / 20 for losses in ends]
        assert means[0] == pytest.approx(means[1], abs=0.03)


@pytest.mark.parametrize(
    "shape", [(3, 128, 128), (2, 160, 32), (2, 64, 256), (1, 384, 96)], ids=str
)
def test_orthogonal_updates(shape: tuple[int, ...], called: list[str]) -> None:
    """The error against float64 is at most 1.2 times that of torch in bfloat16."""
    torch.manual_seed(0)
    x = torch.randn(*shape) * torch.logspace(0, -2, shape[-1])
    exact = muon.newton_schulz(x.double())
    plain = muon.newton_schulz(x.bfloat16())
    found = muon.orthogonalise(x.bfloat16())
    assert called == ["orthogonalise"] and isinstance(found, Tensor)
    off, usual = (float((each - exact).norm() / exact.norm()) for each in (found, plain))
    assert off < 1.2 * usual < 0.02
