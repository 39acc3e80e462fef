"""Operations with gradients written out: fewer passes over memory than autograd makes of them.

On a CPU a step of a small model is element-wise work for the larger part, and each pass over a
tensor that leaves the cache costs as much as a small matrix product. Each function equals its
plain form (tests/test_fused.py), and is it where no gradient is wanted: a
`Function` costs more to call than a small tensor costs to work out. On a GPU, and for a compiler,
it is torch's own form, which those fuse themselves.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`F.rms_norm` over the last dimension (Zhang & Sennrich 2019): x (..., D), weight (D,)."""
    if _torchs_own(x):
        return F.rms_norm(x, x.shape[-1:], weight, eps).to(x.dtype)
    if not torch.is_grad_enabled():
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        square = torch.addcmul(_constant(eps, exact, x.device), norm, norm, value=1 / x.shape[-1])
        normed = x * square.rsqrt_()
        return (normed if weight is None else normed.mul_(weight)).to(x.dtype)
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def _torchs_own(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_compiling()


@functools.cache
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([value], dtype=dtype, device=device)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        out: Tensor = x * scale
        if weight is not None:
            out.mul_(weight)
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """With n = x * scale and h = gradient * weight: scale * (h - n * mean(h * n))."""
        (gradient,) = gradients
        x, weight, scale = ctx.saved_tensors
        n = x * scale
        product = gradient * n
        to_weight = None
        if weight is None:
            mean = product.mean(-1, keepdim=True)
            out = n.mul_(mean).neg_().add_(gradient).mul_(scale)
        else:
            to_weight = product.flatten(0, -2).sum(0)
            mean = (product @ weight)[..., None] / x.shape[-1]
            out = torch.mul(gradient, weight).sub_(n.mul_(mean)).mul_(scale)
        return out.to(x.dtype), to_weight, None


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, Primer)."""
    if _torchs_own(x):
        return torch.relu(x).square()
    if not torch.is_grad_enabled():
        return torch.relu(x).square_()
    out: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return out


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.relu(x).square_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return torch.relu(ctx.saved_tensors[0]).mul_(gradients[0]).mul_(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, head_width) turned by its position, halves as pairs (Su et al. 2021). cos and
    sin broadcast to (B, 1, T, head_width), each pair's angle twice, the first sine negative."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if not torch.is_grad_enabled() or _torchs_own(x):
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
    half = x.shape[-1] // 2
    out: Tensor = _Rotate.apply(x, cos[..., :half], sin[..., half:])  # type: ignore[no-untyped-call]
    return out


class _Rotate(torch.autograd.Function):
    """Half by half: nothing is rolled, which would be a pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (first, second), (to_first, to_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=sign)
    return out


def dropout(x: Tensor, rate: float) -> Tensor:
    """Each number 0 with the probability `rate`, to the nearest 256th, the others scaled up
    (Srivastava et al. 2014). One random number makes eight decisions: on a CPU drawing takes most
    of the time."""
    of_256 = min(255, round(256 * rate))
    if not of_256:
        return x
    if _torchs_own(x):
        return F.dropout(x, rate)
    out: Tensor = _Dropout.apply(x, of_256)  # type: ignore[no-untyped-call]
    return out


class _Dropout(torch.autograd.Function):
    """By masks of whole words, all bits or none: a product with booleans is a slow one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, of_256: int) -> Tensor:
        random = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        octets = random.random_(-(1 << 63), None).view(torch.uint8)  # all 64 bits
        kept = octets[: x.numel()].view(x.shape).to(WORDS[x.element_size()])
        kept.neg_().add_(of_256 - 1).bitwise_right_shift_(8 * x.element_size() - 1)
        ctx.save_for_backward(kept)
        ctx.scale = 256 / (256 - of_256)
        return _masked(x, kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        return _masked(gradients[0], kept).mul_(ctx.scale), None


def _masked(x: Tensor, kept: Tensor) -> Tensor:
    """x where the bits of `kept` are ones, 0 where they are zeros."""
    return (x.view(kept.dtype) & kept).view(x.dtype)
