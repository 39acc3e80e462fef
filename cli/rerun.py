"""`tfm rerun`: a run again, and whether it comes out the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from ..core.errors import AnswerNo
from . import options as opt
from .render import say


@click.command("rerun", cls=opt.Command)
@opt.run_argument
@opt.option(
    "--run",
    "run_name",
    envvar="TFM_RUN",
    metavar="DIR",
    help="The new run's directory.  [default: RUN-N]",
)
@opt.option("--data", multiple=True, metavar="PATH", help="Where the training data is now.")
@opt.option("--device", help="cpu, cuda, mps.  [default: what RUN was trained on]")
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
    """Repeat RUN (the newest by default) as a run of its own, and compare weights and log.

    Exit code 5 where they differ. A run that was interrupted is repeated up to its last
    checkpoint. The new run's path is printed on stdout.
    """
    from ..core.runs.catalogue import open_run
    from ..core.runs.run import check_free

    original = open_run(run, Path(runs))
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

    opt.use_kernels()
    others = reproduce.version_changes(original)
    if others:
        note(f"not as it was: {'; '.join(others)}; bits may differ for that alone")
    signals = Signals()
    copy = reproduce.untrained_copy(original, path)
    try:
        copy.lock()
        task, plan, state = resume(
            copy, note, device or original.config["device"], opt.cache_folder(), data
        )
        note(f"{original.path}: again as {path}, to step {end:,}")
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
    said = {
        "schema": 1,
        "run": str(path),
        "of": str(original.path),
        "step": end,
        "same": not found,
        "differences": found,
        "versions": others,
    }
    click.echo(json.dumps(said) if as_json else path)
    if found:
        also = f" ({'; '.join(others)})" if others else ""
        raise AnswerNo(f"{path}: not the same as {original.path}: {'; '.join(found)}{also}")
    note(f"the same weights and log as {original.path} at step {end:,}, bit for bit")


def _next_name(path: Path) -> Path:
    number = 2
    while path.with_name(f"{path.name}-{number}").exists():
        number += 1
    return path.with_name(f"{path.name}-{number}")
