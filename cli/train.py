"""`tfm train`: read, plan, train, score, show."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from . import options as opt
from .main import STARTED, leave
from .render import TrainingProgress, clock, curve, say

if TYPE_CHECKING:
    from ..core.experiment import Planned, State
    from ..core.protocols import Sequence, Task
    from ..core.run import Run

PROGRESS_TOKENS = 16384  # of what is held out, scored now and then while training
SAMPLE_TOKENS = 160
SAVE_SECONDS = 300.0  # between checkpoints of a run that was given a budget
REPLAN_AT = (0.1, 0.25, 0.45, 0.65, 0.8, 0.9)  # of the steps: the budget is looked at again


@click.command("train", cls=opt.TaskCommand)
@opt.option("--task", help="text, byte ... (`tfm tasks`); left out, guessed from the data.")
@opt.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Files, folders, globs, -, .gz, tables, hf:NAME; repeatable.",
)
@opt.option("--column", help="The column of a table that holds the items.")
@opt.option("--valid", multiple=True, metavar="PATH", help="Held-out data, rather than a part.")
@opt.option("--test", multiple=True, metavar="PATH", help="Data for the final score.")
@opt.option(
    "--holdout",
    type=click.FloatRange(0, 0.9, min_open=True),
    metavar="FRACTION",
    help="Part of the data that is held out.  [default: 0.1]",
)
@opt.option("--tokenizer", metavar="NAME", help="byte, char, bpe, bpe:SIZE, hf:PATH ...")
@opt.option(
    "--arch",
    default="transformer",
    show_default=True,
    help="The wiring: transformer, llama, gpt2, post-ln.",
)
@opt.option("--size", help="nano, tiny, small, base, large.  [default: what the budget buys]")
@opt.option("--context", type=opt.Count(), help="Tokens that are seen at once.")
@opt.option(
    "--budget",
    type=opt.Duration(),
    metavar="TIME",
    help="Wall time of the whole command, as 90s or 2m.  [default: 2m]",
)
@opt.option("--steps", type=opt.Count(), help="Optimiser steps, rather than a budget.")
@opt.option("--tokens", type=opt.Count(), help="Training tokens, rather than a budget.")
@opt.option("--save-every", type=opt.Count(), metavar="STEPS", help="Steps between checkpoints.")
@opt.option(
    "--run",
    "run_name",
    envvar="TFM_RUN",
    metavar="DIR",
    help="The run's directory.  [default: runs/TIME-TASK]",
)
@opt.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Continue a run; with --steps, for longer.",
)
@opt.option("--init", metavar="RUN", help="Start from another run's weights (fine-tuning).")
@opt.option(
    "--set",
    "settings",
    multiple=True,
    envvar="TFM_SET",
    metavar="SECTION.FIELD=VALUE",
    help="Any field: model.layers=6, train.lr=0.01 (`tfm config` lists them).",
)
@opt.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@opt.device_option
@opt.runs_option
@opt.json_option
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Train a model and score it on what was held out.

    The run's path is printed on stdout, all talk goes to stderr.
    """

    def note(text: str) -> None:
        say(text, quiet)

    stop = Stop()
    if flags["resume"] is not None:
        run, task, planned, state = _resume(ctx, flags, note)
        left = None
    else:
        left = _time_left(ctx, flags)
        run, task, planned, state = _start(ctx, flags, left, note)
    try:
        run.lock()
        scores = _train(run, task, planned, state, left, stop, quiet)
    except BaseException:
        if not stop.armed and flags["resume"] is None:
            _discard(run)
        raise
    finally:
        run.unlock()
    click.echo(json.dumps({"schema": 1, "run": str(run.path), **scores}) if as_json else run.path)


# -- starting ------------------------------------------------------------------------------------


