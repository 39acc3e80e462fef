"""The training loop of `train` and `rerun`: progress line, signals, final score, a sample."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..core.display import baselines_line
from ..core.plugins import find
from ..core.train.controls import Controls
from .main import COMMAND_START, exit_process
from .processes import is_launched
from .render import TrainingProgress, clock, curve, say

if TYPE_CHECKING:
    from ..core.model.sequence_model import SequenceModel
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.budget import Plan
    from ..core.train.events import Evaluated, Event, Sink
    from ..core.train.fit import Replay
    from ..core.train.peers import Peers
    from ..core.train.request import Deadline
    from ..core.train.state import State
    from ..core.train.trackers import Media
    from .drawing import Drawn

SAMPLE_TOKENS = 160
MAX_LATE = 0.01  # of the budget; a training that ends later shows no sample, which takes time
MAX_PROMPT_ITEMS = 3  # held-out items that a sample can continue
MEDIA = {"image": ".png", "audio": ".wav"}  # of samples in trackers
TEXT_WIDTH = 100  # columns of a sample in trackers


class Signals:
    """The signal handlers of a training. SIGINT, SIGTERM or SIGHUP stops after the current step,
    a second one (after `repeat_seconds`) exits at once. Before the first step a signal exits and
    the run is deleted; after the last save it exits. SIGUSR1 requests a checkpoint and a sample
    after the current step."""

    def __init__(self) -> None:
        self.controls = Controls()
        self.number = 0  # of the signal that stopped the training
        self.at = 0.0  # when it came
        self.repeat_seconds = 0.0  # in which the same request may come again
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
        if self.saved or (self.number and time.monotonic() >= self.at + self.repeat_seconds):
            exit_process(128 + number)
        if not self.number:
            self.number, self.at, self.controls.stop = number, time.monotonic(), number


class Samples:
    """Samples of the weights that are scored (the average, if training keeps one), drawn once for
    each step."""

    def __init__(self, run: Run, task: Task, state: State) -> None:
        self.run, self.task, self.state = run, task, state
        self._last: tuple[int, Drawn] | None = None  # and the step

    def draw(self) -> Drawn:
        if self._last is None or self._last[0] != self.state.step:
            self._last = self.state.step, self._drawn()
        return self._last[1]

    def _drawn(self) -> Drawn:
        from .drawing import draw_samples

        heldout = self.run.heldout(self.run.config["final_split"])
        prompts = [heldout[index] for index in range(min(MAX_PROMPT_ITEMS, len(heldout)))]
        weights: AbstractContextManager[SequenceModel] = self.state.in_whole()
        if self.state.peers.shards:  # the others do not draw: their parts are in the checkpoint
            device = self.state.peers.local(self.state.model.head.weight).device
            weights = nullcontext(self.run.load_model(device=device))
        with weights as model:
            drawn = draw_samples(self.task, self.run.tokenizer(), model, SAMPLE_TOKENS, prompts)
            model.train()  # sampling left it in eval mode, without dropout
        return drawn

    def media(self) -> Iterator[Media]:
        """The samples as pictures, sound and text, for trackers; as text only if they are neither.
        None of a task of several domains, nor of sharded weights that are not saved yet."""
        from ..core.train.trackers import Media

        saved = [checkpoint.step for checkpoint in self.run.checkpoints()[-1:]]
        unsaved = self.state.peers.shards and saved != [self.state.step]
        if self.run.config["parts"] or unsaved:
            return
        drawn = self.draw()
        files = {kind: drawn.file(suffix) for kind, suffix in MEDIA.items()}
        yield from (Media(kind, data) for kind, data in files.items() if data is not None)
        if not any(files.values()) and (text := drawn.preview(TEXT_WIDTH)) is not None:
            yield Media("text", text.encode())


class Progress:
    """A sink that prints: the progress line, and a sample when SIGUSR1 requests one."""

    def __init__(self, samples: Samples, quiet: bool) -> None:
        self.samples, self.losses = samples, list[float]()
        self.task, state = samples.task, samples.state
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
            show_sample(self.samples)
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
    track: Iterable[str] = (),
) -> dict[str, Any]:
    """Trains to the end of the plan and returns the final scores: {} for a replay that ends
    earlier. After SIGINT or SIGTERM, saves and exits the process. track: names of trackers."""
    from ..core.train.events import Finished, RunLog
    from ..core.train.fit import fit

    def is_late() -> bool:
        budget = run.config["plan"].get("budget_seconds", 0.0)
        return deadline is not None and deadline.left() < -MAX_LATE * budget

    samples = Samples(run, task, state)
    progress = Progress(samples, quiet)
    sinks: list[Sink] = [signals]
    if state.peers.leads:
        sinks += RunLog(run), progress
    if track and state.peers.leads:
        from ..core.train.trackers import Trackers

        def media() -> Iterable[Media]:
            return () if is_late() else samples.media()

        def warn(text: str) -> None:
            say(text, quiet)

        sinks.append(Trackers(run, track, state.step, task.unit, media, warn))
    scores: dict[str, Any] = {}
    try:
        for event in fit(run, task, plan, state, deadline, signals.controls, replay):
            for sink in sinks:
                sink.take(event)
            if isinstance(event, Finished):
                scores = event.scores
    except BrokenPipeError:  # the reader of stderr has gone
        if not state.peers.shards:  # else it takes all processes to save
            state.save(run)
        raise
    finally:
        for sink in sinks:
            sink.close()
    if signals.controls.stop and not scores:
        again = resume_command(run, state.peers)
        say(f"saved at step {state.step:,}; resume with: {again}", not state.peers.leads)
        run.unlock()
        state.peers.wait()  # a launcher ends all when the first has ended
        exit_process(128 + signals.controls.stop)
    if scores and not quiet:
        show_scores(samples, scores, progress.losses, with_sample=not is_late())
    return scores


def resume_command(run: Run, peers: Peers) -> str:
    command = f"tfm train --resume {quote(str(run.path))}"
    if is_launched():
        command += f" --nproc {peers.size}{' --shard' if peers.shards else ''}"
    return command


def show_scores(
    samples: Samples, scores: dict[str, Any], losses: list[float], with_sample: bool = True
) -> None:
    """Prints the loss curve, the score next to the baselines, and a sample."""
    run, task, state = samples.run, samples.task, samples.state
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
        show_sample(samples)
    seconds = time.monotonic() - COMMAND_START
    first = f":{next(iter(parts))}" if parts else ""
    say(f"trained in {clock(seconds)}; next: tfm sample {quote(str(run.path) + first)}")


def show_sample(samples: Samples) -> None:
    """Prints samples, if they are text or have a form for a terminal."""
    preview = samples.draw().preview(min(100, shutil.get_terminal_size().columns - 4))
    if preview is not None:
        say("sample:")
        say("\n".join(f"  {line}" for line in preview.splitlines()))


def score_line(unit: str, scores: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    """One line: the headline metrics, bits per unit (else nats per token), the baselines."""
    value = scores[f"bits_per_{unit}"]
    # without bits per unit there is nothing that baselines in that unit could be compared with
    known = [name for name in headline if scores.get(name) is not None]
    floor = (scores["floor"] or {}) if value is not None or known else {}
    baselines = baselines_line(floor, known) if floor else ""
    part = f" (on {scores['part']:.0%} of it; `tfm eval` scores all)" if "part" in scores else ""
    score = f"{scores['nll'] / max(scores['tokens'], 1):.3f} nats per token"
    if value is not None:
        score = f"{value:.3f} bits per {unit}"
    first = [f"{name} {scores[name]:.4g}" for name in known]
    half = " (the half not used for early stopping)" if scores["split"] == "report" else ""
    after = f"; baselines: {baselines}" if baselines else ""
    return f"held out{half}: {', '.join([*first, score])}{part}{after}"
