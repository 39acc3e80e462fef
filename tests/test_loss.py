"""The fused training loss against autograd through `token_nll`: same number, same gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import gradients, small_model
from torch import Tensor

from tfm.core.model import loss
from tfm.core.model.loss import weighted_nll
from tfm.core.model.sequence_model import SequenceModel, token_nll
from tfm.core.ops.device import autocast

SHAPE = dict(vocab_size=37, layers=1, width=16, heads=2, context=12)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "softcap": {"shape": {"softcap": 2.0}},
    "tied": {"shape": {"tied": True}},
    "range": {"support": (5, 30)},
    "positions-with-ranges": {"support": "random"},
    "softcap-and-ranges": {"shape": {"softcap": 2.0}, "support": "random"},
}


def setting(case: dict[str, Any]) -> tuple[SequenceModel, dict[str, Any]]:
    model = small_model(0.1, **{**SHAPE, **case.get("shape", {})})
    ids = torch.randint(5, 30, (4, 13))
    weight = torch.rand(4, 13) * (torch.rand(4, 13) > 0.3)
    support = case.get("support")
    if support == "random":
        low = torch.randint(0, 5, ids.shape)
        support = torch.stack((low, torch.randint(30, 37, ids.shape)), dim=-1)
    return model, dict(ids=ids, weight=weight, support=support)


def plain_loss(model: SequenceModel, batch: dict[str, Any]) -> Tensor:
    return (token_nll(model, **batch) * batch["weight"][:, 1:]).sum()


@pytest.mark.parametrize("chunk", [1, 40, 100, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_weighted_sum(monkeypatch: pytest.MonkeyPatch, case: str, chunk: int) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    model, batch = setting(CASES[case])
    expected = gradients(model, lambda: plain_loss(model, batch))
    found = gradients(model, lambda: weighted_nll(model, **batch))
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-6, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_half_precision_is_within_its_rounding() -> None:
    """bfloat16 keeps 8 bits: gradients within 2 % in norm of those in float32, as autograd's."""
    model, batch = setting({})

    def half(loss: Callable[[], Tensor]) -> Tensor:
        with autocast(torch.device("cpu"), "bfloat16"):
            return loss()

    def fused() -> Tensor:
        return weighted_nll(model, **batch)

    exact = gradients(model, fused)
    for each in (fused, lambda: plain_loss(model, batch)):
        found = gradients(model, partial(half, each))
        for name, gradient in exact.items():
            assert float((found[name] - gradient).norm() / gradient.norm()) < 0.02, name


def test_a_factor_outside_is_a_factor_of_the_gradient() -> None:
    model, batch = setting({})
    once = gradients(model, lambda: weighted_nll(model, **batch))
    thrice = gradients(model, lambda: 3 * weighted_nll(model, **batch))
    for name, gradient in once.items():
        torch.testing.assert_close(thrice[name], 3 * gradient)


def test_nothing_that_counts_is_nothing_to_learn() -> None:
    model, batch = setting({})
    batch["weight"] = torch.zeros_like(batch["weight"])
    found = gradients(model, lambda: weighted_nll(model, **batch))
    assert "loss" in found and len(found) > 1
    assert all(float(x.abs().sum()) == 0 for x in found.values())


def test_without_gradients_it_is_only_the_sum() -> None:
    model, batch = setting({})
    with torch.no_grad():
        total = weighted_nll(model, **batch)
    assert not total.requires_grad
    torch.testing.assert_close(total, weighted_nll(model, **batch).detach())
