"""What `tfm ablate` compares: the steps from the transformer of 2017 to today's, and older
architectures; a grid of fields; a list of architectures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from ..architectures import ARCHS, architecture
from ..config import ModelConfig, TrainConfig, check_names, parse_fields
from ..errors import ConfigError, nearest
from .contestant import Contestant

KINDS = {"model": ModelConfig, "train": TrainConfig}
DEFAULT = "transformer"  # the contestant that the others are compared with
# each step keeps those before it: Xiong et al. 2020; Zhang & Sennrich 2019; Shazeer 2020; Su 2021
STEPS: Mapping[str, Mapping[str, object]] = {
    "pre-LN": {"norm_position": "pre"},
    "RMSNorm": {"norm": "rmsnorm"},
    "GLU": {"ffn": "swiglu"},
    "rotary": {"positions": "rope"},
}
OLDER = ("rnn", "lstm", "cnn", "attention-rnn")


def ladder(axes: int = 1) -> list[Contestant]:
    """The decoder of Vaswani et al. 2017, then one change more in each contestant, up to today's
    default; then the architectures of before. axes: of a position; sinusoidal positions have one,
    so that the first contestants have none on pictures."""
    changed: dict[str, object] = {} if axes == 1 else {"positions": "none"}
    found = [Contestant("post-LN 2017", "post-ln", {"model": changed} if changed else {})]
    for name, change in STEPS.items():
        changed = {**changed, **change}
        found.append(Contestant(f"+ {name}", "post-ln", {"model": changed}, after=found[-1].name))
    today = Contestant(DEFAULT, DEFAULT, after=found[-1].name)
    return [*found, today, *(Contestant(name, name) for name in OLDER)]


def architectures(names: Sequence[str]) -> list[Contestant]:
    """A contestant for each name. ConfigError for an unknown one, one with an encoder, or one that
    is named twice."""
    for name in names:
        if architecture(name).model.get("encoder_layers"):
            known = ", ".join(n for n, a in ARCHS.items() if not a.model.get("encoder_layers"))
            raise ConfigError(f"--arch {name}: has an encoder; compare decoders: {known}")
        if list(names).count(name) > 1:
            raise ConfigError(f"--arch {','.join(names)}: {name} is there twice")
    return [Contestant(name, name) for name in names]


def grid(assignments: Sequence[str], arch: str) -> list[Contestant]:
    """A contestant for each combination of the values of SECTION.FIELD=A,B texts, on top of `arch`.
    ConfigError for an unknown field or a single value."""
    architectures([arch])
    axes = [_axis(text) for text in assignments]
    names = [field for field, _ in axes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--grid {name}: given twice; list all values in one")
    return list(_product(axes, arch))


def _product(axes: Sequence[tuple[str, Sequence[str]]], arch: str) -> Iterator[Contestant]:
    for values in itertools.product(*(values for _, values in axes)):
        sets: dict[str, dict[str, object]] = {}
        for (name, _), value in zip(axes, values, strict=True):
            section, _, field = name.partition(".")
            sets.setdefault(section, {})[field] = value
        chosen = zip(axes, values, strict=True)
        said = " ".join(f"{name.partition('.')[2]}={value}" for (name, _), value in chosen)
        yield Contestant(said, arch, sets)


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, listed = text.partition("=")
    section, dot, field = name.partition(".")
    values = [value.strip() for value in listed.split(",")]
    if not (equals and dot) or section not in KINDS or not all(values):
        raise ConfigError(f"--grid {text}: must be model.FIELD=A,B or train.FIELD=A,B")
    known = {f.name for f in fields(KINDS[section])}
    if field not in known:
        raise ConfigError(f"--grid {section}.{field}: no such field; {nearest(field, known)}")
    if field in ("seed", "steps", "threads", "vocab_size", "axes", "features", "ordered"):
        raise ConfigError(f"--grid {name}: the study or the data decides it")
    if len(values) < 2 or len(set(values)) < len(values):
        raise ConfigError(f"--grid {text}: needs two or more different values, as A,B")
    for value in values:
        parsed = parse_fields(KINDS[section], section, {field: value})
        if section == "model":
            check_names(parsed)
    return name, values
