"""Finds tasks and tokenizers by name: files of tfm, or entry points of other packages.

A built-in task is a file in tasks/, a built-in tokenizer a file in tokenizers/. Other packages
register theirs in the entry-point groups `tfm.tasks` and `tfm.tokenizers`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from .data.source import Source, unpacked
from .errors import ConfigError, nearest

ROOT = Path(__file__).parent.parent
CLASS_NAMES = {"tasks": "Task", "tokenizers": "Tokenizer"}  # what a file of each kind defines


def _builtin_names(group: str) -> list[str]:
    return sorted(p.stem for p in (ROOT / group).glob("*.py") if not p.stem.startswith("_"))


def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"tfm.{group}")}


def names(group: str) -> list[str]:
    """All names of a group, `tasks` or `tokenizers`, without importing them."""
    return sorted({*_builtin_names(group), *_entry_points(group)})


def find(group: str, name: str) -> Any:
    """The class registered as `name`. ConfigError with similar names for an unknown one."""
    flag = {"tasks": "--task", "tokenizers": "--tokenizer"}[group]
    if not isinstance(name, str):  # read from config.json
        raise ConfigError(f"{flag} {name}: must be a name")
    if name in _builtin_names(group):
        return getattr(importlib.import_module(f"tfm.{group}.{name}"), CLASS_NAMES[group])
    points = _entry_points(group)
    if name in points:
        try:
            return points[name].load()
        except Exception as error:
            raise ConfigError(
                f"{group[:-1]} {name}: {points[name].value} failed ({error})"
            ) from error
    raise ConfigError(f"{flag} {name}: no such {group[:-1]}; {nearest(name, names(group))}")


def name_of(group: str, kind: type) -> str:
    """The name under which `find` returns this class. ConfigError for a class of another package
    without an entry point."""
    package, _, module = kind.__module__.rpartition(".")
    if package == f"tfm.{group}":
        return module
    for name, point in _entry_points(group).items():
        if point.module == kind.__module__ and point.load() is kind:
            return name
    raise ConfigError(
        f"{kind.__module__}.{kind.__qualname__}: no entry point of the group tfm.{group} names it"
    )


def guess_task(source: Source) -> str:
    """The task whose `claims` is highest for the first file. Hub datasets, and tables with
    --column, count as text."""
    if source.is_table() and (source.column or source.paths[0].startswith("hf:")):
        return "text"
    path = source.files()[0]
    with unpacked(path).open("rb") as file:
        head = file.read(1 << 16)
    path = path.with_suffix("") if path.suffix == ".gz" else path
    claims = {name: find("tasks", name).claims(path, head) for name in names("tasks")}
    return max(sorted(claims), key=lambda name: claims[name])
