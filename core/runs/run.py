"""`Run`: the directory of one training run.

config.json  tokenizer.json (+ .safetensors)  heldout/  log.jsonl  checkpoints/NNNNNN/
base.safetensors (the frozen weights, of which checkpoints have only the adapters)
stdin  pipe-N (training data that was piped)

Runs and checkpoints are written atomically: to a temporary folder, fsynced, then renamed. A
manifest lists every file with its sha256, which is checked before use. Nothing is ever unpickled.
Importing this module does not import torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig, TrainConfig, from_json
from ..data.keyed_random import key
from ..data.sequence_store import Store
from ..data.source import Source
from ..errors import ConfigError, DamagedError, TfmError, UsageError, writing
from ..files import (
    FORMAT,
    check_files,
    log_line,
    read_log,
    sync_folder,
    to_json,
    write_durably,
    write_manifest,
)
from . import checkpoints
from .checkpoints import MODEL, WHOLE, Checkpoint, Part
from .tokenizer_files import read_tokenizer, write_tokenizer

if TYPE_CHECKING:
    import torch

    from ..model.sequence_model import SequenceModel
    from ..task import Task

BASE = "base.safetensors"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_utf8(path: Path) -> None:
    """UsageError for a path that is not UTF-8, at which tensors could not be opened."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path}: the names of runs and their folders must be UTF-8") from None


def check_free(path: Path) -> None:
    """UsageError if no run can be created at `path`: an invalid name, or one that exists."""
    check_utf8(path)
    if os.path.lexists(path):
        raise UsageError(f"--run {path}: already exists; choose another name or --resume it")
    if not NAME.fullmatch(path.name) or path.name.startswith("."):
        raise UsageError(
            f"--run {path}: a run's name is 1 to 64 of A-Z a-z 0-9 . _ -, not begun with a dot"
        )


