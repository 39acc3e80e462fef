"""The fused training loss against autograd through `token_nll`: same number, same gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tfm.core.config import ModelConfig
from tfm.core.model import loss
from tfm.core.model.loss import weighted_nll
from tfm.core.model.sequence_model import SequenceModel, token_nll
from tfm.core.ops.device import autocast

SHAPE = dict(vocab_size=37, layers=1, width=16, heads=2, context=12, zero_init=False)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "softcap": {"shape": {"softcap": 2.0}},
    "tied": {"shape": {"tied": True}},
    "range": {"support": (5, 30)},
    "positions-with-ranges": {"support": "random"},
    "softcap-and-ranges": {"shape": {"softcap": 2.0}, "support": "random"},
}


def setting(case: dict[str, Any]) -> tuple[SequenceModel, dict[str, Any]]:
    torch.manual_seed(0)
    model = SequenceModel(ModelConfig(**{**SHAPE, **case.get("shape", {})}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(5, 30, (4, 13))
    weight = torch.rand(4, 13) * (torch.rand(4, 13) > 0.3)
    support = case.get("support")
    if support == "random":
        low = torch.randint(0, 5, ids.shape)
        support = torch.stack((low, torch.randint(30, 37, ids.shape)), dim=-1)
    return model, dict(ids=ids, weight=weight, support=support)


def gradients(model: SequenceModel, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [1, 40, 100, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_weighted_sum(monkeypatch: pytest.MonkeyPatch, case: str, chunk: int) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    model, batch = setting(CASES[case])
    plain = (token_nll(model, **batch) * batch["weight"][:, 1:]).sum()
    expected = gradients(model, plain)
    fused = weighted_nll(model, **batch)
    found = gradients(model, fused)
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_half_precision_is_within_its_rounding() -> None:
    """bfloat16 keeps 8 bits: gradients within 1 % in norm of those in float32, as autograd's."""
    model, batch = setting({})
    exact = gradients(model, weighted_nll(model, **batch))
    with autocast(torch.device("cpu"), "bfloat16"):
        total = weighted_nll(model, **batch)
        plain = (token_nll(model, **batch) * batch["weight"][:, 1:]).sum()
    for half in (gradients(model, total), gradients(model, plain)):
        for name, gradient in exact.items():
            assert float((half[name] - gradient).norm() / gradient.norm()) < 0.02, name


def test_a_factor_outside_is_a_factor_of_the_gradient() -> None:
    model, batch = setting({})
    once = gradients(model, weighted_nll(model, **batch))
    thrice = gradients(model, 3 * weighted_nll(model, **batch))
    for name, gradient in once.items():
        torch.testing.assert_close(thrice[name], 3 * gradient)


def test_nothing_that_counts_is_nothing_to_learn() -> None:
    model, batch = setting({})
    batch["weight"] = torch.zeros_like(batch["weight"])
    total = weighted_nll(model, **batch)
    assert float(total.detach()) == 0
    assert all(float(g.abs().sum()) == 0 for g in gradients(model, total).values())


def test_without_gradients_it_is_only_the_sum() -> None:
    model, batch = setting({})
    with torch.no_grad():
        total = weighted_nll(model, **batch)
    assert not total.requires_grad
    torch.testing.assert_close(total, weighted_nll(model, **batch).detach())
