"""`Run`: one directory on disk that holds all that a training run is.

config.json  tokenizer.json (+ .safetensors)  heldout/  log.jsonl  checkpoints/NNNNNN/

A checkpoint appears whole or not at all: written to a folder of another name, fsynced, renamed.
Every file is listed with its sha256 in a manifest, and checked before it is used. Nothing is
ever unpickled. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import ModelConfig, TrainConfig, from_json
from .errors import ConfigError, DamagedError, TfmError, UsageError, writing
from .files import (
    FORMAT,
    check_files,
    file_problems,
    log_entries,
    log_line,
    read_log,
    read_manifest,
    sync_folder,
    to_json,
    write_durably,
    write_manifest,
)
from .store import Store

if TYPE_CHECKING:
    import torch

    from .model import SequenceModel

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEEP = 2  # newest checkpoints that stay, beside the best


FOREIGN = (
    "saved by another run: config, data, tokenizer or held-out ids are not those it was "
    "trained with"
)


def identity(path: Path) -> str:
    """A hash of all that a run's manifest lists: config, data, tokenizer, held-out ids."""
    try:
        return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


# -- the run -------------------------------------------------------------------------------------


def check_free(path: Path) -> None:
    """UsageError where no run can be created: the name is no run's, or taken."""
    if path.exists():
        raise UsageError(f"--run {path}: already exists; choose another name or --resume it")
    if not NAME.fullmatch(path.name) or path.name.startswith("."):
        raise UsageError(
            f"--run {path}: a run's name is 1 to 64 of A-Z a-z 0-9 . _ -, not begun with a dot"
        )


@dataclass
class Checkpoint:
    path: Path
    step: int


