"""Configs of model, training and sampling: frozen dataclasses, validated, with presets by name.

Error messages name the flag that sets the field (`--set model.heads`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, get_args, get_type_hints

from .entry_points import entry_points
from .errors import ConfigError, nearest

T = TypeVar("T")
DISTRIBUTION = "tfm-toolkit"  # the name on PyPI, where `tfm` is another project
MIXERS = ("attention", "rnn", "gru", "lstm", "conv", "attention-rnn")
FFNS, GATED_FFNS = ("relu", "gelu", "relu2"), ("glu", "bilinear", "reglu", "geglu", "swiglu")
POSITIONS = ("rope", "sinusoidal", "learned", "alibi", "none")
ROPE_SCALES = {"": 0, "linear": 1, "llama3": 4}  # kinds of `rope_scaling`, and how many numbers
NAMES = {  # the fields of ModelConfig whose values are names; mixers is a list of them
    "mixers": MIXERS,
    "norm": ("layernorm", "rmsnorm", "none"),
    "norm_position": ("pre", "post", "sandwich"),
    "positions": POSITIONS,
    "ffn": (*FFNS, *GATED_FFNS, "none"),
}


def tfm_version() -> str:
    """The installed version."""
    from importlib.metadata import version

    return version(DISTRIBUTION)


def _check(ok: bool, flag: str, must: str, value: object) -> None:
    if not ok:
        raise ConfigError(f"--set {flag}: must be {must}, got {value}")


def check_names(fields: Mapping[str, object]) -> None:
    """ConfigError if one of the fields of NAMES has an unknown value."""
    for field, known in NAMES.items():
        if field in fields:
            value = str(fields[field])
            for name in value.split(",") if field == "mixers" else [value]:
                if name not in known and field == "mixers":  # of other packages
                    known = (*known, *sorted(entry_points("mixers")))
                _one_of(name, f"model.{field}", known)


def _one_of(value: str, flag: str, names: tuple[str, ...]) -> None:
    _check(value in names, flag, f"one of {', '.join(names)}", repr(value))


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a `SequenceModel`. The defaults are those of --arch transformer."""

    vocab_size: int = 256  # number of token ids
    layers: int = 4  # blocks of attention and feed-forward
    encoder_layers: int = 0  # blocks of an encoder of the source (0: the model has no encoder)
    heads: int = 4  # attention heads
    head_dim: int = 0  # dimensions of a head of attention (0: width / heads)
    kv_heads: int = 0  # key and value heads, for grouped-query attention (0: as many as heads)
    width: int = 128  # of the residual stream and the embeddings
    ffn_width: int = 0  # hidden width of the feed-forward (0: 4 * width, if gated 8/3 * width)
    context: int = 256  # the most positions of a row
    window: int = 0  # of sliding-window attention: the last positions that one sees (0: all)
    features: int = 0  # numbers beside each id, which are added to its embedding by a linear layer
    axes: int = 1  # coordinates of a position: 1 for text, 2 (row, column) for images
    # ranges of ids that are bins of an ordered quantity, whose embeddings training moves with those
    # of their neighbours: 17-1040 for ids 17 ... 1039; several are separated by commas
    ordered: str = ""
    # the layer that mixes positions: attention, rnn, gru, lstm, conv, attention-rnn or one of
    # another package, one for all blocks or a list of one a block, separated by commas
    mixers: str = "attention"
    kernel: int = 3  # positions that a convolution reads
    residual: bool = True  # a layer's output is added to its input; otherwise it replaces it
    norm: str = "rmsnorm"  # layernorm, rmsnorm, none
    # pre: x + f(norm(x)); post: norm(x + f(x)), as in 2017; sandwich: x + norm(f(norm(x)))
    norm_position: str = "pre"
    norm_eps: float = 1e-6  # added to the mean square or variance before the root
    positions: str = "rope"  # rope, sinusoidal, learned, alibi, none
    rope_theta: float = 10000.0  # base of the rotary frequencies
    # of those frequencies, for longer contexts than a model was trained on: linear:FACTOR, or
    # llama3:FACTOR,LOW,HIGH,CONTEXT as in Llama 3.1
    rope_scaling: str = ""
    # relu, gelu (tanh form), relu2; gated: glu, bilinear, reglu, geglu, swiglu; none
    ffn: str = "relu2"
    qk_norm: bool = True  # RMS-normalise queries and keys
    qk_norm_weights: bool = False  # that norm has weights, one for each dimension of a head
    bias: bool = False  # bias terms in linear layers and layernorm
    qkv_bias: bool = False  # bias terms of queries, keys and values, without `bias`
    tied: bool = False  # the output head shares the embedding matrix
    embedding_std: float = 0.02  # of the initial embeddings, of ids and of positions
    zero_init: bool = True  # output projections start at zero, so each block starts as identity
    dropout: float = 0.0  # probability, in training
    softcap: float = 0.0  # c: logits become c * tanh(logits / c) (0: off)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "heads", "width", "context", "axes", "kernel"):
            _check(getattr(self, name) >= 1, f"model.{name}", "at least 1", getattr(self, name))
        for name in (
            "kv_heads",
            "head_dim",
            "ffn_width",
            "softcap",
            "window",
            "encoder_layers",
            "features",
        ):
            _check(getattr(self, name) >= 0, f"model.{name}", "at least 0", getattr(self, name))
        _check(
            all(low < high <= self.vocab_size for low, high in self.ordered_ranges),
            "model.ordered",
            f"ranges within the vocabulary's {self.vocab_size} ids, such as 17-1040",
            self.ordered,
        )
        _check(self.norm_eps > 0, "model.norm_eps", "above 0", self.norm_eps)
        _check(self.embedding_std > 0, "model.embedding_std", "above 0", self.embedding_std)
        _check(self.rope_theta > 1, "model.rope_theta", "above 1", self.rope_theta)
        _check(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)
        check_names({name: getattr(self, name) for name in NAMES})
        _check(
            self.mixers.count(",") + 1 in (1, self.layers),
            "model.mixers",
            f"one name, or one for each of the {self.layers} blocks",
            self.mixers,
        )
        _check(
            self.head_dim > 0 or self.width % self.heads == 0 or not self.uses("heads"),
            "model.heads",
            f"a divisor of the width {self.width}",
            self.heads,
        )
        _check(
            self.heads % self.groups == 0,
            "model.kv_heads",
            f"a divisor of the {self.heads} heads",
            self.kv_heads,
        )
        _check(
            self.positions != "rope" or self.head_width % 2 == 0 or not self.uses("positions"),
            "model.heads",
            "such that width / heads is even (for rotary positions)",
            self.heads,
        )
        _check(
            self.positions not in ("learned", "sinusoidal", "alibi") or self.axes == 1,
            "model.positions",
            f"rope or none for positions of {self.axes} axes",
            self.positions,
        )

        kind, numbers = self.rope_scale
        _check(
            len(numbers) == ROPE_SCALES.get(kind) and all(number > 0 for number in numbers),
            "model.rope_scaling",
            "empty, linear:FACTOR or llama3:FACTOR,LOW,HIGH,CONTEXT",
            repr(self.rope_scaling),
        )

        encodes = self.encoder_layers > 0
        _check(
            not encodes or self.positions in ("rope", "learned", "sinusoidal"),
            "model.positions",
            "rope, learned or sinusoidal for a model with an encoder",
            self.positions,
        )
        weighted = encodes and self.qk_norm_weights
        _check(not weighted, "model.qk_norm_weights", "false for a model with an encoder", True)
        no_window = not (encodes and self.window)
        _check(no_window, "model.window", "0 for a model with an encoder", self.window)

    def uses(self, field: str) -> bool:
        """Whether a field means anything to the model's layers. A mixer of another package may use
        any."""
        mixers = set(self.mixers.split(","))
        if not mixers <= set(MIXERS) and field in ("heads", "window", "kernel", "positions"):
            return True
        attends = "attention" in mixers or self.encoder_layers > 0
        return {
            "heads": attends or "attention-rnn" in mixers,
            "kv_heads": attends,
            "head_dim": attends,
            "qk_norm": attends,
            "qk_norm_weights": attends and self.qk_norm,
            "qkv_bias": attends,
            "window": "attention" in mixers,
            "kernel": "conv" in mixers,
            "positions": attends or self.positions not in ("rope", "alibi"),
            "rope_theta": attends and self.positions == "rope",
            "rope_scaling": attends and self.positions == "rope",
            "ffn_width": self.ffn != "none",
            "norm_position": self.norm != "none",
            "norm_eps": attends and self.qk_norm or self.norm != "none",
            "zero_init": self.residual,
        }.get(field, True)

    @property
    def ordered_ranges(self) -> list[tuple[int, int]]:
        """The half-open ranges of `ordered`; (0, 0) for one that is none."""
        found = [re.fullmatch(r"(\d+)-(\d+)", each) for each in self.ordered.split(",") if each]
        return [(int(each[1]), int(each[2])) if each else (0, 0) for each in found]

    @property
    def head_width(self) -> int:
        """The dimensions of a head."""
        return self.head_dim or self.width // self.heads

    @property
    def rope_scale(self) -> tuple[str, tuple[float, ...]]:
        """Kind and numbers of `rope_scaling`, of which ROPE_SCALES has the count."""
        kind, _, numbers = self.rope_scaling.partition(":")
        try:
            return kind, tuple(float(number) for number in numbers.split(",") if number)
        except ValueError:
            return "", (0.0,)

    @property
    def groups(self) -> int:
        """The number of key and value heads."""
        return self.kv_heads or self.heads

    @property
    def gated(self) -> bool:
        """Whether a second matrix gates the hidden layer of the feed-forward."""
        return self.ffn in GATED_FFNS

    @property
    def hidden(self) -> int:
        """Hidden width of the feed-forward. 8/3 * width where it is gated, so that its third matrix
        costs no more parameters than an ungated feed-forward has."""
        if self.ffn_width:
            return self.ffn_width
        return -(-8 * self.width // 3 // 32) * 32 if self.gated else 4 * self.width

    def mixer(self, block: int) -> str:
        """The mixer of a block."""
        names = self.mixers.split(",")
        return names[block % len(names)]


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are trained."""

    steps: int = 1000  # optimiser steps in all
    batch: int = 48  # rows of `context` tokens in one micro-batch
    accumulate: int = 1  # micro-batches whose gradients are accumulated for one step
    optimizer: str = "muon"  # muon: Muon for the blocks' matrices, AdamW for the rest; adamw
    lr: float = 0.02  # peak learning rate of Muon
    adam_lr: float = 0.003  # peak learning rate of AdamW
    warmup: float = 0.02  # fraction of the steps in which the learning rates rise to their peak
    decay: float = 1.0  # fraction of the steps, at the end, in which they fall to zero
    # after the warm-up, linear: constant, then falling linearly; inverse-sqrt: with 1 / sqrt(step)
    schedule: str = "linear"
    momentum: float = 0.95  # of Muon
    beta1: float = 0.9  # of AdamW: decay of the mean of gradients
    beta2: float = 0.95  # of AdamW: decay of the mean of squared gradients
    weight_decay: float = 0.5  # a step subtracts learning rate * weight_decay * weight
    clip: float = 1.0  # gradients are scaled down to this norm (0: off)
    label_smoothing: float = 0.0  # share of a target that is spread over all ids
    # rank of low-rank adapters (LoRA), which are trained in place of the weights (0: none)
    lora: int = 0
    average: float = 0.0  # decay of the averaged weights, which are scored and saved (0: off)
    seed: int = 0  # of initial weights, batches and dropout
    dtype: str = "float32"  # of forward and backward passes: float32, bfloat16
    recompute: bool = False  # activation checkpointing: less memory, a third more computation
    compile: bool = False  # torch.compile the blocks: pays off on a GPU, for minutes of training
    threads: int = 0  # CPU threads (0: all cores); results differ in the last bits
    eval_every: int = 0  # steps between evaluations (0: about eight, fewer if slow)
    save_every: int = 0  # steps between checkpoints (0: every few minutes and at the end)
    patience: int = 0  # stop after so many evaluations in a row without a new best (0: off)
    until: str = ""  # stop at a "plateau", or when a score is below a bound: bits_per_byte<1.6

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate"):
            _check(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        for name in (
            "lora",
            "threads",
            "eval_every",
            "save_every",
            "patience",
            "weight_decay",
            "clip",
            "seed",
        ):
            _check(getattr(self, name) >= 0, f"train.{name}", "at least 0", getattr(self, name))
        for name in ("lr", "adam_lr"):
            _check(getattr(self, name) > 0, f"train.{name}", "above 0", getattr(self, name))
        for name in ("warmup", "decay"):
            _check(0 <= getattr(self, name) <= 1, f"train.{name}", "0 to 1", getattr(self, name))
        for name in ("momentum", "beta1", "beta2", "average", "label_smoothing"):
            _check(0 <= getattr(self, name) < 1, f"train.{name}", "in [0, 1)", getattr(self, name))
        _one_of(self.optimizer, "train.optimizer", ("muon", "adamw"))
        _one_of(self.dtype, "train.dtype", ("float32", "bfloat16"))
        _one_of(self.schedule, "train.schedule", ("linear", "inverse-sqrt"))


@dataclass(frozen=True)
class SampleConfig:
    """How the next id is sampled. Filters apply in the order in which they are listed."""

    length: int = 256  # the most new tokens
    temperature: float = 1.0  # logits are divided by it
    top_k: int = 0  # keep the k most probable ids (0: all)
    top_p: float = 1.0  # keep the fewest ids whose probabilities sum to at least this (1: all)
    min_p: float = 0.0  # keep ids at least this fraction as probable as the most probable (0: all)
    greedy: bool = False  # always take the most probable id
    beam: int = 1  # hypotheses of a beam search, which is not random (1: no beam search)
    length_penalty: float = 0.0  # a: a hypothesis is scored by log p / ((5 + length) / 6)^a
    seed: int = 0

    def __post_init__(self) -> None:
        for ok, flag, must, value in (
            (self.length >= 0, "--length", "at least 0", self.length),
            (self.temperature > 0, "--temperature", "above 0 (or --greedy)", self.temperature),
            (self.top_k >= 0, "--top-k", "at least 0", self.top_k),
            (0 < self.top_p <= 1, "--top-p", "in (0, 1]", self.top_p),
            (0 <= self.min_p <= 1, "--min-p", "0 to 1", self.min_p),
            (self.beam >= 1, "--beam", "at least 1", self.beam),
            (abs(self.length_penalty) <= 10, "--length-penalty", "-10 to 10", self.length_penalty),
        ):
            if not ok:
                raise ConfigError(f"{flag}: must be {must}, got {value}")


def parse_value(text: object, kind: Any, flag: str) -> Any:
    """A field's value of type `kind`, parsed from the command line or TOML. ConfigError."""
    options = [part for part in get_args(kind) if part is not type(None)]
    if options:  # T | None
        return None if text is None else parse_value(text, options[0], flag)
    if kind is bool:
        if isinstance(text, bool):
            return text
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(text).lower() in words:
            return words[str(text).lower()]
        raise ConfigError(f"--set {flag}: must be true or false, got {text!r}")
    if isinstance(text, bool) or (kind is int and isinstance(text, float) and text % 1):
        raise ConfigError(f"--set {flag}: must be {_kind_name(kind)}, got {text!r}")
    try:
        value = kind(text)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"--set {flag}: must be {_kind_name(kind)}, got {text!r}") from None
    if kind is float and not abs(value) < float("inf"):
        raise ConfigError(f"--set {flag}: must be finite, got {text!r}")
    return value


def _kind_name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text"}.get(kind, str(kind))


def parse_fields(kind: type, section: str, values: Mapping[str, object]) -> dict[str, Any]:
    """The values of fields of the dataclass `kind`, parsed by `parse_value`. ConfigError for
    unknown names."""
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    for name in values:
        if name not in known:
            raise ConfigError(f"--set {section}.{name}: no such field; {nearest(name, known)}")
    return {
        name: parse_value(text, hints[name], f"{section}.{name}") for name, text in values.items()
    }


def with_fields(config: T, section: str, values: Mapping[str, object]) -> T:
    """`config` with the fields `values`, parsed. ConfigError for unknown names and values."""
    return replace(config, **parse_fields(type(config), section, values))  # type: ignore[type-var]


def from_json(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A config read from the JSON of a run. ConfigError for unknown keys and invalid values."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: must be a table, got {values!r}")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"{where}: unknown {', '.join(unknown)} ({nearest(unknown[0], known)}); "
            "was it made by a newer tfm? upgrade"
        )
    try:
        return kind(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {error}") from error
