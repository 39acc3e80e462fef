"""The architectures of llama.cpp that a `SequenceModel` can be, as a table: keys of the metadata
and names of tensors, with those of transformers (families.py) that mean the same.

Read in llama.cpp (src/models/*.cpp, conversion/*.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import ConfigError, DamagedError
from ..model.positions import scaled
from .config_json import MAX_SIZE
from .families import ACTIVATIONS, FAMILIES, Family
from .gguf_file import GgufFile

FREQUENCIES = "rope_freqs.weight"  # what each rotary frequency is divided by
LLAMA3 = (
    1.0,
    4.0,
    8192.0,
)  # low, high and context of Llama 3.1 and 3.2, which a file does not have


@dataclass(frozen=True)
class GgufArch:
    """name: general.architecture; family: of transformers. keys: of the metadata after the name,
    with the key of config.json that has the same value; fixed: further ones that tfm reads, each
    with the only value that it computes. modules: names there by names in transformers, {} for the
    number of a block. interleaved: the rows of queries and keys of a head are in the order
    0, w/2, 1, w/2 + 1 ... of rotary pairs. carried: what it carries less than the family;
    `ffn` is one value."""

    name: str
    family: Family
    keys: Mapping[str, str]
    modules: Mapping[str, str]
    fixed: Mapping[str, object] = field(default_factory=dict)
    interleaved: bool = False
    carried: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def obstacles(self, config: ModelConfig) -> list[str]:
        """What llama.cpp does not compute of a config: field=value of each."""
        narrower = replace(self.family, carried={**self.family.carried, **self.carried})
        return narrower.obstacles(config)

    def renamed(self, name: str) -> str:
        """The name in GGUF of a tensor of transformers."""
        module, _, kind = name.rpartition(".")
        number = re.search(r"\.(\d+)\.", module)
        template = re.sub(r"\.\d+\.", ".{}.", module, count=1)
        return f"{self.modules[template].format(number and number[1])}.{kind}"

    def names(self, layers: int) -> Iterator[tuple[str, str]]:
        """Names of transformers and GGUF of all tensors that a model can have."""
        for theirs, gguf in self.modules.items():
            for number in range(layers) if "{}" in theirs else (0,):
                for kind in ("weight", "bias"):
                    yield f"{theirs.format(number)}.{kind}", f"{gguf.format(number)}.{kind}"

    def turned(self, name: str, dimensions: int) -> bool:
        """Whether a tensor of transformers is transposed in GGUF, where outputs come first."""
        return self.family.transposed and dimensions == 2 and ".h." in name

    def heads_of(self, name: str, config: Mapping[str, Any]) -> int:
        """The heads whose rows are interleaved in a tensor of transformers; 0: none."""
        keys = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        module = name.split(".")[-2]
        return int(config[keys[module]]) if self.interleaved and module in keys else 0


def interleave(x: Tensor, heads: int) -> Tensor:
    """Rows 0, w/2, 1, w/2 + 1 ... of each of `heads` heads, from rows 0, 1, 2 ..."""
    return x.reshape(heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def separate(x: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`."""
    return x.reshape(heads, -1, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def _family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


_LLAMA = "model.layers.{}."
_MODULES = {
    "model.embed_tokens": "token_embd",
    _LLAMA + "input_layernorm": "blk.{}.attn_norm",
    _LLAMA + "self_attn.q_proj": "blk.{}.attn_q",
    _LLAMA + "self_attn.k_proj": "blk.{}.attn_k",
    _LLAMA + "self_attn.v_proj": "blk.{}.attn_v",
    _LLAMA + "self_attn.q_norm": "blk.{}.attn_q_norm",
    _LLAMA + "self_attn.k_norm": "blk.{}.attn_k_norm",
    _LLAMA + "self_attn.o_proj": "blk.{}.attn_output",
    _LLAMA + "post_attention_layernorm": "blk.{}.ffn_norm",
    _LLAMA + "mlp.gate_proj": "blk.{}.ffn_gate",
    _LLAMA + "mlp.up_proj": "blk.{}.ffn_up",
    _LLAMA + "mlp.down_proj": "blk.{}.ffn_down",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_GPT2 = "transformer.h.{}."
_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}
_FIXED: Mapping[str, object] = {"expert_count": 0, "attention.causal": True}
_NO_WINDOW: Mapping[str, tuple[Any, ...]] = {"window": (0,), "ffn": ("swiglu",)}

ARCHS = (
    GgufArch("llama", _family("LlamaForCausalLM"), _KEYS, _MODULES, _FIXED, True, _NO_WINDOW),
    GgufArch(
        "qwen2",
        _family("Qwen2ForCausalLM"),
        {key: name for key, name in _KEYS.items() if name != "head_dim"},
        _MODULES,
        _FIXED,
        carried=_NO_WINDOW,
    ),
    GgufArch("qwen3", _family("Qwen3ForCausalLM"), _KEYS, _MODULES, _FIXED, carried=_NO_WINDOW),
    GgufArch(
        "arcee",
        _family("ArceeForCausalLM"),
        _KEYS,
        _MODULES,
        _FIXED,
        True,
        {"ffn": ("relu2",), "bias": (False,)},
    ),
    GgufArch(
        "gpt2",
        _family("GPT2LMHeadModel"),
        {
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        {
            "transformer.wte": "token_embd",
            "transformer.wpe": "position_embd",
            _GPT2 + "ln_1": "blk.{}.attn_norm",
            _GPT2 + "attn.c_attn": "blk.{}.attn_qkv",
            _GPT2 + "attn.c_proj": "blk.{}.attn_output",
            _GPT2 + "ln_2": "blk.{}.ffn_norm",
            _GPT2 + "mlp.c_fc": "blk.{}.ffn_up",
            _GPT2 + "mlp.c_proj": "blk.{}.ffn_down",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
        },
        _FIXED,
        carried={"ffn": ("gelu",)},
    ),
)


def arch_of(config: ModelConfig) -> GgufArch:
    """The first architecture of the table that computes models of this config. ConfigError names
    what stands in the way of the one that comes nearest."""
    found = {arch.name: arch.obstacles(config) for arch in ARCHS}
    nearest = min(ARCHS, key=lambda arch: len(found[arch.name]))
    if found[nearest.name]:
        raise ConfigError(
            f"llama.cpp does not compute this model: {nearest.name}, its nearest architecture, "
            f"does not have {', '.join(found[nearest.name])}; a model trained with --arch llama "
            "can be exported"
        )
    return nearest


def arch_named(name: object) -> GgufArch:
    """The architecture of a file. ConfigError for one that tfm does not read."""
    known = {arch.name: arch for arch in ARCHS}
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"architecture {str(name)[:40]!r}; tfm reads {', '.join(known)}")
    return known[name]


def divisors(config: ModelConfig) -> Tensor:
    """(head_width / 2,) what the scaling of the rotary frequencies divides each by."""
    ones = torch.ones(config.head_width // 2)
    pairs = torch.arange(len(ones)) / len(ones)
    frequency = config.rope_theta**-pairs
    return frequency / scaled(frequency, config)


def read_scaling(file: GgufFile, arch: str, width: int, theta: float) -> dict[str, Any]:
    """The key rope_scaling of config.json, if the frequencies of a file are scaled. Those of
    Llama 3.1 are there as divisors only. width: of a head. ConfigError for a scaling that tfm does
    not have."""
    kind = file.metadata.get(f"{arch}.rope.scaling.type", "none")
    if not isinstance(kind, str) or kind not in ("none", "linear"):
        raise ConfigError(f"rotary positions scaled by {str(kind)[:40]!r}; tfm has linear, llama3")
    factor = file.number(f"{arch}.rope.scaling.factor", 1.0)
    if kind == "linear" and factor != 1:
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    if FREQUENCIES not in file.infos:
        return {}
    found = file[FREQUENCIES]
    factor = float(f"{found.max().item():.6g}")
    if found.shape == (width // 2,) and width % 2 == 0 and factor > 0:
        numbers = ",".join(f"{number:.10g}" for number in (factor, *LLAMA3))
        own = ModelConfig(head_dim=width, rope_theta=theta, rope_scaling=f"llama3:{numbers}")
        if torch.allclose(divisors(own), found, rtol=1e-4):
            names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            values = {"factor": factor, **dict(zip(names, LLAMA3, strict=True))}
            return {"rope_scaling": {"rope_type": "llama3", **values}}
    raise ConfigError(f"{FREQUENCIES}: not the rotary frequencies of Llama 3.1 or 3.2")


def config_json(file: GgufFile, arch: GgufArch) -> dict[str, Any]:
    """config.json of transformers for the model in a file. ConfigError for keys that tfm does not
    know or compute, DamagedError for a value of another type."""
    prefix = f"{arch.name}."
    activation = next(key for key, name in arch.family.keys.items() if name == "activation")
    values: dict[str, Any] = {
        "model_type": arch.family.model_type,
        activation: ACTIVATIONS[arch.carried["ffn"][0]][0],
    }
    found = {key: theirs for key, theirs in arch.keys.items() if prefix + key in file.metadata}
    values |= {theirs: _number(file, prefix + key) for key, theirs in found.items()}
    if prefix + "embedding_length" not in file.metadata:
        raise DamagedError(f"its metadata has no {prefix}embedding_length")
    if "token_embd.weight" not in file.infos:
        raise DamagedError("the tensor token_embd.weight is missing")
    values["vocab_size"] = file.infos["token_embd.weight"].shape[0]
    values["tie_word_embeddings"] = "output.weight" not in file.infos
    biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
    if arch.name == "llama":
        values |= {key: name in file.infos for key, name in biases.items()}
    for id in ("bos", "eos"):
        value = file.metadata.get(f"tokenizer.ggml.{id}_token_id")
        values[f"{id}_token_id"] = value if isinstance(value, int) else None
    if "rope.freq_base" in arch.keys:
        values.setdefault("rope_theta", 10000.0)
        heads = values.get("num_attention_heads", 1)
        width = values.get("head_dim", values["hidden_size"] // heads)
        values.setdefault("num_key_value_heads", heads)
        values |= read_scaling(file, arch.name, width, values["rope_theta"])
        same = dict.fromkeys(("rope.dimension_count", "attention.value_length"), width)
    else:
        same = {}
    known = {**arch.fixed, **same}
    free = {*arch.keys, "vocab_size", "rope.scaling.type", "rope.scaling.factor"}
    free |= {"rope.scaling.original_context_length", "rope.scaling.finetuned"}
    free |= {"tensor_data_layout", "use_parallel_residual"}
    for key in file.metadata:
        name = key.removeprefix(prefix)
        if key == name or name in free:
            continue
        value = file.metadata[key]
        if name not in known or not isinstance(value, (int, float)) or value != known[name]:
            raise ConfigError(f"{key[:80]} {str(value)[:40]!r}; tfm does not compute that")
    return values


def _number(file: GgufFile, key: str) -> int | float:
    """A size, or a finite number where it is a float. DamagedError for any other value."""
    value: int | float = file.number(key)
    size = type(value) is int and 0 < value < MAX_SIZE
    if not size and not (type(value) is float and math.isfinite(value)):
        raise DamagedError(f"{key} cannot be {value}")
    if type(value) is float and not key.endswith(("epsilon", "freq_base")):
        raise DamagedError(f"{key} cannot be {value}")
    return value
