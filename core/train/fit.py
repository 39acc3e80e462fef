"""`fit`: a run from where it stands to its end, as events.

Nothing here prints or ends the process: whoever iterates gives the events to sinks, and asks for a
save or an end through `Controls`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ..runs.run import Run
from ..task import Task
from .budget import Deadline, Plan
from .controls import Controls
from .events import Event, Finished, Replanned, Saved, Stepped
from .loop import train
from .state import State
from .validation import Validation

SAVE_SECONDS = 300.0  # between checkpoints, where train.save_every says nothing
REPLAN_AT = (0.1, 0.25, 0.45, 0.65, 0.8, 0.9)  # of the steps: the deadline is looked at again
REPLAN_CHANGE = 0.015  # of the steps: smaller changes are not worth a new schedule


@dataclass
class Replay:
    """How to repeat a run: the steps at which it was replanned, and the new numbers of steps; and
    the step after which to end without a final score (None: at the plan's end)."""

    replans: Mapping[int, list[int]] = field(default_factory=dict)
    end: int | None = None


def fit(
    run: Run,
    task: Task,
    plan: Plan,
    state: State,
    deadline: Deadline | None = None,
    controls: Controls | None = None,
    replay: Replay | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Steps until the plan's end, checkpoints on the way, then the final score.

    deadline: the number of steps is corrected on the way so that all ends by then. DivergedError
    as `train`; TfmError where a checkpoint cannot be written.
    """
    controls, replay = controls or Controls(), replay or Replay()
    validation = Validation(run, task, state, plan)
    pace = _Pace(state.step, clock)
    saved_at = clock()

    yield from _replayed(state, replay)
    while state.is_unfinished() and state.step != replay.end:
        config = state.config
        for step in train(
            state.model, plan.data, config, state.optimizers, state.step, state.skipped
        ):
            state.step, state.skipped = step.index, step.skipped
            yield Stepped(step)

            # once in a while: score some of what is held out
            best = False
            if validation.is_due(step.index):
                evaluated = validation.score(step.index)
                best = evaluated.best
                yield evaluated

            # when asked: save, and end or go on
            if controls.stop:
                state.save(run)
                yield Saved(step.index)
                return
            if controls.save:
                controls.save = False
                state.save(run)
                yield Saved(step.index, requested=True)

            # once in a while: save
            every = config.save_every
            due = step.index % every == 0 if every else clock() - saved_at > SAVE_SECONDS
            if best or due:
                state.save(run)
                saved_at = saved_at if best else clock()
                yield Saved(step.index)

            # at some marks: as many steps as the deadline leaves time for
            if deadline is not None and step.index in _marks(config.steps):
                seconds = deadline.left() - plan.about.get("reserve_seconds", 0.0)
                steps = step.index + max(1, int(seconds / pace.seconds_per_step(step.index)))
                if abs(steps - config.steps) > REPLAN_CHANGE * config.steps:
                    yield replanned(state, steps)

            yield from _replayed(state, replay)
            if state.config is not config or not state.is_unfinished() or step.index == replay.end:
                break

    state.save(run)
    yield Saved(state.step, last=True)
    if replay.end is None and not controls.stop:
        yield Finished(state.step, validation.final())


def replanned(state: State, steps: int) -> Replanned:
    """Has the training take `steps` steps in all."""
    state.replan(steps)
    return Replanned(state.step, steps)


def _replayed(state: State, replay: Replay) -> Iterator[Replanned]:
    yield from (replanned(state, steps) for steps in replay.replans.get(state.step, ()))


def _marks(steps: int) -> set[int]:
    return {int(steps * part) for part in REPLAN_AT}


class _Pace:
    """Seconds a step, saving and scoring included, since the last time it was asked for."""

    def __init__(self, step: int, clock: Callable[[], float]) -> None:
        self.clock, self.step, self.at = clock, step, clock()

    def seconds_per_step(self, step: int) -> float:
        now = self.clock()
        seconds = (now - self.at) / max(1, step - self.step)
        self.step, self.at = step, now
        return seconds
