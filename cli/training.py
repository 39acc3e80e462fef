"""The training loop of `train` and `rerun`: progress line, signals, final score, a sample."""

from __future__ import annotations

import signal
import sys
import time
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..core.display import baselines_line
from ..core.plugins import find
from ..core.train.controls import Controls
from .main import COMMAND_START, exit_process
from .render import TrainingProgress, clock, curve, say

if TYPE_CHECKING:
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.budget import Plan
    from ..core.train.events import Evaluated, Event, Sink
    from ..core.train.fit import Replay
    from ..core.train.request import Deadline
    from ..core.train.state import State

SAMPLE_TOKENS = 160
MAX_LATE = 0.01  # of the budget; a training that ends later shows no sample, which takes time
MAX_PROMPT_ITEMS = 3  # held-out items that a sample can continue


class Signals:
    """The signal handlers of a training. SIGINT, SIGTERM or SIGHUP stops after the current step,
    a second one exits at once. Before the first step a signal exits and the run is deleted; after
    the last save it exits. SIGUSR1 requests a checkpoint and a sample after the current step."""

    def __init__(self) -> None:
        self.controls = Controls()
        self.number = 0  # of the signal that stopped the training
        self.stepped = False  # a step has been taken
        self.saved = False  # the last step is saved
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # not by nohup
            signal.signal(hangup, self._stop)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._save)

    def take(self, event: Event) -> None:
        """Records the progress of the training (`Sink`)."""
        from ..core.train.events import Saved, Stepped

        self.stepped |= isinstance(event, Stepped)
        self.saved |= isinstance(event, Saved) and event.last

    def close(self) -> None:
        pass

    def _save(self, number: int, frame: object) -> None:
        self.controls.save = True

    def _stop(self, number: int, frame: object) -> None:
        if not self.stepped:
            raise SystemExit(128 + number)
        if self.number or self.saved:
            exit_process(128 + number)
        self.number, self.controls.stop = number, True


class Progress:
    """A sink that prints: the progress line, and a sample when SIGUSR1 requests one."""

    def __init__(self, run: Run, task: Task, state: State, quiet: bool) -> None:
        self.run, self.task, self.state, self.losses = run, task, state, list[float]()
        self.line = TrainingProgress(state.config.steps, state.step, quiet)
        self.line.__enter__()

    def take(self, event: Event) -> None:
        from ..core.train.events import Evaluated, Replanned, Saved, Stepped

        if isinstance(event, Stepped):
            self.losses.append(event.step.loss)
            self.line.step(event.step)
        elif isinstance(event, Evaluated):
            self.line.heldout = heldout_text(event, self.task.unit)
        elif isinstance(event, Replanned):
            self.line.steps = event.steps
        elif isinstance(event, Saved) and event.requested:
            say(f"saved at step {event.step:,}")
            show_sample(self.run, self.task, self.state)
        elif isinstance(event, Saved) and event.last:
            self.close()

    def close(self) -> None:
        self.line.__exit__()


def heldout_text(evaluated: Evaluated, unit: str) -> str:
    """The score of a part of the held-out items with its standard error: bits per unit, or nats per
    token if the tokenizer is not lossless."""
    factor, name = evaluated.bits_per_nat, f"bits/{unit}"
    if factor is None:
        factor, name = 1.0, "nats/token"
    error = evaluated.standard_error
    spread = f" ± {error * factor:.3f}" if error is not None else ""
    return f"held-out {evaluated.nats_per_token * factor:.3f}{spread} {name}"


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
    """Trains to the end of the plan and returns the final scores: {} for a replay that ends
    earlier. After SIGINT or SIGTERM, saves and exits the process."""
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
    except BrokenPipeError:  # the reader of stderr has gone
        state.save(run)
        raise
    finally:
        for sink in sinks:
            sink.close()
    if signals.number and not scores:
        say(f"saved at step {state.step:,}; resume with: tfm train --resume {quote(str(run.path))}")
        run.unlock()
        exit_process(128 + signals.number)
    if scores and not quiet:
        late = deadline is not None and deadline.left() < -MAX_LATE * run.config["plan"].get(
            "budget_seconds", 0.0
        )
        show_scores(run, task, state, scores, progress.losses, with_sample=not late)
    return scores


def show_scores(
    run: Run,
    task: Task,
    state: State,
    scores: dict[str, Any],
    losses: list[float],
    with_sample: bool = True,
) -> None:
    """Prints the loss curve, the score next to the baselines, and a sample."""
    if sys.stderr.isatty() and len(losses) > 20:
        window = max(1, len(losses) // 120)
        smooth = [
            sum(losses[i : i + window]) / window for i in range(0, len(losses) - window + 1, window)
        ]
        say(curve(smooth))
        say(f"loss in nats per token over {len(losses):,} steps")
    reasons = {"until": f"{scores.get('until')} is reached", "patience": "no improvement"}
    if scores.get("ended_by") in reasons:
        say(f"stopped at step {state.step:,}: {reasons[scores['ended_by']]}")
    if scores.get("best_step") not in (None, state.step):
        say(f"the best score was at step {scores['best_step']:,}: use it with --checkpoint best")
    parts = scores.get("parts", {})  # whose baselines have units of their own
    say(score_line(task.unit, {**scores, "floor": None} if parts else scores, task.headline))
    for name, own in parts.items():
        headline = find("tasks", own["task"]).headline
        say(f"{name}: {score_line(own['unit'], {**own, 'split': scores['split']}, headline)}")
    if with_sample and not parts:
        show_sample(run, task, state)
    seconds = time.monotonic() - COMMAND_START
    first = f":{next(iter(parts))}" if parts else ""
    say(f"trained in {clock(seconds)}; next: tfm sample {quote(str(run.path) + first)}")


def show_sample(run: Run, task: Task, state: State) -> None:
    """Prints a sample from the weights that are scored: the average, if training keeps one."""
    from ..core.train.average import in_use
    from .drawing import preview_sample

    heldout = run.heldout(run.config["final_split"])
    prompts = [heldout[index] for index in range(min(MAX_PROMPT_ITEMS, len(heldout)))]
    with in_use(state.optimizers):
        preview = preview_sample(task, run.tokenizer(), state.model, SAMPLE_TOKENS, prompts)
    state.model.train()  # sampling left it in eval mode, without dropout
    if preview is not None:
        say("sample:")
        say("\n".join(f"  {line}" for line in preview.splitlines()))


def score_line(unit: str, scores: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    """One line: the headline metrics, bits per unit (else nats per token), the baselines."""
    value = scores[f"bits_per_{unit}"]
    # without bits per unit there is nothing that baselines in that unit could be compared with
    floor = (scores["floor"] or {}) if value is not None or headline else {}
    known = [name for name in headline if scores.get(name) is not None]
    baselines = baselines_line(floor, known) if floor else ""
    part = f" (on {scores['part']:.0%} of it; `tfm eval` scores all)" if "part" in scores else ""
    score = f"{scores['nll'] / max(scores['tokens'], 1):.3f} nats per token"
    if value is not None:
        score = f"{value:.3f} bits per {unit}"
    first = [f"{name} {scores[name]:.4g}" for name in known]
    half = " (the half not used for early stopping)" if scores["split"] == "report" else ""
    after = f"; baselines: {baselines}" if baselines else ""
    return f"held out{half}: {', '.join([*first, score])}{part}{after}"
