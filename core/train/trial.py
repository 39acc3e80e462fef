"""A test that a run resumes exactly. Its first steps are trained twice in temporary copies, one of
which is killed and resumed; then the copies are compared bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..errors import TfmError
from ..ops import native_calls, native_library
from ..protocols import Array, Batch, Dataset, Ids
from ..runs.reproduce import differences, fresh_copy
from ..runs.run import Run
from .events import RunLog
from .fit import Replay, fit
from .request import Note
from .state import resume

STEPS, SAVE_EVERY, EVAL_EVERY, KILLED_IN_STEP = 8, 3, 4, 6


def resume_differences(
    run: Run, device: str, data: tuple[str, ...], cache: Path, compiler: str, note: Note
) -> list[str]:
    """The differences between a copy that was killed and resumed and one that was not.

    data: where the training data is now, if it has moved; cache, compiler: as
    `native_library.library` takes them. TfmError if the copy could not be killed.
    """
    with tempfile.TemporaryDirectory(prefix="tfm-verify-") as folder:
        every = dict(save_every=SAVE_EVERY, eval_every=EVAL_EVERY)
        steps = max(STEPS, run.train_config().steps)
        whole, killed = (
            fresh_copy(run, Path(folder) / name, **every, steps=steps)
            for name in ("whole", "killed")
        )
        setting = (device, data, str(cache), compiler)
        train_first_steps(str(whole.path), *setting)
        arguments = (str(killed.path), *setting, KILLED_IN_STEP)
        code = f"from {__name__} import train_first_steps as train; train(*{arguments!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        saved = killed.checkpoints()
        died = done.returncode < 0 if os.name == "posix" else done.returncode != 0
        if not died or not saved or saved[-1].step >= KILLED_IN_STEP:
            (*_, last) = ["", *done.stderr.splitlines()]
            raise TfmError(f"{run.path}: the copy that was to be killed was not; {last}")
        note(f"killed in step {KILLED_IN_STEP}, resumed from step {saved[-1].step}")
        train_first_steps(str(killed.path), *setting)
        return differences(whole, killed)


def train_first_steps(
    path: str,
    device: str,
    data: tuple[str, ...],
    cache: str,
    compiler: str,
    killed_in_step: int | None = None,
) -> None:
    """Trains a run to step STEPS, or until this process kills itself in `killed_in_step`."""
    native_calls.load(native_library.library(Path(cache), compiler))
    run = Run(Path(path))
    run.lock()
    task, plan, state = resume(run, lambda _: None, device, Path(cache), data)
    run.cut(state.step)
    if killed_in_step:
        plan.data = _KillingData(plan.data, (killed_in_step - 1) * plan.train.accumulate)
    log = RunLog(run)
    for event in fit(run, task, plan, state, replay=Replay(end=STEPS)):
        log.take(event)
    run.unlock()


class _KillingData:
    """A dataset that kills the process at the first call of `batch` after `batches` calls."""

    def __init__(self, data: Dataset, batches: int) -> None:
        self.data, self.context, self.left = data, data.context, batches

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Ids) -> Batch[Array]:
        if not self.left:  # Windows has no SIGKILL, and there any signal ends a process at once
            killing: Any = getattr(signal, "SIGKILL", signal.SIGTERM)
            os.kill(os.getpid(), killing)
        self.left -= 1
        return self.data.batch(indices)
