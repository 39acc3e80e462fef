"""The backend `native`: autograd functions on c/training_ops.c. They are the operations between the
matrix products of a training step on a CPU, each in one pass over memory. The signatures are those
of operations.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .linear_nll import chunked_linear_nll
from .native_calls import (
    DTYPES,
    ROW_PADDING,
    Heads,
    call,
    dropout_of,
    has_kernels,
    heads_of,
    reduction_parts,
)
from .reference import Rotary


def supports_tensor(x: Tensor) -> bool:
    """Whether this backend computes on tensors like x: there are kernels, and gradients are on."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and has_kernels(x)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    out: Tensor = _RmsNorm.apply(x, weight, eps, dtype or x.dtype)  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        out, width = torch.empty(x.shape, dtype=dtype), x.shape[-1]
        scales = torch.empty(x.shape[:-1])
        ctx.shape = scales.numel(), width, DTYPES[dtype]
        call("norm", *ctx.shape, x, weight, eps, out, scales)
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, scales = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        x_gradient, parts = torch.empty_like(x), torch.empty(reduction_parts(), x.shape[-1])
        call("norm_backward", *ctx.shape, x, weight, scales, gradient, None, x_gradient, parts)
        return x_gradient, parts.sum(0), None, None


def add_dropout(x: Tensor, y: Tensor, rate: float) -> Tensor:
    out: Tensor = _AddDropout.apply(x, y, rate)  # type: ignore[no-untyped-call]
    return out


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rate: float) -> Tensor:
        x, y, out = x.contiguous(), y.contiguous(), torch.empty(x.shape)
        ctx.dtype, ctx.drop = y.dtype, dropout_of(rate, y.numel())
        call("add", y.numel(), DTYPES[y.dtype], x, y, out, ctx.drop)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].contiguous()
        if ctx.dtype == torch.float32 and not ctx.drop.drop_threshold:
            return gradient, gradient, None
        y_gradient = torch.empty(gradient.shape, dtype=ctx.dtype)
        call("add_backward", gradient.numel(), DTYPES[ctx.dtype], gradient, y_gradient, ctx.drop)
        return gradient, y_gradient, None


def relu_squared(x: Tensor) -> Tensor:
    out: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return out


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        call("relu2", x.numel(), DTYPES[x.dtype], x, None, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        call("relu2", x.numel(), DTYPES[x.dtype], x, gradients[0].contiguous(), out)
        return out


def split_heads(
    qkv: Tensor, heads: int, groups: int, rotary: Rotary | None, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    qkv = qkv.view(*qkv.shape[:2], heads + 2 * groups, -1)
    cos, sin = rotary or (None, None)
    out: tuple[Tensor, Tensor, Tensor] = _SplitHeads.apply(qkv, heads, groups, cos, sin, eps)  # type: ignore[no-untyped-call]
    return out


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        heads: int,
        groups: int,
        cos: Tensor | None,
        sin: Tensor | None,
        eps: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv = qkv.contiguous()
        batch, length, _, width = qkv.shape
        q = torch.empty(batch, heads, length, width, dtype=qkv.dtype)
        k, v = (torch.empty(batch, groups, length, width, dtype=qkv.dtype) for _ in range(2))
        scales = torch.empty(batch, length, heads + groups)
        if cos is not None and sin is not None:
            cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(qkv, scales, cos, sin)
        shape = batch, length, heads, groups, width
        ctx.heads = heads_of(*shape, cos, sin, qk_norm=eps is not None, eps=eps or 0.0)
        call("split", ctx.heads, DTYPES[qkv.dtype], qkv, q, k, v, scales)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        qkv, scales, _, _ = ctx.saved_tensors
        q, k, v = (gradient.contiguous() for gradient in gradients)
        out = torch.empty_like(qkv)
        call("split_backward", ctx.heads, DTYPES[qkv.dtype], qkv, scales, q, k, v, out)
        return out, None, None, None, None, None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_start: Tensor | None,
    at: int | Tensor,
    rate: float,
    slopes: None = None,
) -> Tensor:
    """For whole sequences, without a cache or slopes: `at` is 0."""
    out: Tensor = _Attention.apply(q, k, v, segment_start, rate)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    """The queries that share keys are rows of one matrix product."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, segment_start: Tensor | None, rate: float
    ) -> Tensor:
        batch, heads, length, width = q.shape
        ctx.heads = Heads(batch, length, heads, k.shape[1], width)
        ctx.drop = dropout_of(rate, batch * heads * length * length)
        q, k, v = (x.contiguous().view(batch * k.shape[1], -1, width) for x in (q, k, v))
        p = torch.bmm(q, k.mT)
        dropped_p = torch.empty_like(p) if rate else None
        dtype, scale = DTYPES[p.dtype], width**-0.5
        call("softmax", ctx.heads, dtype, p, scale, segment_start, dropped_p, ctx.drop)
        ctx.save_for_backward(q, k, v, p, dropped_p)
        return torch.bmm(p if dropped_p is None else dropped_p, v).view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, p, dropped_p = ctx.saved_tensors
        batch, length, heads, groups, width = (
            getattr(ctx.heads, name)
            for name in ("batch", "length", "query_heads", "kv_heads", "head_width")
        )
        gradient = gradients[0].contiguous().view_as(q)
        dv = torch.bmm((p if dropped_p is None else dropped_p).mT, gradient)
        dp = torch.bmm(gradient, v.mT)
        call("softmax_backward", ctx.heads, DTYPES[p.dtype], p, dp, width**-0.5, ctx.drop)
        dq, dk = torch.bmm(dp, k), torch.bmm(dp.mT, q)
        dk, dv = (x.view(batch, groups, length, width) for x in (dk, dv))
        return dq.view(batch, heads, length, width), dk, dv, None, None


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
    return chunked_linear_nll(nll_and_gradient, head, hidden, targets, weight, ids, support, cap)


def nll_and_gradient(
    logits: Tensor, targets: Tensor, weight: Tensor, support: Tensor | None, cap: float
) -> tuple[Tensor, Tensor]:
    """As `linear_nll.nll_and_gradient`, but the gradient overwrites the logits (N, V)."""
    rows, vocab = logits.shape
    losses = torch.empty(rows)
    workspace = torch.empty(reduction_parts(), 2, vocab + ROW_PADDING)
    targets, weight = targets.contiguous(), weight.contiguous()
    support = None if support is None else support.contiguous()
    dtype = DTYPES[logits.dtype]
    call("nll", rows, vocab, dtype, logits, targets, weight, support, float(cap), losses, workspace)
    return losses.sum(), logits
