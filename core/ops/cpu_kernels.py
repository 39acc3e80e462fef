"""c/training_ops.c for autograd: what a training step on a CPU does between its matrix products,
each in one pass over memory.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

KINDS = {torch.float32: 0, torch.bfloat16: 1}  # as c/simd.h numbers them

_TYPES = {"l": ctypes.c_int64, "i": ctypes.c_int32, "f": ctypes.c_float, "p": ctypes.c_void_p}
SIGNATURES = {  # of train.c
    "add": "lippppi",
    "add_backward": "lipppi",
    "norm": "liippfppi",
    "norm_backward": "liipppppppi",
    "relu2": "lipppi",
    "split": "pipppppi",
    "split_backward": "pippppppi",
    "softmax": "pipfpppi",
    "softmax_backward": "pippfpi",
    "nll": "liippppfppi",
    "nesterov": "llippfpi",
    "move": "llippffi",
    "squares": "lpppi",
    "shares": "",
}
SIDE = 32  # of two by two tiles: of what sizes are multiples
OF_TILES = {  # of block.c, where there are such
    "block": "ppppi",
    "block_backward": "pppppi",
    "orthogonalise": "iiipfffpi",
}
_library: ctypes.CDLL | None = None
_tiles = False


class Drop(ctypes.Structure):
    _fields_ = [("below", ctypes.c_int32), ("seed", ctypes.c_uint32), ("scale", ctypes.c_float)]


class Heads(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int32) for n in ("batch", "length", "heads", "groups", "width", "normed")),
        ("turned", ctypes.c_int64),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    ]


SPARE = 16  # numbers behind a row that a whole vector may touch
NOTHING = Drop(0, 0, 1.0)


def use(library: ctypes.CDLL | None, tiles: bool = True) -> None:
    """From now on gradients on a CPU are worked out by what compiled.library gave; by torch where
    that is none. tiles: whether by those too, where the processor has them."""
    global _library, _tiles
    _library, _tiles = library, False
    if library is None:
        return
    _tiles = tiles and bool(library.tiles())
    for name, letters in {**SIGNATURES, **(OF_TILES if _tiles else {})}.items():
        getattr(library, name).argtypes = [_TYPES[letter] for letter in letters]
    if _tiles:
        library.block_chunks.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        library.block_spare.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
        library.orthogonal_spare.argtypes = [ctypes.c_int32, ctypes.c_int32]
        library.block_spare.restype = library.orthogonal_spare.restype = ctypes.c_int64


def has_tiles() -> bool:
    """Whether block.c has something to work with."""
    return _tiles


def chunks_of_a_block(heads: Heads) -> int:
    """Parts that block.c takes a batch in."""
    threads = torch.get_num_threads()
    return int(_library.block_chunks(ctypes.byref(heads), threads))  # type: ignore[union-attr]


def spare_of_a_block(heads: Heads, hidden: int) -> int:
    """Bytes that a call of block.c works in."""
    threads = torch.get_num_threads()
    return int(_library.block_spare(ctypes.byref(heads), hidden, threads))  # type: ignore[union-attr]


def version() -> str:
    """By what gradients on a CPU are worked out."""
    return "torch" if _library is None else "C with tiles" if _tiles else "C"


def known(x: Tensor) -> bool:
    """Whether there are kernels for tensors like x."""
    return _library is not None and x.device.type == "cpu" and x.dtype in KINDS


def serve(x: Tensor) -> bool:
    """Whether they work out what follows from x, of which a gradient is wanted."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and known(x)


def call(name: str, *arguments: Any) -> None:
    """Tensors by their addresses, structures by reference; the number of threads comes last."""
    given = (
        x.data_ptr()
        if isinstance(x, Tensor)
        else ctypes.byref(x)
        if isinstance(x, ctypes.Structure)
        else x
        for x in arguments
    )
    getattr(_library, name)(*given, torch.get_num_threads())


def drawn(rate: float) -> Drop:
    """What is dropped of one tensor, from torch's generator."""
    if not rate:
        return NOTHING
    seed = int(torch.randint(1 << 32, ()))
    return Drop(round(rate * (1 << 31)), seed, 1 / (1 - rate))


