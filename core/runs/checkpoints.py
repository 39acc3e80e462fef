"""Checkpoints of a run: each a folder that appears whole or not at all.

Written to a folder of another name, fsynced, renamed; its manifest lists each file with its sha256,
and the run that it is of. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DamagedError, DivergedError, TfmError, UsageError
from ..files import check_files, sync_folder, to_json, write_durably, write_manifest

if TYPE_CHECKING:
    from torch import Tensor

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


@dataclass
class Checkpoint:
    path: Path
    step: int


def checkpoints(run: Path) -> list[Checkpoint]:
    """Every saved step, oldest first."""
    folder = run / "checkpoints"
    found = [p for p in folder.glob("*") if p.name.isdecimal()] if folder.is_dir() else []
    return sorted((Checkpoint(p, int(p.name)) for p in found), key=lambda c: c.step)


def best_step(state: Mapping[str, Any]) -> int | None:
    """The step that early stopping chose, by a checkpoint's state (`choice` in older runs)."""
    found: Mapping[str, Any] = state.get("early_stopping", state.get("choice", {}))
    return found.get("best_step")


def choose(run: Path, which: str) -> Checkpoint:
    """`last`, `best` or a step. UsageError where there is none."""
    saved = checkpoints(run)
    if not saved:
        raise UsageError(f"{run}: no checkpoint yet; continue it with tfm train --resume {run}")
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
) -> Checkpoint:
    """A checkpoint of everything that the next step depends on, then older ones go.

    weights and optimizer: tensors by name; state: what JSON can say. TfmError where the disk is
    full or refuses, DivergedError where a weight is not finite; what was saved before stays as it
    is.
    """
    from safetensors.torch import save as as_bytes

    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise DivergedError(
                f"step {step}: {name} is not finite, so nothing is saved; go on from the last "
                f"checkpoint with tfm train --resume {run}, or anew with a lower --set train.lr"
            )
    root = run / "checkpoints"
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
        for name, tensors in (("model", weights), ("optimizer", optimizer)):
            plain = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
            write_durably(fresh / f"{name}.safetensors", as_bytes(plain))
        write_durably(fresh / "state.json", to_json({"step": step, **state}))
        write_manifest(fresh, {"run": identity(run)})
        fresh.rename(folder)
        sync_folder(root)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        need = sum(t.numel() * t.element_size() for t in weights.values()) * 3
        raise TfmError(
            f"{folder}: not saved ({error.strerror}), about {need:,} bytes are needed; "
            "earlier checkpoints are intact"
        ) from error
    best = best_step(state)
    with suppress(OSError):  # what could not be deleted is deleted after the next save
        for old in checkpoints(run)[:-KEEP]:
            if old.step != best:
                shutil.rmtree(old.path, ignore_errors=True)
    return Checkpoint(folder, step)


def check(run: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Its manifest. DamagedError unless every file is as it was saved, and by this run."""
    manifest = check_files(checkpoint.path)
    if manifest.get("run") != identity(run):
        raise DamagedError(f"{checkpoint.path}: {FOREIGN}")
    return manifest
