"""`tfm verify`: whether a run is what was written, and whether it resumes exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from ..core.errors import AnswerNo, DamagedError, TfmError
from . import options as opt
from .render import say

TRIAL_STEPS, TRIAL_SAVES, TRIAL_EVALUATES, KILLED_IN = 8, 3, 4, 6


@click.command("verify", cls=opt.Command)
@opt.run_argument
@opt.option("--resume-exact", is_flag=True, help="Also kill and resume a copy, and compare bits.")
@opt.option("--data", multiple=True, metavar="PATH", help="Where the training data is now.")
@opt.device_option
@opt.runs_option
@opt.json_option
def command(
    run: str | None,
    resume_exact: bool,
    data: tuple[str, ...],
    device: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Check every file of RUN (the newest by default) against its checksum.

    Each damaged file is a line on stdout; exit code 3 where there is one. With --resume-exact the
    run's first steps are trained twice elsewhere, once with a SIGKILL in between: exit code 5
    where the weights are not the same bit for bit.
    """
    from ..core.runs.catalogue import all_problems, find_run

    path = find_run(run, Path(runs))
    count, found = all_problems(path)
    said: dict[str, Any] = {
        "schema": 1,
        "run": str(path),
        "checked": count,
        "damaged": [{"file": file, "problem": what} for file, what in found],
    }
    differ: list[str] = []
    if resume_exact and not found:
        differ = _trial(path, device, data, quiet)
        said["resume_exact"], said["differences"] = not differ, differ
    if as_json:
        click.echo(json.dumps(said))
    for file, what in found if not as_json else ():
        click.echo(f"{file}: {what}")
    if found:
        raise DamagedError(f"{path}: {len(found)} of {count} files and checkpoints are damaged")
    if differ:
        raise AnswerNo(f"{path}: resumed, it differs: {'; '.join(differ)}")
    say(f"{path}: {count} files and checkpoints are as they were written", quiet)


def _trial(path: Path, device: str, data: tuple[str, ...], quiet: bool) -> list[str]:
    """In what a run that was killed and resumed differs from one that was not."""
    from ..core.runs.reproduce import differences, untrained_copy
    from ..core.runs.run import Run

    run = Run(path)
    with tempfile.TemporaryDirectory(prefix="tfm-verify-") as folder:
        every = dict(save_every=TRIAL_SAVES, eval_every=TRIAL_EVALUATES)
        steps = max(TRIAL_STEPS, run.train_config().steps)
        whole, killed = (
            untrained_copy(run, Path(folder) / name, **every, steps=steps)
            for name in ("whole", "killed")
        )
        train_some(whole.path, device, data)
        arguments = (str(killed.path), device, data, KILLED_IN)
        code = f"from tfm.cli.verify import train_some; train_some(*{arguments!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        saved = killed.checkpoints()
        died = done.returncode < 0 if os.name == "posix" else done.returncode != 0
        if not died or not saved or saved[-1].step >= KILLED_IN:
            (*_, last) = ["", *done.stderr.splitlines()]
            raise TfmError(f"{path}: the copy that was to be killed was not; {last}")
        say(f"killed in step {KILLED_IN}, resumed from step {saved[-1].step}", quiet)
        train_some(killed.path, device, data)
        return differences(whole, killed)


class _Deadly:
    """Training data behind whose first `passes` batches there is death."""

    def __init__(self, data: Any, passes: int) -> None:
        self.data, self.context, self.left = data, data.context, passes

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Any) -> Any:
        if not self.left:  # where there is no SIGKILL (Windows), any signal ends a process at once
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        self.left -= 1
        return self.data.batch(indices)


def train_some(
    path: str | Path, device: str, data: tuple[str, ...], killed_in: int | None = None
) -> None:
    """A run's first steps; with `killed_in`, until this process kills itself in that step."""
    from ..core.runs.run import Run
    from ..core.train.events import RunLog
    from ..core.train.fit import Replay, fit
    from ..core.train.state import resume

    run = Run(Path(path))
    run.lock()
    cache = opt.cache_folder()
    opt.use_kernels()
    task, plan, state = resume(run, lambda _: None, device, cache, data)
    run.truncate_after(state.step)
    if killed_in:
        plan.data = _Deadly(plan.data, (killed_in - 1) * plan.train.accumulate)
    log = RunLog(run)
    for event in fit(run, task, plan, state, replay=Replay(end=TRIAL_STEPS)):
        log.take(event)
    run.unlock()
