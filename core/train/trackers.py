"""The sink that shows a training in experiment trackers (../trackers).

Only numbers that the training has anyway are shown, and samples that are drawn as for a terminal.
A tracker that fails is dropped with a warning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..runs.checkpoints import identity
from ..runs.run import Run
from ..trackers.process import TrackerProcess
from ..trackers.tracker import TrackedRun
from .events import Evaluated, Event, Finished, Stepped

FOLDER = "trackers"  # in a run: a folder for each of its trackers
CLOSE_SECONDS = 30.0  # for a tracker to write what it has not written
ABOUT = ("schema", "step")  # keys of final scores that are no scores
SAMPLING_SHARE = 0.05  # of the time, at most, is spent on samples during training


@dataclass(frozen=True)
class Media:
    """A sample that a tracker can show. kind: text (UTF-8), image (PNG) or audio (WAV)."""

    kind: str
    data: bytes


def trackers_of(run: Run) -> list[str]:
    """The names of the trackers that a run has been shown in."""
    return sorted(path.name for path in (run.path / FOLDER).glob("*") if path.is_dir())


class Trackers:
    """A sink of all trackers of a training. draw: draws samples of the model as it is; warn:
    receives what is wrong with a tracker."""

    def __init__(
        self,
        run: Run,
        names: Iterable[str],
        step: int,
        unit: str,
        draw: Callable[[], Iterable[Media]],
        warn: Callable[[str], None],
    ) -> None:
        """step: the steps taken so far; unit: that of the task's bits per unit."""
        self._draw: Callable[[], Iterable[Media]] | None = draw
        self._warn, self._unit, self._stepped = warn, unit, False
        self._began, self._sampling = time.monotonic(), 0.0  # seconds
        self._processes: dict[str, TrackerProcess] = {}
        for name in names:
            folder = run.path.absolute() / FOLDER / name
            about = TrackedRun(folder, run.name, identity(run.path)[:32], step, run.config)
            try:
                self._processes[name] = TrackerProcess(name, about)
            except OSError as error:
                self._dropped(name, str(error))

    def take(self, event: Event) -> None:
        for name, process in list(self._processes.items()):
            if (problem := process.problem()) is not None:
                del self._processes[name]
                process.kill()
                self._dropped(name, problem)
        if not self._processes:
            return
        if isinstance(event, Stepped):
            self._stepped = True
            self._show(event.step.index, _of_step(event))
        elif isinstance(event, Evaluated):
            self._show(event.step, _of_evaluation(event, self._unit))
            if self._sampling <= SAMPLING_SHARE * (time.monotonic() - self._began):
                self._sample(event.step)
        elif isinstance(event, Finished):
            scores = {name: value for name, value in event.scores.items() if name not in ABOUT}
            self._show(event.step, dict(_numbers("final", scores)))
            self._sample(event.step)

    def close(self) -> None:
        if not self._stepped:  # nothing is to be shown, and the run may be deleted
            for process in self._processes.values():
                process.kill()
            return
        for name, process in self._processes.items():
            if (problem := process.close(CLOSE_SECONDS)) is not None:
                self._dropped(name, problem)

    def _show(self, step: int, values: dict[str, float]) -> None:
        for process in self._processes.values():
            process.values(step, values)

    def _sample(self, step: int) -> None:
        """Shows samples. One that cannot be drawn, which may need more memory than the training, is
        the last one."""
        if self._draw is None:
            return
        began = time.monotonic()
        try:
            drawn = list(self._draw())
        except Exception as error:
            self._draw = None
            self._warn(f"warning: no samples for trackers: {type(error).__name__}: {error}")
            return
        self._sampling += time.monotonic() - began
        for media in drawn:
            for process in self._processes.values():
                process.media(step, media.kind, f"sample/{media.kind}", media.data)

    def _dropped(self, name: str, problem: str) -> None:
        self._warn(f"warning: the tracker {name} failed, training goes on without it: {problem}")


def _of_step(event: Stepped) -> dict[str, float]:
    step = event.step
    return {
        "train/loss": step.loss,
        "train/lr": step.lr,
        "train/gradient_norm": step.gradient_norm,
        "train/tokens_per_second": step.tokens_per_second,
    }


def _of_evaluation(event: Evaluated, unit: str) -> dict[str, float]:
    values = {"heldout/nats_per_token": event.nats_per_token}
    if event.standard_error is not None:
        values["heldout/standard_error"] = event.standard_error
    if event.bits_per_nat is not None:
        values[f"heldout/bits_per_{unit}"] = event.nats_per_token * event.bits_per_nat
    return values


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers in a record, by their path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{key}", inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)
