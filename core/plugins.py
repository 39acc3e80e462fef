"""Finds tasks and tokenizers by name: files of tfm, or entry points of other packages.

A built-in task is a file in tasks/, a built-in tokenizer a file in tokenizers/. Other packages
register theirs in the entry-point groups `tfm.tasks` and `tfm.tokenizers`.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from .data.compressed import plain_name, unpacked
from .data.shards import PREPARED, is_prepared
from .data.source import Source
from .entry_points import entry_points, load
from .errors import ConfigError, nearest
from .files import read_manifest

ROOT = Path(__file__).parent.parent
GUESSED_FILES = 100  # of a folder, at most, are looked at to guess its task
CLASS_NAMES = {"tasks": "Task", "tokenizers": "Tokenizer"}  # what a file of each kind defines


def _builtin_names(group: str) -> list[str]:
    return sorted(p.stem for p in (ROOT / group).glob("*.py") if not p.stem.startswith("_"))


def names(group: str) -> list[str]:
    """All names of a group, `tasks` or `tokenizers`, without importing them."""
    return sorted({*_builtin_names(group), *entry_points(group)})


def find(group: str, name: str) -> Any:
    """The class registered as `name`. ConfigError with similar names for an unknown one."""
    flag = {"tasks": "--task", "tokenizers": "--tokenizer"}[group]
    if not isinstance(name, str):  # read from config.json
        raise ConfigError(f"{flag} {name}: must be a name")
    if name in _builtin_names(group):
        return getattr(importlib.import_module(f"tfm.{group}.{name}"), CLASS_NAMES[group])
    if name in entry_points(group):
        return load(group, name)
    raise ConfigError(f"{flag} {name}: no such {group[:-1]}; {nearest(name, names(group))}")


def name_of(group: str, kind: type) -> str:
    """The name under which `find` returns this class. ConfigError for a class of another package
    without an entry point."""
    package, _, module = kind.__module__.rpartition(".")
    if package == f"tfm.{group}":
        return module
    for name, point in entry_points(group).items():
        if point.module == kind.__module__ and point.load() is kind:
            return name
    raise ConfigError(
        f"{kind.__module__}.{kind.__qualname__}: no entry point of the group tfm.{group} names it"
    )


@dataclass(frozen=True)
class Guess:
    """A task, and what speaks for it. share: of the bytes, about."""

    task: str
    files: int
    share: float


def guess_task(source: Source) -> Guess:
    """The task that most bytes of the data belong to, by the `claims` on all files, or on
    GUESSED_FILES spread evenly over the bytes. Hub datasets, and tables with --column, count as
    text; a folder of `tfm prepare` names its task."""
    if len(source.paths) == 1 and is_prepared(source.paths[0]):
        return Guess(str(read_manifest(Path(source.paths[0]), PREPARED)["task"]), 1, 1.0)
    if any(path.startswith("hf:") for path in source.paths) or (
        source.column and source.is_table()
    ):
        return Guess("text", len(source.paths), 1.0)
    files = source.files()
    chosen = [(path, max(1, path.stat().st_size)) for path in files]
    if len(files) > GUESSED_FILES:
        ends = list(accumulate(size for _, size in chosen))
        step = ends[-1] / GUESSED_FILES
        at = (bisect_left(ends, (number + 0.5) * step) for number in range(GUESSED_FILES))
        chosen = [(files[number], 1) for number in at]
    votes: Counter[str] = Counter()
    for path, weight in chosen:
        votes[_claimed(path)] += weight
    best = max(sorted(votes), key=lambda name: votes[name])
    return Guess(best, len(files), votes[best] / votes.total())


def _claimed(path: Path) -> str:
    """The task whose claim on a file is highest."""
    with unpacked(path).open("rb") as file:
        head = file.read(1 << 16)
    named = path.with_name(plain_name(path))
    claims = {name: find("tasks", name).claims(named, head) for name in names("tasks")}
    return max(sorted(claims), key=lambda name: claims[name])
