"""c/amx_block.c for autograd: a block of the default wiring by one call forward and one backward,
in bfloat16 on a processor with tiles (AMX). A small model takes less time than torch's calls take
to call them. `Block.forward` is the plain form (tests/test_amx_block.py)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from . import cpu_kernels
from .cpu_kernels import SIDE, Drop, Heads

LONGEST = 512  # positions of a sequence; what a head works with grows with their square

_float, _pointer = ctypes.c_float, ctypes.c_void_p
WEIGHTS = ("norm1", "qkv", "out", "norm2", "up", "down")
HALVES = ("normed1", "projected", "mix", "normed2", "above")
FLOATS = ("scales1", "scales_qk", "between", "scales2")


class _Block(ctypes.Structure):
    _fields_ = [
        ("hidden", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        *((name, _pointer) for name in (*WEIGHTS, "first")),
        *((name, Drop) for name in ("mixing", "mixed", "fed")),
        *((name, _pointer) for name in (*HALVES, *FLOATS, "spare")),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, _pointer) for name in (*WEIGHTS, "x")]


def knows(config: ModelConfig) -> bool:
    """Whether it can be a block of such a model."""
    return (
        (config.norm, config.norm_position, config.ffn, config.mixer, config.bias)
        == ("rmsnorm", "pre", "relu2", "attention", False)
        and config.head_width % SIDE == 0
        and config.hidden % SIDE == 0
        and config.context <= LONGEST
    )


def serves(x: Tensor) -> bool:
    """Whether there is a block for a stream x (B, T, D)."""
    return (
        cpu_kernels.serve(x)
        and cpu_kernels.has_tiles()
        and x.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and x.shape[0] >= torch.get_num_threads()
    )


def block(
    x: Tensor,
    weights: list[Tensor],
    config: ModelConfig,
    rotary: tuple[Tensor, Tensor] | None,
    first: Tensor | None,
    dropout: tuple[float, float],
) -> Tensor:
    """The stream behind a block. weights: as WEIGHTS has them, in float32; rotary and first: as
    `mixers.Place` has them; dropout: of attention's shares, and of what is added to the stream."""
    out: Tensor = _Whole.apply(x, config, rotary, first, dropout, *weights)  # type: ignore[no-untyped-call]
    return out


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        config: ModelConfig,
        rotary: tuple[Tensor, Tensor] | None,
        first: Tensor | None,
        dropout: tuple[float, float],
        *weights: Tensor,
    ) -> Tensor:
        x, (batch, length, width) = x.contiguous(), x.shape
        heads, groups, hidden, tokens = config.heads, config.groups, config.hidden, batch * length
        qkv = width + 2 * groups * config.head_width
        cos, sin = (each.contiguous() for each in rotary) if rotary else (None, None)
        turned = 0 if cos is None or len(cos) == 1 else length * config.head_width
        ctx.heads = Heads(
            batch,
            length,
            heads,
            groups,
            config.head_width,
            config.qk_norm,
            turned,
            _at(cos),
            _at(sin),
            config.norm_eps,
        )
        numbers = tokens * (3 * width + qkv + hidden) + SIDE * hidden  # some rows more are read
        halves = torch.empty(numbers, dtype=torch.bfloat16)
        floats = torch.empty(tokens * (2 + heads + groups + width))
        mixing, adding = dropout
        ctx.drops = cpu_kernels.drawn(mixing), cpu_kernels.drawn(adding), cpu_kernels.drawn(adding)
        ctx.sizes = {
            **dict(zip(HALVES, (width, qkv, width, width, hidden), strict=True)),
            **dict(zip(FLOATS, (1, heads + groups, width, 1), strict=True)),
        }
        ctx.hidden = hidden
        ctx.save_for_backward(x, halves, floats, cos, sin, first, *weights)
        out = torch.empty_like(x)
        spare = _spare(ctx)
        given = _given(ctx, halves, floats, first, weights, spare)
        cpu_kernels.call("block", ctx.heads, given, x, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, halves, floats, _, _, first, *weights = ctx.saved_tensors
        chunks = cpu_kernels.chunks_of_a_block(ctx.heads)
        parts = {name: torch.empty(chunks, x.shape[-1]) for name in ("norm1", "norm2")}
        found = [
            parts[name] if name in parts else torch.empty_like(weight)
            for name, weight in zip(WEIGHTS, weights, strict=True)
        ]
        to_x = torch.empty_like(x)
        spare = _spare(ctx)
        given = _given(ctx, halves, floats, first, weights, spare)
        to = _Gradients(*(each.data_ptr() for each in (*found, to_x)))
        cpu_kernels.call("block_backward", ctx.heads, given, x, gradients[0].contiguous(), to)
        summed = [
            each.sum(0) if name in parts else each
            for name, each in zip(WEIGHTS, found, strict=True)
        ]
        return to_x, None, None, None, None, *summed


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _spare(ctx: Any) -> Tensor:
    """Memory to work in."""
    size = cpu_kernels.spare_of_a_block(ctx.heads, ctx.hidden)
    return torch.empty(size, dtype=torch.uint8)


def _given(
    ctx: Any, halves: Tensor, floats: Tensor, first: Tensor | None, weights: Any, spare: Tensor
) -> _Block:
    tokens = ctx.heads.batch * ctx.heads.length
    places: dict[str, int] = {}
    for kept, names, size in ((halves, HALVES, 2), (floats, FLOATS, 4)):
        at = kept.data_ptr()
        for name in names:
            places[name] = at
            at += tokens * ctx.sizes[name] * size
    return _Block(
        ctx.hidden,
        0,
        *(weight.data_ptr() for weight in weights),
        _at(first),
        *ctx.drops,
        *(places[name] for name in (*HALVES, *FLOATS)),
        spare.data_ptr(),
    )
