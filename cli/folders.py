"""The user's folders: of the config file, of new runs, and of what later commands can reuse."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path


def config_file() -> Path | None:
    """The user's config file, whether it exists or not; None without a home folder."""
    base = _base("XDG_CONFIG_HOME", ".config")
    return base / "tfm" / "config.toml" if base else None


@functools.cache
def cache_folder() -> Path:
    """The folder for what later commands can reuse: a temporary one where there is no home folder,
    or nothing can be written there."""
    base = _base("XDG_CACHE_HOME", ".cache")
    if base is not None:
        try:
            folder = base / "tfm"
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
        except OSError:
            pass
    from ..core.data.scratch import scratch_file

    return scratch_file("cache")


def default_paths(root: Path, task: str) -> Iterator[Path]:
    """runs/TIME-TASK, then runs/TIME-TASK-2 and so on, for runs that start in the same second."""
    path = root / f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{task}"
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def _base(variable: str, name: str) -> Path | None:
    """The folder that a variable of the XDG base directory specification names; else the one of
    this name in the home folder."""
    value = os.environ.get(variable)
    if value:
        return Path(value)
    home = os.path.expanduser("~")  # "~" itself if there is none
    return Path(home) / name if os.path.isabs(home) else None
