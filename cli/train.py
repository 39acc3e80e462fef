"""`tfm train`: reads data, plans a run, trains it, prints the final score and a sample."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import AnswerNo, TfmError, UsageError
from ..core.trackers.tracker import check as check_trackers
from . import kernels, settings
from . import options as opt
from .folders import cache_folder, default_paths
from .launch import launch, nproc_option
from .main import COMMAND_START
from .processes import join, one_voice, processes_of, tell_launcher
from .render import say
from .train_request import deadline_of, request_of
from .training import Signals, train_to_end

if TYPE_CHECKING:
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.budget import Plan
    from ..core.train.peers import Peers
    from ..core.train.request import Deadline
    from ..core.train.state import State

REPEAT_SECONDS = 1.0  # in which a signal to all processes and their launcher arrives twice


@click.command("train", cls=opt.TaskCommand)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@opt.option("--task", help="text, byte ... (see `tfm tasks`).  [default: guessed from the data]")
@opt.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Training data: files, folders, globs, archives, tables, - (stdin), hf:NAME; repeatable.",
)
@opt.option(
    "--mix",
    multiple=True,
    metavar="TASK[:PATH][@WEIGHT]",
    help="Train on several domains: text:a.txt@0.5, series:c.csv@0.2,horizon=24; repeatable.",
)
@opt.split_options
@opt.option(
    "--arch",
    default="transformer",
    show_default=True,
    help="transformer, llama, gpt2, post-ln, rnn, gru, lstm, attention-rnn, cnn; for pairs also "
    "vaswani, encoder-decoder.",
)
@opt.option("--size", help="nano, tiny, small, base, large.  [default: chosen for the budget]")
@opt.option("--context", type=opt.Count(), help="Context length in tokens.")
@opt.option(
    "--budget",
    type=opt.Duration(),
    metavar="TIME",
    help="Wall time of the command, such as 90s or 2m.  [default: 2m]",
)
@opt.option("--steps", type=opt.Count(), help="Number of optimiser steps, instead of a budget.")
@opt.option("--tokens", type=opt.Count(), help="Number of training tokens, instead of a budget.")
@opt.option("--save-every", type=opt.Count(), metavar="STEPS", help="Steps between checkpoints.")
@opt.option(
    "--patience",
    type=click.IntRange(0),
    metavar="N",
    help="Early stopping: stop after N evaluations without improvement; 0: do not.",
)
@opt.option(
    "--until",
    metavar="GOAL",
    help="Stop at a score, such as 'bits_per_byte<1.6', or a plateau; exit code 5 if not reached.",
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
    help="Continue a run (the newest by default); with --steps, train it for longer.",
)
@nproc_option("Train")
@opt.option("--shard", is_flag=True, help="Give each process a part of the weights (FSDP2).")
@opt.option(
    "--track",
    multiple=True,
    metavar="NAME",
    help="Show the training in tensorboard, wandb, trackio; repeatable.",
)
@opt.option(
    "--init",
    metavar="RUN",
    help="Start from the weights of another run, of hf:DIR, hf:NAME or FILE.gguf (fine-tuning).",
)
@opt.option(
    "--lora",
    type=opt.Count(),
    metavar="RANK",
    help="With --init: train adapters of this rank, and leave the weights as they are (LoRA).",
)
@opt.option(
    "--set",
    "settings",
    multiple=True,
    envvar="TFM_SET",
    metavar="SECTION.FIELD=VALUE",
    help="Set any field: model.layers=6, train.lr=0.01 (`tfm config` lists them).",
)
@opt.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@opt.device_option
@opt.runs_option
@opt.json_option
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Train a model on FILEs (or on --data) and score it on held-out data.

    Prints the path of the run on stdout; progress and notes go to stderr.
    """

    flags["data"] = (*flags["data"], *opt.expanded(flags.pop("files")))
    check_trackers(flags["track"])
    track = tuple(dict.fromkeys(flags["track"]))
    resumes = flags["resume"] is not None
    deadline = None if resumes else deadline_of(ctx, flags)
    _launch_processes(ctx, flags)
    signals = Signals()
    kernels.compile_in_background()
    peers, flags["device"] = join(flags["device"], flags["shard"])
    quiet = quiet or not peers.leads
    signals.repeat_seconds = REPEAT_SECONDS if peers.size > 1 else 0.0

    def note(text: str) -> None:
        say(text, quiet)

    if flags["shard"] and peers.size == 1:
        note("--shard: one process has all weights; give --nproc, or use a launcher")
    with one_voice(peers, "continue from the last checkpoint with tfm train --resume"):
        run, task, plan, state, deadline = _opened(ctx, flags, deadline, note, peers)
        track = _tracked_before(run, track, note) if resumes else track
        try:
            if peers.leads:
                run.lock()
                tell_launcher("run", str(run.path.absolute()))
            scores = train_to_end(run, task, plan, state, signals, quiet, deadline, track=track)
        except BaseException:
            if not signals.stepped and not resumes and peers.leads:
                _discard(run)
            raise
        finally:
            run.unlock()
    if not peers.leads:
        return
    record = {"schema": 1, "run": str(run.path), **scores}
    if run.config["data"].get("read"):
        record["data"] = run.config["data"]["read"]
    click.echo(json.dumps(record) if as_json else run.path)
    if not scores.get("reached", True):
        raise AnswerNo(f"--until {scores['until']}: not reached at step {scores['step']:,}")


