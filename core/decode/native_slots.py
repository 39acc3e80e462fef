"""The slots of a `Decoder` in C, by core/ops/c/decode_step.c: one call decodes all rows of a step.

Weights have the layout of decode_step.c, in any of quantized_linear.DTYPES; activations, norms,
keys and values are float32. Prefill and decoding share the code, so they compute the same sums.
"""

from __future__ import annotations

import ctypes
import math
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..model.attention import Attention
from ..model.conv import Convolution
from ..model.layers import FeedForward, Linear
from ..model.positions import alibi_slopes, rotary_angles, sinusoids
from ..model.rnn import CELLS, Recurrent
from ..model.sequence_model import SequenceModel
from ..ops.native_calls import address
from ..protocols import Ids
from .quantized_linear import DTYPES

PREFILL_TOKENS = 32  # tokens of a prompt in one call
NORMS = ("none", "rmsnorm", "layernorm")
FFNS = ("relu", "gelu", "relu2", "glu", "bilinear", "reglu", "geglu", "swiglu", "none")
MIXERS = ("attention", "rnn", "gru", "lstm", "conv")
TRIAL_STEPS, TRIAL_PERIOD_STEPS = 4, 64  # the first 4 steps of every 64 time one thread and all
MIN_PARALLEL_MULTIPLY_ADDS = 500_000  # of a step; a smaller one is not worth waking a second thread

_int, _float, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


LINEARS = ("in", "out", "up", "down")


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("inputs", "outputs", "dtype")),
        *((name, _pointer) for name in ("weight", "output_scale", "bias")),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", _pointer), ("bias", _pointer)]


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("mixer", "dilation")),
        *((name, _Norm) for name in ("mixer_norm", "mixer_out_norm", "ffn_norm", "ffn_out_norm")),
        *((name, _Linear) for name in LINEARS),
        *((name, _pointer) for name in ("keys", "values")),
    ]


class _Model(ctypes.Structure):
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
        ("final_norm", _Norm),
        ("lm_head", _Linear),
        ("blocks", ctypes.POINTER(_Block)),
        *((name, _pointer) for name in ("stream", "normed", "projected", "gates", "scores")),
    ]


class _Tokens(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("count", "logits_count")),
        *((name, _pointer) for name in ("ids", "sequences", "positions", "table_rows")),
        *((name, _pointer) for name in ("cos", "sin", "position_embedding", "logits")),
    ]


def supports(model: SequenceModel) -> bool:
    """Whether c/decode_step.c can compute the model: it needs the layers of this package in float32
    on a CPU, without an encoder, and of the mixers those of MIXERS."""
    weight, config = model.head.weight, model.config
    known_layers = isinstance(model.head, Linear) and all(
        isinstance(block.mixer, (Attention, Convolution, Recurrent))
        and isinstance(getattr(block.mixer, "out", model.head), Linear)
        and (isinstance(block.ffn, FeedForward) or (block.ffn is None and config.ffn == "none"))
        for block in model.blocks
    )
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return known_layers and on_cpu and not model.has_encoder


