"""Events of a training, and the sinks that receive them: the log, a progress bar, trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..runs.run import Run
from .loop import Step


@dataclass(frozen=True)
class Stepped:
    """An optimiser step was taken, or skipped for lack of a finite gradient."""

    step: Step

    def record(self) -> dict[str, Any] | None:
        return self.step.record()


@dataclass(frozen=True)
class Evaluated:
    """A sample of the validation split was scored. bits: per unit of the task, converted by the
    split's tokens per unit; best: the best score so far, in a run that selects checkpoints."""

    step: int
    nats_per_token: float
    bits: float
    best: bool

    def record(self) -> dict[str, Any] | None:
        return {"event": "eval", "step": self.step, "nats_per_token": self.nats_per_token}


@dataclass(frozen=True)
class Replanned:
    """The total number of steps changed to `steps`, and with it the learning rate schedule."""

    step: int
    steps: int

    def record(self) -> dict[str, Any] | None:
        return {"event": "replan", "step": self.step, "steps": self.steps}


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written. requested: through `Controls.save`; last: no step follows."""

    step: int
    requested: bool = False
    last: bool = False

    def record(self) -> dict[str, Any] | None:
        return None


@dataclass(frozen=True)
class Finished:
    """The last weights were scored on the final split."""

    step: int
    scores: dict[str, Any]

    def record(self) -> dict[str, Any] | None:
        return {"event": "final", "step": self.step, "scores": self.scores}


Event = Stepped | Evaluated | Replanned | Saved | Finished


class Sink(Protocol):
    """Receives every event in order, before training continues."""

    def take(self, event: Event) -> None: ...

    def close(self) -> None:
        """Called once at the end, also after an error."""
        ...


class RunLog:
    """Writes log.jsonl. A checkpoint's `Saved` event comes after its steps, so they are logged."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def take(self, event: Event) -> None:
        record = event.record()
        if record is not None:
            self.run.append_log(record)

    def close(self) -> None:
        pass
