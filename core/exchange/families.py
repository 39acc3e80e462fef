"""The classes of transformers that compute what a `SequenceModel` can be, as a table: keys of
config.json, names of tensors, and which values of `ModelConfig` each one carries.

Read in transformers 5.24 (src/transformers/models/*/modeling_*.py). The first class of FAMILIES
that carries a model is the one it is exported as.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import GATED_FFNS, ModelConfig

# ours: theirs, of which the first one is written
ACTIVATIONS = {
    "swiglu": ("silu", "swish"),
    "geglu": ("gelu_pytorch_tanh", "gelu_new"),
    "reglu": ("relu",),
    "glu": ("sigmoid",),
    "bilinear": ("linear",),
    "gelu": ("gelu_pytorch_tanh", "gelu_new"),
    "relu": ("relu",),
    "relu2": ("relu2",),
}
UNGATED = ("gelu", "relu", "relu2")
# tensors in files of these classes that the model is not computed from, or not twice
UNUSED_TENSORS = re.compile(r".*(rotary_emb\.inv_freq|attn\.masked_bias|\.attn\.bias)")
ANY = None  # a class carries every value
# the values of the fields of ModelConfig that a class carries, unless it says otherwise. Fields
# that are not here matter to training only, or are sizes that every class has.
CARRIED: Mapping[str, tuple[object, ...] | None] = {
    "mixers": ("attention",),
    "encoder_layers": (0,),  # 1: any number
    "norm": ("rmsnorm",),
    "norm_position": ("pre",),
    "norm_eps": ANY,
    "positions": ("rope",),
    "rope_scaling": ANY,
    "ffn": GATED_FFNS,
    "kv_heads": ANY,
    "head_dim": ANY,
    "window": (0,),
    "qk_norm": (False,),
    "qk_norm_weights": (False,),
    "bias": (False,),
    "qkv_bias": (False,),
    "tied": ANY,
    "residual": (True,),
    "features": (0,),
    "axes": (1,),
    "softcap": (0.0,),
}


def _plain(config: ModelConfig, name: str) -> object:
    """The value of a field; the default of one that has no effect, or that says the default."""
    if name == "mixers":
        return ",".join(sorted(set(config.mixers.split(","))))
    if name == "encoder_layers":
        return min(config.encoder_layers, 1)
    if name == "kv_heads" and config.groups == config.heads:
        return 0
    if name == "head_dim" and config.head_width * config.heads == config.width:
        return 0
    return getattr(config if config.uses(name) else ModelConfig(), name)


def rope_parameters(config: ModelConfig) -> dict[str, Any]:
    """The value of `rope_parameters` in config.json."""
    kind, numbers = config.rope_scale
    found: dict[str, Any] = {"rope_type": kind or "default", "rope_theta": config.rope_theta}
    found |= dict(zip(ROPE_KEYS[kind], numbers, strict=True))
    if kind == "llama3":
        found["original_max_position_embeddings"] = int(numbers[3])
    return found


ROPE_KEYS: Mapping[str, tuple[str, ...]] = {
    "": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
# values of config.json that are no attribute of ModelConfig
DERIVED: Mapping[str, Callable[[ModelConfig], object]] = {
    "activation": lambda config: ACTIVATIONS[config.ffn][0],
    "window": lambda config: config.window or None,
    "has_window": lambda config: config.window > 0,
    "rope_parameters": rope_parameters,
    "rope_scaling": lambda config: rope_parameters(config) if config.rope_scaling else None,
}
# the field that sets a property of ModelConfig
FIELDS = {"groups": "kv_heads", "head_width": "head_dim", "hidden": "ffn_width"}


@dataclass(frozen=True, eq=False)
class Family:
    """A class of transformers.

    modules: the name of each of our modules, {} for the number of a block, and those of the modules
    there whose rows it joins. keys: of config.json, each with the attribute of ModelConfig or the
    name in DERIVED that it has. constants: further keys, which must have these values; written:
    keys that are not read. defaults: of keys that old files lack. carried: see CARRIED. prefix: of
    all names but that of the head; files of a model without its head lack it. transposed: the
    matrices in blocks have their inputs first. order: the dimensions of our residual stream in the
    order that they have there; only exporters know such a class."""

    name: str
    model_type: str
    modules: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, str]
    constants: Mapping[str, object] = field(default_factory=dict)
    written: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    carried: Mapping[str, tuple[object, ...] | None] = field(default_factory=dict)
    prefix: str = "model."
    transposed: bool = False
    order: Callable[[int], list[int]] | None = None

    def obstacles(self, config: ModelConfig) -> list[str]:
        """What this class does not carry of a config: field=value of each."""
        found = []
        for name, usual in CARRIED.items():
            carried, value = self.carried.get(name, usual), _plain(config, name)
            if carried is not ANY and value not in carried:
                found.append(f"{name}={getattr(config, name)}")
        return found

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """config.json of a model that this class carries."""
        values = {
            key: DERIVED[name](config) if name in DERIVED else getattr(config, name)
            for key, name in self.keys.items()
        }
        about = {"architectures": [self.name], "model_type": self.model_type}
        return {**about, "dtype": "float32", **self.constants, **self.written, **values}

    def names_of(self, module: str) -> tuple[str, ...]:
        """The modules there of one of our modules, such as blocks.3.mixer.qkv."""
        number = re.search(r"\.(\d+)\.", module)
        template = re.sub(r"\.\d+\.", ".{}.", module, count=1)
        return tuple(name.format(number and number[1]) for name in self.modules[template])

    def turned(self, name: str, dimensions: int) -> bool:
        """Whether one of our parameters is transposed there."""
        return self.transposed and dimensions == 2 and name.startswith("blocks.")


def _decoder(
    attention_norm: str = "input_layernorm",
    ffn_norm: str = "post_attention_layernorm",
    up: tuple[str, ...] = ("gate_proj", "up_proj"),
    down: str = "down_proj",
) -> dict[str, tuple[str, ...]]:
    """The modules of the classes that are made like Llama."""
    layer = "model.layers.{}."
    return {
        "embedding": ("model.embed_tokens",),
        "blocks.{}.mixer_norm": (layer + attention_norm,),
        "blocks.{}.mixer.qkv": tuple(f"{layer}self_attn.{name}_proj" for name in "qkv"),
        "blocks.{}.mixer.q_norm": (layer + "self_attn.q_norm",),
        "blocks.{}.mixer.k_norm": (layer + "self_attn.k_norm",),
        "blocks.{}.mixer.out": (layer + "self_attn.o_proj",),
        "blocks.{}.ffn_norm": (layer + ffn_norm,),
        "blocks.{}.ffn.up": tuple(f"{layer}mlp.{name}" for name in up),
        "blocks.{}.ffn.down": (f"{layer}mlp.{down}",),
        "norm": ("model.norm",),
        "head": ("lm_head",),
    }


_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "groups",
    "intermediate_size": "hidden",
    "max_position_embeddings": "context",
    "hidden_act": "activation",
    "tie_word_embeddings": "tied",
    "rope_parameters": "rope_parameters",
    "rope_theta": "rope_theta",  # this and the next one are of transformers before 5
    "rope_scaling": "rope_scaling",
}
_LLAMA = {**_SIZES, "head_dim": "head_width", "rms_norm_eps": "norm_eps"}
_DEFAULTS = {"tie_word_embeddings": False, "rope_theta": 10000.0}
_WINDOW = {"sliding_window": "window", "use_sliding_window": "has_window"}
_BOTH = (False, True)
_QK_NORM: dict[str, tuple[object, ...] | None] = {"qk_norm": (True,), "qk_norm_weights": ANY}


def _halves(width: int) -> list[int]:
    """Sines, then cosines: Marian's order of the dimensions that are interleaved here."""
    return [*range(0, width, 2), *range(1, width, 2)]


