"""The interface of experiment trackers, and how one is found by name.

A built-in tracker is a file in this folder. Other packages register theirs in the entry-point group
`tfm.trackers`.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..entry_points import entry_points, load
from ..errors import UsageError, nearest

BUILT_IN = {"tensorboard": "TensorBoard", "trackio": "Trackio", "wandb": "Wandb"}  # file: class


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows of a run.

    folder: for the files of the tracker, an existing folder inside the run's; name: the run's; id:
    32 hexadecimal digits that stay the same when a run is resumed; step: the steps taken so far, 0
    for a new run; config: the content of config.json, with versions, device and threads.
    """

    folder: Path
    name: str
    id: str
    step: int
    config: dict[str, Any]


class Tracker(Protocol):
    """Shows one training.

    It lives in a process of its own: what it prints goes nowhere, its signal handlers and its
    random numbers are not those of the training, and an exception that it raises ends it with a
    warning. Names have the form `train/loss`. A method for media that a tracker cannot show does
    nothing.
    """

    def __init__(self, run: TrackedRun) -> None:
        """Begins a run, or goes on with one whose `step` is not 0: what was recorded of later
        steps comes again."""
        ...

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; one that is not finite can be among them."""
        ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def image(self, step: int, name: str, png: bytes) -> None:
        """A picture, as the bytes of a PNG file."""
        ...

    def audio(self, step: int, name: str, wav: bytes) -> None:
        """A sound of one channel, as the bytes of a WAV file of 16 bits."""
        ...

    def close(self) -> None:
        """Writes what is not written yet. Called once, however the training ended."""
        ...


def names() -> list[str]:
    """The names of all trackers, installed or not."""
    return sorted({*BUILT_IN, *entry_points("trackers")})


def check(chosen: Iterable[str]) -> None:
    """UsageError for an unknown tracker, and for one whose package is not installed."""
    for name in chosen:
        if name not in names():
            raise UsageError(f"--track {name}: no such tracker; {nearest(name, names())}")
        if name in BUILT_IN and importlib.util.find_spec(name) is None:
            raise UsageError(
                f"--track {name}: needs {name}; install it with pip install 'tfm-toolkit[{name}]'"
            )


def find(name: str) -> type[Tracker]:
    """The class of a tracker. ConfigError if its import fails."""
    if name not in BUILT_IN:
        kind: type[Tracker] = load("trackers", name)
        return kind
    module = importlib.import_module(f".{name}", __package__)
    built_in: type[Tracker] = getattr(module, BUILT_IN[name])
    return built_in


@contextmanager
def as_file(data: bytes, suffix: str) -> Iterator[str]:
    """The path of a temporary file, for a package that takes no bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sample{suffix}"
        path.write_bytes(data)
        yield str(path)
