"""The backend `torch`: operations with hand-written gradients, in fewer passes over memory than
autograd makes. The signatures are those of operations.py.

On a CPU most of a small model's step is element-wise work, and a pass over a tensor that does not
fit the cache costs as much as a small matrix product. Without gradients no `Function` is used
either: calling one takes longer than computing a small tensor. On a GPU and under torch.compile,
which fuse element-wise work themselves, these are torch's own functions.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import reference
from .linear_nll import chunked_linear_nll, nll_and_gradient
from .reference import Rotary, visible_keys

MAX_UNFUSED_POSITIONS = 256  # up to which plain products beat torch's attention on a CPU


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype | None = None
) -> Tensor:
    dtype = dtype or x.dtype
    if _fused_by_torch(x):
        return F.rms_norm(x, x.shape[-1:], weight, eps).to(dtype)
    if not torch.is_grad_enabled():
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        square = torch.addcmul(_constant(eps, exact, x.device), norm, norm, value=1 / x.shape[-1])
        normed = x * square.rsqrt_()
        return (normed if weight is None else normed.mul_(weight)).to(dtype)
    out: Tensor = _RmsNorm.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return out


def _fused_by_torch(x: Tensor) -> bool:
    """Whether torch's own kernels are the fastest for tensors like x."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


@functools.cache
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([value], dtype=dtype, device=device)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype
    ) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        out: Tensor = x * scale
        if weight is not None:
            out.mul_(weight)
        return out.to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """With n = x * scale and h = gradient * weight: scale * (h - n * mean(h * n))."""
        (gradient,) = gradients
        x, weight, scale = ctx.saved_tensors
        n = x * scale
        product = gradient * n
        weight_gradient = None
        if weight is None:
            mean = product.mean(-1, keepdim=True)
            out = n.mul_(mean).neg_().add_(gradient).mul_(scale)
        else:
            weight_gradient = product.flatten(0, -2).sum(0)
            mean = (product @ weight)[..., None] / x.shape[-1]
            out = torch.mul(gradient, weight).sub_(n.mul_(mean)).mul_(scale)
        return out.to(x.dtype), weight_gradient, None, None


def relu_squared(x: Tensor) -> Tensor:
    if _fused_by_torch(x):
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
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if not torch.is_grad_enabled() or _fused_by_torch(x):
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
    half = x.shape[-1] // 2
    out: Tensor = _Rotate.apply(x, cos[..., :half], sin[..., half:])  # type: ignore[no-untyped-call]
    return out


class _Rotate(torch.autograd.Function):
    """Computes each half by itself: rolling x would be another pass over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate_halves(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotate_halves(gradients[0], cos, sin, -1.0), None, None


def _rotate_halves(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (first, second), (to_first, to_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=sign)
    return out


def split_heads(
    qkv: Tensor, heads: int, groups: int, rotary: Rotary | None, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.split_heads_by(rms_norm, rotate, qkv, heads, groups, rotary, eps)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_start: Tensor | None,
    at: int | Tensor,
    rate: float,
    slopes: Tensor | None = None,
) -> Tensor:
    """torch's own kernel, with two exceptions. For short sequences in bfloat16 or with dropout on a
    CPU, plain products are 1.5 to 4.5 times as fast (benchmarks/attention.py). In decoding several
    rows, rounding in torch's kernel depends on the thread, and so on the index of a row."""
    if slopes is not None:
        return reference.attention(q, k, v, segment_start, at, rate, slopes)
    length, seen = q.shape[-2], k.shape[-2]
    causal = isinstance(at, int) and at == 0 and length == seen
    visible = None
    if segment_start is not None or not (causal or (length == 1 and isinstance(at, int))):
        visible = visible_keys(length, seen, at, segment_start, q.device)[:, None]
    if isinstance(at, Tensor) and len(q) > 1:
        return _grouped_attention(q, k, v, visible)
    if q.device.type == "cpu" and causal:
        if rate or (q.dtype == torch.bfloat16 and length <= MAX_UNFUSED_POSITIONS):
            return batched_attention(q, k, v, visible, rate)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=visible,
        is_causal=causal and visible is None and length > 1,
        dropout_p=rate,
        enable_gqa=k.shape[1] != q.shape[1],
    )


def _grouped_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """The queries that share keys are rows of one product, which sums alike in every batch row."""
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    grouped = q.reshape(batch, groups, -1, width)  # (B, groups, heads / groups * T, w)
    scores: Tensor = (grouped @ k.mT * width**-0.5).view(batch, heads, length, -1)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    p = scores.softmax(-1).view(batch, groups, -1, k.shape[-2])
    mixed: Tensor = p @ v
    return mixed.view(q.shape)


def batched_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, rate: float
) -> Tensor:
    """Causal attention as two batched products and a softmax."""
    batch, heads, length, width = q.shape
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
        v = v.repeat_interleave(heads // v.shape[1], dim=1)
    if visible is None:
        visible = torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.zeros(visible.shape, dtype=q.dtype).masked_fill_(~visible, -torch.inf)
    bias = bias.expand(batch, heads, -1, -1).flatten(0, 1) if bias.ndim == 4 else bias
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=width**-0.5)
    p = reference.dropout(scores.softmax(-1), rate)
    return torch.bmm(p, v.flatten(0, 1)).view(batch, heads, length, width)


add_dropout = reference.add_dropout


def linear_nll(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    ids: tuple[int, int],
    support: Tensor | None,
    cap: float,
    compiled: bool,
) -> Tensor:
    """Computes a chunk of rows at a time, so that the logits of all rows never exist at once."""
    rest = compiled_nll_and_gradient() if compiled else nll_and_gradient
    return chunked_linear_nll(rest, head, hidden, targets, weight, ids, support, cap)


@functools.cache
def compiled_nll_and_gradient() -> Any:
    return torch.compile(nll_and_gradient, fullgraph=True, dynamic=False)