def _marian(side: str, ours: str) -> dict[str, tuple[str, ...]]:
    layer = f"model.{side}.layers.{{}}."
    found = {
        "mixer_norm": (layer + "self_attn_layer_norm",),
        "mixer.qkv": tuple(f"{layer}self_attn.{name}_proj" for name in "qkv"),
        "mixer.out": (layer + "self_attn.out_proj",),
        "cross_norm": (layer + "encoder_attn_layer_norm",),
        "cross.query": (layer + "encoder_attn.q_proj",),
        "cross.kv": tuple(f"{layer}encoder_attn.{name}_proj" for name in "kv"),
        "cross.out": (layer + "encoder_attn.out_proj",),
        "ffn_norm": (layer + "final_layer_norm",),
        "ffn.up": (layer + "fc1",),
        "ffn.down": (layer + "fc2",),
    }
    return {f"{ours}.{{}}.{name}": names for name, names in found.items()}


_GPT2 = "transformer.h.{}."
FAMILIES = (
    Family(
        "LlamaForCausalLM",
        "llama",
        _decoder(),
        {**_LLAMA, "attention_bias": "bias", "mlp_bias": "bias"},
        defaults=_DEFAULTS,
        carried={"bias": _BOTH},
    ),
    Family(
        "MistralForCausalLM",
        "mistral",
        _decoder(),
        {**_LLAMA, "sliding_window": "window"},
        defaults={**_DEFAULTS, "sliding_window": 4096},
        carried={"window": ANY},
    ),
    Family(
        "Qwen2ForCausalLM",
        "qwen2",
        _decoder(),
        {**_SIZES, "rms_norm_eps": "norm_eps", **_WINDOW},
        written={"max_window_layers": 0},
        defaults=_DEFAULTS,
        carried={"qkv_bias": (True,), "window": ANY, "head_dim": (0,)},
    ),
    Family(
        "Qwen3ForCausalLM",
        "qwen3",
        _decoder(),
        {**_LLAMA, **_WINDOW},
        constants={"attention_bias": False},
        written={"max_window_layers": 0},
        defaults=_DEFAULTS,
        carried={**_QK_NORM, "window": ANY},
    ),
    Family(
        "ApertusForCausalLM",
        "apertus",
        _decoder("attention_layernorm", "feedforward_layernorm", ("up_proj",)),
        _LLAMA,
        constants={"attention_bias": False},
        defaults=_DEFAULTS,
        carried={**_QK_NORM, "ffn": UNGATED},
    ),
    Family(
        "ArceeForCausalLM",
        "arcee",
        _decoder(up=("up_proj",)),
        {**_LLAMA, "attention_bias": "bias", "mlp_bias": "bias"},
        defaults=_DEFAULTS,
        carried={"ffn": UNGATED, "bias": _BOTH},
    ),
    Family(
        "Starcoder2ForCausalLM",
        "starcoder2",
        _decoder(up=("c_fc",), down="c_proj"),
        {**_SIZES, "norm_epsilon": "norm_eps", "sliding_window": "window"},
        constants={"use_bias": True},
        defaults={**_DEFAULTS, "tie_word_embeddings": True},
        carried={
            "norm": ("layernorm",),
            "ffn": UNGATED,
            "bias": (True,),
            "window": ANY,
            "head_dim": (0,),
        },
    ),
    Family(
        "GPT2LMHeadModel",
        "gpt2",
        {
            "embedding": ("transformer.wte",),
            "position_embedding": ("transformer.wpe",),
            "blocks.{}.mixer_norm": (_GPT2 + "ln_1",),
            "blocks.{}.mixer.qkv": (_GPT2 + "attn.c_attn",),
            "blocks.{}.mixer.out": (_GPT2 + "attn.c_proj",),
            "blocks.{}.ffn_norm": (_GPT2 + "ln_2",),
            "blocks.{}.ffn.up": (_GPT2 + "mlp.c_fc",),
            "blocks.{}.ffn.down": (_GPT2 + "mlp.c_proj",),
            "norm": ("transformer.ln_f",),
            "head": ("lm_head",),
        },
        {
            "vocab_size": "vocab_size",
            "n_embd": "width",
            "n_layer": "layers",
            "n_head": "heads",
            "n_inner": "hidden",
            "n_positions": "context",
            "activation_function": "activation",
            "layer_norm_epsilon": "norm_eps",
            "tie_word_embeddings": "tied",
        },
        constants={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        defaults={"tie_word_embeddings": True},
        carried={
            "norm": ("layernorm",),
            "positions": ("learned",),
            "ffn": UNGATED,
            "bias": (True,),
            "kv_heads": (0,),
            "head_dim": (0,),
        },
        prefix="transformer.",
        transposed=True,
    ),
    Family(
        "MarianMTModel",
        "marian",
        {
            "embedding": ("model.shared",),
            **_marian("encoder", "encoder"),
            **_marian("decoder", "blocks"),
        },
        {
            "vocab_size": "vocab_size",
            "d_model": "width",
            "encoder_layers": "encoder_layers",
            "decoder_layers": "layers",
            "encoder_attention_heads": "heads",
            "decoder_attention_heads": "heads",
            "encoder_ffn_dim": "hidden",
            "decoder_ffn_dim": "hidden",
            "max_position_embeddings": "context",
            "activation_function": "activation",
            "tie_word_embeddings": "tied",
        },
        constants={
            "is_encoder_decoder": True,
            "scale_embedding": True,
            "share_encoder_decoder_embeddings": True,
            "static_position_embeddings": True,
            "normalize_before": False,
            "normalize_embedding": False,
        },
        carried={
            "norm": ("layernorm",),
            "norm_position": ("post",),
            "norm_eps": (1e-5,),
            "positions": ("sinusoidal",),
            "encoder_layers": (1,),
            "ffn": UNGATED,
            "bias": (True,),
            "tied": (True,),
            "kv_heads": (0,),
            "head_dim": (0,),
        },
        order=_halves,
    ),
)
