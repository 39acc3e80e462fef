"""The operations that have more than one implementation, and which implementation runs.

reference  plain torch (reference.py): the definition of each operation, with autograd's gradients
torch      torch with hand-written gradients and fewer passes over memory (autograd_ops.py)
native     C kernels for training on a CPU (cpu_kernels.py)

The default is the fastest backend that supports the tensors: `native` with a compiled library, on a
CPU, in float32 or bfloat16, with gradients on; else `torch`. In `with use("reference")` every
operation is plain torch, so that hooks, tracing and sharding see ordinary modules and tensors.
tests/test_ops.py compares all backends of each operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from ..errors import UsageError, nearest
from . import autograd_ops, cpu_kernels, reference
from .autograd_ops import MAX_UNFUSED_POSITIONS
from .reference import Rotary

BACKENDS = ("reference", "torch", "native")
_allowed = "native"  # the fastest backend that may be chosen


@contextmanager
def use(backend: str) -> Iterator[None]:
    """Inside, this process uses no backend that comes after `backend` in BACKENDS."""
    global _allowed
    if backend not in BACKENDS:
        raise UsageError(f"backend {backend}: no such backend; {nearest(backend, BACKENDS)}")
    before, _allowed = _allowed, backend
    try:
        yield
    finally:
        _allowed = before


def is_reference() -> bool:
    """Whether all operations are to use the reference backend."""
    return _allowed == "reference"


def is_native() -> bool:
    """Whether the native backend may be chosen."""
    return _allowed == "native"


def _backend(x: Tensor, native: bool = True) -> ModuleType:
    """The backend module for tensors like x. native: whether the C kernels cover the operation."""
    if native and _allowed == "native" and cpu_kernels.supports_tensor(x):
        return cpu_kernels
    return reference if _allowed == "reference" else autograd_ops


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype | None = None
) -> Tensor:
    """x (..., D) divided by its root mean square over D, times weight (D,) (Zhang & Sennrich 2019),
    computed in float32 at least and returned in `dtype` (None: that of x)."""
    native = weight is not None and x.dtype == torch.float32
    out: Tensor = _backend(x, native).rms_norm(x, weight, eps, dtype)
    return out


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, Primer)."""
    out: Tensor = _backend(x).relu_squared(x)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021): x (B, H, T, w) rotated by its positions' angles.

    Element i of the first half of a head makes a pair with element i of the second half. cos and
    sin broadcast to (B, 1, T, w) and have each pair's angle twice, the first sine negated.
    """
    out: Tensor = _backend(x, native=False).rotate(x, cos, sin)
    return out


def split_heads(
    qkv: Tensor, heads: int, groups: int, rotary: Rotary | None, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, heads, T, w), keys and values (B, groups, T, w) of qkv (B, T, (heads + 2 groups)
    w). Queries and keys are RMS-normalised unless `eps` is None, then rotated by `rotary`."""
    even = qkv.shape[-1] // (heads + 2 * groups) % 2 == 0  # C walks through a head in pairs
    backend = _backend(qkv, even)
    out: tuple[Tensor, Tensor, Tensor] = backend.split_heads(qkv, heads, groups, rotary, eps)
    return out


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_start: Tensor | None = None,
    at: int | Tensor = 0,
    rate: float = 0.0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Causal softmax attention (Vaswani et al. 2017, eq. 1) of q (B, heads, T, w) over k and v
    (B, groups, S, w), (B, heads, T, w). Heads share keys in groups (Ainslie et al. 2023).

    Query t of row b stands at position at[b] + t (`at`: one int for all rows, or (B,)) and sees the
    keys from segment_start[b, t] (int32, None for 0) up to its own position. rate: of dropout on
    the attention weights. slopes (heads,): of linear biases (Press et al. 2022, ALiBi).
    """
    whole = isinstance(at, int) and at == 0 and q.shape[-2] == k.shape[-2] and slopes is None
    native = whole and (rate > 0 or q.shape[-2] <= MAX_UNFUSED_POSITIONS)
    out: Tensor = _backend(q, native).attention(q, k, v, segment_start, at, rate, slopes)
    return out


def masked_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, rate: float = 0.0) -> Tensor:
    """Softmax attention of q (B, heads, T, w) over the keys k and values v (B, groups, S, w) that
    `visible` (B or 1, 1, T, S) names, in any order: of an encoder, and across to one. A query that
    sees no key weighs all alike."""
    return reference.masked_attention(q, k, v, visible, rate)


def dropout(x: Tensor, rate: float) -> Tensor:
    """Each number set to zero with the probability `rate`, the others divided by 1 - rate
    (Srivastava et al. 2014). All backends of a CPU drop the same numbers for one seed."""
    return reference.dropout(x, rate)


set_dropout_rows = reference.set_dropout_rows


def add_dropout(x: Tensor, y: Tensor, rate: float) -> Tensor:
    """x + dropout(y), in the dtype of x."""
    out: Tensor = _backend(y, native=x.dtype == torch.float32).add_dropout(x, y, rate)
    return out


def softcap(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap) (Gemma 2, 2024); the logits themselves where cap is 0."""
    return reference.softcap(logits, cap)


def linear_nll(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    ids: tuple[int, int],
    support: Tensor | None = None,
    cap: float = 0.0,
    compiled: bool = False,
) -> Tensor:
    """sum of weight * -log p(target), a scalar in float32, under the logits head(hidden).

    hidden (N, D), targets (N,), weight (N,). Only the ids ids[0] ... ids[1] - 1 have logits, and
    targets are relative to ids[0]. support (N, 2): the legal ids of each row, over which its
    probabilities sum to one. cap: of `softcap`. compiled: the element-wise part by torch.compile.
    """
    backend = _backend(hidden)
    total: Tensor = backend.linear_nll(head, hidden, targets, weight, ids, support, cap, compiled)
    return total