class Run:
    """A run that exists. `config` is config.json as a dict."""

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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path / 'config.json'}: damaged ({error})") from error
        self._lock: Any = None

    # creation

    @staticmethod
    def create(
        path: Path, config: dict[str, Any], tokenizer: Any, heldout: Mapping[str, Any]
    ) -> Run:
        """Writes a new run; it appears under its name only when it is whole.

        heldout: split name -> sequences. UsageError where the name is taken or the place cannot
        be written to.
        """
        from .store import write_store

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
                state, arrays = tokenizer.state()
                (fresh / "tokenizer.json").write_bytes(to_json(state))
                if arrays:
                    from safetensors.numpy import save_file

                    save_file(arrays, str(fresh / "tokenizer.safetensors"))
                for split, sequences in heldout.items():
                    write_store(fresh / "heldout" / split, sequences, tokenizer.vocab_size)
                write_manifest(fresh, {})
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
        """DamagedError unless config, tokenizer and held-out ids are as they were written."""
        check_files(self.path)

    # what it holds

    @property
    def name(self) -> str:
        return self.path.name

    def model_config(self) -> ModelConfig:
        return from_json(ModelConfig, self.config["model"], f"{self.path}/config.json: model")

    def train_config(self) -> TrainConfig:
        return from_json(TrainConfig, self.config["train"], f"{self.path}/config.json: train")

    def tokenizer(self) -> Any:
        from .plugins import find

        try:
            state = json.loads((self.path / "tokenizer.json").read_bytes())
            arrays: dict[str, Any] = {}
            if (self.path / "tokenizer.safetensors").exists():
                from safetensors.numpy import load_file

                arrays = load_file(str(self.path / "tokenizer.safetensors"))
            return find("tokenizers", self.config["tokenizer"]["kind"]).from_state(state, arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{self.path / 'tokenizer.json'}: damaged ({error})") from error

    def task(self) -> Any:
        from .plugins import find

        task = find("tasks", self.config["task"])
        options = from_json(task.Options, self.config["task_options"], f"{self.path}: task")
        return task(options)

    def heldout(self, split: str) -> Store:
        folder = self.path / "heldout" / split
        if not folder.is_dir():
            there = sorted(p.name for p in (self.path / "heldout").glob("*"))
            raise UsageError(f"--split {split}: this run keeps {', '.join(there) or 'none'}")
        return Store(folder)

    def log(self) -> list[dict[str, Any]]:
        return list(read_log(self.path / "log.jsonl"))

    def append_log(self, entry: Mapping[str, Any]) -> None:
        path = self.path / "log.jsonl"
        with writing(path), path.open("a") as file:
            file.write(log_line(entry))

    def cut(self, step: int) -> None:
        """Drops what was logged and saved after `step`: training goes on from there."""
        for later in self.checkpoints():
            if later.step > step:
                shutil.rmtree(later.path)
        kept = [e for e in self.log() if e["step"] <= step and e.get("event") != "final"]
        path = self.path / "log.jsonl"
        with writing(path):
            write_durably(path, "".join(map(log_line, kept)).encode())

    def status(self) -> dict[str, Any]:
        """state (done, running, interrupted, empty), the last step saved, the steps planned, and
        the final scores."""
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
        else:
            state = "interrupted" if step else "empty"
        return {"state": state, "step": step, "steps": steps, "final": final}

    # one writer

    def lock(self) -> None:
        """This process alone writes to the run from here on; freed by the system when it ends.
        UsageError names the holder."""
        import filelock

        if self._lock is not None:
            return
        lock = filelock.FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            pid = self.path / "lock.pid"  # written a moment after the lock was taken
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
        except OSError:  # read-only: nobody writes here
            return False

    # checkpoints

    def checkpoints(self) -> list[Checkpoint]:
        """Every saved step, oldest first."""
        folder = self.path / "checkpoints"
        found = [p for p in folder.glob("*") if p.name.isdecimal()] if folder.is_dir() else []
        return sorted((Checkpoint(p, int(p.name)) for p in found), key=lambda c: c.step)

    def checkpoint(self, which: str = "last") -> Checkpoint:
        """`last`, `best` or a step. UsageError where there is none."""
        saved = self.checkpoints()
        if not saved:
            raise UsageError(
                f"{self.path}: no checkpoint yet; continue it with tfm train --resume {self.path}"
            )
        if which == "last":
            return saved[-1]
        if which == "best":
            check_files(saved[-1].path)
            state = json.loads((saved[-1].path / "state.json").read_bytes())
            step = state.get("choice", {}).get("best_step")
            if step is None:
                raise UsageError(
                    "--checkpoint best: nothing chose one in this run; train with --patience N"
                )
            which = str(step)
        for checkpoint in saved:
            if which.isdecimal() and checkpoint.step == int(which):
                return checkpoint
        steps = ", ".join(str(c.step) for c in saved)
        raise UsageError(f"--checkpoint {which}: this run keeps last, {steps}")

    def save(
        self, step: int, model: SequenceModel, optimizers: list[Any], state: Mapping[str, Any]
    ) -> Checkpoint:
        """A checkpoint of everything that the next step depends on, then older ones go.

        TfmError where the disk is full or refuses; what was saved before stays as it is.
        """
        from safetensors.torch import save

        from .optim import in_use
        from .weights import optimizer_tensors

        root = self.path / "checkpoints"
        folder = root / f"{step:06d}"
        fresh = root / f".new-{step:06d}"
        try:
            check_files(folder)
            return Checkpoint(folder, step)
        except DamagedError:  # not there yet, or what training went back behind
            shutil.rmtree(folder, ignore_errors=True)
        try:
            for left in root.glob(".new-*"):  # by a kill
                shutil.rmtree(left, ignore_errors=True)
            fresh.mkdir()
            with in_use(optimizers):
                weights = {name: t.detach().contiguous() for name, t in model.named_parameters()}
                write_durably(fresh / "model.safetensors", save(weights))
            write_durably(fresh / "optimizer.safetensors", save(optimizer_tensors(optimizers)))
            write_durably(fresh / "state.json", to_json({"step": step, **state}))
            write_manifest(fresh, {"run": identity(self.path)})
            fresh.rename(folder)
            sync_folder(root)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            need = sum(t.numel() * t.element_size() for t in model.parameters()) * 3
            raise TfmError(
                f"{folder}: not saved ({error.strerror}), about {need:,} bytes are needed; "
                "earlier checkpoints are intact"
            ) from error
        best = state.get("choice", {}).get("best_step")
        with suppress(OSError):  # what could not be deleted is deleted after the next save
            for old in self.checkpoints()[:-KEEP]:
                if old.step != best:
                    shutil.rmtree(old.path, ignore_errors=True)
        return Checkpoint(folder, step)

    def check_checkpoint(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Its manifest. DamagedError unless every file is as it was saved, and by this run."""
        manifest = check_files(checkpoint.path)
        if manifest.get("run") != identity(self.path):
            raise DamagedError(f"{checkpoint.path}: {FOREIGN}")
        return manifest

    def load_model(self, which: str = "last", device: torch.device | None = None) -> SequenceModel:
        """The model with the weights of a checkpoint, every file checked first. DamagedError."""
        from .model import SequenceModel
        from .weights import load_weights

        self.check()
        checkpoint = self.checkpoint(which)
        self.check_checkpoint(checkpoint)
        model = SequenceModel(self.model_config())
        load_weights(model, checkpoint.path / "model.safetensors")
        return model.to(device) if device is not None else model


# -- finding runs --------------------------------------------------------------------------------


def runs_folder(root: str | None) -> Path:
    return Path(root or "runs")


def all_runs(root: Path) -> list[Run]:
    """Every readable run below `root`, by start time, oldest first."""
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        try:
            if not path.name.startswith(".") and (path / "config.json").exists():
                found.append(Run(path))
        except TfmError:
            continue
    return sorted(found, key=lambda run: run.created)


def open_run(name: str | None, root: Path) -> Run:
    """A run by path, by its name under `root`, or the newest. UsageError where there is none."""
    return Run(find_run(name, root))


def find_run(name: str | None, root: Path) -> Path:
    """Where it is, even if it is damaged."""
    if name is None:
        found = all_runs(root)
        if not found:
            raise UsageError(f"no runs in {root}/ yet; start with: tfm train --task text")
        return found[-1].path
    path = Path(name)
    if not (path / "config.json").exists() and NAME.fullmatch(name) and (root / name).is_dir():
        path = root / name
    if not path.exists():
        known = [run.name for run in all_runs(root)]
        raise UsageError(
            f"{name}: no such run here or in {root}/; newest: {known[-1] if known else 'none'}"
        )
    return path


def all_problems(path: Path) -> tuple[int, list[tuple[Path, str]]]:
    """How many files and checkpoints of a run were checked, and what is wrong with which.
    UsageError where there is no run."""
    checkpoints = sorted(p for p in (path / "checkpoints").glob("*") if p.name.isdigit())
    if not checkpoints and not (path / "manifest.json").exists():
        raise UsageError(f"{path}: not a run (no manifest.json); `tfm runs` lists them")
    count, found = 1, list[tuple[Path, str]]()
    for folder in (path, *checkpoints):
        try:
            manifest = read_manifest(folder)
        except TfmError as error:
            count += 1
            found.append((folder / "manifest.json", str(error).partition(": ")[2]))
            continue
        count += 1 + len(manifest["files"])
        wrong = list(file_problems(folder, manifest))
        found += wrong
        if folder != path and manifest.get("run") != identity(path):
            found.append((folder, FOREIGN))
    lines = [number for number, entry in log_entries(path / "log.jsonl") if entry is None]
    if lines:
        found.append((path / "log.jsonl", f"line {', '.join(map(str, lines))} damaged"))
    return count, found