def _time_left(ctx: click.Context, flags: dict[str, Any]) -> Callable[[], float] | None:
    """Seconds until the budget's end, as a function; none where steps or tokens are asked for."""
    from ..core.experiment import DEFAULT_BUDGET

    chosen = opt.one_of(ctx, ("budget", "steps", "tokens"))
    for name in ("budget", "steps", "tokens"):
        if name != chosen:
            flags[name] = None
    if chosen in ("steps", "tokens"):
        return None
    flags["budget"] = flags["budget"] or DEFAULT_BUDGET
    end = STARTED + flags["budget"]
    return lambda: end - time.monotonic()


def _request(ctx: click.Context, flags: dict[str, Any]) -> Any:
    from ..core.experiment import Request
    from ..core.run import open_run

    sets = opt.sets(ctx, flags["settings"])
    task_options = {
        name: flags[name]
        for name in ctx.meta.get("tfm.task_options", ())
        if flags[name] is not None
    }
    if flags["save_every"]:
        sets["train"]["save_every"] = flags["save_every"]
    if "seed" in sets["train"] or "steps" in sets["train"]:
        raise UsageError("--set train.seed and train.steps: use --seed and --steps")
    init = open_run(flags["init"], Path(flags["runs"])) if flags["init"] else None
    if init is not None:
        for name in ("tokenizer", "size", "context", "arch"):
            if opt.origin(ctx, name) == "flag":
                raise UsageError(f"--{name} and --init exclude each other: the run has its own")
    return Request(
        task=flags["task"] or (init.config["task"] if init and not flags["data"] else None),
        task_options={**sets["task"], **task_options},
        data=flags["data"], column=flags["column"], valid=flags["valid"], test=flags["test"],
        holdout=flags["holdout"], tokenizer=flags["tokenizer"],
        arch=init.config["arch"] if init else flags["arch"],
        size=init.config["size"] if init else flags["size"],
        context=flags["context"], budget=flags["budget"], steps=flags["steps"],
        tokens=flags["tokens"], seed=flags["seed"], device=flags["device"], init=init, sets=sets,
    )  # fmt: skip


def _start(
    ctx: click.Context,
    flags: dict[str, Any],
    left: Callable[[], float] | None,
    note: Callable[[str], None],
) -> tuple[Run, Task, Planned, State]:
    from ..core.config import ARCHS, SIZES, model_config

    request = _request(ctx, flags)
    if request.arch not in ARCHS or (request.size or "tiny") not in SIZES:
        model_config(request.arch, request.size or "tiny")  # says what is near
    path = Path(flags["run_name"]) if flags["run_name"] else None
    if path is not None and path.exists():
        raise UsageError(f"--run {path}: already exists; choose another name or --resume it")

    from ..core import experiment
    from ..core.device import pick_device
    from ..core.run import Run

    pick_device(request.device)
    prepared = experiment.prepare(request, note)
    planned = experiment.make_plan(request, prepared, left, opt.cache_folder(), note)
    state = experiment.fresh_state(planned, request.init)
    origins = {name: opt.origin(ctx, name) for name in sorted(ctx.params)}
    config = experiment.describe_config(request, prepared, planned, sys.argv[1:], origins)
    path = path or _free_name(Path(flags["runs"]), prepared.task.name)
    run = Run.create(path, config, prepared.tokenizer, prepared.heldout)
    m, t = planned.model, planned.train
    note(
        f"{request.arch} {planned.size}: {state.model.parameter_count():,} parameters, "
        f"{m.layers} layers of {m.width}, context {m.context}, vocabulary {m.vocab_size:,}; "
        f"{t.steps:,} steps of {t.batch * t.accumulate * m.context:,} tokens in {t.dtype} "
        f"on {planned.device}"
    )
    return run, prepared.task, planned, state


def _free_name(root: Path, task: str) -> Path:
    """The time and the task; with the process where another began in the same second."""
    name = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{task}"
    return root / (f"{name}-{os.getpid()}" if (root / name).exists() else name)


