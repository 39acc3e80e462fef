"""The models that core/ops/c/decode_step.c computes, and their weights in its layout."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.attention import Attention
from ..model.conv import Convolution
from ..model.layers import FeedForward, Linear
from ..model.positions import alibi_slopes, rotary_angles, sinusoids
from ..model.rnn import CELLS, Recurrent
from ..model.sequence_model import SequenceModel
from ..ops.native_calls import MACRO_TILE, address
from .quantized_linear import DTYPES

NORMS = ("none", "rmsnorm", "layernorm")
FFNS = ("relu", "gelu", "relu2", "glu", "bilinear", "reglu", "geglu", "swiglu", "none")
MIXERS = ("attention", "rnn", "gru", "lstm", "conv")
LINEARS = ("in", "out", "up", "down")
TILED = len(DTYPES)  # the dtype of a bfloat16 weight that is packed for tiles, in decode_step.c
MAX_QUERIES = 5  # of decode_step.c
NORM_PLACES = ("mixer_norm", "mixer_out_norm", "ffn_norm", "ffn_out_norm")

_int, _float, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class LinearStruct(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("inputs", "outputs", "dtype")),
        *((name, _pointer) for name in ("weight", "output_scale", "bias")),
    ]


class NormStruct(ctypes.Structure):
    _fields_ = [("weight", _pointer), ("bias", _pointer)]


class BlockStruct(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("mixer", "dilation")),
        *((name, NormStruct) for name in NORM_PLACES),
        *((name, LinearStruct) for name in LINEARS),
        *((name, _pointer) for name in ("keys", "values", "prefix_keys", "prefix_values")),
    ]


class ModelStruct(ctypes.Structure):
    _fields_ = [
        *(
            (name, _int)
            for name in (
                "layers",
                "width",
                "query_heads",
                "kv_heads",
                "head_width",
                "value_width",
                "hidden",
                "state_width",
                "cache_positions",
                "prefix_positions",
                "cache_dtype",
                "norm_kind",
                "pre_norm",
                "sandwich",
                "residual",
                "ffn_kind",
                "qk_norm",
                "window",
                "kernel",
                "buffer_stride",
                "logits_stride",
            )
        ),
        *((name, _float) for name in ("eps", "softcap", "embedding_scale")),
        *((name, _pointer) for name in ("embedding", "slopes")),
        ("final_norm", NormStruct),
        ("lm_head", LinearStruct),
        ("blocks", ctypes.POINTER(BlockStruct)),
        *((name, _pointer) for name in ("stream", "normed", "projected", "gates", "scores")),
        ("rounded", _pointer),
    ]


class TokensStruct(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("count", "logits_count")),
        *((name, _pointer) for name in ("ids", "sequences", "positions", "table_rows")),
        *((name, _pointer) for name in ("prefixes", "prefix_lengths", "additions")),
        ("times", ctypes.c_int64),
        *((name, _pointer) for name in ("cos", "sin", "position_embedding", "logits")),
    ]


def supports(model: SequenceModel, features: bool = False) -> bool:
    """Whether c/decode_step.c can compute the model: it needs the layers of this package in float32
    on a CPU, without an encoder, and of the mixers those of MIXERS. features: whether the caller
    adds what the model makes of the features of an id (`TokensStruct.additions`)."""
    weight, config = model.head.weight, model.config
    known_layers = isinstance(model.head, Linear) and all(
        isinstance(block.mixer, (Attention, Convolution, Recurrent))
        and isinstance(getattr(block.mixer, "out", model.head), Linear)
        and (isinstance(block.ffn, FeedForward) or (block.ffn is None and config.ffn == "none"))
        for block in model.blocks
    )
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    added = features or model.features is None
    known_heads = config.head_dim in (0, config.width // config.heads)
    return (
        known_layers
        and on_cpu
        and added
        and known_heads
        and not config.qk_norm_weights
        and not model.has_encoder
    )


def _linears(mixer: Any) -> tuple[Linear, Linear]:
    """The layers `in` and `out` of a BlockStruct."""
    if isinstance(mixer, Attention):
        return mixer.qkv, mixer.out
    if isinstance(mixer, Convolution):
        return mixer.taps, mixer.out
    cell = mixer.cell
    bias = (cell.bias_ih_l0, cell.bias_hh_l0) if cell.bias else (None, None)
    first, second = zip((cell.weight_ih_l0, cell.weight_hh_l0), bias, strict=True)
    return _as_linear(*first), _as_linear(*second)


def _as_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    with torch.device("meta"):  # no initial values, which would take random numbers
        linear = Linear(weight.shape[1], (weight.shape[0],), bias=False)
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    linear.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)  # type: ignore[assignment]
    return linear


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


class NativeModel:
    """A model's weights in the layout of decode_step.c, for a `Decoder`. model: one that `supports`
    accepts, whose weights no longer change; library: from `native_library.library`; dtype: one of
    DTYPES. In bfloat16, tiles compute the products where the processor has them, and both factors
    are rounded. cache_dtype: of keys and values, float32 or bfloat16."""

    @torch.no_grad()
    def __init__(
        self, model: SequenceModel, library: ctypes.CDLL, dtype: str, cache_dtype: str = "float32"
    ) -> None:
        self.config, self.library, self.dtype = model.config, library, dtype
        self.cache_dtype = cache_dtype
        self.lanes, self.panel = library.lanes(), library.panel()
        self.by_tiles = dtype == "bfloat16" and bool(library.tiles())
        self._tensors: list[Tensor] = []  # the structures point into their memory
        self.position_embedding = model.position_embedding
        self.embedding = self._keep(model.embedding.weight)
        self.final_norm, self.lm_head = self._norm(model.norm), self._linear(model.head)
        self.blocks = [self._block(block, number) for number, block in enumerate(model.blocks)]
        self.multiply_adds_per_token = sum(
            linear.inputs * linear.outputs for block in self.blocks for linear in block[-4:]
        )
        alibi = self.config.positions == "alibi"
        self.slopes = alibi_slopes(self.config.heads, torch.device("cpu")) if alibi else None
        counting = torch.arange(model.config.context)[:, None].expand(-1, model.config.axes)
        self.default_tables = self.position_tables(counting)

        self.logits_stride = round_up(model.config.vocab_size, self.panel)
        self.value_width = round_up(model.config.head_width, 2 * self.lanes)
        self.state_width = round_up(model.config.width, self.lanes)

    @property
    def projected_width(self) -> int:
        """The most numbers that a token has between two products."""
        config = self.config
        gates = max(
            (CELLS[name][1] for name in config.mixers.split(",") if name in CELLS), default=1
        )
        qkv_width = config.width + 2 * config.groups * config.head_width
        widest: tuple[int, ...] = (
            2 * config.hidden,
            qkv_width,
            max(2, gates, config.kernel) * config.width,
        )
        return max(widest)

    @property
    def threads(self) -> int:
        """More threads than panels of the widest product would only wait."""
        threads: int = min(torch.get_num_threads(), -(-self.projected_width // self.panel))
        return threads

    def key_value_cache(self, rows: int, positions: int) -> tuple[Tensor, Tensor]:
        """Keys and values of an attention layer, for `positions`, a multiple of the lanes."""
        config, blocks = self.config, positions // self.lanes
        shape, dtype = (rows, config.groups), getattr(torch, self.cache_dtype)
        keys = torch.zeros(*shape, blocks, config.head_width, self.lanes, dtype=dtype)
        return keys, torch.zeros(*shape, positions, self.value_width, dtype=dtype)

    def struct(
        self,
        caches: Sequence[tuple[Tensor, ...]],
        positions: int,
        max_tokens: int,
        prefix_positions: int = 0,
    ) -> tuple[ModelStruct, list[Tensor]]:
        """The model with its caches, one tuple a layer: keys, values and those of prefixes; and the
        buffers that it points to, which the caller keeps."""
        config = self.config
        buffer_stride = round_up(self.projected_width, self.panel) + self.panel
        of_scores = (self.threads, MAX_QUERIES, prefix_positions + positions)
        shapes = [*[(max_tokens, buffer_stride)] * 4, of_scores]
        buffers = [torch.zeros(shape) for shape in shapes]
        rounded = max_tokens + MACRO_TILE if self.by_tiles else 0
        buffers.append(torch.zeros(rounded, buffer_stride, dtype=torch.bfloat16))
        blocks = [
            BlockStruct(*block, *(tensor.data_ptr() for tensor in cache))
            for block, cache in zip(self.blocks, caches, strict=True)
        ]
        return (
            ModelStruct(
                config.layers,
                config.width,
                config.heads,
                config.groups,
                config.head_width,
                self.value_width,
                config.hidden,
                self.state_width,
                positions,
                prefix_positions,
                DTYPES.index(self.cache_dtype),
                NORMS.index(config.norm),
                config.norm_position != "post",
                config.norm_position == "sandwich",
                config.residual,
                FFNS.index(config.ffn),
                config.qk_norm,
                config.window,
                config.kernel,
                buffer_stride,
                self.logits_stride,
                config.norm_eps,
                config.softcap,
                math.sqrt(config.width) if config.positions == "sinusoidal" else 1.0,
                self.embedding,
                address(self.slopes),
                self.final_norm,
                self.lm_head,
                (BlockStruct * config.layers)(*blocks),
                *(buffer.data_ptr() for buffer in buffers),
            ),
            buffers,
        )

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._tensors.append(tensor)
        return tensor.data_ptr()

    def _norm(self, norm: nn.Module | None) -> NormStruct:
        weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))
        return NormStruct(self._keep(weight), self._keep(bias))

    def _linear(self, linear: Linear) -> LinearStruct:
        """The weight in panels (outputs / panel, inputs, panel), outputs padded with zeros."""
        padding = -linear.out_features % self.panel
        weight, scale = linear.weight.detach(), None
        if self.dtype == "int8":  # the largest weight of each output becomes 127
            scale = weight.abs().amax(1).clamp(min=1e-12) / 127
            weight, scale = (weight / scale[:, None]).round(), F.pad(scale, (0, padding))
        weight = F.pad(weight.to(getattr(torch, self.dtype)), (0, 0, 0, padding))
        panels = weight.view(-1, self.panel, linear.in_features).mT
        if self.by_tiles:
            weight = F.pad(weight, (0, -linear.in_features % MACRO_TILE))
            panels = weight.view(-1, MACRO_TILE // 2, weight.shape[1] // 2, 2).transpose(1, 2)
        bias = None if linear.bias is None else F.pad(linear.bias.detach(), (0, padding))
        return LinearStruct(
            linear.in_features,
            linear.out_features,
            TILED if self.by_tiles else DTYPES.index(self.dtype),
            self._keep(panels.contiguous()),
            self._keep(scale),
            self._keep(bias),
        )

    def _block(self, block: Any, number: int) -> tuple[Any, ...]:
        """The fields of a BlockStruct up to its caches."""
        mixer, ffn = block.mixer, block.ffn
        linears = [*_linears(mixer), *((ffn.up, ffn.down) if ffn is not None else ())]
        norms = [getattr(block, name) for name in NORM_PLACES]
        return (
            MIXERS.index(self.config.mixer(number)),
            mixer.dilation if isinstance(mixer, Convolution) else 0,
            *(self._norm(norm) for norm in norms),
            *(self._linear(each) for each in linears),
            *(LinearStruct() for _ in LINEARS[len(linears) :]),
        )

    @torch.no_grad()
    def position_tables(self, positions: Tensor) -> tuple[Tensor | None, ...]:
        """cos and sin (N, head_width) and the embedding (N, width) of positions (N, axes);
        None for those that the model does not use."""
        config = self.config
        if config.positions == "rope":
            return *rotary_angles(positions, config), None
        if config.positions == "sinusoidal":
            return None, None, sinusoids(positions[:, 0], config.width)
        if self.position_embedding is not None:
            return None, None, self.position_embedding.weight[positions[:, 0]]
        return None, None, None
