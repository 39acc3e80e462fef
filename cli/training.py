"""Training as people see it: steps drawn and logged, saves, signals, the final score."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from .main import STARTED, leave
from .render import TrainingProgress, clock, curve, say

if TYPE_CHECKING:
    from ..core.experiment import State
    from ..core.plan import Planned
    from ..core.protocols import Sequence, Task
    from ..core.run import Run

PROGRESS_TOKENS = 16384  # of what is held out, scored now and then while training
SAMPLE_TOKENS = 160
SHOWN = 3  # held-out items that a sample may go on from
SAVE_SECONDS = 300.0  # between checkpoints, where --save-every says nothing
REPLAN_AT = (0.1, 0.25, 0.45, 0.65, 0.8, 0.9)  # of the steps: the budget is looked at again


class Stop:
    """What SIGINT and SIGTERM do. Before the first step: leave, and nothing is kept. While
    training: the first asks for an end after this step, the second leaves at once. When all is
    saved: leave."""

    def __init__(self) -> None:
        self.asked = 0
        self.armed = False  # once there is a step to save
        self.saved = False  # once there is none left
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

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


def train_to_end(
    run: Run,
    task: Task,
    planned: Planned,
    state: State,
    left: Callable[[], float] | None,
    stop: Stop,
    quiet: bool,
) -> dict[str, Any]:
    """Steps until the plan's end, then the final score."""
    from ..core.train import train

    losses: list[float] = []
    reserve = planned.about.get("reserve_seconds", 0.0)
    held = _Held(run, task, state, planned)
    with TrainingProgress(state.config.steps, state.step, task.unit, quiet) as progress:
        saved_at = time.monotonic()
        marked = (state.step, time.monotonic())
        while state.step < state.config.steps:
            config = state.config
            for step in train(
                state.model, planned.data, config, state.optimizers, state.step, state.skipped
            ):
                stop.armed = True
                state.step, state.skipped = step.index, step.skipped
                losses.append(step.loss)
                run.append_log(step.record())
                try:
                    progress.step(step)
                    if held.is_due(step.index):
                        progress.held = held.score(step.index)
                except BrokenPipeError:
                    _save(run, state)
                    raise
                if stop.asked:
                    _save(run, state)
                    stop.obey(run, state.step)
                every = config.save_every
                if every and step.index % every == 0:
                    _save(run, state)
                elif not every and time.monotonic() - saved_at > SAVE_SECONDS:
                    _save(run, state)
                    saved_at = time.monotonic()
                if left and step.index in _marks(config.steps):
                    state.config = _replan(run, state, marked, left() - reserve)
                    progress.steps = state.config.steps
                    marked = (step.index, time.monotonic())
                    if state.config is not config:
                        break
    _save(run, state)
    stop.saved = True
    scores = held.final(left)
    run.append_log({"event": "final", "step": state.step, "scores": scores})
    _show(run, task, state, scores, losses, quiet)
    return scores


def _marks(steps: int) -> set[int]:
    return {int(steps * part) for part in REPLAN_AT}


def _replan(run: Run, state: State, marked: tuple[int, float], seconds: float) -> Any:
    """The config with as many steps as the speed since the last mark leaves time for."""
    pace = (time.monotonic() - marked[1]) / max(1, state.step - marked[0])
    steps = state.step + max(1, int(seconds / pace))
    if abs(steps - state.config.steps) <= 0.015 * state.config.steps:
        return state.config
    run.append_log({"event": "replan", "step": state.step, "steps": steps})
    return replace(state.config, steps=steps)


def _save(run: Run, state: State) -> None:
    run.save(
        state.step, state.model, state.optimizers,
        {"train": asdict(state.config), "skipped": state.skipped},
    )  # fmt: skip


