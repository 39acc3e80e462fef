"""`tfm rerun`: repeats a run, and compares the result with the original."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from ..core.errors import AnswerNo
from . import kernels
from . import options as opt
from .folders import cache_folder
from .render import say


@click.command("rerun", cls=opt.Command)
@opt.run_argument
@opt.option(
    "--run",
    "run_name",
    envvar="TFM_RUN",
    metavar="DIR",
    help="Directory of the new run.  [default: RUN-N]",
)
@opt.option("--data", multiple=True, metavar="PATH", help="Training data, if it has moved.")
@opt.option("--device", help="cpu, cuda, mps.  [default: that of RUN]")
@opt.runs_option
@opt.json_option
def command(
    run: str | None,
    run_name: str | None,
    data: tuple[str, ...],
    device: str | None,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Repeat RUN (the newest by default) as a new run, and compare weights and log bit for bit.

    Exit code 5 if they differ. An interrupted run is repeated up to its last checkpoint. Prints
    the path of the new run on stdout.
    """
    from ..core.runs.catalogue import open_whole
    from ..core.runs.run import check_free

    original = open_whole(run, Path(runs))
    original.check()
    end = original.checkpoint().step
    path = Path(run_name) if run_name else _next_name(original.path)
    check_free(path)

    from ..core.runs import reproduce
    from ..core.train.fit import Replay
    from ..core.train.state import resume
    from .training import Signals, train_to_end

    def note(text: str) -> None:
        say(text, quiet)

    kernels.use_kernels()
    versions = reproduce.other_versions(original)
    if versions:
        note(f"versions differ from the original's: {'; '.join(versions)}; so can the results")
    signals = Signals()
    copy = reproduce.fresh_copy(original, path)
    try:
        copy.lock()
        task, plan, state = resume(
            copy, note, device or original.config["device"], cache_folder(), data
        )
        note(f"repeating {original.path} as {path}, to step {end:,}")
        finished = original.status()["final"] is not None
        replay = Replay(reproduce.replans(original), None if finished else end)
        train_to_end(copy, task, plan, state, signals, quiet, replay=replay)
    except BaseException:
        if not signals.stepped:
            copy.unlock()
            shutil.rmtree(copy.path, ignore_errors=True)
        raise
    finally:
        copy.unlock()
    found = reproduce.differences(original, copy)
    result = {
        "schema": 1,
        "run": str(path),
        "of": str(original.path),
        "step": end,
        "same": not found,
        "differences": found,
        "versions": versions,
    }
    click.echo(json.dumps(result) if as_json else path)
    if found:
        also = f" ({'; '.join(versions)})" if versions else ""
        raise AnswerNo(f"{path}: not the same as {original.path}: {'; '.join(found)}{also}")
    note(f"weights and log equal those of {original.path} at step {end:,}, bit for bit")


def _next_name(path: Path) -> Path:
    number = 2
    while path.with_name(f"{path.name}-{number}").exists():
        number += 1
    return path.with_name(f"{path.name}-{number}")
