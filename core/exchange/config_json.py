"""A transformers config.json as a `ModelConfig`; the other way is `Family.write_config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import ModelConfig
from ..errors import ConfigError, DamagedError
from .families import ACTIVATIONS, CARRIED, DERIVED, FAMILIES, FIELDS, ROPE_KEYS, Family

MAX_SIZE = 1 << 31  # of what counts something
FLOATS, BOOLS = ("norm_eps", "rope_theta"), ("tied", "bias")


def family_named(values: Mapping[str, Any]) -> Family:
    """The class of a config.json. ConfigError for one that tfm does not read, or for weights that
    are not plain numbers."""
    known = {family.model_type: family for family in FAMILIES if family.order is None}
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(f"config.json: model_type {kind!r}; tfm reads {', '.join(known)}")
    if values.get("quantization_config"):
        raise ConfigError("config.json: a quantised model; tfm reads plain numbers only")
    return known[kind]


def read_config(family: Family, values: Mapping[str, Any]) -> ModelConfig:
    """The config of a model of this class; the tensors of a model tell whether its norms of queries
    and keys have weights. ConfigError for what tfm does not compute, DamagedError for values of
    another type."""
    given = {**family.defaults, **{k: v for k, v in values.items() if v is not None}}
    for key, value in family.constants.items():
        if given.get(key, value) != value:
            raise ConfigError(f"config.json: {key} {given[key]!r}; tfm computes {value} only")
    carried = {**CARRIED, **family.carried}
    fields: dict[str, Any] = {n: v[0] for n, v in carried.items() if v is not None and len(v) == 1}
    for key, name in family.keys.items():
        if name == "bias":
            fields[name] = fields.get(name, False) or _value(given, key, name, False)
        elif name not in DERIVED:
            found = _value(given, key, name, None if name in FIELDS else ...)
            fields |= {} if found is None else {FIELDS.get(name, name): found}
        elif name == "activation":
            fields["ffn"] = _activation(given, key, carried["ffn"] or ())
    if "rope_parameters" in family.keys:
        fields |= _rope(given)
    fields["window"] = _window(family, values, fields["layers"])
    try:
        config = ModelConfig(**fields)
    except ConfigError as error:
        raise ConfigError(f"config.json: {str(error).removeprefix('--set ')}") from None
    usual = {  # 0 says the same
        "kv_heads": config.groups == config.heads,
        "head_dim": config.heads * config.head_width == config.width,
        "ffn_width": replace(config, ffn_width=0).hidden == config.hidden,
    }
    zero: dict[str, Any] = {name: 0 for name, same in usual.items() if same}
    return replace(config, **zero)


def _value(given: Mapping[str, Any], key: str, name: str, default: Any = ...) -> Any:
    """A size, number or truth value. DamagedError if it is none, or is not there and has no
    default."""
    value = given.get(key, default)
    if value is ...:
        raise DamagedError(f"config.json: has no {key}")
    if value is default:
        return value
    if name in BOOLS:
        good = isinstance(value, bool)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        good = False
    elif name in FLOATS:
        good = math.isfinite(value)
    else:
        good = isinstance(value, int) and 0 < value < MAX_SIZE
    if not good:
        raise DamagedError(f"config.json: {key} cannot be {str(value)[:40]!r}")
    return float(value) if name in FLOATS else value


def _activation(given: Mapping[str, Any], key: str, known: tuple[object, ...]) -> str:
    """The field `ffn`. The exact form of GELU is another one than GPT-2's, which tfm has."""
    theirs = {name: ffn for ffn, names in ACTIVATIONS.items() if ffn in known for name in names}
    name = given.get(key)
    if not isinstance(name, str) or name not in theirs:
        raise ConfigError(f"config.json: {key} {name!r}; tfm computes {', '.join(theirs)}")
    return theirs[name]


def _rope(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the rotary positions. transformers before 5 has the base beside the scaling."""
    found: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        part = given.get(key) or {}
        if not isinstance(part, Mapping):
            raise DamagedError(f"config.json: {key} is not a table")
        found |= part
    theta = _value({**given, **found}, "rope_theta", "rope_theta")
    kind = found.get("rope_type", found.get("type", "default"))
    kind = "" if kind == "default" else kind
    if not isinstance(kind, str) or kind not in ROPE_KEYS:
        raise ConfigError(f"config.json: rotary positions of type {kind!r}; tfm has linear, llama3")
    share = {**given, **found}.get("partial_rotary_factor", 1)
    if share != 1:
        raise ConfigError(f"config.json: partial_rotary_factor {share!r}; tfm computes 1 only")
    numbers = [_value(found, key, "rope_theta") for key in ROPE_KEYS[kind]]
    text = ",".join(f"{number:.10g}" for number in numbers)
    return {"rope_theta": theta, "rope_scaling": f"{kind}:{text}" if kind else ""}


def _window(family: Family, values: Mapping[str, Any], layers: int) -> int:
    """The field `window`: of all layers, as transformers 5.24 reads the keys of each class."""
    if "sliding_window" not in family.keys:
        return 0
    given = {**family.defaults, **values}
    if "use_sliding_window" in family.keys and not given.get("use_sliding_window", False):
        return 0
    if given.get("sliding_window") is None:
        return 0
    window: int = _value(given, "sliding_window", "window")
    kinds = given.get("layer_types")
    if not isinstance(kinds, list) and "use_sliding_window" in family.keys:
        full = _value({"max_window_layers": 28, **values}, "max_window_layers", "rope_theta")
        kinds = ["full_attention" if n < full else "sliding_attention" for n in range(layers)]
    kinds = kinds or ["sliding_attention"]
    if any(kind != kinds[0] for kind in kinds):
        raise ConfigError("config.json: a sliding window in some layers; tfm has one for all")
    return window if kinds[0] == "sliding_attention" else 0