def _activations(x: Tensor) -> torch.dtype:
    """The dtype that products are in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A stream x (..., D) in float32, to go on with, and `fused.rms_norm` of it in the dtype of
    the products: one gradient for both."""
    out: tuple[Tensor, Tensor] = _RmsNorm.apply(x, weight, eps, _activations(x))  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Any:
        x = x.contiguous()
        out, width = torch.empty(x.shape, dtype=dtype), x.shape[-1]
        scales = torch.empty(x.shape[:-1])
        ctx.shape = scales.numel(), width, KINDS[dtype]
        call("norm", *ctx.shape, x, weight, eps, out, scales)
        ctx.save_for_backward(x, weight, scales)
        ctx.set_materialize_grads(False)
        return x.view_as(x), out

    @staticmethod
    def backward(ctx: Any, beside: Tensor | None, gradient: Tensor | None) -> Any:
        x, weight, scales = ctx.saved_tensors
        if gradient is None:
            return beside, None, None, None
        to_x, parts = torch.empty_like(x), torch.empty(shares(), x.shape[-1])
        gradient, beside = gradient.contiguous(), None if beside is None else beside.contiguous()
        call("norm_backward", *ctx.shape, x, weight, scales, gradient, beside, to_x, parts)
        return to_x, parts.sum(0), None, None


@functools.cache
def shares() -> int:
    """Parts that a sum over rows is made of."""
    return int(_library.shares())  # type: ignore[union-attr]


def add(x: Tensor, y: Tensor, rate: float) -> Tensor:
    """The stream x in float32 and what a layer adds to it, y of the same shape, of which each
    number is dropped with the probability `rate`, as by `fused.dropout`."""
    out: Tensor = _Add.apply(x, y, rate)  # type: ignore[no-untyped-call]
    return out


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rate: float) -> Tensor:
        x, y, out = x.contiguous(), y.contiguous(), torch.empty(x.shape)
        ctx.dtype, ctx.drop = y.dtype, drawn(rate)
        call("add", y.numel(), KINDS[y.dtype], x, y, out, ctx.drop)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].contiguous()
        if ctx.dtype == torch.float32 and not ctx.drop.below:
            return gradient, gradient, None
        to_y = torch.empty(gradient.shape, dtype=ctx.dtype)
        call("add_backward", to_y.numel(), KINDS[ctx.dtype], gradient, to_y, ctx.drop)
        return gradient, to_y, None


