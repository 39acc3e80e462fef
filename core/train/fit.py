"""`fit`: trains a run from its current step to its end and yields events.

Nothing here prints or ends the process. The caller passes the events to sinks, and requests a save
or a stop through `Controls`.
"""

from __future__ import annotations

import math
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
REPLAN_AT = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the time for steps
MIN_REPLAN_CHANGE = 0.015  # of that time; smaller changes are not worth a new schedule


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
    timing = None if deadline is None else _Timing(deadline, plan, state.step)
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
            timed = timing is not None and peers.leads and timing.is_due()
            stop, save, late, replan = peers.agree(controls.stop, controls.save, due, timed)

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

            # at a few times: correct the number of steps by the measured speed
            if timing is not None and replan and step.index < config.steps:
                steps = peers.spread(partial(timing.steps, step.index, config.steps))
                if steps != config.steps:
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


class _Timing:
    """Decides when to correct the number of steps, so that all ends by a deadline, and to what."""

    def __init__(self, deadline: Deadline, plan: Plan, step: int) -> None:
        self.deadline, self.step = deadline, step
        self.reserve: float = plan.about.get("reserve_seconds", 0.0)
        self.planned: float = plan.about.get("step_seconds", math.inf)
        self.begun = self.measured = deadline.left()
        self.seconds = self.begun - self.reserve  # for all steps
        self.ahead = list(REPLAN_AT)

    def is_due(self) -> bool:
        """Whether the time for steps has passed another of REPLAN_AT."""
        spent, count = self.begun - self.deadline.left(), len(self.ahead)
        while self.ahead and spent >= self.ahead[0] * self.seconds:
            del self.ahead[0]
        return len(self.ahead) < count

    def steps(self, step: int, planned: int) -> int:
        """How many steps in all there is time for, at the speed since the last call, which includes
        saving and scoring; `planned` if that is about the same. The time that is kept for the
        final score grows as that of a step does."""
        left = self.deadline.left()
        pace = (self.measured - left) / max(1, step - self.step)
        self.step, self.measured = step, left
        slower = max(1.0, pace / self.planned)
        steps = step + max(1, int((left - slower * self.reserve) / max(pace, 1e-9)))
        return steps if abs(steps - planned) * pace > MIN_REPLAN_CHANGE * self.seconds else planned
