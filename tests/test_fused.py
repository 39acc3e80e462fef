"""Gradients written out, against autograd through the plain forms and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_agree, random_angles, random_tensor
from torch import Tensor

from tfm.core.ops.autograd_ops import dropout, relu_squared, rms_norm, rotate


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second, cos, sin = x[..., :half], x[..., half:], cos[..., :half], sin[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 16), (2, 3, 4, 8)], ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(shape: tuple[int, ...], weighted: bool) -> None:
    x, weight = random_tensor(*shape), random_tensor(shape[-1], seed=1) if weighted else None
    plain = F.rms_norm(x, shape[-1:], weight, 1e-5)
    assert_agree(rms_norm(x, weight, 1e-5), plain, *([x] if weight is None else [x, weight]))


def test_rms_norm_of_a_view_in_half_precision() -> None:
    whole = random_tensor(2, 6, 3, 8, dtype=torch.bfloat16)
    x = whole.transpose(1, 2)
    assert_agree(rms_norm(x, None, 1e-6), F.rms_norm(x, (8,), None, 1e-6), whole, tolerance=2e-2)


def test_rms_norm_of_nothing_is_nothing() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    out = rms_norm(x, None, 1e-6)
    out.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and not out.detach().any()


def test_relu_squared() -> None:
    x = random_tensor(4, 7)
    assert_agree(relu_squared(x), F.relu(x).square(), x)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_rotate(rows: int, heads: int) -> None:
    whole = random_tensor(3, 5, heads, 8)
    x, (cos, sin) = whole.transpose(1, 2), random_angles(rows, 5, 4)
    assert_agree(rotate(x, cos, sin), plain_rotate(x, cos, sin), whole)


def test_rotate_in_half_precision() -> None:
    x, (cos, sin) = random_tensor(2, 2, 5, 8, dtype=torch.bfloat16), random_angles(2, 5, 4)
    half = plain_rotate(x, cos.bfloat16(), sin.bfloat16())
    assert_agree(rotate(x, cos, sin), half, x, tolerance=2e-2)


def test_without_gradients_they_are_the_same() -> None:
    x, weight, (cos, sin) = (
        random_tensor(2, 3, 5, 8),
        random_tensor(8, seed=1),
        random_angles(2, 5, 4),
    )

    def all_of_them() -> list[Tensor]:
        return [rms_norm(x, weight, 1e-5), relu_squared(x), rotate(x, cos, sin)]

    with_gradients = all_of_them()
    with torch.no_grad():
        for one, other in zip(all_of_them(), with_gradients, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-6)


def test_gradients_by_finite_differences() -> None:
    x, weight = (
        random_tensor(2, 3, 6, dtype=torch.float64),
        random_tensor(6, seed=1, dtype=torch.float64),
    )
    cos, sin = (a.double() for a in random_angles(1, 3, 3))

    def all_of_them(x: Tensor, weight: Tensor) -> Tensor:
        return rotate(relu_squared(rms_norm(x, weight, 1e-5))[:, None], cos, sin)

    assert torch.autograd.gradcheck(all_of_them, (x, weight), eps=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_a_share_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 501, dtype=dtype, requires_grad=True)
    out = dropout(x, rate)
    dropped = float((out == 0).float().mean())
    assert dropped == pytest.approx(round(256 * rate) / 256, abs=0.005)
    assert float(out.detach().float().mean()) == pytest.approx(1, abs=0.02)
    assert len(out.detach().unique()) == 2
    out.backward(torch.full_like(x, 3.0))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 3 * out.detach(), rtol=0.01, atol=0)
    # no position has another rate than its neighbours: all bits of a random number are random
    by_byte = (out == 0).float().flatten()[: 8 * (out.numel() // 8)].view(-1, 8).mean(0)
    assert float((by_byte - dropped).abs().max()) < 0.02


def test_dropout_follows_the_seed() -> None:
    x = torch.ones(1000)
    torch.manual_seed(1)
    one, other = dropout(x, 0.3), dropout(x, 0.3)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.3), one) and not torch.equal(one, other)


def test_no_dropout_is_the_thing_itself() -> None:
    x = random_tensor(3, 4)
    assert dropout(x, 0.0) is x


def test_dropout_of_a_view_is_its_own_gradient() -> None:
    whole = random_tensor(4, 3, 5)
    x = whole.transpose(0, 2)
    torch.manual_seed(3)
    out = dropout(x, 0.5)
    (gradient,) = torch.autograd.grad(out.sum(), whole)
    torch.testing.assert_close(gradient.transpose(0, 2) * x, out)
