"""Finds runs and checks them for damage. Importing this module does not import torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import TfmError, UsageError
from ..files import file_problems, log_entries, read_manifest
from .checkpoints import OTHER_RUN, checkpoints, identity
from .run import NAME, Run


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
    """The folder of a run (see `open_run`), also of a damaged one. UsageError."""
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
    """Checks every file of a run. Returns the number of files checked, and (path, problem) for each
    damaged or missing one. UsageError where there is no run."""
    saved = [checkpoint.path for checkpoint in checkpoints(path)]
    if not saved and not (path / "manifest.json").exists():
        raise UsageError(f"{path}: not a run (no manifest.json); `tfm runs` lists them")
    count, found = 1, list[tuple[Path, str]]()
    for folder in (path, *saved):
        try:
            manifest = read_manifest(folder)
        except TfmError as error:
            count += 1
            found.append((folder / "manifest.json", str(error).partition(": ")[2]))
            continue
        count += 1 + len(manifest["files"])
        found += file_problems(folder, manifest)
        if folder != path and manifest.get("run") != identity(path):
            found.append((folder, OTHER_RUN))
    lines = [number for number, entry in log_entries(path / "log.jsonl") if entry is None]
    if lines:
        found.append((path / "log.jsonl", f"line {', '.join(map(str, lines))} damaged"))
    return count, found
