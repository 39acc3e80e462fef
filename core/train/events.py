"""What a training does, one event at a time. Sinks take them: the log, a progress bar, trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..runs.run import Run
from .loop import Step


@dataclass(frozen=True)
class Stepped:
    """An optimiser step was taken, or left out for want of a finite gradient."""

    step: Step

    def record(self) -> dict[str, Any] | None:
        return self.step.record()


@dataclass(frozen=True)
class Evaluated:
    """Some held-out tokens were scored; `bits` a unit of the task, by the ratio of tokens to units;
    best: whether this is the best score so far of a run that selects by it."""

    step: int
    nats_per_token: float
    bits: float
    best: bool

    def record(self) -> dict[str, Any] | None:
        return {"event": "eval", "step": self.step, "nats_per_token": self.nats_per_token}


@dataclass(frozen=True)
class Replanned:
    """From here on the training has `steps` steps in all; the learning rate follows."""

    step: int
    steps: int

    def record(self) -> dict[str, Any] | None:
        return {"event": "replan", "step": self.step, "steps": self.steps}


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written. requested: somebody asked for it; last: no step follows."""

    step: int
    requested: bool = False
    last: bool = False

    def record(self) -> dict[str, Any] | None:
        return None


@dataclass(frozen=True)
class Finished:
    """The last weights were scored."""

    step: int
    scores: dict[str, Any]

    def record(self) -> dict[str, Any] | None:
        return {"event": "final", "step": self.step, "scores": self.scores}


Event = Stepped | Evaluated | Replanned | Saved | Finished


class Sink(Protocol):
    """Takes every event in order, before the training goes on."""

    def take(self, event: Event) -> None: ...

    def close(self) -> None:
        """Called once, however the training ended."""
        ...


class RunLog:
    """The sink that writes log.jsonl; what a checkpoint holds is in the log before it is saved."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def take(self, event: Event) -> None:
        record = event.record()
        if record is not None:
            self.run.append_log(record)

    def close(self) -> None:
        pass
