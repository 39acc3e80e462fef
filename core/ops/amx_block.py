"""An autograd function on c/amx_block.c: one call computes a block of the default architecture, or
its gradients, in bfloat16 on AMX tiles. Calling each operation from Python takes longer than the
operations of a small model. The plain form is `model.sequence_model.Block`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from . import native_calls
from .cpu_kernels import supports_tensor as kernels_support_tensor
from .native_calls import MACRO_TILE, Dropout, address, call, dropout_of, heads_of
from .reference import Rotary

MAX_POSITIONS = 512  # of a sequence; the workspace of a head grows with their square

_pointer = ctypes.c_void_p
WEIGHTS = ("norm1", "qkv", "out", "norm2", "up", "down")
DROPOUTS = ("attention_dropout", "mixer_dropout", "ffn_dropout")
# the buffers that the forward call writes and the backward call reads, in bfloat16 and float32
BF16_BUFFERS = ("norm1_out", "qkv_out", "attention_out", "norm2_out", "up_out")
FP32_BUFFERS = ("norm1_inverse_rms", "qk_inverse_rms", "x_mid", "norm2_inverse_rms")


class _Block(ctypes.Structure):
    _fields_ = [
        ("hidden", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        *((name, _pointer) for name in (*WEIGHTS, "first_visible")),
        *((name, Dropout) for name in DROPOUTS),
        *((name, _pointer) for name in (*BF16_BUFFERS, *FP32_BUFFERS, "workspace")),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, _pointer) for name in (*WEIGHTS, "x")]


def supports_config(config: ModelConfig) -> bool:
    """Whether amx_block.c can compute the blocks of a model of this config."""
    return (
        (config.norm, config.norm_position, config.ffn, set(config.mixers.split(",")))
        == ("rmsnorm", "pre", "relu2", {"attention"})
        and not (config.bias or config.qkv_bias or config.qk_norm_weights)
        and not (config.window or config.encoder_layers)
        and config.heads * config.head_width == config.width
        and config.residual
        and config.positions != "alibi"
        and config.head_width % MACRO_TILE == 0
        and config.hidden % MACRO_TILE == 0
        and config.context <= MAX_POSITIONS
    )


def supports_tensor(x: Tensor) -> bool:
    """Whether amx_block.c can compute a block on x (B, T, D), on this processor."""
    return (
        kernels_support_tensor(x)
        and native_calls.has_tiles()
        and x.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and x.shape[0] >= torch.get_num_threads()
    )


def block(
    x: Tensor,
    weights: list[Tensor],
    config: ModelConfig,
    rotary: Rotary | None,
    segment_start: Tensor | None,
    rates: tuple[float, float],
) -> Tensor:
    """A block's output (B, T, D) for x (B, T, D). weights: in the order of WEIGHTS, in float32;
    rotary and segment_start: as in `model.mixer.Context`; rates: of dropout on the attention
    weights and on the outputs of mixer and feed-forward."""
    out: Tensor = _AmxBlock.apply(x, config, rotary, segment_start, rates, *weights)  # type: ignore[no-untyped-call]
    return out


class _AmxBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        config: ModelConfig,
        rotary: Rotary | None,
        segment_start: Tensor | None,
        rates: tuple[float, float],
        *weights: Tensor,
    ) -> Tensor:
        x, (batch, length, width) = x.contiguous(), x.shape
        heads, groups, hidden, tokens = config.heads, config.groups, config.hidden, batch * length
        qkv = width + 2 * groups * config.head_width
        cos, sin = (each.contiguous() for each in rotary) if rotary else (None, None)
        shape = batch, length, heads, groups, config.head_width
        ctx.heads = heads_of(*shape, cos, sin, config.qk_norm, config.norm_eps)
        # the last matrix product reads up to a tile of rows beyond the end
        bf16_size = tokens * (3 * width + qkv + hidden) + MACRO_TILE * hidden
        bf16 = torch.empty(bf16_size, dtype=torch.bfloat16)
        fp32 = torch.empty(tokens * (2 + heads + groups + width))
        attention_rate, residual_rate = rates
        ctx.dropouts = (
            dropout_of(attention_rate, batch * heads * length * length),
            dropout_of(residual_rate, x.numel()),
            dropout_of(residual_rate, x.numel()),
        )
        ctx.sizes = {
            **dict(zip(BF16_BUFFERS, (width, qkv, width, width, hidden), strict=True)),
            **dict(zip(FP32_BUFFERS, (1, heads + groups, width, 1), strict=True)),
        }
        ctx.hidden = hidden
        ctx.save_for_backward(x, bf16, fp32, cos, sin, segment_start, *weights)
        out = torch.empty_like(x)
        workspace = native_calls.block_workspace(ctx.heads, hidden)
        block = _block_structure(ctx, bf16, fp32, segment_start, weights, workspace)
        call("block", ctx.heads, block, x, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, bf16, fp32, _, _, segment_start, *weights = ctx.saved_tensors
        chunks = native_calls.block_chunks(ctx.heads)
        by_chunk = {name: torch.empty(chunks, x.shape[-1]) for name in ("norm1", "norm2")}
        weight_gradients = [
            by_chunk[name] if name in by_chunk else torch.empty_like(weight)
            for name, weight in zip(WEIGHTS, weights, strict=True)
        ]
        x_gradient = torch.empty_like(x)
        workspace = native_calls.block_workspace(ctx.heads, ctx.hidden)
        block = _block_structure(ctx, bf16, fp32, segment_start, weights, workspace)
        into = _Gradients(*(each.data_ptr() for each in (*weight_gradients, x_gradient)))
        call("block_backward", ctx.heads, block, x, gradients[0].contiguous(), into)
        summed = [
            each.sum(0) if name in by_chunk else each
            for name, each in zip(WEIGHTS, weight_gradients, strict=True)
        ]
        return x_gradient, None, None, None, None, *summed


def _block_structure(
    ctx: Any,
    bf16: Tensor,
    fp32: Tensor,
    segment_start: Tensor | None,
    weights: Any,
    workspace: Tensor,
) -> _Block:
    tokens = ctx.heads.batch * ctx.heads.length
    addresses: dict[str, int] = {}
    for memory, names in ((bf16, BF16_BUFFERS), (fp32, FP32_BUFFERS)):
        at = memory.data_ptr()
        for name in names:
            addresses[name] = at
            at += tokens * ctx.sizes[name] * memory.element_size()
    return _Block(
        ctx.hidden,
        0,
        *(weight.data_ptr() for weight in weights),
        address(segment_start),
        *ctx.dropouts,
        *(addresses[name] for name in (*BF16_BUFFERS, *FP32_BUFFERS)),
        workspace.data_ptr(),
    )
