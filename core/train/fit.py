"""`fit`: trains a run from its current step to its end, as a generator of events.

Nothing here prints or ends the process: the caller passes the events to sinks, and requests a
checkpoint or an early end through `Controls`.
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

SAVE_SECONDS = 300.0  # between checkpoints, unless train.save_every is set
REPLAN_AT = (0.1, 0.25, 0.45, 0.65, 0.8, 0.9)  # fractions of the steps where --budget is checked
MIN_REPLAN_CHANGE = 0.015  # as a fraction of the steps: smaller changes are ignored


@dataclass
class Replay:
    """How to repeat an earlier run exactly."""

    replans: Mapping[int, list[int]] = field(default_factory=dict)  # step -> new numbers of steps
    end: int | None = None  # stop after this step without the final score; None: run to the end


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
    """Trains to the last step, validating and saving checkpoints, then yields the final score.

    deadline: the number of steps is adjusted during training to finish by then. DivergedError
    as `train`; TfmError where a checkpoint cannot be written.
    """
    controls, replay = controls or Controls(), replay or Replay()
    validation = Validation(run, task, state, plan)
    timer = _StepTimer(state.step, clock)
    saved_at = clock()

    yield from _replayed(state, replay)
    while not state.is_done() and state.step != replay.end:
        config = state.config
        for step in train(
            state.model, plan.data, config, state.optimizers, state.step, state.skipped
        ):
            state.step, state.skipped = step.index, step.skipped
            yield Stepped(step)

            # once in a while: score a sample of the held-out items
            best = False
            if validation.is_due(step.index):
                evaluated = validation.score(step.index)
                best = evaluated.best
                yield evaluated

            # on request: save, then stop or continue
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

            # a few times: replan for as many steps as the deadline leaves time for
            if deadline is not None and step.index in _replan_steps(config.steps):
                seconds = deadline.seconds_left() - plan.estimates.get("reserve_seconds", 0.0)
                steps = step.index + max(1, int(seconds / timer.seconds_per_step(step.index)))
                if abs(steps - config.steps) > MIN_REPLAN_CHANGE * config.steps:
                    yield replan(state, steps)

            # after replanning the schedule differs: continue with a new `train`
            yield from _replayed(state, replay)
            if state.config is not config or state.is_done() or step.index == replay.end:
                break

    state.save(run)
    yield Saved(state.step, last=True)
    if replay.end is None and not controls.stop:
        yield Finished(state.step, validation.final())


def replan(state: State, steps: int) -> Replanned:
    """Changes the total number of steps."""
    state.set_steps(steps)
    return Replanned(state.step, steps)


def _replayed(state: State, replay: Replay) -> Iterator[Replanned]:
    yield from (replan(state, steps) for steps in replay.replans.get(state.step, ()))


def _replan_steps(steps: int) -> set[int]:
    return {int(steps * fraction) for fraction in REPLAN_AT}


class _StepTimer:
    """Mean seconds per step since the previous call, including validation and checkpoints."""

    def __init__(self, step: int, clock: Callable[[], float]) -> None:
        self.clock, self.step, self.at = clock, step, clock()

    def seconds_per_step(self, step: int) -> float:
        now = self.clock()
        seconds = (now - self.at) / max(1, step - self.step)
        self.step, self.at = step, now
        return seconds
