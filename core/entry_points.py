"""What other packages add to tfm: entry points of the groups `tfm.tasks`, `tfm.tokenizers`,
`tfm.mixers` and `tfm.trackers`."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from .errors import ConfigError


@cache  # what is installed does not change while a command runs
def entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of `tfm.GROUP` by name, without importing them."""
    return {point.name: point for point in metadata.entry_points(group=f"tfm.{group}")}


def load(group: str, name: str) -> Any:
    """What an entry point names. KeyError for an unknown name, ConfigError if its import fails."""
    point = entry_points(group)[name]
    try:
        return point.load()
    except Exception as error:
        raise ConfigError(f"{group[:-1]} {name}: {point.value} failed ({error})") from error
