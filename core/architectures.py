"""Architectures by name (--arch) and sizes by name (--size): presets of the fields of ModelConfig.

A size has about as many parameters in its blocks whatever the architecture, and so about as many
FLOPs a token. The learning rates of each architecture come from benchmarks/rates.py
(docs/architectures.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .config import ModelConfig
from .errors import ConfigError, nearest

SIZES: dict[str, dict[str, int]] = {
    "nano": dict(layers=2, heads=2, width=64),
    "tiny": dict(layers=4, heads=4, width=128),
    "small": dict(layers=6, heads=4, width=256),
    "base": dict(layers=8, heads=8, width=512),
    "large": dict(layers=12, heads=12, width=768),
}


@dataclass(frozen=True)
class Architecture:
    """model, train: fields of ModelConfig and TrainConfig that differ from their defaults. layers,
    widths: of each size, where they differ from SIZES."""

    about: str  # one line, with its origin
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, int, int, int, int] | None = None
    widths: tuple[int, int, int, int, int] | None = None

    def size(self, name: str) -> dict[str, int]:
        """The fields of ModelConfig that a size sets."""
        shape = dict(SIZES[name])
        number = list(SIZES).index(name)
        if self.layers and self.widths:
            shape["layers"], shape["width"] = self.layers[number], self.widths[number]
        if self.model.get("encoder_layers"):  # as many as the decoder has
            shape["encoder_layers"] = shape["layers"]
        return shape


# wirings of before 2020, as published: LayerNorm, biases, one matrix for embeddings and output
_PUBLISHED: dict[str, Any] = dict(
    norm="layernorm", norm_eps=1e-5, qk_norm=False, bias=True, tied=True, zero_init=False
)
# a plain stack of recurrent layers; no norm gives the first one inputs of size one
_RECURRENT: dict[str, Any] = dict(
    positions="none",
    ffn="none",
    norm="none",
    residual=False,
    qk_norm=False,
    bias=True,
    embedding_std=1.0,
)

_WITH_ENCODER: dict[str, Any] = dict(encoder_layers=1)  # as many as the decoder has, by size
_ENCODER_SIZES = (2, 3, 4, 6, 6), (40, 96, 208, 384, 720)

ARCHS: dict[str, Architecture] = {
    "transformer": Architecture(
        "today's defaults: pre-RMSNorm, rotary positions, ReLU squared, normalised queries and keys"
    ),
    "llama": Architecture(
        "Touvron et al. 2023: pre-RMSNorm, rotary positions, SwiGLU",
        dict(ffn="swiglu", qk_norm=False, zero_init=False, norm_eps=1e-5),
    ),
    "gpt2": Architecture(
        "Radford et al. 2019: pre-LayerNorm, learned positions, GELU",
        {**_PUBLISHED, "positions": "learned", "ffn": "gelu"},
    ),
    "post-ln": Architecture(
        "the decoder of Vaswani et al. 2017 by itself: post-LayerNorm, sinusoids, ReLU",
        {**_PUBLISHED, "norm_position": "post", "positions": "sinusoidal", "ffn": "relu"},
    ),
    "rnn": Architecture(
        "Elman 1990: a stack of simple recurrent layers",
        {**_RECURRENT, "mixers": "rnn"},
        dict(lr=0.04, weight_decay=0.01),
        (2, 2, 3, 3, 4),
        (156, 444, 888, 2048, 3264),
    ),
    "gru": Architecture(
        "Cho et al. 2014: a stack of gated recurrent layers",
        {**_RECURRENT, "mixers": "gru"},
        dict(lr=0.08, weight_decay=0.01),
        (2, 2, 3, 3, 4),
        (90, 256, 512, 1184, 1884),
    ),
    "lstm": Architecture(
        "Hochreiter & Schmidhuber 1997: a stack of LSTM layers",
        {**_RECURRENT, "mixers": "lstm"},
        dict(lr=0.08, weight_decay=0.01),
        (2, 2, 3, 3, 4),
        (78, 224, 444, 1024, 1632),
    ),
    "attention-rnn": Architecture(
        "Bahdanau et al. 2015: GRU layers that attend to their past states",
        {**_RECURRENT, "mixers": "attention-rnn"},
        dict(lr=0.04, weight_decay=0.01),
        (2, 2, 3, 3, 4),
        (74, 216, 432, 1008, 1608),
    ),
    "cnn": Architecture(
        "WaveNet (2016), TCN (2018): dilated causal convolutions",
        dict(mixers="conv", positions="none", ffn="none", qk_norm=False, bias=True),
        dict(lr=0.04),
        (6, 8, 10, 12, 14),
        (48, 120, 260, 544, 936),
    ),
    "vaswani": Architecture(
        "Vaswani et al. 2017 as published: encoder and decoder, post-LayerNorm, sinusoids, ReLU",
        {
            **_PUBLISHED,
            "norm_position": "post",
            "positions": "sinusoidal",
            "ffn": "relu",
            "dropout": 0.1,
            **_WITH_ENCODER,
        },
        dict(
            optimizer="adamw",
            adam_lr=0.008,
            beta2=0.98,
            weight_decay=0.0,
            warmup=0.1,
            schedule="inverse-sqrt",
            label_smoothing=0.1,
        ),
        *_ENCODER_SIZES,
    ),
    "encoder-decoder": Architecture(
        "the same shape in today's wiring: pre-RMSNorm, rotary positions, ReLU squared",
        _WITH_ENCODER,
        {},
        *_ENCODER_SIZES,
    ),
}


def architecture(name: str) -> Architecture:
    """ConfigError with similar names for an unknown one."""
    if name not in ARCHS:
        raise ConfigError(f"--arch {name}: no such architecture; {nearest(name, ARCHS)}")
    return ARCHS[name]


def model_config(arch: str, size: str, **other: Any) -> ModelConfig:
    """The architecture `arch` at `size`, with `other` fields; a list of mixers sets the number of
    layers. ConfigError for an unknown name."""
    chosen = architecture(arch)
    if size not in SIZES:
        raise ConfigError(f"--size {size}: no such size; {nearest(size, SIZES)}")
    shape = chosen.size(size)
    mixers = str(other.get("mixers", "")).split(",")
    if len(mixers) > 1:
        shape["layers"] = len(mixers)
    return ModelConfig(**{**chosen.model, **shape, **other})
