"""`tfm train`: read, plan, train, score, show."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import AnswerNo, UsageError
from . import options as opt
from .main import STARTED
from .render import say
from .training import Signals, train_to_end

if TYPE_CHECKING:
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.budget import Deadline, Plan
    from ..core.train.state import State


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
    "--patience",
    type=click.IntRange(1),
    metavar="N",
    help="End after N evaluations without a better one.",
)
@opt.option(
    "--until",
    metavar="GOAL",
    help="End at a score, as 'bits_per_byte<1.6', or at a plateau; exit code 5 if not reached.",
)
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
@opt.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random."
)
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

    signals = Signals()
    opt.compile_aside()
    if flags["resume"] is not None:
        run, task, plan, state = _resume(ctx, flags, note)
        deadline = None
    else:
        deadline = _deadline(ctx, flags)
        run, task, plan, state = _start(ctx, flags, deadline, note)
    try:
        run.lock()
        scores = train_to_end(run, task, plan, state, signals, quiet, deadline)
    except BaseException:
        if not signals.stepped and flags["resume"] is None:
            _discard(run)
        raise
    finally:
        run.unlock()
    click.echo(json.dumps({"schema": 1, "run": str(run.path), **scores}) if as_json else run.path)
    if not scores.get("reached", True):
        raise AnswerNo(f"--until {scores['until']}: not reached at step {scores['step']:,}")


# -- starting ------------------------------------------------------------------------------------


def _deadline(ctx: click.Context, flags: dict[str, Any]) -> Deadline | None:
    """The end of the budget; none where steps or tokens are asked for."""
    chosen = opt.one_of(ctx, ("budget", "steps", "tokens"))
    for name in ("budget", "steps", "tokens"):
        if name != chosen:
            flags[name] = None
    if chosen in ("steps", "tokens"):
        return None
    from ..core.train.budget import Deadline
    from ..core.train.request import DEFAULT_BUDGET

    flags["budget"] = flags["budget"] or DEFAULT_BUDGET
    return Deadline(STARTED + flags["budget"])


def _request(ctx: click.Context, flags: dict[str, Any]) -> Any:
    """What the flags say; names that are not known are told before torch is imported."""
    from ..core.config import model_config
    from ..core.plugins import find
    from ..core.runs.catalogue import open_run
    from ..core.train.early_stopping import parse_bound

    model_config(flags["arch"], flags["size"] or "tiny")
    if flags["task"]:
        find("tasks", flags["task"])
    sets = opt.sets(ctx, flags["settings"])
    task_options = {
        name: flags[name]
        for name in ctx.meta.get("tfm.task_options", ())
        if flags[name] is not None
    }
    for name in ("save_every", "patience", "until"):
        if flags[name]:
            sets["train"][name] = flags[name]
    parse_bound(str(sets["train"].get("until") or "plateau"))
    if "seed" in sets["train"] or "steps" in sets["train"]:
        raise UsageError("--set train.seed and train.steps: use --seed and --steps")
    init = open_run(flags["init"], Path(flags["runs"])) if flags["init"] else None
    if init is not None:
        for name in ("tokenizer", "size", "context", "arch"):
            if opt.origin(ctx, name) == "flag":
                raise UsageError(f"--{name} and --init exclude each other: the run has its own")
        if flags["task"] not in (None, init.config["task"]):
            raise UsageError(
                f"--task {flags['task']}: --init {init.path} is a {init.config['task']} run"
            )
    from ..core.train.request import Request

    return Request(
        task=init.config["task"] if init else flags["task"],
        task_options={**sets["task"], **task_options},
        data=flags["data"],
        column=flags["column"],
        valid=flags["valid"],
        test=flags["test"],
        holdout=flags["holdout"],
        tokenizer=flags["tokenizer"],
        arch=init.config["arch"] if init else flags["arch"],
        size=init.config["size"] if init else flags["size"],
        context=flags["context"],
        budget=flags["budget"],
        steps=flags["steps"],
        tokens=flags["tokens"],
        seed=flags["seed"],
        device=flags["device"],
        init=init,
        sets=sets,
    )


def _start(
    ctx: click.Context,
    flags: dict[str, Any],
    deadline: Deadline | None,
    note: Callable[[str], None],
) -> tuple[Run, Task, Plan, State]:
    request = _request(ctx, flags)
    path = Path(flags["run_name"]) if flags["run_name"] else None
    from ..core.runs.run import Run, check_free

    if path is not None:
        check_free(path)

    from ..core.data.source import standard_input
    from ..core.ops.device import pick_device
    from ..core.train.budget import make_plan
    from ..core.train.prepare import prepare
    from ..core.train.run_config import describe_config
    from ..core.train.state import initial_state

    pick_device(request.device)
    opt.use_kernels()
    prepared = prepare(request, note)
    plan = make_plan(request, prepared, deadline, opt.cache_folder(), note)
    state = initial_state(plan, request.init)
    origins = {name: opt.origin(ctx, name) for name in sorted(ctx.params)}
    config = describe_config(request, prepared, plan, sys.argv[1:], origins)
    path = path or _free_name(Path(flags["runs"]), prepared.task.name)
    run = Run.create(path, config, prepared.tokenizer, prepared.heldout)
    if "-" in request.data:  # what was piped in is nowhere else
        shutil.copyfile(standard_input(), run.path / "stdin")
    m, t = plan.model, plan.train
    note(
        f"{request.arch} {plan.size}: {state.model.parameter_count():,} parameters, "
        f"{m.layers} layers of {m.width}, context {m.context}, vocabulary {m.vocab_size:,}; "
        f"{t.steps:,} steps of {t.batch * t.accumulate * m.context:,} tokens in {t.dtype} "
        f"on {plan.device}"
    )
    return run, prepared.task, plan, state


def _free_name(root: Path, task: str) -> Path:
    """The time and the task; with the process where another began in the same second."""
    name = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{task}"
    return root / (f"{name}-{os.getpid()}" if (root / name).exists() else name)


def _resume(
    ctx: click.Context, flags: dict[str, Any], note: Callable[[str], None]
) -> tuple[Run, Task, Plan, State]:
    """Of the other flags only --steps counts, and --data where the data has moved: the rest is
    the run's own."""
    allowed = {"resume", "steps", "data", "device", "runs", "quiet", "as_json", "save_every"}
    for name in ctx.params:
        if name not in allowed and opt.origin(ctx, name) == "flag":
            flag = next(p.opts[0] for p in ctx.command.params if p.name == name)
            raise UsageError(
                f"{flag} and --resume exclude each other: "
                "the run goes on as begun; --init starts a new one"
            )
    from ..core.runs.catalogue import open_run
    from ..core.train.events import RunLog
    from ..core.train.fit import replan
    from ..core.train.state import resume

    run = open_run(flags["resume"] or None, Path(flags["runs"]))
    run.lock()
    opt.use_kernels()
    task, plan, state = resume(run, note, flags["device"], opt.cache_folder(), flags["data"])
    steps = flags["steps"] if opt.origin(ctx, "steps") == "flag" else None
    if steps and steps != state.config.steps:
        if steps <= state.step:
            raise UsageError(f"--steps {steps}: {run.path} is at step {state.step} already")
        note(
            f"planned anew: {steps:,} steps in all rather than {state.config.steps:,}; "
            "the learning rate follows"
        )
        run.truncate_after(state.step)  # half a line, where it was killed, is not written on
        RunLog(run).take(replan(state, steps))
    elif run.status()["final"] is not None:
        raise UsageError(f"{run.path}: done, at step {state.step}; train it longer with --steps N")
    if flags["save_every"]:
        state.config = replace(state.config, save_every=flags["save_every"])
    note(f"{run.path}: going on from step {state.step:,} of {state.config.steps:,}")
    run.truncate_after(state.step)
    return run, task, plan, state


def _discard(run: Run) -> None:
    """A run without a single step is no run."""
    run.unlock()
    shutil.rmtree(run.path, ignore_errors=True)
