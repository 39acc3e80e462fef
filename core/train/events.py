"""The events of a training, and the sinks that take them: the log, a progress bar, trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..runs.run import Run
from .loop import Step


@dataclass(frozen=True)
class Stepped:
    """An optimiser step was taken, or skipped because its loss or gradient was not finite."""

    step: Step

    def record(self) -> dict[str, Any] | None:
        return self.step.record()


@dataclass(frozen=True)
class Evaluated:
    """A part of the held-out items was scored. standard_error: of `nats_per_token`, over items;
    None for one item. bits_per_nat: bits per unit of the task for one nat per token; None if the
    tokenizer is not lossless. best: whether it is the best score of early stopping."""

    step: int
    nats_per_token: float
    standard_error: float | None
    bits_per_nat: float | None
    best: bool

    def record(self) -> dict[str, Any] | None:
        return {
            "event": "eval",
            "step": self.step,
            "nats_per_token": self.nats_per_token,
            "standard_error": self.standard_error,
        }


@dataclass(frozen=True)
class Replanned:
    """The total number of steps was changed to `steps`, and with it the learning-rate schedule;
    and the patience of early stopping, unless it is None."""

    step: int
    steps: int
    patience: int | None = None

    def record(self) -> dict[str, Any] | None:
        more = {} if self.patience is None else {"patience": self.patience}
        return {"event": "replan", "step": self.step, "steps": self.steps, **more}


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written. requested: by `Controls.save`; last: no step follows."""

    step: int
    requested: bool = False
    last: bool = False

    def record(self) -> dict[str, Any] | None:
        return None


@dataclass(frozen=True)
class Finished:
    """The final weights were scored."""

    step: int
    scores: dict[str, Any]

    def record(self) -> dict[str, Any] | None:
        return {"event": "final", "step": self.step, "scores": self.scores}


Event = Stepped | Evaluated | Replanned | Saved | Finished


class Sink(Protocol):
    """Takes every event in order. Training continues when all sinks have taken it."""

    def take(self, event: Event) -> None: ...

    def close(self) -> None:
        """Called once, however the training ended."""
        ...


class RunLog:
    """The sink that writes log.jsonl. A step is in the log before a checkpoint of it is saved."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def take(self, event: Event) -> None:
        record = event.record()
        if record is not None:
            self.run.append_log(record)

    def close(self) -> None:
        pass
