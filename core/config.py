"""What a model is and how it is trained: frozen, validated, with presets by name.

A message names the flag that sets the field (`--set model.heads`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, get_args, get_type_hints

from .errors import ConfigError, nearest

T = TypeVar("T")
DISTRIBUTION = "tfm-toolkit"  # on package indexes, where `tfm` is another project's name


def tfm_version() -> str:
    """The version that is installed."""
    from importlib.metadata import version

    return version(DISTRIBUTION)


def _check(ok: bool, flag: str, must: str, value: object) -> None:
    if not ok:
        raise ConfigError(f"--set {flag}: must be {must}, got {value}")


def _one_of(value: str, flag: str, names: tuple[str, ...]) -> None:
    _check(value in names, flag, f"one of {', '.join(names)}", repr(value))


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `SequenceModel`. The defaults are the wiring named `transformer`."""

    vocab_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0  # heads that hold keys and values (0: as many as heads)
    width: int = 128  # of the residual stream
    ffn_width: int = 0  # inside the feed-forward (0: four widths, or 8/3 where it is gated)
    context: int = 256  # positions that are seen at once
    axes: int = 1  # of a position: 1 for text, 2 for rows and columns
    ordered_from: int = 0  # the ids ordered_from ... ordered_to - 1 are steps of one quantity:
    ordered_to: int = 0  # what is learned of one is learned of its neighbours
    mixer: str = "attention"  # what mixes positions
    norm: str = "rmsnorm"  # layernorm, rmsnorm, none
    norm_position: str = "pre"  # pre: x + f(norm(x)); post: norm(x + f(x)), as in 2017
    norm_eps: float = 1e-6
    positions: str = "rope"  # rope, sinusoidal, learned, none
    rope_theta: float = 10000.0
    ffn: str = "relu2"  # relu, gelu (tanh form), relu2, swiglu
    qk_norm: bool = True  # RMS-normalised queries and keys
    bias: bool = False  # in linear layers and layernorm
    tied: bool = False  # the head is the embedding
    zero_init: bool = True  # output projections start at zero, so that a block starts as identity
    dropout: float = 0.0
    softcap: float = 0.0  # c: logits become c * tanh(logits / c) (0: off)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "heads", "width", "context", "axes"):
            _check(getattr(self, name) >= 1, f"model.{name}", "at least 1", getattr(self, name))
        for name in ("kv_heads", "ffn_width", "softcap", "ordered_from"):
            _check(getattr(self, name) >= 0, f"model.{name}", "at least 0", getattr(self, name))
        _check(
            self.ordered_from <= self.ordered_to <= self.vocab_size,
            "model.ordered_to",
            f"{self.ordered_from} to the vocabulary's {self.vocab_size}",
            self.ordered_to,
        )
        _check(self.norm_eps > 0, "model.norm_eps", "above 0", self.norm_eps)
        _check(self.rope_theta > 1, "model.rope_theta", "above 1", self.rope_theta)
        _check(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)
        _one_of(self.norm, "model.norm", ("layernorm", "rmsnorm", "none"))
        _one_of(self.norm_position, "model.norm_position", ("pre", "post"))
        _one_of(self.positions, "model.positions", ("rope", "sinusoidal", "learned", "none"))
        _one_of(self.ffn, "model.ffn", ("relu", "gelu", "relu2", "swiglu"))
        _one_of(self.mixer, "model.mixer", ("attention",))
        _check(
            self.width % self.heads == 0,
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
            self.positions != "rope" or self.head_width % 2 == 0,
            "model.heads",
            "such that a head's width is even (rotary positions)",
            self.heads,
        )
        _check(
            self.positions not in ("learned", "sinusoidal") or self.axes == 1,
            "model.positions",
            f"rope or none where positions have {self.axes} axes",
            self.positions,
        )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def groups(self) -> int:
        return self.kv_heads or self.heads

    @property
    def hidden(self) -> int:
        """Width inside the feed-forward; gated ones get 8/3 widths, so that parameters match."""
        if self.ffn_width:
            return self.ffn_width
        return -(-8 * self.width // 3 // 32) * 32 if self.ffn == "swiglu" else 4 * self.width


@dataclass(frozen=True)
class TrainConfig:
    """How weights are found. Lengths of schedules are fractions of the steps."""

    steps: int = 1000
    batch: int = 48  # rows of context tokens in one pass
    accumulate: int = 1  # passes whose gradients make one step
    optimizer: str = "muon"  # muon: Muon for the blocks' matrices, AdamW for the rest; adamw
    lr: float = 0.02  # of Muon: the size of an orthogonal update
    adam_lr: float = 0.003  # of AdamW
    warmup: float = 0.02  # of the steps
    decay: float = 1.0  # the last fraction of the steps, in which the rate falls to zero
    momentum: float = 0.95  # of Muon
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.5  # times the rate, of each weight, a step
    clip: float = 1.0  # norm of the gradient (0: off)
    average: float = 0.0  # of the weights, decay a step (0: off); what is scored and saved for use
    seed: int = 0
    dtype: str = "float32"  # of the passes: float32, bfloat16
    recompute: bool = False  # activations in the backward pass: less memory, a third more work
    compile: bool = False  # the blocks, by torch.compile: pays on a GPU, in a training of minutes
    threads: int = 0  # of the CPU (0: the machine's); it changes the bits of a result
    eval_every: int = 0  # steps (0: about eight times in a run)
    save_every: int = 0  # steps (0: at the end, and every few minutes)
    patience: int = 0  # evaluations without a better one after which training ends (0: off)
    until: str = ""  # plateau, or a bound on a score after which training ends

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate"):
            _check(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        for name in (
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
        for name in ("momentum", "beta1", "beta2", "average"):
            _check(0 <= getattr(self, name) < 1, f"train.{name}", "in [0, 1)", getattr(self, name))
        _one_of(self.optimizer, "train.optimizer", ("muon", "adamw"))
        _one_of(self.dtype, "train.dtype", ("float32", "bfloat16"))


@dataclass(frozen=True)
class SampleConfig:
    """How the next id is drawn. Filters apply in the order in which they are listed."""

    length: int = 256  # new tokens at most
    temperature: float = 1.0
    top_k: int = 0  # keep the k likeliest (0: all)
    top_p: float = 1.0  # keep the fewest ids that together hold this much probability
    min_p: float = 0.0  # keep ids at least this fraction as likely as the likeliest
    greedy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for ok, flag, must, value in (
            (self.length >= 0, "--length", "at least 0", self.length),
            (self.temperature > 0, "--temperature", "above 0 (or --greedy)", self.temperature),
            (self.top_k >= 0, "--top-k", "at least 0", self.top_k),
            (0 < self.top_p <= 1, "--top-p", "in (0, 1]", self.top_p),
            (0 <= self.min_p <= 1, "--min-p", "0 to 1", self.min_p),
        ):
            if not ok:
                raise ConfigError(f"{flag}: must be {must}, got {value}")


ARCHS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "llama": dict(ffn="swiglu", qk_norm=False, zero_init=False, norm_eps=1e-5),
    "gpt2": dict(
        norm="layernorm",
        norm_eps=1e-5,
        positions="learned",
        ffn="gelu",
        qk_norm=False,
        bias=True,
        tied=True,
        zero_init=False,
    ),
    "post-ln": dict(
        norm="layernorm",
        norm_eps=1e-5,
        norm_position="post",
        positions="sinusoidal",
        ffn="relu",
        qk_norm=False,
        bias=True,
        tied=True,
        zero_init=False,
    ),
}

SIZES: dict[str, dict[str, int]] = {
    "nano": dict(layers=2, heads=2, width=64),
    "tiny": dict(layers=4, heads=4, width=128),
    "small": dict(layers=6, heads=4, width=256),
    "base": dict(layers=8, heads=8, width=512),
    "large": dict(layers=12, heads=12, width=768),
}


def model_config(arch: str, size: str, **other: Any) -> ModelConfig:
    """The wiring `arch` at `size`, other fields as given. ConfigError for an unknown name."""
    if arch not in ARCHS:
        raise ConfigError(f"--arch {arch}: no such wiring; {nearest(arch, ARCHS)}")
    if size not in SIZES:
        raise ConfigError(f"--size {size}: no such size; {nearest(size, SIZES)}")
    return ModelConfig(**{**ARCHS[arch], **SIZES[size], **other})


def parse_value(text: object, kind: Any, flag: str) -> Any:
    """A field's value from what was typed (or read from TOML). ConfigError names the flag."""
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


def with_fields(config: T, section: str, values: Mapping[str, object]) -> T:
    """`config` with `values` (as typed) put in. An unknown name is a ConfigError that says what
    is near it."""
    hints = get_type_hints(type(config))
    known = {f.name for f in fields(config)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"--set {section}.{name}: no such field; {nearest(name, known)}")
    parsed = {
        name: parse_value(text, hints[name], f"{section}.{name}") for name, text in values.items()
    }
    return replace(config, **parsed)  # type: ignore[type-var]


def from_json(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A config read back from a run. ConfigError for a key that this version does not know, and
    for a value that none of its fields can have."""
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
