"""Each operation in plain torch: autograd's gradients, no fast paths, any device and dtype.

These definitions are the specification of the other backends. Autograd differentiates them, so
hooks, tracing and sharding see ordinary tensors. The signatures are those of operations.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rotary = tuple[Tensor, Tensor]
_rows = (0, 1)  # see `set_dropout_rows`


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype | None = None
) -> Tensor:
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = exact * (exact.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (normed if weight is None else normed * weight).to(dtype or x.dtype)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of x is computed: autocast's, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half_turned = x.roll(x.shape[-1] // 2, -1)
    return x * cos.to(x.dtype) + half_turned * sin.to(x.dtype)


def split_heads(
    qkv: Tensor, heads: int, groups: int, rotary: Rotary | None, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    return split_heads_by(rms_norm, rotate, qkv, heads, groups, rotary, eps)


def split_heads_by(
    norm: Callable[..., Tensor],
    turn: Callable[..., Tensor],
    qkv: Tensor,
    heads: int,
    groups: int,
    rotary: Rotary | None,
    eps: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`split_heads` with a backend's own norm and rotation."""
    each = qkv.view(*qkv.shape[:2], heads + 2 * groups, -1).transpose(1, 2)
    qk, v = torch.split(each, [heads + groups, groups], dim=1)
    if eps is not None:
        qk = norm(qk, None, eps)
    if rotary is not None:
        qk = turn(qk, *rotary)
    q, k = torch.split(qk, [heads, groups], dim=1)
    return q, k, v


def visible_keys(
    length: int, seen: int, at: int | Tensor, segment_start: Tensor | None, device: torch.device
) -> Tensor:
    """(B or 1, T, S): whether a query sees a key. Query t of row b stands at position at[b] + t and
    sees the keys of its own segment up to that position."""
    keys = torch.arange(seen, device=device)
    queries = torch.arange(length, device=device)
    queries = queries[None] + (at[:, None] if isinstance(at, Tensor) else at)  # (B or 1, T)
    visible = keys <= queries[..., None]
    if segment_start is not None:
        visible = visible & (keys >= segment_start[..., None])
    return visible


def linear_bias(
    length: int, seen: int, at: int | Tensor, slopes: Tensor, dtype: torch.dtype
) -> Tensor:
    """(B or 1, heads, T, S): each head's slope times the negative distance of query and key (Press
    et al. 2022, ALiBi)."""
    keys = torch.arange(seen, device=slopes.device)
    queries = torch.arange(length, device=slopes.device)
    queries = queries[None] + (at[:, None] if isinstance(at, Tensor) else at)  # (B or 1, T)
    return (slopes[:, None, None] * (keys - queries[:, None, :, None])).to(dtype)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_start: Tensor | None = None,
    at: int | Tensor = 0,
    rate: float = 0.0,
    slopes: Tensor | None = None,
) -> Tensor:
    length, seen = q.shape[2], k.shape[2]
    visible = visible_keys(length, seen, at, segment_start, q.device)[:, None]
    bias = None if slopes is None else linear_bias(length, seen, at, slopes, q.dtype)
    return masked_attention(q, k, v, visible, rate, bias)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, rate: float = 0.0, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention of q (B, heads, T, w) over k and v (B, groups, S, w). visible (B or 1, 1,
    T, S): whether a query sees a key; one that sees none weighs all alike. bias (B or 1, heads, T,
    S): added to the scores."""
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    grouped = q.reshape(batch, groups, heads // groups * length, width)
    scores = (grouped @ k.mT * width**-0.5).view(batch, heads, length, -1)
    if bias is not None:
        scores = scores + bias
    p = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
    p = dropout(p, rate).view(batch, groups, -1, k.shape[2])
    return (p @ v).view(batch, heads, length, width)


def dropout(x: Tensor, rate: float) -> Tensor:
    if not rate:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    dropped = dropped_numbers(x.numel(), rate, dropout_seed(), first_number(x.numel()))
    dropped = dropped.view(x.shape)
    return x.masked_fill(dropped, 0.0) * (1 / (1 - rate))


def dropout_seed() -> int:
    """32 bits from torch's generator, which `torch.manual_seed` seeds."""
    return int(torch.randint(1 << 32, ()))


def set_dropout_rows(first: int, count: int) -> None:
    """Tells dropout that tensors hold the rows first ... first + count - 1 of a larger batch (of
    `count` rows, if first is 0), so that the same numbers of a row are dropped wherever the row is
    computed. On a CPU only."""
    global _rows
    _rows = (first, count)


def first_number(count: int) -> int:
    """The index, in the whole batch, of the first of the `count` numbers of this process's rows."""
    first, rows = _rows
    return count // rows * first


def dropped_numbers(count: int, rate: float, seed: int, first: int = 0) -> Tensor:
    """(count,): which of the numbers first ... first + count - 1 dropout sets to zero, the same in
    all backends of a CPU.

    Number i is dropped where 31 bits of a hash of i and the seed (Wellons' lowbias32) are below
    rate * 2^31. Integer sums and products wrap around.
    """
    x = torch.arange(count, dtype=torch.int32).add_(_int32(first % (1 << 32)))
    x.mul_(_int32(0x9E3779B9)).bitwise_xor_(_int32(seed))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x.bitwise_xor_(_shifted(x, shift)).mul_(_int32(factor))
    return _shifted(x, 1) < round(rate * (1 << 31))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """int32 shifted to the right as if unsigned."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _int32(value: int) -> int:
    """The int32 with the same bits as an unsigned number."""
    return value - (1 << 32) if value >= 1 << 31 else value


def add_dropout(x: Tensor, y: Tensor, rate: float) -> Tensor:
    return x + (dropout(y.to(x.dtype), rate) if rate else y)


def softcap(logits: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(logits / cap) if cap else logits


def masked_to_support(logits: Tensor, support: Tensor) -> Tensor:
    """logits (..., V) with -inf where an id is outside its position's range, support (..., 2)."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    legal = (ids >= support[..., :1]) & (ids < support[..., 1:])
    return logits.masked_fill(~legal, -math.inf)


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
    logits = softcap(head(hidden, *ids).float(), cap)
    if support is not None:
        logits = masked_to_support(logits, support)
    counted = weight != 0
    nll = F.cross_entropy(logits, torch.where(counted, targets, -100), reduction="none")
    return (weight * nll).sum()
