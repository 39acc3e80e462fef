"""The parts of a mix, as `--mix` names them: text:a.txt@0.5, series:c.csv@0.2,horizon=24."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...core.config import with_fields
from ...core.data.scratch import is_stream
from ...core.data.source import Source
from ...core.errors import ConfigError, UsageError
from ...core.plugins import find
from ...core.task import Task

OPTION = re.compile(r",(?=[A-Za-z_-]+=)")  # a comma that begins an option
WEIGHT = re.compile(r"@([^@/]*)$")
AFTER_PATH = re.compile(r"(@[^,]*)?((?:,[A-Za-z_-]+=.*)?)")
OWN = ("name", "column", "tokenizer")  # options of a part that are none of its task


@dataclass(frozen=True)
class Part:
    """A domain of a mix. path: its data, None for data that every machine has; weight: its share
    of the tokens, relative to the others'; spec: as `--mix` gave it."""

    name: str
    task: Task
    path: str | None
    column: str | None
    weight: float
    tokenizer: str
    spec: str

    def source(self) -> Source:
        return (
            self.task.default_source() if self.path is None else Source((self.path,), self.column)
        )


def parse_parts(specs: list[str]) -> list[Part]:
    """The parts that `--mix` gives. UsageError or ConfigError names the one that is wrong. A part
    is named after its task; several of one task are numbered, unless they have `name=`."""
    parts = [_parse(spec) for spec in specs]
    tasks = Counter(part.task.name for part in parts)
    seen: Counter[str] = Counter()
    named = []
    for part in parts:
        name, kind = part.name, part.task.name
        seen[kind] += 1
        if not name:
            name = kind if tasks[kind] == 1 else f"{kind}-{seen[kind]}"
        named.append(Part(**{**vars(part), "name": name}))
    names = Counter(part.name for part in named)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(f"--mix: two parts are named {twice[0]}; give one another by ,name=OTHER")
    return named


def _cut(spec: str) -> tuple[str, str, list[str]]:
    """(TASK:PATH, the weight with its @, options) of a spec. A path that exists is taken as it is,
    with the commas and @ in it."""
    start = spec.find(":") + 1
    ends = [len(spec), *(at for at in range(len(spec) - 1, start, -1) if spec[at] in "@,")]
    for end in ends if start else ():
        rest = AFTER_PATH.fullmatch(spec[end:])
        if rest and os.path.exists(spec[start:end]):
            return spec[:end], rest[1] or "", OPTION.split(rest[2])[1:]
    head, *options = OPTION.split(spec)
    found = WEIGHT.search(head)
    return (head[: found.start()], found[0], options) if found else (head, "", options)


def _parse(spec: str) -> Part:
    head, at, options = _cut(spec)
    weight = 1.0
    if at:
        try:
            weight = float(at[1:])
        except ValueError:
            weight = -1.0
        if not 0 < weight < float("inf"):
            raise UsageError(f"--mix {spec}: the weight after @ must be a number above 0")
    task_name, colon, path = head.partition(":")
    if not task_name or "\n" in spec:
        raise UsageError(f"--mix {spec!r}: must be TASK[:PATH][@WEIGHT]; text:a.txt@0.5")
    if colon and not path:
        raise UsageError(f"--mix {spec}: no data after the colon; text:a.txt, or text alone")
    if is_stream(path):
        raise UsageError(f"--mix {spec}: a part reads files; pipe into a file first")
    pairs = [option.split("=", 1) for option in options]
    given = dict(pairs)
    if len(given) < len(pairs):
        raise UsageError(f"--mix {spec}: an option is given twice")
    own = {name: given.pop(name, None) for name in OWN}
    try:
        kind = find("tasks", task_name)
        if kind.name == "mix":
            raise ConfigError("a mix has no mixes")
        values = {name.replace("-", "_"): value for name, value in given.items()}
        task: Task = kind(with_fields(kind.Options(), "task", values))
    except ConfigError as error:
        raise ConfigError(f"--mix {spec}: {str(error).replace('--set task.', '')}") from error
    name = own["name"] or ""
    if own["name"] is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
        raise UsageError(f"--mix {spec}: a name is 1 to 32 of A-Z a-z 0-9 _ -")
    tokenizer = own["tokenizer"] or task.default_tokenizer
    return Part(name, task, path or None, own["column"], weight, tokenizer, spec)


def lasting(spec: str) -> str:
    """A spec whose path does not depend on the working folder."""
    head, weight, options = _cut(spec)
    task_name, colon, path = head.partition(":")
    if path and not path.startswith("hf:") and not is_stream(path):
        path = str(Path(path).expanduser().absolute())
    return ",".join([f"{task_name}{colon}{path}{weight}", *options])
