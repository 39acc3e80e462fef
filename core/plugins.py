"""Tasks and tokenizers by name: a file of that name inside, an entry point outside.

Packages outside name theirs in the entry-point groups `tfm.tasks` and `tfm.tokenizers`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from .data.source import Source, unpacked
from .errors import ConfigError, nearest

ROOT = Path(__file__).parent.parent
CLASS = {"tasks": "Task", "tokenizers": "Tokenizer"}  # what a file of each kind defines


def _inside(group: str) -> list[str]:
    return sorted(p.stem for p in (ROOT / group).glob("*.py") if not p.stem.startswith("_"))


def _outside(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"tfm.{group}")}


def names(group: str) -> list[str]:
    """All names of a group, `tasks` or `tokenizers`. Imports none of them."""
    return sorted({*_inside(group), *_outside(group)})


def find(group: str, name: str) -> Any:
    """The class called `name`. ConfigError says what is near where there is none."""
    flag = {"tasks": "--task", "tokenizers": "--tokenizer"}[group]
    if not isinstance(name, str):  # read from a file
        raise ConfigError(f"{flag} {name}: must be a name")
    if name in _inside(group):
        return getattr(importlib.import_module(f"tfm.{group}.{name}"), CLASS[group])
    points = _outside(group)
    if name in points:
        try:
            return points[name].load()
        except Exception as error:
            raise ConfigError(
                f"{group[:-1]} {name}: {points[name].value} failed ({error})"
            ) from error
    raise ConfigError(f"{flag} {name}: no such {group[:-1]}; {nearest(name, names(group))}")


def name_of(group: str, kind: type) -> str:
    """The name under which `find` gives this class. ConfigError for one from outside that no
    entry point names."""
    package, _, module = kind.__module__.rpartition(".")
    if package == f"tfm.{group}":
        return module
    for name, point in _outside(group).items():
        if point.module == kind.__module__ and point.load() is kind:
            return name
    raise ConfigError(
        f"{kind.__module__}.{kind.__qualname__}: no entry point of the group tfm.{group} names it"
    )


def guess_task(source: Source) -> str:
    """The task that claims the first file most surely. A table with a column chosen, and one of
    the hub, are taken for text where nothing says otherwise."""
    if source.is_table() and (source.column or source.paths[0].startswith("hf:")):
        return "text"
    path = source.files()[0]
    with unpacked(path).open("rb") as file:
        head = file.read(1 << 16)
    path = path.with_suffix("") if path.suffix == ".gz" else path
    claims = {name: find("tasks", name).claims(path, head) for name in names("tasks")}
    return max(sorted(claims), key=lambda name: claims[name])