# -- starting ------------------------------------------------------------------------------------


def _launch_processes(ctx: click.Context, flags: dict[str, Any]) -> None:
    """Starts the processes of --nproc, and does not return, unless this is one of them or there is
    only one. Flags that are wrong fail here."""
    flags["nproc"], starts = processes_of(flags["nproc"], flags["device"])
    if starts:
        if flags["resume"] is None:
            request_of(ctx, dict(flags))
        launch(flags["nproc"], COMMAND_START, divides_cores=True)


def _opened(
    ctx: click.Context,
    flags: dict[str, Any],
    deadline: Deadline | None,
    note: Callable[[str], None],
    peers: Peers,
) -> tuple[Run, Task, Plan, State, Deadline | None]:
    """The run that the flags ask for, and its state. Of several processes the leading one creates
    or reopens it, and the others read it."""
    from dataclasses import asdict

    if peers.leads:
        opened = (
            _start(ctx, flags, deadline, note, peers)
            if flags["resume"] is None
            else _resume(ctx, flags, note, peers)
        )
        run, _, _, state = opened
        peers.spread(
            lambda: [
                *(str(run.path.absolute()), state.step),
                *(asdict(state.config), deadline is not None),
            ]
        )
    else:
        from ..core.config import TrainConfig
        from ..core.runs.run import Run
        from ..core.train.request import Deadline
        from ..core.train.state import resume

        about: list[Any] = peers.spread(list)
        path, step, config, has_deadline = about
        kernels.use_kernels()
        run = Run(Path(path))
        moved = () if flags["resume"] is None else flags["data"]
        task, plan, state = resume(run, note, flags["device"], cache_folder(), moved, peers, step)
        state.config = TrainConfig(**config)
        opened = run, task, plan, state
        deadline = Deadline(0.0) if has_deadline else None  # the leading process decides
    peers.align(state.model)
    return (*opened, deadline)


def _start(
    ctx: click.Context,
    flags: dict[str, Any],
    deadline: Deadline | None,
    note: Callable[[str], None],
    peers: Peers,
) -> tuple[Run, Task, Plan, State]:
    request = request_of(ctx, flags)
    path = Path(flags["run_name"]) if flags["run_name"] else None
    from ..core.runs.run import check_free, check_utf8

    check_utf8(Path(flags["runs"]))
    if path is not None:
        check_free(path)

    from ..core.ops.device import pick_device
    from ..core.train.start import start

    pick_device(request.device)
    kernels.use_kernels()

    def paths(task: str) -> Iterable[Path]:
        return [path] if path is not None else default_paths(Path(flags["runs"]), task)

    origins = {name: settings.origin(ctx, name) for name in sorted(ctx.params)}
    return start(request, paths, cache_folder(), note, deadline, sys.argv[1:], origins, peers=peers)


