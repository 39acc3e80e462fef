"""`Contestant`: one of the configurations that a study compares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..runs.run import NAME
from ..train.request import Request

Sets = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Contestant:
    """A configuration that a study trains. name: unique in the study; arch: as `--arch`; sets:
    fields as of `--set`, by section: {"model": {...}, "train": {...}}; after: the name of the
    contestant that this one differs from by one change, if there is one."""

    name: str
    arch: str = "transformer"
    sets: Sets = field(default_factory=dict)
    after: str | None = None

    def request(self, base: Request, **changes: Any) -> Request:
        """The request of `base` (the data and what all contestants share) for this contestant; its
        own fields replace those of `base`. changes: further fields of the request."""
        return replace(base, arch=self.arch, sets=merged(base.sets, self.sets), **changes)

    def with_sets(self, **sections: Mapping[str, object]) -> Contestant:
        """This contestant with further fields: `with_sets(model={"width": 96})`."""
        return replace(self, sets=merged(self.sets, sections))


def merged(first: Sets, *others: Sets) -> dict[str, dict[str, object]]:
    """The fields of several `--set`, by section; a later one replaces an earlier one."""
    found: dict[str, dict[str, object]] = {}
    for sets in (first, *others):
        for section, fields in sets.items():
            found.setdefault(section, {}).update(fields)
    return found


def run_name(*parts: object) -> str:
    """A legal name of a run made of `parts`: run_name("LSTM 4x128", "seed", 0) is
    lstm-4x128-seed-0."""
    name = re.sub(r"[^a-z0-9._]+", "-", "-".join(map(str, parts)).lower()).strip("-.")
    name = name[:64].rstrip("-.")
    assert NAME.fullmatch(name), parts
    return name
