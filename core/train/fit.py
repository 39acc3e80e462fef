"""`fit`: trains a run from its current step to its end and yields events.

Nothing here prints or ends the process. The caller passes the events to sinks, and requests a save
or a stop through `Controls`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from ..runs.run import Run
from ..task import Task
from .budget import Plan
from .controls import Controls
from .events import Event, Finished, Replanned, Saved, Stepped
from .loop import train
from .request import Deadline
from .state import State
from .validation import Validation

SAVE_SECONDS = 300.0  # between checkpoints, if train.save_every is 0
REPLAN_AT = (0.1, 0.25, 0.45, 0.65, 0.8, 0.9)  # fractions of the steps
MIN_REPLAN_CHANGE = 0.015  # of the steps; smaller changes are not worth a new schedule


@dataclass
class Replay:
    """How to repeat a run. replans: step -> the total numbers of steps, and the patience or None,
    that it was replanned to after that step; end: the step after which to stop without a final
    score, None to finish."""

    replans: Mapping[int, list[tuple[int, int | None]]] = field(default_factory=dict)
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
    """Takes the remaining steps, saves checkpoints, then scores the final weights.

    deadline: the number of steps is corrected during training so that everything ends by then;
    of several processes that of the leading one, and the others have any. All yield the same events
    at the same steps.
    DivergedError as in `train`; TfmError if a checkpoint cannot be written.
    """
    controls, replay, peers = controls or Controls(), replay or Replay(), state.peers
    validation = Validation(run, task, state, plan)
    pace = _Pace(state.step, clock)
    saved_at = clock()

    yield from _replayed(state, replay)
    while state.is_unfinished() and state.step != replay.end:
        config = state.config
        for step in train(
            state.model, plan.data, config, state.optimizers, state.step, state.skipped, peers
        ):
            state.step, state.skipped = step.index, step.skipped
            yield Stepped(step)

            # score a part of the held-out items, at intervals
            best = False
            if validation.is_due(step.index):
                evaluated = validation.score(step.index)
                best = evaluated.best
                yield evaluated

            # what one process is asked for, all do
            every = config.save_every
            due = step.index % every == 0 if every else clock() - saved_at > SAVE_SECONDS
            stop, save, late = peers.agree(controls.stop, controls.save, due)

            # save on request, and stop or continue
            if stop:
                controls.stop = stop
                state.save(run)
                yield Saved(step.index)
                return
            if save:
                controls.save = False
                state.save(run)
                yield Saved(step.index, requested=True)

            # save at intervals, and after the best score
            if best or late:
                state.save(run)
                saved_at = saved_at if best else clock()
                yield Saved(step.index)

            # at a few steps: correct the number of steps by the measured speed
            if deadline is not None and step.index in _replan_steps(config.steps):
                steps = peers.spread(partial(_steps_in_time, step.index, deadline, plan, pace))
                if abs(steps - config.steps) > MIN_REPLAN_CHANGE * config.steps:
                    yield replanned(state, steps)

            yield from _replayed(state, replay)
            if state.config is not config or not state.is_unfinished() or step.index == replay.end:
                break

    state.save(run)
    yield Saved(state.step, last=True)
    (controls.stop,) = peers.agree(controls.stop)
    if replay.end is None and not controls.stop:
        yield Finished(state.step, validation.final())


def replanned(state: State, steps: int, patience: int | None = None) -> Replanned:
    """Sets the total number of steps, and the patience unless it is None."""
    state.replan(steps, patience)
    return Replanned(state.step, steps, patience)


def _replayed(state: State, replay: Replay) -> Iterator[Replanned]:
    yield from (replanned(state, *plan) for plan in replay.replans.get(state.step, ()))


def _steps_in_time(step: int, deadline: Deadline, plan: Plan, pace: _Pace) -> int:
    """How many steps in all there is time for, at the speed since the last call."""
    seconds = deadline.left() - plan.about.get("reserve_seconds", 0.0)
    return step + max(1, int(seconds / pace.seconds_per_step(step)))


def _replan_steps(steps: int) -> set[int]:
    return {int(steps * fraction) for fraction in REPLAN_AT}


class _Pace:
    """Measures seconds per step, including saving and scoring, since the last measurement."""

    def __init__(self, step: int, clock: Callable[[], float]) -> None:
        self.clock, self.step, self.at = clock, step, clock()

    def seconds_per_step(self, step: int) -> float:
        now = self.clock()
        seconds = (now - self.at) / max(1, step - self.step)
        self.step, self.at = step, now
        return seconds