class Run:
    """An existing run. `config`: the content of config.json; `created`: its ISO 8601 time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.config: dict[str, Any] = json.loads((path / "config.json").read_bytes())
            if self.config["format"] > FORMAT:
                raise ConfigError(
                    f"{path}: made by tfm {self.config.get('tfm')}, which is newer; upgrade"
                )
            self.created = str(self.config["created"])
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{path}: not a run (no config.json); `tfm runs` lists them") from None
        except ConfigError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{path / 'config.json'}: damaged ({error})") from error
        self._lock: Any = None

    # creation

    @staticmethod
    def create(
        path: Path,
        config: dict[str, Any],
        tokenizer: Any,
        heldout: Mapping[str, Any],
        streams: Mapping[str, Path] | None = None,
        base: Mapping[str, torch.Tensor] | None = None,
    ) -> Run:
        """Writes a new run atomically. heldout: split name -> sequences; streams: name in the run
        -> file, for data of which no other copy exists; base: the weights that are frozen.

        UsageError if `path` exists, TfmError if it cannot be written.
        """
        from ..data.sequence_store import write_store

        check_free(path)
        fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
        with writing(path, "--run "):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir()
            try:
                config = {
                    "format": FORMAT,
                    "created": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                    **config,
                }
                (fresh / "config.json").write_bytes(to_json(config))
                write_tokenizer(fresh, tokenizer)
                for split, sequences in heldout.items():
                    write_store(fresh / "heldout" / split, sequences, tokenizer.vocab_size)
                if base:
                    from safetensors.torch import save as as_bytes

                    write_durably(fresh / BASE, as_bytes(dict(base)))
                write_manifest(fresh, {})
                # not in the manifest, as it can be large; resuming compares its fingerprint
                for name, data in (streams or {}).items():
                    shutil.copyfile(data, fresh / name)
                (fresh / "checkpoints").mkdir()
                (fresh / "log.jsonl").touch()
                try:
                    fresh.rename(path)
                except OSError as error:
                    if not path.exists():
                        raise
                    raise UsageError(
                        f"--run {path}: already exists; choose another name"
                    ) from error
                sync_folder(path.parent)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        return Run(path)

    def check(self) -> None:
        """DamagedError if the config, the tokenizer or a held-out file has changed."""
        check_files(self.path)

    # contents

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def title(self) -> str:
        """What a person calls it."""
        return str(self.path)

    @property
    def pretrained(self) -> str | None:
        """The model of another program that its weights come from, directly or by --init."""
        if "imported" in self.config:
            return str(self.config["imported"]["source"])
        found: str | None = self.config.get("pretrained")
        return found

    @property
    def address(self) -> str:
        """What `open_run` opens as this, from every folder."""
        return str(self.path.absolute())

    def model_config(self) -> ModelConfig:
        fields = self.config["model"]
        if isinstance(fields, dict):
            fields = dict(fields)
            if "mixer" in fields:  # the name before it was a list
                fields["mixers"] = fields.pop("mixer")
            if "ordered_to" in fields:  # when there was one range
                low, high = fields.pop("ordered_from", 0), fields.pop("ordered_to")
                fields["ordered"] = f"{low}-{high}" if high else ""
        return from_json(ModelConfig, fields, f"{self.path}/config.json: model")

    def train_config(self) -> TrainConfig:
        return from_json(TrainConfig, self.config["train"], f"{self.path}/config.json: train")

    def tokenizer(self) -> Any:
        return self._tokenizer()

    def _tokenizer(self, kind: str | None = None) -> Any:
        """The tokenizer that the run's files hold, of this kind, or the one that the config has."""
        try:
            kind = kind or self.config["tokenizer"]["kind"]
        except (KeyError, TypeError) as error:
            raise DamagedError(f"{self.path / 'config.json'}: damaged ({error})") from error
        return read_tokenizer(self.path, kind)

    def task(self) -> Task:
        from ..plugins import find

        kind = find("tasks", self.config["task"])
        options = from_json(kind.Options, self.config["task_options"], f"{self.path}: task")
        task: Task = kind(options)
        return task

    def source_like(self, paths: tuple[str, ...], column: str | None) -> Source:
        """A `Source` of `paths`; for tables, `column` defaults to the one the run trained on."""
        own = self.config["data"].get("column")
        source = Source(paths, own if column is None else column)
        return source if column is not None or source.is_table() else Source(paths)

    def heldout(self, split: str) -> Store:
        folder = self.path / "heldout" / split
        if not os.path.isdir(folder):
            there = ", ".join(self.splits())
            if not there:
                raise UsageError(f"{self.path}: keeps no held-out items; give --data or a prompt")
            raise UsageError(f"--split {split}: this run keeps {there}")
        return Store(folder)

    def splits(self) -> list[str]:
        """The held-out splits that the run keeps: valid, report or test."""
        return sorted(p.name for p in (self.path / "heldout").glob("*"))

    def log(self) -> list[dict[str, Any]]:
        return list(read_log(self.path / "log.jsonl"))

    def append_log(self, entry: Mapping[str, Any]) -> None:
        path = self.path / "log.jsonl"
        with writing(path), path.open("a") as file:
            file.write(log_line(entry))

    def cut(self, step: int) -> None:
        """Deletes log entries and checkpoints after `step`, and the final scores' entry."""
        for later in self.checkpoints():
            if later.step > step:
                shutil.rmtree(later.path)
        kept = [e for e in self.log() if e["step"] <= step and e.get("event") != "final"]
        path = self.path / "log.jsonl"
        with writing(path):
            write_durably(path, "".join(map(log_line, kept)).encode())

    def status(self) -> dict[str, Any]:
        """`state` (done, running, interrupted, imported, empty), `step` (last checkpoint), `steps`
        (planned) and `final` (the log entry of the final scores, or None)."""
        entries = self.log()
        planned = [e["steps"] for e in entries if e.get("event") == "replan"]
        steps = planned[-1] if planned else self.train_config().steps
        ends = [e for e in entries if e.get("event") in ("final", "replan")]
        final = ends[-1] if ends and ends[-1]["event"] == "final" else None
        saved = self.checkpoints()
        step = saved[-1].step if saved else 0
        if self.is_locked():
            state = "running"
        elif final is not None:
            state = "done"
        elif "imported" in self.config:
            state = "imported"
        else:
            state = "interrupted" if step else "empty"
        return {"state": state, "step": step, "steps": steps, "final": final}

    # locking

    def lock(self) -> None:
        """Makes this process the only writer, until `unlock` or its exit (even by a kill).
        UsageError names the process that holds the lock."""
        import filelock

        if self._lock is not None:
            return
        lock = filelock.FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            pid = self.path / "lock.pid"  # written shortly after locking, so it may be missing
            holder = pid.read_text().strip() if pid.exists() else "of another tfm"
            raise UsageError(f"{self.path}: process {holder} is writing to this run") from None
        except OSError as error:
            raise TfmError(f"{self.path}: cannot be written ({error.strerror})") from error
        with writing(self.path / "lock.pid"):
            (self.path / "lock.pid").write_text(str(os.getpid()))
        self._lock = lock

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def is_locked(self) -> bool:
        import filelock

        if self._lock is not None or not (self.path / "lock").exists():
            return self._lock is not None
        try:
            with filelock.FileLock(self.path / "lock", timeout=0):
                return False
        except filelock.Timeout:
            return True
        except OSError:  # a read-only folder has no writer
            return False

    # checkpoints

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint, by step."""
        return checkpoints.checkpoints(self.path)

    def checkpoint(self, which: str = "last") -> Checkpoint:
        """The checkpoint `which`: `last`, `best` or a step. UsageError if it does not exist."""
        return checkpoints.choose(self.path, which)

    def save(
        self,
        step: int,
        weights: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
        part: Part = WHOLE,
    ) -> Checkpoint:
        """See `checkpoints.save`."""
        return checkpoints.save(self.path, step, weights, optimizer, state, part)

    def check_checkpoint(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """See `checkpoints.check`."""
        return checkpoints.check(self.path, checkpoint)

    def initial_model(self) -> SequenceModel:
        """A model on the CPU to load a checkpoint into. With `train.lora` it has the frozen weights
        of the run, and the adapters that training starts from; else values that are not set.
        DamagedError if the file of the weights does not fit."""
        from ..model.lora import adapt
        from ..model.sequence_model import uninitialised
        from .tensors import load_weights

        model, train = uninitialised(self.model_config()), self.train_config()
        if train.lora:
            load_weights(model, self.path / BASE)
            adapt(model, train.lora, key(train.seed, "adapters"))
        return model

    def load_trained(self, which: str = "last") -> SequenceModel:
        """As `load_model`, but adapters stay what they are."""
        from .tensors import load_weights

        self.check()
        checkpoint = self.checkpoint(which)
        self.check_checkpoint(checkpoint)
        model = self.initial_model()
        load_weights(model, checkpoint.path / MODEL)
        return model

    def load_model(self, which: str = "last", device: torch.device | None = None) -> SequenceModel:
        """The model at a checkpoint, with adapters merged into its weights. DamagedError if a file
        of the run or checkpoint changed."""
        from ..model.lora import merged

        model = merged(self.load_trained(which))
        return model.to(device) if device is not None else model
