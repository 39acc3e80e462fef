"""Finding runs and checking their files. Importing this module does not import torch."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import TfmError, UsageError
from ..files import file_problems, log_entries, read_manifest
from .checkpoints import WRONG_RUN, checkpoints, identity
from .part import PartOfRun
from .run import NAME, Run


def all_runs(root: Path) -> list[Run]:
    """Every readable run in the folder `root`, oldest first."""
    return _readable(root)[0]


def unreadable_runs(root: Path) -> list[tuple[Path, str]]:
    """(path, problem) of every folder in `root` that is a run, but cannot be read as one."""
    return _readable(root)[1]


def _readable(root: Path) -> tuple[list[Run], list[tuple[Path, str]]]:
    found, problems = list[Run](), list[tuple[Path, str]]()
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith(".") or not path.is_dir():
            continue
        try:
            if (path / "config.json").exists() or (path / "manifest.json").exists():
                found.append(Run(path))
        except TfmError as error:
            problems.append((path, str(error)))
        except OSError as error:
            problems.append((path, f"{path}: not readable ({error.strerror})"))
    return sorted(found, key=lambda run: run.created), problems


def split_part(name: str | None) -> tuple[str | None, str | None]:
    """(RUN, PART) of RUN:PART; (name, None) of another name, such as a path that exists."""
    base, colon, part = (name or "").rpartition(":")
    return (base or None, part) if colon and not os.path.exists(str(name)) else (name, None)


def open_run(name: str | None, root: Path, whole: bool = False) -> Run:
    """A run by path, by its name under `root`, or the newest with a checkpoint. RUN:PART is one
    domain of a run of several, see `PartOfRun`, or a run of that domain alone. UsageError if there
    is none; unless `whole`, also for a run of several domains without the name of one."""
    base, part = split_part(name)
    if part is not None and (other := split_part(base)[1]) is not None:
        raise UsageError(f"{name}: two parts, {other} and {part}, of one run; name one")
    run = Run(find_run(base, root))
    parts = run.config.get("parts")
    if part is not None:
        alone = not parts and run.config["task"] == part
        return run if alone else PartOfRun(run, part)
    if parts and not whole:
        some = ", ".join(f"{run.path}:{each}" for each in parts)
        raise UsageError(f"{run.path}: a run of several domains; name one: {some}")
    return run


def open_whole(name: str | None, root: Path) -> Run:
    """A run with all its domains. UsageError as in `open_run`, and for RUN:PART."""
    run = open_run(name, root, whole=True)
    if isinstance(run, PartOfRun):
        raise UsageError(f"{name}: this command takes the whole run, {run.path}")
    return run


def find_run(name: str | None, root: Path) -> Path:
    """The path of a run, damaged or not, by its path, its name under `root`, or None (newest)."""
    if name is None:
        found = all_runs(root)
        if not found:
            raise UsageError(f"no runs in {root}/ yet; start with: tfm train --task text")
        saved = [run for run in found if run.checkpoints()]
        return (saved or found)[-1].path
    path = Path(name)
    if (
        not os.path.exists(path / "config.json")
        and NAME.fullmatch(name)
        and os.path.isdir(root / name)
    ):
        path = root / name
    if os.path.isfile(path):
        raise UsageError(f"{name}: a file, not a run; data is named after the run, or by --data")
    if not os.path.exists(path):
        known = [run.name for run in all_runs(root)]
        raise UsageError(
            f"{name}: no such run here or in {root}/; newest: {known[-1] if known else 'none'}"
        )
    return path


def all_problems(path: Path) -> tuple[int, list[tuple[Path, str]]]:
    """Verifies the checksums of a run: the number of files checked, and (path, problem) pairs.
    UsageError if `path` is not a run."""
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
            found.append((folder, WRONG_RUN))
    lines = [number for number, entry in log_entries(path / "log.jsonl") if entry is None]
    if lines:
        found.append((path / "log.jsonl", f"line {', '.join(map(str, lines))} damaged"))
    return count, found
