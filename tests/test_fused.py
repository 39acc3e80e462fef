"""Gradients written out, against autograd through the plain forms and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tfm.core.fused import relu_squared, rms_norm, rotate


def some(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).requires_grad_()


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def angles(rows: int, length: int, half: int) -> tuple[Tensor, Tensor]:
    angle = some(rows, 1, length, half, seed=3).detach()
    return angle.cos(), angle.sin()


def agree(ours: Tensor, plain: Tensor, *inputs: Tensor, tolerance: float = 1e-6) -> None:
    upstream = some(*plain.shape, seed=9).detach().to(plain.dtype)
    assert ours.dtype == plain.dtype
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(ours, inputs, upstream)
    for a, b in zip(found, torch.autograd.grad(plain, inputs, upstream), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=tolerance, atol=3 * tolerance)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 16), (2, 3, 4, 8)], ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(shape: tuple[int, ...], weighted: bool) -> None:
    x, weight = some(*shape), some(shape[-1], seed=1) if weighted else None
    plain = F.rms_norm(x, shape[-1:], weight, 1e-5)
    agree(rms_norm(x, weight, 1e-5), plain, *([x] if weight is None else [x, weight]))


def test_rms_norm_of_a_view_in_half_precision() -> None:
    whole = some(2, 6, 3, 8, dtype=torch.bfloat16)
    x = whole.transpose(1, 2)
    agree(rms_norm(x, None, 1e-6), F.rms_norm(x, (8,), None, 1e-6), whole, tolerance=2e-2)


def test_rms_norm_of_nothing_is_nothing() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    out = rms_norm(x, None, 1e-6)
    out.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and not out.detach().any()


def test_relu_squared() -> None:
    x = some(4, 7)
    agree(relu_squared(x), F.relu(x).square(), x)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_rotate(rows: int, heads: int) -> None:
    whole = some(3, 5, heads, 8)
    x, (cos, sin) = whole.transpose(1, 2), angles(rows, 5, 4)
    agree(rotate(x, cos, sin), plain_rotate(x, cos, sin), whole)


def test_rotate_in_half_precision() -> None:
    x, (cos, sin) = some(2, 2, 5, 8, dtype=torch.bfloat16), angles(2, 5, 4)
    half = plain_rotate(x, cos.bfloat16(), sin.bfloat16())
    agree(rotate(x, cos, sin), half, x, tolerance=2e-2)


def test_gradients_by_finite_differences() -> None:
    x, weight = some(2, 3, 6, dtype=torch.float64), some(6, seed=1, dtype=torch.float64)
    cos, sin = (a.double() for a in angles(1, 3, 3))

    def all_of_them(x: Tensor, weight: Tensor) -> Tensor:
        return rotate(relu_squared(rms_norm(x, weight, 1e-5))[:, None], cos, sin)

    assert torch.autograd.gradcheck(all_of_them, (x, weight), eps=1e-5, atol=1e-3)