def relu_squared(x: Tensor) -> Tensor:
    """`fused.relu_squared`."""
    out: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return out


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        call("relu2", x.numel(), KINDS[x.dtype], x, None, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        call("relu2", x.numel(), KINDS[x.dtype], x, gradients[0].contiguous(), out)
        return out


def split(
    qkv: Tensor, heads: int, groups: int, rotary: tuple[Tensor, Tensor] | None, eps: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, heads, T, w), keys and values (B, groups, T, w) of qkv (B, T, heads + 2 groups,
    w): queries and keys normalised where there is an eps, then turned by `rotary` (`rotate`'s)."""
    cos, sin = rotary or (None, None)
    out: tuple[Tensor, Tensor, Tensor] = _Split.apply(qkv, heads, groups, cos, sin, eps)  # type: ignore[no-untyped-call]
    return out


class _Split(torch.autograd.Function):
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
        ctx.heads = Heads(
            batch,
            length,
            heads,
            groups,
            width,
            eps is not None,
            0 if cos is None or len(cos) == 1 else length * width,
            None if cos is None else cos.data_ptr(),
            None if sin is None else sin.data_ptr(),
            eps or 0.0,
        )
        call("split", ctx.heads, KINDS[qkv.dtype], qkv, q, k, v, scales)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        qkv, scales, _, _ = ctx.saved_tensors
        q, k, v = (gradient.contiguous() for gradient in gradients)
        out = torch.empty_like(qkv)
        call("split_backward", ctx.heads, KINDS[qkv.dtype], qkv, scales, q, k, v, out)
        return out, None, None, None, None, None


def attention(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, dropout: float) -> Tensor:
    """`mixers.plain_attention` where a position t sees first[t] ... t (first: (B, T) in int32)."""
    out: Tensor = _Attention.apply(q, k, v, first, dropout)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    """Queries that share keys are rows of one product."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, dropout: float
    ) -> Tensor:
        batch, heads, length, width = q.shape
        ctx.heads = Heads(batch, length, heads, k.shape[1], width)
        ctx.drop = drawn(dropout)
        q, k, v = (x.contiguous().view(batch * k.shape[1], -1, width) for x in (q, k, v))
        p = torch.bmm(q, k.mT)
        left = torch.empty_like(p) if dropout else None
        kind, factor = KINDS[p.dtype], width**-0.5
        call("softmax", ctx.heads, kind, p, factor, first, left, ctx.drop)
        ctx.save_for_backward(q, k, v, p, left)
        return torch.bmm(p if left is None else left, v).view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, p, left = ctx.saved_tensors
        batch, length, heads, groups, width = (
            getattr(ctx.heads, name) for name in ("batch", "length", "heads", "groups", "width")
        )
        gradient = gradients[0].contiguous().view_as(q)
        to_v = torch.bmm((p if left is None else left).mT, gradient)
        to_p = torch.bmm(gradient, v.mT)
        call("softmax_backward", ctx.heads, KINDS[p.dtype], p, to_p, width**-0.5, ctx.drop)
        to_q, to_k = torch.bmm(to_p, k), torch.bmm(to_p.mT, q)
        to_k, to_v = (x.view(batch, groups, length, width) for x in (to_k, to_v))
        return to_q.view(batch, heads, length, width), to_k, to_v, None, None


def nll_(
    logits: Tensor, targets: Tensor, weight: Tensor, legal: Tensor | None, softcap: float
) -> Tensor:
    """The sum of weight (N,) * -log p(targets (N,)) under logits (N, V), that of a row over its
    ids legal (N, 2) alone; the logits become its gradient."""
    rows, vocab = logits.shape
    losses = torch.empty(rows)
    spare = torch.empty(shares(), 2, vocab + SPARE)
    call(
        "nll",
        rows,
        vocab,
        KINDS[logits.dtype],
        logits,
        targets.contiguous(),
        weight.contiguous(),
        None if legal is None else legal.contiguous(),
        float(softcap),
        losses,
        spare,
    )
    return losses.sum()


def nesterov(
    gradients: list[Tensor], means: list[Tensor], momentum: float, outs: list[Tensor]
) -> None:
    """`optim.nesterov` of matrices of one size."""
    gradients = [each.contiguous() for each in gradients]
    many, size, kind = len(outs), outs[0].numel(), KINDS[outs[0].dtype]
    call("nesterov", many, size, kind, _all(gradients), _all(means), momentum, _all(outs))


def move(weights: list[Tensor], updates: list[Tensor], keep: float, by: float) -> None:
    """`optim.moved_by` of matrices of one size."""
    updates = [each.contiguous() for each in updates]
    many, size, kind = len(weights), weights[0].numel(), KINDS[updates[0].dtype]
    call("move", many, size, kind, _all(weights), _all(updates), keep, by)


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm of all of them as one vector, () in float32."""
    tensors = [each.contiguous() for each in tensors]
    sums = torch.empty(len(tensors), shares(), dtype=torch.float64)
    counts = (ctypes.c_int64 * len(tensors))(*(each.numel() for each in tensors))
    call("squares", len(tensors), _all(tensors), counts, sums)
    return sums.sum().sqrt().float()


def _all(tensors: list[Tensor]) -> Any:
    """Their addresses."""
    return (ctypes.c_void_p * len(tensors))(*(each.data_ptr() for each in tensors))


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float]) -> Tensor | None:
    """`optim._newton_schulz` of matrices (N, rows, columns) in bfloat16, in place; none where there
    are no tiles for them."""
    count, rows, columns = matrices.shape
    if not (_tiles and matrices.dtype == torch.bfloat16 and rows % SIDE == columns % SIDE == 0):
        return None
    each = int(_library.orthogonal_spare(rows, columns))  # type: ignore[union-attr]
    spare = torch.empty(each * torch.get_num_threads(), dtype=torch.uint8)
    call("orthogonalise", count, rows, columns, matrices, *coefficients, spare)
    return matrices
