"""What the folders of files say: the label of an item, and its part of the data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PARTS = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "dev": "valid",
         "validation": "valid", "test": "test", "testing": "test", "t10k": "test"}  # fmt: skip
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Place:
    """label: the folders between that of the part and the file, None if there are none; part:
    train, valid or test, else empty; stray: a file beside the folders of the parts."""

    label: str | None
    part: str = ""
    stray: bool = False


def places(
    inside: Mapping[Path, tuple[str, ...]], part: Callable[[str], str] | None = None
) -> dict[Path, Place]:
    """The place of each file. inside: the names of the folders from the top to each file, and that
    of the file; part: the part of a folder's name, by default `part_of`."""
    part = part or (lambda name: part_of(name)[0])
    wrapper = _wrapper(inside.values())
    parts = _are_parts([where[wrapper:] for where in inside.values()], part)
    found = {}
    for path, names in inside.items():
        where, own = names[wrapper:], ""
        if parts:
            own = part(where[0]) if len(where) > 1 else ""
            if not own:
                found[path] = Place(None, stray=True)
                continue
            where = where[1:]
        found[path] = Place("/".join(where[:-1]) or None, own)
    return found


def part_of(name: str) -> tuple[str, str]:
    """(part, the rest of the name) of a name such as x_train, valImages or t10k-images."""
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
    for word in words:
        if word.lower() in PARTS:
            return PARTS[word.lower()], "_".join(w.lower() for w in words if w is not word)
    return "", name.lower()


def _wrapper(inside: Iterable[tuple[str, ...]]) -> int:
    """How many folders at the top hold all files in folders below them, as in an archive of one
    folder: they are no labels."""
    paths, depth = list(inside), 0
    while (
        max(map(len, paths)) > depth + 2
        and min(map(len, paths)) > depth + 1
        and len({where[depth] for where in paths}) == 1
    ):
        depth += 1
    return depth


def _are_parts(inside: Iterable[tuple[str, ...]], part: Callable[[str], str]) -> bool:
    """Whether the folders at the top are parts of a data set (train, val, test) and not labels."""
    paths = list(inside)
    tops = {where[0] for where in paths if len(where) > 1}
    parts = {part(top) for top in tops}
    deeper = any(len(where) > 2 for where in paths)
    known = parts - {""}
    return "train" in known and (len(known) > 1 or (deeper and "" not in parts))


def listed(names: list[str], why: str) -> list[str]:
    """[] or one text: `3 no picture: a, b, c ...`."""
    if not names:
        return []
    more = " ..." if len(names) > SHOWN else ""
    return [f"{len(names):,} {why}: {', '.join(names[:SHOWN])}{more}"]
