"""Contestants of equal size: as many parameters in all, embeddings and head included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..config import ModelConfig
from ..errors import ConfigError
from ..model.sequence_model import on_meta
from .contestant import Contestant

TOLERANCE = 0.02  # of the parameters of the reference
MULTIPLES = (8, 2, 1)  # of which a width is one, if that is within the tolerance


def parameter_count(config: ModelConfig) -> int:
    """All parameters of a model, embeddings and head included."""
    return on_meta(config).parameter_count()


def equalised(
    contestants: Sequence[Contestant],
    parameters: int,
    config_of: Callable[[Contestant], ModelConfig],
    tolerance: float = TOLERANCE,
) -> list[Contestant]:
    """The contestants with about `parameters` parameters each, embeddings and head included.

    One that is not within the tolerance already gets another ffn_width if it has feed-forward
    layers, else another width (RNN, LSTM, CNN); where that is not enough, both, and at last fewer
    heads, of which a width is a multiple. What it sets itself stays. config_of: the model of a
    contestant on the study's data. ConfigError names a contestant that cannot have as many.
    """
    return [_equal(each, parameters, config_of(each), tolerance) for each in contestants]


def _equal(
    contestant: Contestant, parameters: int, config: ModelConfig, tolerance: float
) -> Contestant:
    def distance(count: int) -> float:
        return abs(count / parameters - 1)

    if distance(parameter_count(config)) <= tolerance:
        return contestant
    for changes in _changes(config, contestant.sets.get("model", {}), parameters):
        if distance(parameter_count(replace(config, **changes))) <= tolerance:
            return contestant.with_sets(model=changes)
    raise ConfigError(
        f"{contestant.name}: has {parameter_count(config):,} parameters, and no width gives it "
        f"{parameters:,} within {tolerance:.0%}, those of the contestant it is compared with"
    )


def _changes(
    config: ModelConfig, own: Mapping[str, Any], parameters: int
) -> Iterator[dict[str, Any]]:
    """Fields by which the size comes near to `parameters`, the least change first. own: fields that
    stay."""

    def may_change(field: str) -> bool:
        return field not in own and config.uses(field)

    if may_change("ffn_width"):
        for multiple in MULTIPLES:
            yield {"ffn_width": _nearest(config, "ffn_width", multiple, parameters)}
    heads, has_heads = config.heads, config.uses("heads")
    while may_change("width"):
        fewer: dict[str, Any] = {} if heads == config.heads else {"heads": heads}
        least = 2 * heads if has_heads else 1  # rotary positions need an even head width
        for multiple in MULTIPLES:
            # a width that the fewer heads divide too, so that the config is a possible one
            start = replace(config, width=math.lcm(multiple, least), **fewer)
            width = _nearest(start, "width", math.lcm(multiple, least), parameters)
            yield {**fewer, "width": width}
            if may_change("ffn_width"):
                wide = replace(start, width=width)
                yield {
                    **fewer,
                    "width": width,
                    "ffn_width": _nearest(wide, "ffn_width", multiple, parameters),
                }
        grouped = config.groups != config.heads or config.head_dim
        if heads == 1 or grouped or not may_change("heads"):
            return
        heads = heads // 2 if heads % 2 == 0 else 1


def _nearest(config: ModelConfig, field: str, step: int, parameters: int) -> int:
    """The multiple of `step` at which the model's size is nearest to `parameters`, by bisection:
    the size grows with the width."""

    def count(multiple: int) -> int:
        return parameter_count(_changed(config, field, step * multiple))

    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    return step * min((low, high), key=lambda multiple: abs(count(multiple) - parameters))


def _changed(config: ModelConfig, field: str, value: int) -> ModelConfig:
    fields: dict[str, Any] = {field: value}
    return replace(config, **fields)