def _linears(mixer: Any) -> tuple[Linear, Linear]:
    """The layers `in` and `out` of a _Block."""
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
    DTYPES."""

    @torch.no_grad()
    def __init__(self, model: SequenceModel, library: ctypes.CDLL, dtype: str) -> None:
        self.config, self.library, self.dtype = model.config, library, dtype
        self.lanes, self.panel = library.lanes(), library.panel()
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

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._tensors.append(tensor)
        return tensor.data_ptr()

    def _norm(self, norm: nn.Module | None) -> _Norm:
        weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))
        return _Norm(self._keep(weight), self._keep(bias))

    def _linear(self, linear: Linear) -> _Linear:
        """The weight in panels (outputs / panel, inputs, panel), outputs padded with zeros."""
        padding = -linear.out_features % self.panel
        weight, scale = linear.weight.detach(), None
        if self.dtype == "int8":  # the largest weight of each output becomes 127
            scale = weight.abs().amax(1).clamp(min=1e-12) / 127
            weight, scale = (weight / scale[:, None]).round(), F.pad(scale, (0, padding))
        weight = F.pad(weight.to(getattr(torch, self.dtype)), (0, 0, 0, padding))
        panels = weight.view(-1, self.panel, linear.in_features).mT.contiguous()
        bias = None if linear.bias is None else F.pad(linear.bias.detach(), (0, padding))
        return _Linear(
            linear.in_features,
            linear.out_features,
            DTYPES.index(self.dtype),
            self._keep(panels),
            self._keep(scale),
            self._keep(bias),
        )

    def _block(self, block: Any, number: int) -> tuple[Any, ...]:
        """The fields of a _Block up to its caches."""
        mixer, ffn = block.mixer, block.ffn
        linears = [*_linears(mixer), *((ffn.up, ffn.down) if ffn is not None else ())]
        norms = block.mixer_norm, block.mixer_out_norm, block.ffn_norm, block.ffn_out_norm
        return (
            MIXERS.index(self.config.mixer(number)),
            mixer.dilation if isinstance(mixer, Convolution) else 0,
            *(self._norm(norm) for norm in norms),
            *(self._linear(each) for each in linears),
            *(_Linear() for _ in LINEARS[len(linears) :]),
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


class _ThreadChooser:
    """Chooses one thread or all for a step, whichever was faster in the last trial. Threads wait
    for each other some fifty times a step: where other processes keep one of them from running,
    waiting costs many times what threads gain. The results are bit-identical."""

    def __init__(self, all_threads: int) -> None:
        self.all = self.best = all_threads
        self.steps, self.seconds = 0, dict.fromkeys((1, all_threads), 0.0)

    def choose(self) -> int:
        trial = self.steps % TRIAL_PERIOD_STEPS
        return self.best if trial >= TRIAL_STEPS else (1, self.all)[trial % 2]

    def record(self, threads: int, seconds: float) -> None:
        trial, self.steps = self.steps % TRIAL_PERIOD_STEPS, self.steps + 1
        if trial < TRIAL_STEPS:
            self.seconds[threads] += seconds
        if trial == TRIAL_STEPS - 1:
            self.best = min(self.seconds, key=self.seconds.__getitem__)
            self.seconds = dict.fromkeys(self.seconds, 0.0)


def _make_cache(
    config: ModelConfig,
    block: int,
    rows: int,
    positions: int,
    lanes: int,
    value_width: int,
    state_width: int,
) -> tuple[Tensor, Tensor]:
    """The fields keys and values of a _Block, see decode_step.c."""
    mixer, nothing = config.mixer(block), torch.zeros(0)
    if mixer == "attention":
        keys = torch.zeros(rows, config.groups, positions // lanes, config.head_width, lanes)
        return keys, torch.zeros(rows, config.groups, positions, value_width)
    if mixer == "conv":
        return torch.zeros(rows, positions, config.width), nothing
    return torch.zeros(rows, 2, state_width), nothing


class NativeSlots:
    """The KV caches of `rows` rows, up to `length` ids each, and the logits of their next ids."""

    def __init__(self, native: NativeModel, rows: int, length: int) -> None:
        self.native, self.rows = native, rows
        config, lanes = native.config, native.lanes
        positions = round_up(length, lanes)
        max_tokens = max(rows, PREFILL_TOKENS)
        qkv_width = config.width + 2 * config.groups * config.head_width
        gates = max(
            (CELLS[name][1] for name in config.mixers.split(",") if name in CELLS), default=1
        )
        projected_width = max(
            *(2 * config.hidden, qkv_width), *(max(2, gates, config.kernel) * config.width,)
        )
        buffer_stride = round_up(projected_width, native.panel) + native.panel
        value_width = round_up(config.head_width, 2 * lanes)
        state_width = round_up(config.width, lanes)
        # the extra row is for prefill: `assign` copies it to the row of the prompt
        self.caches = [
            _make_cache(config, number, rows + 1, positions, lanes, value_width, state_width)
            for number in range(config.layers)
        ]
        blocks = [
            _Block(*block, *(tensor.data_ptr() for tensor in cache))
            for block, cache in zip(native.blocks, self.caches, strict=True)
        ]
        self._thread_choosers: dict[int, _ThreadChooser] = {}  # by the number of tokens of a step
        # more threads than panels of the widest product would only wait
        self.threads = min(torch.get_num_threads(), -(-projected_width // native.panel))
        shapes = [(max_tokens, buffer_stride)] * 4 + [(self.threads, positions)]
        self._buffers = [torch.zeros(shape) for shape in shapes]
        logits_stride = round_up(config.vocab_size, native.panel)
        self._model = _Model(
            config.layers,
            config.width,
            config.heads,
            config.groups,
            config.head_width,
            value_width,
            config.hidden,
            state_width,
            positions,
            NORMS.index(config.norm),
            config.norm_position != "post",
            config.norm_position == "sandwich",
            config.residual,
            FFNS.index(config.ffn),
            config.qk_norm,
            config.window,
            config.kernel,
            buffer_stride,
            logits_stride,
            config.norm_eps,
            config.softcap,
            math.sqrt(config.width) if config.positions == "sinusoidal" else 1.0,
            native.embedding,
            address(native.slopes),
            native.final_norm,
            native.lm_head,
            (_Block * config.layers)(*blocks),
            *(buffer.data_ptr() for buffer in self._buffers),
        )
        self._inputs = np.zeros((4, max_tokens), np.int64)  # ids, sequences, positions, table_rows
        self._tokens = _Tokens(0, 0, *self._addresses(), *map(address, native.default_tables))
        self._step_logits = torch.zeros(rows, logits_stride)
        self._row_logits = torch.zeros(rows, logits_stride)

    def _addresses(self) -> list[int]:
        return [each.ctypes.data for each in self._inputs]

    def _step(
        self, rows: Ids | int, ids: Ids, indices: Ids, positions: Ids | None, logits: Tensor | None
    ) -> None:
        """Runs tokens ids (n,), each at its index (n,) in the cache of a row. positions (n, axes):
        None if they are the indices. logits (N, stride): overwritten with the last N tokens'."""
        native, count, tokens, table_rows = self.native, len(ids), self._tokens, indices
        if positions is not None:
            table_rows = np.arange(count)
            tables = native.position_tables(torch.from_numpy(positions))
            tokens = _Tokens(0, 0, *self._addresses(), *map(address, tables))
        for buffer, values in zip(self._inputs, (ids, rows, indices, table_rows), strict=True):
            buffer[:count] = values
        tokens.count, tokens.logits_count = count, 0 if logits is None else len(logits)
        tokens.logits = address(logits)
        multiply_adds = native.multiply_adds_per_token * count
        if self.threads == 1 or multiply_adds < MIN_PARALLEL_MULTIPLY_ADDS:
            native.library.step(ctypes.byref(self._model), ctypes.byref(tokens), 1)
            return
        chooser = self._thread_choosers.setdefault(count, _ThreadChooser(self.threads))
        threads, start = chooser.choose(), time.perf_counter()
        native.library.step(ctypes.byref(self._model), ctypes.byref(tokens), threads)
        chooser.record(threads, time.perf_counter() - start)

    def prefill(self, ids: Ids, positions: Ids | None, given: int) -> tuple[int, Tensor]:
        """Writes the extra row of the cache, which holds one prompt at a time."""
        logits = self._step_logits[:1]
        for number, cache in enumerate(self.caches):
            if self.native.config.mixer(number) in CELLS:
                cache[0][self.rows] = 0
        for first in range(0, len(ids), PREFILL_TOKENS):
            chunk = slice(first, min(first + PREFILL_TOKENS, len(ids)))
            self._step(
                self.rows,
                ids[chunk],
                np.arange(chunk.start, chunk.stop),
                None if positions is None else positions[chunk],
                logits if chunk.stop == len(ids) else None,
            )
        return len(ids), logits[0].clone()

    def assign(self, row: int, prompt: tuple[int, Tensor]) -> None:
        length, logits = prompt
        blocks = -(-length // self.native.lanes)
        for number, (keys, values) in enumerate(self.caches):
            mixer = self.native.config.mixer(number)
            if mixer == "attention":
                keys[row, :, :blocks] = keys[self.rows, :, :blocks]
                values[row, :, :length] = values[self.rows, :, :length]
            elif mixer == "conv":
                keys[row, :length] = keys[self.rows, :length]
            else:
                keys[row] = keys[self.rows]
        self._row_logits[row] = logits

    def feed(self, rows: Ids, ids: Ids, lengths: Ids, positions: Ids | None) -> None:
        if len(rows) == self.rows:
            self._step(rows, ids, lengths, positions, self._row_logits)
            return
        self._step(rows, ids, lengths[rows], positions, self._step_logits[: len(rows)])
        self._row_logits[torch.from_numpy(rows)] = self._step_logits[: len(rows)]

    def logits(self) -> Tensor:
        return self._row_logits[:, : self.native.config.vocab_size]
