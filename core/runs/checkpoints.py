"""Checkpoints of a run: one folder each, written atomically.

A checkpoint is written to a temporary folder, fsynced, then renamed. Its manifest lists each file
with its sha256, and identifies the run. Processes that have some rows of every weight each write
them to files of their own, see tensors.py; one of them writes the manifest, and renames.
Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import ChainMap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DamagedError, DivergedError, TfmError, UsageError
from ..files import (
    check_files,
    size_and_sha256,
    sync_folder,
    to_json,
    write_durably,
    write_manifest,
)
from .tensors import files_of, part_bytes, part_name

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
KEEP_NEWEST = 2  # older checkpoints are deleted, except the best one
WRONG_RUN = (
    "saved by another run: config, data, tokenizer or held-out ids are not those it was "
    "trained with"
)


def identity(path: Path) -> str:
    """sha256 of a run's manifest: its config, data, tokenizer, held-out ids. Empty if missing."""
    try:
        return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


@dataclass
class Checkpoint:
    path: Path
    step: int


def _alone(value: Any) -> list[Any]:
    return [value]


@dataclass(frozen=True)
class Part:
    """What this process, number `rank` of `size`, writes of a checkpoint: some rows of its tensors.

    first_rows: where they begin in the whole tensor, by name. share: gives every process's value,
    of those that JSON has, by rank.
    """

    rank: int = 0
    size: int = 1
    first_rows: Mapping[str, int] = field(default_factory=dict)
    share: Callable[[Any], list[Any]] = _alone

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def all_do(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns in every process. OSError in all of them if it raises one in any."""
        try:
            mine: list[Any] = [work(), None]
        except OSError as error:
            mine = [None, [error.errno, error.strerror]]
        found = self.share(mine)
        for _, problem in found:
            if problem is not None:
                raise OSError(*problem)
        return [done for done, _ in found]


WHOLE = Part()  # of one process


def checkpoints(run: Path) -> list[Checkpoint]:
    """Every checkpoint of a run, by step."""
    folder = run / "checkpoints"
    found = [p for p in folder.glob("*") if p.name.isdecimal()] if os.path.isdir(folder) else []
    return sorted((Checkpoint(p, int(p.name)) for p in found), key=lambda c: c.step)


def best_step(state: Mapping[str, Any]) -> int | None:
    """The best step by early stopping, from a checkpoint's state (`choice` in older runs)."""
    found: Mapping[str, Any] = state.get("early_stopping", state.get("choice", {}))
    return found.get("best_step")


def choose(run: Path, which: str) -> Checkpoint:
    """The checkpoint `which`: `last`, `best` or a step. UsageError if it does not exist."""
    saved = checkpoints(run)
    if not saved:
        raise UsageError(
            f"{run}: no checkpoint yet; continue it with tfm train --resume {quote(str(run))}"
        )
    if which == "last":
        return saved[-1]
    if which == "best":
        check_files(saved[-1].path)
        state = json.loads((saved[-1].path / "state.json").read_bytes())
        step = best_step(state)
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
    run: Path,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    part: Part = WHOLE,
) -> Checkpoint:
    """Saves everything that the next training step depends on, then deletes older checkpoints.

    weights, optimizer: tensors by name. state: values that JSON can represent. part: of several
    processes, which all must call this, what this one has of the tensors. An intact checkpoint of
    the same step is returned unchanged. TfmError if writing fails (a full disk), DivergedError if a
    weight is not finite, in every process; earlier checkpoints stay intact in both cases.
    """
    root = run / "checkpoints"
    folder, fresh = root / f"{step:06d}", root / f".new-{step:06d}"

    def is_saved() -> bool:
        try:
            check_files(folder)
            return True
        except DamagedError:  # missing or damaged
            return False

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for stale in root.glob(".new-*"):  # left by a killed process
            shutil.rmtree(stale, ignore_errors=True)
        fresh.mkdir()

    def write() -> dict[str, tuple[int, str]]:
        first_rows = None if part.size == 1 else part.first_rows
        written = {}
        for whole, tensors in ((MODEL, weights), (OPTIMIZER, optimizer)):
            name = part_name(whole, part.rank, part.size)
            write_durably(fresh / name, part_bytes(tensors, first_rows))
            written[name] = size_and_sha256(fresh / name)
        return written

    def finish(written: Mapping[str, tuple[int, str]]) -> None:
        write_durably(fresh / "state.json", to_json({"step": step, **state}))
        write_manifest(fresh, {"run": identity(run)}, written)
        fresh.rename(folder)
        sync_folder(root)

    broken = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
    for name in chain(*part.share(broken)):
        raise DivergedError(
            f"step {step}: {name} is not finite, so nothing is saved; go on from the last "
            f"checkpoint with tfm train --resume {quote(str(run))}, or anew with a lower "
            "--set train.lr"
        )
    if part.share(part.leads and is_saved())[0]:
        return Checkpoint(folder, step)
    try:
        part.all_do(lambda: begin() if part.leads else None)
        written = ChainMap(*part.all_do(write))
        part.all_do(lambda: finish(written) if part.leads else None)
    except OSError as error:
        if part.leads:
            shutil.rmtree(fresh, ignore_errors=True)
        need = sum(t.numel() * t.element_size() for t in weights.values()) * 3 * part.size
        raise TfmError(
            f"{folder}: not saved ({error.strerror}), about {need:,} bytes are needed; "
            "earlier checkpoints are intact"
        ) from error
    best = best_step(state)
    with suppress(OSError):  # the next save tries again
        for old in checkpoints(run)[:-KEEP_NEWEST] if part.leads else []:
            if old.step != best:
                shutil.rmtree(old.path, ignore_errors=True)
    return Checkpoint(folder, step)


def sha256_of(manifest: Mapping[str, Any], name: str) -> str:
    """sha256 of the file `name` of a checkpoint, or of those of its parts, from its manifest."""
    found = [manifest["files"][file][1] for file in files_of(name, manifest["files"])]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def check(run: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's manifest. DamagedError if a file changed or another run saved it."""
    manifest = check_files(checkpoint.path)
    if manifest.get("run") != identity(run):
        raise DamagedError(f"{checkpoint.path}: {WRONG_RUN}")
    return manifest
