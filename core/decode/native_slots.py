"""Rows of a `Decoder` by core/ops/c/decode_step.c: a step is one call, for as many rows as are fed.

Weights are laid out as step.c reads them, in any of packed.DTYPES; activations, norms, keys and
values are float32. A prompt is read by the same code as a drawn id, so by the same sums.
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

from ..model.attention import Attention
from ..model.layers import FeedForward, Linear
from ..model.positions import rotary_angles, sinusoids
from ..model.sequence_model import SequenceModel
from ..protocols import Ids
from .quantized_linear import DTYPES

CHUNK = 32  # ids of a prompt that are read at once
NORMS = ("none", "rmsnorm", "layernorm")
FFNS = ("relu", "gelu", "relu2", "swiglu")
TRIED, AGAIN = 4, 64  # the first 4 steps of every 64 try both one thread and all
ALONE = 500_000  # products of a step for which a second thread is not woken

_int, _float, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("inputs", "outputs", "kind")),
        *((name, _pointer) for name in ("weight", "scale", "bias")),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", _pointer), ("bias", _pointer)]


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("mixer_norm", "ffn_norm")),
        *((name, _Linear) for name in ("qkv", "out", "up", "down")),
        *((name, _pointer) for name in ("keys", "values")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, _int)
            for name in (
                "layers",
                "width",
                "heads",
                "groups",
                "head_width",
                "value_width",
                "hidden",
                "positions",
                "norm",
                "pre",
                "ffn",
                "qk_norm",
                "stride",
                "logits_stride",
            )
        ),
        *((name, _float) for name in ("eps", "softcap", "embedding_scale")),
        ("embedding", _pointer),
        ("last", _Norm),
        ("head", _Linear),
        ("blocks", ctypes.POINTER(_Block)),
        *((name, _pointer) for name in ("stream", "normed", "wide", "scores")),
    ]


class _Tokens(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("count", "wanted")),
        *(
            (name, _pointer)
            for name in ("ids", "rows", "at", "places", "cos", "sin", "place", "logits")
        ),
    ]


def supports(model: SequenceModel) -> bool:
    """Whether c/decode_step.c computes the model: its parts are those of this package, on a CPU."""
    weight = model.head.weight
    linears = isinstance(model.head, Linear) and all(
        isinstance(block.mixer, Attention)
        and isinstance(block.ffn, FeedForward)
        and isinstance(block.mixer.qkv, Linear)
        for block in model.blocks
    )
    plain = linears and not model.encodes
    return plain and weight.device.type == "cpu" and weight.dtype == torch.float32


def up_to(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Native:
    """A model's weights as step.c reads them, for a `Decoder`. `library`: what compiled.library
    gives; dtype: one of DTYPES. The model is one that `supports` says yes to; its weights are not
    to change."""

    @torch.no_grad()
    def __init__(self, model: SequenceModel, library: ctypes.CDLL, dtype: str) -> None:
        self.config, self.library, self.dtype = model.config, library, dtype
        self.lanes, self.panel = library.lanes(), library.panel()
        self._kept: list[Tensor] = []  # what the structures point to
        self.position_embedding = model.position_embedding
        self.embedding, self.last = self._keep(model.embedding.weight), self._norm(model.norm)
        self.head = self._linear(model.head)
        self.blocks = [self._block(block) for block in model.blocks]
        self.products = sum(
            each.inputs * each.outputs for block in self.blocks for each in block[2:6]
        )
        steps = torch.arange(model.config.context)[:, None].expand(-1, model.config.axes)
        self.plain_tables = self.tables(steps)

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _norm(self, norm: nn.Module | None) -> _Norm:
        weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))
        return _Norm(self._keep(weight), self._keep(bias))

    def _linear(self, linear: Linear) -> _Linear:
        """The weight in panels (outputs / panel, inputs, panel), zeros behind the last output."""
        missing = -linear.out_features % self.panel
        weight, scale = linear.weight.detach(), None
        if self.dtype == "int8":  # each output by a scale of its own: its largest weight is 127
            scale = weight.abs().amax(1).clamp(min=1e-12) / 127
            weight, scale = (weight / scale[:, None]).round(), F.pad(scale, (0, missing))
        weight = F.pad(weight.to(getattr(torch, self.dtype)), (0, 0, 0, missing))
        panels = weight.view(-1, self.panel, linear.in_features).mT.contiguous()
        bias = None if linear.bias is None else F.pad(linear.bias.detach(), (0, missing))
        return _Linear(
            linear.in_features,
            linear.out_features,
            DTYPES.index(self.dtype),
            self._keep(panels),
            self._keep(scale),
            self._keep(bias),
        )

    def _block(self, block: Any) -> tuple[Any, ...]:
        mixer, ffn = block.mixer, block.ffn
        return (
            *(self._norm(norm) for norm in (block.mixer_norm, block.ffn_norm)),
            *(self._linear(each) for each in (mixer.qkv, mixer.out, ffn.up, ffn.down)),
        )

    @torch.no_grad()
    def tables(self, positions: Tensor) -> tuple[Tensor | None, ...]:
        """cos and sin (N, head_width), and what is added to an embedding (N, width), of positions
        (N, axes): each or none."""
        config = self.config
        if config.positions == "rope":
            return *rotary_angles(positions, config), None
        if config.positions == "sinusoidal":
            return None, None, sinusoids(positions[:, 0], config.width)
        if self.position_embedding is not None:
            return None, None, self.position_embedding.weight[positions[:, 0]]
        return None, None, None


class _Pace:
    """How many threads a step gets: one or all, whichever took less time when both were last tried.
    All wait for each other some fifty times a step: where other processes keep one of them from
    running, that costs many times what it brings. Bits are the same."""

    def __init__(self, all_threads: int) -> None:
        self.all = self.best = all_threads
        self.steps, self.seconds = 0, dict.fromkeys((1, all_threads), 0.0)

    def threads(self) -> int:
        at = self.steps % AGAIN
        return self.best if at >= TRIED else (1, self.all)[at % 2]

    def took(self, threads: int, seconds: float) -> None:
        at, self.steps = self.steps % AGAIN, self.steps + 1
        if at < TRIED:
            self.seconds[threads] += seconds
        if at == TRIED - 1:
            self.best = min(self.seconds, key=self.seconds.__getitem__)
            self.seconds = dict.fromkeys(self.seconds, 0.0)


class NativeSlots:
    """What `rows` rows have read, up to `length` ids each, and the logits behind it."""

    def __init__(self, native: Native, rows: int, length: int) -> None:
        self.native, self.rows = native, rows
        config, lanes = native.config, native.lanes
        positions = up_to(length, lanes)
        count = max(rows, CHUNK)
        wide = max(2 * config.hidden, config.width + 2 * config.groups * config.head_width)
        stride = up_to(wide, native.panel) + native.panel
        value_width = up_to(config.head_width, 2 * lanes)
        # one row more than asked for: where prompts are read
        shape = (config.layers, rows + 1, config.groups)
        self.keys = torch.zeros(*shape, positions // lanes, config.head_width, lanes)
        self.values = torch.zeros(*shape, positions, value_width)
        blocks = [
            _Block(*block, keys.data_ptr(), values.data_ptr())
            for block, keys, values in zip(native.blocks, self.keys, self.values, strict=True)
        ]
        self._paces: dict[int, _Pace] = {}  # tokens of a step -> how many threads it gets
        # those beyond the panels of the widest product would only wait
        self.threads = min(torch.get_num_threads(), -(-wide // native.panel))
        sizes = [(count, stride)] * 3 + [(self.threads, positions)]
        self._buffers = [torch.zeros(size) for size in sizes]
        self.stride = up_to(config.vocab_size, native.panel)
        self._model = _Model(
            config.layers,
            config.width,
            config.heads,
            config.groups,
            config.head_width,
            value_width,
            config.hidden,
            positions,
            NORMS.index(config.norm),
            config.norm_position == "pre",
            FFNS.index(config.ffn),
            config.qk_norm,
            stride,
            self.stride,
            config.norm_eps,
            config.softcap,
            math.sqrt(config.width) if config.positions == "sinusoidal" else 1.0,
            native.embedding,
            native.last,
            native.head,
            (_Block * config.layers)(*blocks),
            *(buffer.data_ptr() for buffer in self._buffers),
        )
        self._inputs = np.zeros((4, count), np.int64)  # ids, rows, at, places
        self._plain = _Tokens(0, 0, *self._pointers(), *map(_address, native.plain_tables))
        self.out, self.current = torch.zeros(rows, self.stride), torch.zeros(rows, self.stride)

    def _pointers(self) -> list[int]:
        return [each.ctypes.data for each in self._inputs]

    def _step(
        self, rows: Ids | int, ids: Ids, at: Ids, positions: Ids | None, logits: Tensor | None
    ) -> None:
        """n tokens, each at its place of a row; logits (N, stride) of the last N are written."""
        native, count, tokens, places = self.native, len(ids), self._plain, at
        if positions is not None:
            places = np.arange(count)
            tables = native.tables(torch.from_numpy(positions))
            tokens = _Tokens(0, 0, *self._pointers(), *map(_address, tables))
        for kept, given in zip(self._inputs, (ids, rows, at, places), strict=True):
            kept[:count] = given
        tokens.count, tokens.wanted = count, 0 if logits is None else len(logits)
        tokens.logits = _address(logits)
        if self.threads == 1 or native.products * count < ALONE:
            native.library.step(ctypes.byref(self._model), ctypes.byref(tokens), 1)
            return
        pace = self._paces.setdefault(count, _Pace(self.threads))
        threads, began = pace.threads(), time.perf_counter()
        native.library.step(ctypes.byref(self._model), ctypes.byref(tokens), threads)
        pace.took(threads, time.perf_counter() - began)

    def read(self, ids: Ids, positions: Ids | None, given: int) -> tuple[int, Tensor]:
        """Into the row behind the last."""
        logits = self.out[:1]
        for first in range(0, len(ids), CHUNK):
            part = slice(first, min(first + CHUNK, len(ids)))
            at = np.arange(part.start, part.stop)
            self._step(
                self.rows,
                ids[part],
                at,
                None if positions is None else positions[part],
                logits if part.stop == len(ids) else None,
            )
        return len(ids), logits[0].clone()

    def assign(self, row: int, read: tuple[int, Tensor]) -> None:
        length, logits = read
        blocks = -(-length // self.native.lanes)
        self.keys[:, row, :, :blocks] = self.keys[:, self.rows, :, :blocks]
        self.values[:, row, :, :length] = self.values[:, self.rows, :, :length]
        self.current[row] = logits

    def feed(self, rows: Ids, ids: Ids, at: Ids, positions: Ids | None) -> None:
        if len(rows) == self.rows:
            self._step(rows, ids, at, positions, self.current)
            return
        self._step(rows, ids, at[rows], positions, self.out[: len(rows)])
        self.current[torch.from_numpy(rows)] = self.out[: len(rows)]

    def logits(self) -> Tensor:
        return self.current[:, : self.native.config.vocab_size]