def _resume(
    ctx: click.Context, flags: dict[str, Any], note: Callable[[str], None]
) -> tuple[Run, Task, Planned, State]:
    """Of the other flags only --steps counts: the rest is the run's own."""
    allowed = {"resume", "steps", "device", "runs", "quiet", "as_json", "save_every"}
    for name in ctx.params:
        if name not in allowed and opt.origin(ctx, name) == "flag":
            raise UsageError(f"--{name.replace('_', '-')} and --resume exclude each other: "
                             "the run goes on as begun; --init starts a new one")  # fmt: skip
    from ..core import experiment
    from ..core.run import open_run

    run = open_run(flags["resume"] or None, Path(flags["runs"]))
    run.lock()
    task, planned, state = experiment.resume(run, note, flags["device"], opt.cache_folder())
    steps = flags["steps"] if opt.origin(ctx, "steps") == "flag" else None
    if steps and steps != state.config.steps:
        if steps <= state.step:
            raise UsageError(f"--steps {steps}: {run.path} is at step {state.step} already")
        note(f"planned anew: {steps:,} steps in all rather than {state.config.steps:,}; "
             "the learning rate follows")  # fmt: skip
        state.config = replace(state.config, steps=steps)
        run.append_log({"event": "replan", "step": state.step, "steps": steps})
    elif state.step >= state.config.steps:
        raise UsageError(f"{run.path}: done, at step {state.step}; train it longer with --steps N")
    note(f"{run.path}: going on from step {state.step:,} of {state.config.steps:,}")
    run.cut_log(state.step)
    return run, task, planned, state


def _discard(run: Run) -> None:
    """A run without a single step is no run."""
    import shutil

    run.unlock()
    shutil.rmtree(run.path, ignore_errors=True)


# -- training ------------------------------------------------------------------------------------


class Stop:
    """The first SIGINT or SIGTERM asks for an end after this step; the second leaves at once."""

    def __init__(self) -> None:
        self.asked = 0
        self.armed = False  # once there is a step to save
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        if self.asked or not self.armed:
            if self.armed:
                leave(128 + number)
            raise SystemExit(128 + number)
        self.asked = number


def _train(
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
                    say(f"saved at step {state.step:,}; continue with: "
                        f"tfm train --resume {run.path}")  # fmt: skip
                    run.unlock()
                    leave(128 + stop.asked)
                every = config.save_every
                if every and step.index % every == 0:
                    _save(run, state)
                elif left and not every and time.monotonic() - saved_at > SAVE_SECONDS:
                    _save(run, state)
                    saved_at = time.monotonic()
                if left and step.index in _marks(config.steps):
                    state.config = _replan(run, state, marked, left() - reserve)
                    progress.steps = state.config.steps
                    marked = (step.index, time.monotonic())
                    if state.config is not config:
                        break
    _save(run, state)
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
        self.bits_per_nat = tokens / max(units, 1) / 0.6931471805599453
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
        most = self.planned.about.get("final_tokens")
        if left and most:
            mean = int(store.offsets[-1]) / len(store)
            count = max(1, min(len(store), int(most / mean)))
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


# -- the end -------------------------------------------------------------------------------------


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
    say(score_line(task.unit, scores))
    from .sample import show_sample

    picture = show_sample(task, run.tokenizer(), state.model, SAMPLE_TOKENS)
    if picture is not None:
        say("a sample:")
        say("\n".join(f"  {line}" for line in picture.splitlines()))
    say(f"trained in {clock(time.monotonic() - STARTED)}; next: tfm sample {run.path}")


def score_line(unit: str, scores: dict[str, Any]) -> str:
    value = scores[f"bits_per_{unit}"]
    floor = scores["floor"] or {}
    beside = ", ".join(f"{name} {bits:.3f}" for name, bits in floor.items())
    part = f" (of {scores['part']:.0%} of it; `tfm eval` scores all)" if "part" in scores else ""
    said = f"{value:.3f} bits per {unit}" if value is not None else (
        f"{scores['nll'] / max(scores['tokens'], 1):.3f} nats per token"
    )  # fmt: skip
    return f"held out: {said}{part}" + (f"  beside {beside}" if beside else "")
