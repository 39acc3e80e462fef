"""Checkpoints of a run: one folder each, written atomically.

A checkpoint is written to a temporary folder, fsynced, then renamed. Its manifest lists each file
with its sha256, and identifies the run. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..errors import DamagedError, DivergedError, TfmError, UsageError
from ..files import check_files, sync_folder, to_json, write_durably, write_manifest

if TYPE_CHECKING:
    from torch import Tensor

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
) -> Checkpoint:
    """Saves everything that the next training step depends on, then deletes older checkpoints.

    weights, optimizer: tensors by name. state: values that JSON can represent. An intact
    checkpoint of the same step is returned unchanged. TfmError if writing fails (a full disk),
    DivergedError if a weight is not finite; earlier checkpoints stay intact in both cases.
    """
    from safetensors.torch import save as as_bytes

    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise DivergedError(
                f"step {step}: {name} is not finite, so nothing is saved; go on from the last "
                f"checkpoint with tfm train --resume {quote(str(run))}, or anew with a lower "
                "--set train.lr"
            )
    root = run / "checkpoints"
    folder = root / f"{step:06d}"
    fresh = root / f".new-{step:06d}"
    try:
        check_files(folder)
        return Checkpoint(folder, step)
    except DamagedError:  # missing or damaged
        shutil.rmtree(folder, ignore_errors=True)
    try:
        for stale in root.glob(".new-*"):  # left by a killed process
            shutil.rmtree(stale, ignore_errors=True)
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
    with suppress(OSError):  # the next save tries again
        for old in checkpoints(run)[:-KEEP_NEWEST]:
            if old.step != best:
                shutil.rmtree(old.path, ignore_errors=True)
    return Checkpoint(folder, step)


def check(run: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's manifest. DamagedError if a file changed or another run saved it."""
    manifest = check_files(checkpoint.path)
    if manifest.get("run") != identity(run):
        raise DamagedError(f"{checkpoint.path}: {WRONG_RUN}")
    return manifest
