"""Training as people see it: progress, signals, the final score and a sample."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from ..core.train.controls import Controls
from .main import STARTED, leave
from .render import TrainingProgress, clock, curve, say

if TYPE_CHECKING:
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.budget import Deadline, Plan
    from ..core.train.events import Event, Sink
    from ..core.train.fit import Replay
    from ..core.train.state import State

SAMPLE_TOKENS = 160
SHOWN_ITEMS = 3  # held-out items that a sample may go on from


class Signals:
    """What SIGINT and SIGTERM do. Before the first step: leave, and nothing is kept. While
    training: the first asks for an end after this step, the second leaves at once. When all is
    saved: leave. SIGUSR1 asks for a checkpoint and a sample after this step."""

    def __init__(self) -> None:
        self.controls = Controls()
        self.number = 0  # of the signal that asked for the end
        self.stepped = False  # once there is a step to save
        self.saved = False  # once there is none left
        signal.signal(signal.SIGINT, self._end)
        signal.signal(signal.SIGTERM, self._end)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._save)

    def take(self, event: Event) -> None:
        """As a sink: how far the training has come."""
        from ..core.train.events import Saved, Stepped

        self.stepped |= isinstance(event, Stepped)
        self.saved |= isinstance(event, Saved) and event.last

    def close(self) -> None:
        pass

    def _save(self, number: int, frame: object) -> None:
        self.controls.save = True

    def _end(self, number: int, frame: object) -> None:
        if not self.stepped:
            raise SystemExit(128 + number)
        if self.number or self.saved:
            leave(128 + number)
        self.number, self.controls.stop = number, True


class Progress:
    """The sink that draws: the progress line, and a sample when one is asked for."""

    def __init__(self, run: Run, task: Task, state: State, quiet: bool) -> None:
        self.run, self.task, self.state, self.losses = run, task, state, list[float]()
        self.line = TrainingProgress(state.config.steps, state.step, task.unit, quiet)
        self.line.__enter__()

    def take(self, event: Event) -> None:
        from ..core.train.events import Evaluated, Replanned, Saved, Stepped

        if isinstance(event, Stepped):
            self.losses.append(event.step.loss)
            self.line.step(event.step)
        elif isinstance(event, Evaluated):
            self.line.held = event.bits
        elif isinstance(event, Replanned):
            self.line.steps = event.steps
        elif isinstance(event, Saved) and event.requested:
            say(f"saved at step {event.step:,}")
            draw_sample(self.run, self.task, self.state)
        elif isinstance(event, Saved) and event.last:
            self.close()

    def close(self) -> None:
        self.line.__exit__()


def train_to_end(
    run: Run,
    task: Task,
    plan: Plan,
    state: State,
    signals: Signals,
    quiet: bool,
    deadline: Deadline | None = None,
    replay: Replay | None = None,
) -> dict[str, Any]:
    """Steps until the plan's end, then the final scores; none of a replay that ends before. Leaves
    the process, with all saved, where a signal asked for that."""
    from ..core.train.events import Finished, RunLog
    from ..core.train.fit import fit

    progress = Progress(run, task, state, quiet)
    sinks: list[Sink] = [signals, RunLog(run), progress]
    scores: dict[str, Any] = {}
    try:
        for event in fit(run, task, plan, state, deadline, signals.controls, replay):
            for sink in sinks:
                sink.take(event)
            if isinstance(event, Finished):
                scores = event.scores
    except BrokenPipeError:  # nobody reads the progress any more
        state.save(run)
        raise
    finally:
        for sink in sinks:
            sink.close()
    if signals.number and not scores:
        say(f"saved at step {state.step:,}; continue with: tfm train --resume {run.path}")
        run.unlock()
        leave(128 + signals.number)
    if scores and not quiet:
        show_scores(run, task, state, scores, progress.losses)
    return scores


def show_scores(
    run: Run, task: Task, state: State, scores: dict[str, Any], losses: list[float]
) -> None:
    """The loss curve, the score beside the floor, and a sample."""
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
    draw_sample(run, task, state)
    say(f"trained in {clock(time.monotonic() - STARTED)}; next: tfm sample {run.path}")


def draw_sample(run: Run, task: Task, state: State) -> None:
    """A sample, for people."""
    from ..core.train.average import averaged_weights
    from .drawing import show_sample

    held = run.heldout(run.config["final_split"])
    own = [held[index] for index in range(min(SHOWN_ITEMS, len(held)))]
    with averaged_weights(state.optimizers):
        picture = show_sample(task, run.tokenizer(), state.model, SAMPLE_TOKENS, own)
    state.model.train()  # sampling ended it, and with it dropout
    if picture is not None:
        say("a sample:")
        say("\n".join(f"  {line}" for line in picture.splitlines()))


def score_line(unit: str, scores: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    value = scores[f"bits_per_{unit}"]
    floor = scores["floor"] or {}
    beside = ", ".join(f"{name} {bits:.4g}" for name, bits in floor.items())
    part = f" (of {scores['part']:.0%} of it; `tfm eval` scores all)" if "part" in scores else ""
    said = f"{scores['nll'] / max(scores['tokens'], 1):.3f} nats per token"
    if value is not None:
        said = f"{value:.3f} bits per {unit}"
    first = [f"{name} {scores[name]:.4g}" for name in headline if scores.get(name) is not None]
    said = ", ".join([*first, said])
    held = "held out" if scores["split"] != "report" else "the half that nothing was chosen by"
    return f"{held}: {said}{part}" + (f"  beside {beside}" if beside else "")
