"""`tfm verify`: checks a run's files against their checksums, and that it resumes exactly."""

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

# of the trial of --resume-exact, in steps
TRIAL_STEPS, TRIAL_SAVE_EVERY, TRIAL_EVAL_EVERY, TRIAL_KILL_STEP = 8, 3, 4, 6


@click.command("verify", cls=opt.Command)
@opt.run_argument
@opt.option("--resume-exact", is_flag=True, help="Also kill and resume a copy; compare weights.")
@opt.option("--data", multiple=True, metavar="PATH", help="Training data, if it has moved.")
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

    Lists each damaged file on stdout, with exit code 3. With --resume-exact, the first steps of
    the run are trained twice in a temporary folder, once interrupted by SIGKILL and resumed: exit
    code 5 if the two differ in any bit of the weights or in the log.
    """
    from ..core.runs.catalogue import all_problems, find_run

    path = find_run(run, Path(runs))
    count, found = all_problems(path)
    result: dict[str, Any] = {
        "schema": 1,
        "run": str(path),
        "checked": count,
        "damaged": [{"file": file, "problem": what} for file, what in found],
    }
    differ: list[str] = []
    if resume_exact and not found:
        differ = _trial(path, device, data, quiet)
        result["resume_exact"], result["differences"] = not differ, differ
    if as_json:
        click.echo(json.dumps(result))
    for file, what in found if not as_json else ():
        click.echo(f"{file}: {what}")
    if found:
        raise DamagedError(f"{path}: {len(found)} of {count} files and checkpoints are damaged")
    if differ:
        raise AnswerNo(f"{path}: differs after resuming: {'; '.join(differ)}")
    say(f"{path}: {count} files and checkpoints match their checksums", quiet)


def _trial(path: Path, device: str, data: tuple[str, ...], quiet: bool) -> list[str]:
    """The differences between a copy that was killed and resumed and one that was not."""
    from ..core.runs.reproduce import differences, fresh_copy
    from ..core.runs.run import Run

    run = Run(path)
    with tempfile.TemporaryDirectory(prefix="tfm-verify-") as folder:
        every = dict(save_every=TRIAL_SAVE_EVERY, eval_every=TRIAL_EVAL_EVERY)
        steps = max(TRIAL_STEPS, run.train_config().steps)
        uninterrupted, killed = (
            fresh_copy(run, Path(folder) / name, **every, steps=steps)
            for name in ("uninterrupted", "killed")
        )
        train_trial(uninterrupted.path, device, data)
        arguments = (str(killed.path), device, data, TRIAL_KILL_STEP)
        code = f"from tfm.cli.verify import train_trial; train_trial(*{arguments!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        saved = killed.checkpoints()
        died = done.returncode < 0 if os.name == "posix" else done.returncode != 0
        if not died or not saved or saved[-1].step >= TRIAL_KILL_STEP:
            (*_, last) = ["", *done.stderr.splitlines()]
            raise TfmError(f"{path}: the trial was not killed in step {TRIAL_KILL_STEP}: {last}")
        say(f"killed in step {TRIAL_KILL_STEP}, resumed from step {saved[-1].step}", quiet)
        train_trial(killed.path, device, data)
        return differences(uninterrupted, killed)


class _KillAfter:
    """Training data that kills the process when more than `batches` batches are read."""

    def __init__(self, data: Any, batches: int) -> None:
        self.data, self.context, self.left = data, data.context, batches

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Any) -> Any:
        if not self.left:  # Windows has no SIGKILL; there any signal ends the process at once
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        self.left -= 1
        return self.data.batch(indices)


def train_trial(
    path: str | Path, device: str, data: tuple[str, ...], kill_step: int | None = None
) -> None:
    """Trains the first steps of a run; with `kill_step`, this process kills itself in that step."""
    from ..core.runs.run import Run
    from ..core.train.events import RunLog
    from ..core.train.fit import Replay, fit
    from ..core.train.state import resume

    run = Run(Path(path))
    run.lock()
    cache = opt.cache_folder()
    opt.use_kernels()
    task, plan, state = resume(run, lambda _: None, device, cache, data)
    run.cut(state.step)
    if kill_step:
        plan.data = _KillAfter(plan.data, (kill_step - 1) * plan.train.accumulate)
    log = RunLog(run)
    for event in fit(run, task, plan, state, replay=Replay(end=TRIAL_STEPS)):
        log.take(event)
    run.unlock()
