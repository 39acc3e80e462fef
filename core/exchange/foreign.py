"""Models of other programs and `SequenceModel`: `to_hf` is what every exporter starts from,
`llama_like` what every importer ends in. GGUF translates its names from and to those of
transformers. The classes are the table in families.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import ConfigError, DamagedError
from ..model.layers import Linear
from ..model.sequence_model import SequenceModel, without_values
from .config_json import family_named, read_config
from .families import FAMILIES, UNUSED_TENSORS, Family


@dataclass
class Foreign:
    """A model that another program has trained. weights: by the names of the parameters of our
    `SequenceModel`, in float32; tokenizer: the name of a class in tokenizers/ and its `state()`;
    about: what to tell and keep of the origin (JSON values, no paths): `source` (as a person would
    name it), `class`, `dtype`, `notes` (sentences)."""

    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: tuple[str, dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)


# -- export --------------------------------------------------------------------------------------


def family_of(config: ModelConfig) -> Family:
    """The first class of the table that computes models of this config. ConfigError names what
    stands in the way of those that come nearest."""
    found = {family: family.obstacles(config) for family in FAMILIES}
    fewest = min(map(len, found.values()))
    nearest = {family: each for family, each in found.items() if len(each) == fewest}
    if fewest:
        lacks = "; ".join(f"{f.name} has no {', '.join(each)}" for f, each in nearest.items())
        raise ConfigError(f"no class of transformers computes this model: {lacks}")
    return next(iter(nearest))


def to_hf(model: SequenceModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors in float32, by their names there, of the class of transformers that
    computes what the model does. The inverse of `llama_like`. ConfigError names what no class can
    carry."""
    family = family_of(model.config)
    return family.write_config(model.config), dict(_written(family, model))


def _written(family: Family, model: SequenceModel) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        x = parameter.detach().float().cpu()
        if family.order is not None:
            order = torch.tensor(family.order(model.config.width))
            for axis in _residual_axes(model, name):
                x = x.index_select(axis, order)
        for their, (start, stop) in _parts(family, model, name):
            part = x[start:stop]
            yield their, (part.T if family.turned(name, x.ndim) else part).contiguous()
    if model.config.qk_norm and not model.config.qk_norm_weights:
        for their in _norms(family, model.config):
            yield their, torch.ones(model.config.head_width)


def _parts(
    family: Family, model: SequenceModel, name: str
) -> Iterator[tuple[str, tuple[int, int]]]:
    """The tensors there of one of our parameters, each with its rows (start, stop) in it."""
    module, _, kind = name.rpartition(".")
    names, layer = family.names_of(module), model.get_submodule(module)
    count = len(model.get_parameter(name))
    rows = layer.rows if isinstance(layer, Linear) and len(names) > 1 else (count,)
    stop = 0
    for their, size in zip(names, rows, strict=True):
        start, stop = stop, stop + size
        yield f"{their}.{kind}", (start, stop)


def _norms(family: Family, config: ModelConfig) -> list[str]:
    """The names there of the weights that normalised queries and keys are multiplied by."""
    each = [(f"blocks.{n}.mixer.{x}_norm", n) for n in range(config.layers) for x in "qk"]
    known = "blocks.{}.mixer.q_norm" in family.modules
    return [f"{name}.weight" for ours, _ in each if known for name in family.names_of(ours)]


def _residual_axes(model: SequenceModel, name: str) -> tuple[int, ...]:
    """The axes of a parameter that are the dimensions of the residual stream."""
    layer = model.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, Linear) and not layer.output:
        return (1,) if name.endswith("weight") else ()
    return (1,) if isinstance(layer, nn.Embedding) else (0,)


# -- import --------------------------------------------------------------------------------------


def llama_like(
    hf_config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and weights of a model with the config.json and the tensors of a class of the table
    (LlamaForCausalLM ... GPT2LMHeadModel). ConfigError for a model that tfm cannot compute,
    DamagedError for tensors that do not fit the config."""
    family = family_named(hf_config)
    names = {name: name for name in tensors if not UNUSED_TENSORS.fullmatch(name)}
    if not any(name.startswith(family.prefix) for name in names):  # of a model without its head
        names = {family.prefix + name: name for name in names}
    config = read_config(family, hf_config)
    if config.layers > len(names):
        raise DamagedError(f"{len(names)} tensors are not those of {config.layers:,} layers")
    norms = _norms(family, config)
    plain = config.qk_norm and all(
        name in names and bool((tensors[names[name]] == 1).all()) for name in norms
    )
    config = replace(config, qk_norm_weights=config.qk_norm and not plain)
    weights, used = {}, set(norms) if plain else set()
    if config.tied:
        used.add("lm_head.weight")
    biases_vary = len(family.carried.get("bias") or ()) > 1  # between attention and feed-forward
    model = without_values(config)
    for name, parameter in model.named_parameters():
        parts = []
        for their, (start, stop) in _parts(family, model, name):
            used.add(their)
            shape = (stop - start, *parameter.shape[1:])
            turned = family.turned(name, len(shape))
            if their not in names and their.endswith(".bias") and biases_vary:
                parts.append(torch.zeros(shape))
                continue
            found = _checked(their, names, tensors, shape[::-1] if turned else shape)
            parts.append(found.T if turned else found)
        weights[name] = torch.cat(parts).float().contiguous()
        if not bool(weights[name].isfinite().all()):
            raise DamagedError(f"{name}: has numbers that are not finite")
    if unknown := sorted(set(names) - used):
        raise ConfigError(
            f"{family.name}: tfm does not know its tensors {', '.join(unknown[:3])} "
            f"({len(unknown):,} in all)"
        )
    return config, weights


def _checked(
    name: str, names: Mapping[str, str], tensors: Mapping[str, Tensor], shape: tuple[int, ...]
) -> Tensor:
    """A tensor of this shape. DamagedError or ConfigError if there is none."""
    if name not in names:
        raise DamagedError(f"the tensor {name} is missing")
    found = tensors[names[name]]
    if tuple(found.shape) != shape:
        raise DamagedError(
            f"{name}: its shape is {tuple(found.shape)}, by config.json it is {shape}"
        )
    if found.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ConfigError(
            f"{name}: stored as {str(found.dtype).removeprefix('torch.')}; tfm reads float32, "
            "bfloat16 and float16"
        )
    return found


def tokenizer_of(
    tokenizer_json: Mapping[str, Any], hf_config: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Name and state of the tokenizer of a tokenizer.json of HuggingFace `tokenizers`, for a model
    with `vocab_size` ids. Its texts begin with `bos_token_id` and end with `eos_token_id`; each of
    the two stands for the other where config.json lacks it. DamagedError if it lacks both."""
    size = hf_config.get("vocab_size")
    ends = hf_config.get("eos_token_id")
    ids = [hf_config.get("bos_token_id"), ends[0] if isinstance(ends, list) and ends else ends]
    known = [id for id in ids if type(id) is int and 0 <= id < int(size or 0)]
    if not known:
        raise DamagedError("config.json: has neither bos_token_id nor eos_token_id")
    begin, end = (id if id in known else known[0] for id in ids)
    state = {"tokenizer": dict(tokenizer_json), "begin": begin, "end": end, "vocab_size": size}
    return "pretrained", state
