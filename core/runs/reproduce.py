"""Reproducing a run from its directory, and comparing two runs log line by log line."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import tfm_version
from ..errors import UsageError
from ..ops.native_calls import version as kernels_version
from .checkpoints import MODEL, OPTIMIZER, sha256_of
from .run import BASE, Run
from .tensors import read_tensors

# log keys that differ between identical runs: timings, names, line checksums
NONDETERMINISTIC_KEYS = ("seconds", "tokens_per_second", "run", "check")


def fresh_copy(run: Run, path: Path, **train: object) -> Run:
    """An untrained run with the config, tokenizer and held-out ids of `run`; `train` overrides
    fields of its TrainConfig."""
    config = {k: v for k, v in run.config.items() if k != "created"}
    config["train"] = {**config["train"], **train}
    splits = sorted(p.name for p in (run.path / "heldout").iterdir())
    names = run.config["data"].get("streams", {"-": "stdin"}).values()
    streams = {name: run.path / name for name in names if (run.path / name).exists()}
    heldout = {split: run.heldout(split) for split in splits}
    base = read_tensors(run.path / BASE) if run.train_config().lora else None
    return Run.create(path, config, run.tokenizer(), heldout, streams, base)


def replans(run: Run) -> dict[int, list[tuple[int, int | None]]]:
    """Step -> the total step counts, and the patience or None, that the run was replanned to after
    that step."""
    found: dict[int, list[tuple[int, int | None]]] = {}
    for entry in run.log():
        if entry.get("event") == "replan":
            found.setdefault(entry["step"], []).append((entry["steps"], entry.get("patience")))
    return found


def other_versions(run: Run) -> list[str]:
    """Versions that changed since the run was created, as 'torch 2.11 then, 2.12 now'."""
    import numpy
    import torch

    now = {
        "tfm": tfm_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "kernels": kernels_version(),
    }
    then = {"tfm": run.config["tfm"], "kernels": "torch", **run.config["versions"]}
    changed = [name for name in now if then[name] != now[name]]
    found = [f"{name} {then[name]} then, {now[name]} now" for name in changed]
    processes = run.config.get("processes", 1)
    return [*found, f"{processes} processes then, 1 now"] if processes > 1 else found


def differences(one: Run, other: Run) -> list[str]:
    """How two runs differ, up to the last checkpoint of `one`: the first differing log entry, the
    weights, the optimizer state. Empty if only timings differ."""
    step = one.checkpoint().step
    found = []
    logs = [[e for e in run.log() if e["step"] <= step] for run in (one, other)]
    for a, b in zip(*map(_deterministic, logs), strict=False):
        if a != b:
            name = next(name for name in {**a, **b} if a.get(name) != b.get(name))
            at = f"step {a['step']}, {a.get('event', 'training')}"
            found.append(f"{at}: {name} {a.get(name)} and {b.get(name)}")
            break
    if len(logs[0]) != len(logs[1]):
        found.append(f"the log has {len(logs[0])} and {len(logs[1])} lines up to step {step}")
    try:
        saved = [run.check_checkpoint(run.checkpoint(str(step))) for run in (one, other)]
    except UsageError as error:
        return [*found, str(error)]
    for name in (MODEL, OPTIMIZER):
        if sha256_of(saved[0], name) != sha256_of(saved[1], name):
            found.append(f"{name} of step {step}: other bytes")
    return found


def _deterministic(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def without_timings(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: without_timings(value) if isinstance(value, Mapping) else value
            for name, value in entry.items()
            if name not in NONDETERMINISTIC_KEYS
        }

    return [without_timings(entry) for entry in entries]