def _resume(
    ctx: click.Context, flags: dict[str, Any], note: Callable[[str], None], peers: Peers
) -> tuple[Run, Task, Plan, State]:
    """Reopens a run. UsageError for flags that would change it: only --steps and --patience (to
    train longer) and --data (for data that has moved) apply; else the run's own settings hold."""
    allowed = {"resume", "steps", "patience", "data", "files", "device", "runs", "quiet", "as_json",
               "track", "nproc", "shard"}  # fmt: skip
    for name in ctx.params:
        if name not in {*allowed, "save_every"} and settings.origin(ctx, name) == "flag":
            flag = next(p.opts[0] for p in ctx.command.params if p.name == name)
            raise UsageError(
                f"{flag} and --resume exclude each other: "
                "a resumed run keeps its settings; --init starts a new run"
            )
    from ..core.runs.catalogue import open_whole
    from ..core.train.events import RunLog
    from ..core.train.fit import replanned
    from ..core.train.start import about_peers
    from ..core.train.state import resume

    run = open_whole(flags["resume"] or None, Path(flags["runs"]))
    run.lock()
    kernels.use_kernels()
    task, plan, state = resume(run, note, flags["device"], cache_folder(), flags["data"], peers)
    peers.rows(state.config.batch)
    steps, patience = (
        flags[name] if settings.origin(ctx, name) == "flag" else None
        for name in ("steps", "patience")
    )
    planned, final = state.config.steps, run.status()["final"]
    ended = final is not None and final["step"] <= state.step  # not: the last checkpoint is damaged
    if steps and steps <= state.step:
        raise UsageError(f"--steps {steps}: {run.path} is at step {state.step} already")
    if patience and run.config["final_split"] == "valid":
        raise UsageError(
            f"--patience {patience}: {run.path} keeps no items for it; start a new run with --init"
        )
    if ended and state.step >= (steps or planned):
        raise UsageError(f"{run.path}: done at step {state.step}; train it longer with --steps N")
    if ended and steps is None and patience is None:
        raise UsageError(
            f"{run.path}: stopped early at step {state.step} of {planned}; go on with --patience 0 "
            "or --steps N"
        )
    if patience is not None or (steps and (ended or steps != planned)):
        if steps and steps != planned:
            note(
                f"new plan: {steps:,} steps in total instead of {planned:,}; the learning-rate "
                "schedule is adapted"
            )
        run.cut(state.step)  # removes the partial last line that a kill can leave in the log
        RunLog(run).take(replanned(state, steps or planned, patience))
    if flags["save_every"]:
        state.config = replace(state.config, save_every=flags["save_every"])
    about = f"step {state.step:,} of {state.config.steps:,}{about_peers(peers)}"
    note(f"{run.path}: resuming from {about}")
    run.cut(state.step)
    return run, task, plan, state


def _tracked_before(
    run: Run, track: tuple[str, ...], note: Callable[[str], None]
) -> tuple[str, ...]:
    """The trackers of --track and those that the run has been shown in, if they are there."""
    from ..core.train.trackers import trackers_of

    found = list(track)
    for name in trackers_of(run):
        try:
            check_trackers([name])
        except TfmError as error:
            note(f"warning: {error}; going on without it")
        else:
            found += [name] if name not in found else []
    return tuple(found)


def _discard(run: Run) -> None:
    """Deletes a run that ended before its first step."""
    run.unlock()
    shutil.rmtree(run.path, ignore_errors=True)
