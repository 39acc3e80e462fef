"""Compiled blocks and learning rates as tensors, which training on a GPU needs; tested on a CPU."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import TRANSFORMERS, gradients, random_weights

from tfm.core.architectures import model_config
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.model.block import RunBlock, call_block
from tfm.core.model.loss import Objective
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import linear_nll, native_calls
from tfm.core.ops.device import autocast
from tfm.core.protocols import Batch
from tfm.core.train.backend import compiled_block
from tfm.core.train.optim import make_optimizers, state_tensors

CPU = torch.device("cpu")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("arch", TRANSFORMERS)
@pytest.mark.filterwarnings("ignore")  # from torch's compiler
def test_all_blocks_are_one_program_that_computes_what_they_do(arch: str, half: bool) -> None:
    """torch's compiler traces a block and its gradients as one graph; no machine code is made."""
    from torch._dynamo.utils import counters

    shape = model_config(arch, "nano", vocab_size=30, context=16)
    model = random_weights(SequenceModel(shape), 0.1)
    ids = torch.randint(0, 30, (3, 17))

    def total(run_block: RunBlock) -> torch.Tensor:
        objective = Objective(model, run_block)
        with autocast(CPU, "bfloat16" if half else "float32"):
            return objective(Batch(ids, torch.ones(3, 17)))  # type: ignore[no-any-return]

    assert native_calls.version() == "torch"
    plain = gradients(model, lambda: total(call_block))
    counters.clear()
    compiled = gradients(model, lambda: total(compiled_block("aot_eager")))
    assert counters["stats"]["unique_graphs"] == 1, "of two blocks"
    for name, value in plain.items():
        off = float((compiled[name] - value).norm() / value.norm())
        assert off < (0.02 if half else 1e-5), name
    model.eval()
    counters.clear()
    model(ids[:, :9])
    assert not counters["stats"], "scoring, of any shape, compiles nothing"


@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("ranges", [False, True])
def test_the_gradient_of_logits_is_autograds(softcap: float, ranges: bool) -> None:
    torch.manual_seed(0)
    products = (3 * torch.randn(7, 20, dtype=torch.float64)).float().requires_grad_()
    targets, weight = torch.randint(5, 9, (7,)), torch.rand(7)
    legal = torch.tensor([[5, 9]] * 7) if ranges else None
    total, gradient = linear_nll.nll_and_gradient(
        products.detach(), targets, weight, legal, softcap
    )
    logits = softcap * torch.tanh(products / softcap) if softcap else products
    first = 5 if ranges else 0
    nll = torch.nn.functional.cross_entropy(
        logits[:, 5:9] if ranges else logits, targets - first, reduction="none"
    )
    expected = (weight * nll).sum()
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(total, expected.detach())
    assert products.grad is not None
    torch.testing.assert_close(gradient, products.grad)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_rates_as_tensors_move_weights_as_numbers_do(optimizer: str) -> None:
    shape = ModelConfig(vocab_size=40, layers=1, width=16, heads=2, context=8, ordered="0-40")
    config = replace(TrainConfig(optimizer=optimizer), average=0.9)

    def moved(device: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = SequenceModel(shape)
        optimizers = make_optimizers(model, config)
        for number in range(4):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            for each in optimizers:
                each.at(1 - number / 4, device)
                each.step()
        state = state_tensors(model, optimizers).values()
        return [*model.state_dict().values(), *state]

    for a, b in zip(moved(None), moved(CPU), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_chunks_are_alike_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    memory = SimpleNamespace(total_memory=1000 * linear_nll.GPU_BYTES_PER_LOGIT)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    assert linear_nll.chunk_rows(64, 10, gpu) == 64, "one chunk"
    assert linear_nll.chunk_rows(120, 50, gpu) == 20, "six"
    assert linear_nll.chunk_rows(200, 15, gpu) == 50, "four, where three would not be alike"
    assert linear_nll.chunk_rows(217, 10, gpu) == 73, "three, the last one shorter"
