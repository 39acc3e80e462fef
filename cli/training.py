"""Training as people see it: steps drawn and logged, saves, signals, the final score."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .main import STARTED, leave
from .render import TrainingProgress, clock, curve, say

if TYPE_CHECKING:
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.budget import Plan
    from ..core.train.state import State

SAMPLE_TOKENS = 160
SHOWN = 3  # held-out items that a sample may go on from
SAVE_SECONDS = 300.0  # between checkpoints, where --save-every says nothing
REPLAN_AT = (0.1, 0.25, 0.45, 0.65, 0.8, 0.9)  # of the steps: the budget is looked at again


class Stop:
    """What SIGINT and SIGTERM do. Before the first step: leave, and nothing is kept. While
    training: the first asks for an end after this step, the second leaves at once. When all is
    saved: leave. SIGUSR1 asks for a look: a checkpoint and a sample after this step."""

    def __init__(self) -> None:
        self.asked = 0
        self.armed = False  # once there is a step to save
        self.saved = False  # once there is none left
        self.look = False
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._look)

    def _look(self, number: int, frame: object) -> None:
        self.look = True

    def _handle(self, number: int, frame: object) -> None:
        if not self.armed:
            raise SystemExit(128 + number)
        if self.asked or self.saved:
            leave(128 + number)
        self.asked = number

    def obey(self, run: Run, step: int) -> None:
        """Leaves, if that was asked for; everything up to `step` is saved."""
        if self.asked:
            say(f"saved at step {step:,}; continue with: tfm train --resume {run.path}")
            run.unlock()
            leave(128 + self.asked)


class AtOnce(Stop):
    """Leaves at once, whatever has been done: for copies that nobody keeps."""

    def _handle(self, number: int, frame: object) -> None:
        raise SystemExit(128 + number)


def train_to_end(
    run: Run,
    task: Task,
    planned: Plan,
    state: State,
    left: Callable[[], float] | None,
    stop: Stop,
    quiet: bool,
    replans: Mapping[int, list[int]] | None = None,
    end: int | None = None,
) -> dict[str, Any]:
    """Steps until the plan's end, then the final score.

    To repeat a run: `replans` has, by step, for how many steps it was planned anew; `end` is a
    step after which there is neither a further one nor a score.
    """
    from ..core.train.loop import train
    from ..core.train.validation import HeldOut

    losses: list[float] = []
    reserve = planned.about.get("reserve_seconds", 0.0)
    held = HeldOut(run, task, state, planned)
    with TrainingProgress(state.config.steps, state.step, task.unit, quiet) as progress:
        for steps in (replans or {}).get(state.step, ()):
            plan_anew(run, state, steps)
        saved_at = time.monotonic()
        marked = (state.step, time.monotonic())
        while state.goes_on() and state.step != end:
            config = state.config
            progress.steps = config.steps
            for step in train(
                state.model, planned.data, config, state.optimizers, state.step, state.skipped
            ):
                stop.armed = True
                state.step, state.skipped = step.index, step.skipped
                losses.append(step.loss)
                run.append_log(step.record())
                better = False
                if held.is_due(step.index):
                    progress.held, better = held.score(step.index)
                try:
                    progress.step(step)
                except BrokenPipeError:
                    _save(run, state)
                    raise
                if stop.asked:
                    _save(run, state)
                    stop.obey(run, state.step)
                if stop.look:
                    stop.look = False
                    _save(run, state)
                    say(f"saved at step {step.index:,}")
                    _draw(run, task, state)
                every = config.save_every
                if better or (every and step.index % every == 0):
                    _save(run, state)
                elif not every and time.monotonic() - saved_at > SAVE_SECONDS:
                    _save(run, state)
                    saved_at = time.monotonic()
                if left and step.index in _marks(config.steps):
                    _replan(run, state, marked, left() - reserve)
                    marked = (step.index, time.monotonic())
                for steps in (replans or {}).get(step.index, ()):
                    plan_anew(run, state, steps)
                if state.config is not config or not state.goes_on() or step.index == end:
                    break
    _save(run, state)
    if end is not None:
        return {}
    stop.saved = True
    if stop.asked:  # while it was saved
        stop.obey(run, state.step)
    scores = held.final()
    run.append_log({"event": "final", "step": state.step, "scores": scores})
    _show(run, task, state, scores, losses, quiet)
    return scores


def _marks(steps: int) -> set[int]:
    return {int(steps * part) for part in REPLAN_AT}


def _replan(run: Run, state: State, marked: tuple[int, float], seconds: float) -> None:
    """As many steps as the speed since the last mark leaves time for."""
    pace = (time.monotonic() - marked[1]) / max(1, state.step - marked[0])
    steps = state.step + max(1, int(seconds / pace))
    if abs(steps - state.config.steps) > 0.015 * state.config.steps:
        plan_anew(run, state, steps)


def plan_anew(run: Run, state: State, steps: int) -> None:
    state.plan_anew(steps)
    run.append_log({"event": "replan", "step": state.step, "steps": steps})


def _save(run: Run, state: State) -> None:
    state.save(run)


def _show(
    run: Run, task: Task, state: State, scores: dict[str, Any], losses: list[float], quiet: bool
) -> None:
    """The loss curve, the score beside the floor, and a sample."""
    if quiet:
        return
    if sys.stderr.isatty() and len(losses) > 20:
        window = max(1, len(losses) // 120)
        smooth = [
            sum(losses[i : i + window]) / window for i in range(0, len(losses) - window + 1, window)
        ]
        say(curve(smooth))
        say(f"loss in nats per token over {len(losses):,} steps")
    ended = {"until": f"{scores.get('until')} is reached", "patience": "no better score came"}
    if scores.get("ended_by") in ended:
        say(f"ended at step {state.step:,}: {ended[scores['ended_by']]}")
    if scores.get("best_step") not in (None, state.step):
        say(f"the best was step {scores['best_step']:,}: use it with --checkpoint best")
    say(score_line(task.unit, scores, task.headline))
    _draw(run, task, state)
    say(f"trained in {clock(time.monotonic() - STARTED)}; next: tfm sample {run.path}")


def _draw(run: Run, task: Task, state: State) -> None:
    """A sample, for people."""
    from ..core.train.average import in_use
    from .drawing import show_sample

    held = run.heldout(run.config["final_split"])
    own = [held[index] for index in range(min(SHOWN, len(held)))]
    with in_use(state.optimizers):
        picture = show_sample(task, run.tokenizer(), state.model, SAMPLE_TOKENS, own)
    state.model.train()  # which drawing ended, and with it dropout
    if picture is not None:
        say("a sample:")
        say("\n".join(f"  {line}" for line in picture.splitlines()))


def score_line(unit: str, scores: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    value = scores[f"bits_per_{unit}"]
    floor = scores["floor"] or {}
    beside = ", ".join(f"{name} {bits:.4g}" for name, bits in floor.items())
    part = f" (of {scores['part']:.0%} of it; `tfm eval` scores all)" if "part" in scores else ""
    said = (
        f"{value:.3f} bits per {unit}"
        if value is not None
        else (f"{scores['nll'] / max(scores['tokens'], 1):.3f} nats per token")
    )
    first = [f"{name} {scores[name]:.4g}" for name in headline if scores.get(name) is not None]
    said = ", ".join([*first, said])
    held = "held out" if scores["split"] != "report" else "the half that nothing was chosen by"
    return f"{held}: {said}{part}" + (f"  beside {beside}" if beside else "")