class _Held:
    """What is held out: a little of it now and then, all of it at the end."""

    def __init__(self, run: Run, task: Task, state: State, planned: Planned) -> None:
        self.run, self.task, self.state, self.planned = run, task, state, planned
        self.tokenizer = run.tokenizer()
        self.every = state.config.eval_every or max(1, state.config.steps // 8)
        valid = run.heldout("valid")
        units = task.units(valid).get(task.unit, 0)
        tokens = sum(int((s.target_weight() > 0).sum()) for s in valid)
        self.bits_per_nat = tokens / max(units, 1) / math.log(2)
        self.some = _some(list(valid), PROGRESS_TOKENS, state.model.config.context)

    def is_due(self, step: int) -> bool:
        return step % self.every == 0 and step < self.state.config.steps

    def score(self, step: int) -> float:
        """About how many bits per unit: the mean of some tokens at the rate of tokens to units."""
        from ..core.evaluate import evaluate

        scores = list(evaluate(self.state.model, self.tokenizer, self.some))
        nats = sum(s.nll for s in scores) / max(1, sum(s.tokens for s in scores))
        self.run.append_log({"event": "eval", "step": step, "nats_per_token": nats})
        return nats * self.bits_per_nat

    def final(self, left: Callable[[], float] | None) -> dict[str, Any]:
        """The score of the last weights; under a budget that is too short for all that is held
        out, of evenly chosen items, and `part` says how much."""
        from ..core.scores import report

        split = self.run.config["final_split"]
        store = self.run.heldout(split)
        chosen = range(len(store))
        part = self.planned.about.get("final_part", 1.0)
        if left and part < 1:
            count = max(1, int(part * len(store)))
            chosen = range(0, len(store), -(-len(store) // count))
        scores = report(
            self.task, self.tokenizer, self.state.model,
            store if len(chosen) == len(store) else [store[i] for i in chosen],
            floor=self.run.config["floor"], run=str(self.run.path), step=self.state.step,
            split=split,
        )  # fmt: skip
        return {**scores, "part": len(chosen) / len(store)} if len(chosen) < len(store) else scores


def _some(sequences: list[Sequence], tokens: int, context: int) -> list[Sequence]:
    """Whole items, evenly chosen, of about `tokens` ids; of items longer than the context,
    windows, as if each were an item."""
    from ..core.protocols import Sequence

    pieces = [
        (s, start)
        for s in sequences
        for start in (range(0, max(1, len(s) - 1), context) if len(s) > context + 1 else (0,))
    ]
    count = max(1, min(len(pieces), tokens // context))
    some = []
    for s, start in pieces[:: -(-len(pieces) // count)]:
        cut = slice(start, start + context + 1)
        weight = None if s.weight is None else s.weight[cut]
        some.append(Sequence(s.ids[cut], max(1, s.given - start), weight, s.side))
    return some


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
    say(score_line(task.unit, scores, getattr(task, "headline", ())))
    from .drawing import show_sample

    held = run.heldout(run.config["final_split"])
    own = [held[index] for index in range(min(SHOWN, len(held)))]
    picture = show_sample(task, run.tokenizer(), state.model, SAMPLE_TOKENS, own)
    if picture is not None:
        say("a sample:")
        say("\n".join(f"  {line}" for line in picture.splitlines()))
    say(f"trained in {clock(time.monotonic() - STARTED)}; next: tfm sample {run.path}")


def score_line(unit: str, scores: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    value = scores[f"bits_per_{unit}"]
    floor = scores["floor"] or {}
    beside = ", ".join(f"{name} {bits:.4g}" for name, bits in floor.items())
    part = f" (of {scores['part']:.0%} of it; `tfm eval` scores all)" if "part" in scores else ""
    said = f"{value:.3f} bits per {unit}" if value is not None else (
        f"{scores['nll'] / max(scores['tokens'], 1):.3f} nats per token"
    )  # fmt: skip
    first = [f"{name} {scores[name]:.4g}" for name in headline if scores.get(name) is not None]
    said = ", ".join([*first, said])
    return f"held out: {said}{part}" + (f"  beside {beside}" if beside else "")
