"""Folders of tokenized data, which `tfm train` takes instead of the data.

DIR/prepared.json  tokenizer.json (+ .safetensors)  shards/  heldout/SPLIT/  halves/SPLIT/

halves/ has the held-out items in two parts, for a training whose score selects the weights.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NoReturn

from ..config import from_json, with_fields
from ..data.sequence_store import Store
from ..data.shards import PREPARED, Shards, is_prepared, read_prepared
from ..errors import DamagedError, DataError, UsageError
from ..files import to_json
from ..plugins import find
from ..protocols import Items, Sequence, Tokenizer
from ..runs.tokenizer_files import read_tokenizer
from ..task import Task
from .request import Request


@dataclass(frozen=True)
class StoredPart:
    """A held-out part of a folder, whose sequences are in it."""

    size: int
    fingerprint: str
    about: str


class PreparedFolder:
    """A folder that was written by `write_prepared`. DamagedError if it has changed."""

    def __init__(self, path: Path) -> None:
        self.path, self.about = path, read_prepared(path)
        try:
            self.spec = str(self.about["tokenizer"]["spec"])
            self.fingerprint = str(self.about["fingerprint"])
            kind, options = find("tasks", self.about["task"]), self.about["task_options"]
            self.task: Task = kind(from_json(kind.Options, options, f"{path}: task"))
            self.tokenizer = read_tokenizer(path, self.about["tokenizer"]["kind"])
            self.shards = Shards(path, self.about)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(f"{path / PREPARED}: not of tfm prepare ({error})") from error
        if self.tokenizer.vocab_size != self.shards.vocab_size:
            raise DamagedError(f"{path}: its tokenizer is not the one of its shards")

    def train(self, task: Task) -> Items:
        """The training items."""
        figures = self.about["figures"]
        return task.prepared(self.shards, self.tokenizer, self.fingerprint, figures)

    def held(self, selects: bool) -> tuple[dict[str, Items], dict[str, list[Sequence]]]:
        """The held-out parts, and their sequences. selects: as in `read_data`. DataError if there
        are too few items for two parts."""
        splits = self.about["splits"]
        name = "halves" if selects and "test" not in splits["heldout"] else "heldout"
        if name not in splits:
            raise DataError(
                f"{self.path}: too few held-out items for --patience or --until; prepare the data "
                "with --test or a larger --holdout"
            )
        parts: dict[str, Items] = {}
        for split in (s for s in ("valid", "report", "test") if s in splits[name]):
            size, fingerprint = splits[name][split]
            parts[split] = StoredPart(size, fingerprint, f"{size:,} {self.task.unit}s")
        return parts, {split: list(Store(self.path / name / split)) for split in parts}

    def floor(self, final_split: str) -> dict[str, float]:
        """The baselines of the part that the final score is of."""
        return dict(self.about["floor"][final_split])

    def check_flags(self, request: Request) -> None:
        """UsageError for a flag of `request` that contradicts the folder."""
        where, about = self.path, self.about

        def refuse(name: str, given: object, own: object) -> NoReturn:
            flag = f"--{name.replace('_', '-')}"
            how = f"without {flag}" if own is None else f"with {flag} {own}"
            raise UsageError(
                f"{flag} {given}: {where} was prepared {how}; leave it out, or prepare the data "
                "again"
            )

        if request.task not in (None, self.task.name):
            refuse("task", request.task, self.task.name)
        for name in ("valid", "test"):
            if given := getattr(request, name):
                raise UsageError(
                    f"--{name} {given[0]}: {where} has its own held-out items; leave it out, or "
                    f"prepare the data with --{name}"
                )
        for name in ("column", "holdout"):
            given = getattr(request, name)
            if given not in (None, about[name]):
                refuse(name, given, about[name])
        if request.tokenizer is not None and without_folder(request.tokenizer) != self.spec:
            refuse("tokenizer", request.tokenizer, self.spec)
        own = asdict(self.task.options)
        asked = asdict(with_fields(self.task.options, "task", dict(request.task_options)))
        for name in own.keys() - training_options(self.task):
            if asked[name] != own[name]:
                refuse(name, asked[name], own[name])

    def training_items(self, task: Task, tokenizer: Tokenizer, title: object) -> Items:
        """The training items for a run with this task and tokenizer, called `title`. DataError if
        they are not of the same kind."""
        options = training_options(task)
        ours, theirs = (
            {k: v for k, v in asdict(each.options).items() if k not in options}
            for each in (self.task, task)
        )
        if (self.task.name, ours) != (task.name, theirs) or (
            tokenizer_hash(self.tokenizer) != tokenizer_hash(tokenizer)
        ):
            raise DataError(
                f"{title}: {self.path} was prepared with other options or another tokenizer than "
                "the run has; name its own data with --data"
            )
        return self.train(task)


def training_options(task: Task) -> set[str]:
    """The options of a task that say how to train on data, and not what it is."""
    return {f.name for f in fields(task.options) if f.metadata.get("training")}


def prepared_folder(paths: tuple[str, ...]) -> PreparedFolder | None:
    """The folder of `tfm prepare` that is all of the data, if it is one."""
    if len(paths) != 1 or not is_prepared(paths[0]):
        return None
    return PreparedFolder(Path(paths[0]))


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A hash of everything that a tokenizer is."""
    state, arrays = tokenizer.state()
    digest = hashlib.sha256(to_json(state))
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


def without_folder(spec: str) -> str:
    """A SPEC of --tokenizer that names a file of this machine, without its folder."""
    kind, colon, name = spec.rpartition(":")
    return f"{kind}{colon}{Path(name).name}" if os.path.exists(name) else spec
