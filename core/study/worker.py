"""What a process of a study does: one job after the other, each an ordinary run."""

from __future__ import annotations

import ctypes
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ..architectures import architecture
from ..errors import DivergedError, TfmError, UsageError
from ..model.sequence_model import on_meta
from ..ops import native_calls
from ..ops.device import use_threads
from ..runs.run import Run
from ..task import ignored
from ..train.events import Finished, RunLog
from ..train.fit import fit
from ..train.prepare import Prepared, prepare
from ..train.request import Note, Request
from ..train.start import start
from ..train.state import resume
from .study import Job, Result, finite


@dataclass(frozen=True)
class Worker:
    """How the processes of a study compute. threads: of each process; cache: a folder for what
    later trainings can reuse; library: path of the C library (`native_calls.load`), or None;
    lock_seconds: to wait for a process of before that still writes to a run."""

    threads: int
    cache: Path
    library: str | None = None
    lock_seconds: float = 10.0

    def set_up(self) -> None:
        """Prepares this process."""
        use_threads(self.threads)
        native_calls.load(None if self.library is None else ctypes.CDLL(self.library))


def run_job(job: Job, folder: Path, worker: Worker) -> Result:
    """Trains the run of a job in the study at `folder`, from where an earlier process left it. The
    process has been set up for `worker`. TfmError names the run that failed."""
    try:
        return _result(job, folder, worker)
    except TfmError as error:
        raise type(error)(f"{folder / 'runs' / job.name}: {error}") from error


def _result(job: Job, folder: Path, worker: Worker) -> Result:
    path = folder / "runs" / job.name
    threads = {"threads": worker.threads}
    sets = {**job.request.sets, "train": {**threads, **job.request.sets.get("train", {})}}
    request = replace(job.request, sets=sets)
    for torn in path.parent.glob(f".{job.name}.new-*"):  # left by a kill
        shutil.rmtree(torn)
    run = _locked(path, worker.lock_seconds) if path.exists() else None
    if run is not None and not run.checkpoints():
        run.unlock()
        shutil.rmtree(path)
        run = None
    status, scores = "done", None
    try:
        if run is None:
            run, task, plan, state = start(
                request, lambda _: [path], worker.cache, ignored, prepare=_prepared
            )
            run.lock()
        else:
            final = run.status()["final"]
            scores = final and final["scores"]
        if scores is None:
            if run.checkpoints():
                task, plan, state = resume(run, ignored, request.device, worker.cache)
                run.cut(state.step)
            log = RunLog(run)
            try:
                for event in fit(run, task, plan, state):
                    log.take(event)
                    if isinstance(event, Finished):
                        scores = event.scores
            except DivergedError:
                pass
        if scores is None or not math.isfinite(scores["nll"]):
            status, scores = "diverged", {}
        return _described(job, run, status, {**scores})
    finally:
        if run is not None:
            run.unlock()


def _described(job: Job, run: Run, status: str, scores: dict[str, object]) -> Result:
    steps = [entry for entry in run.log() if "event" not in entry]
    model, train = run.model_config(), run.train_config()
    shape = on_meta(model)
    if scores:
        scores["run"] = f"runs/{job.name}"
    return Result(
        name=job.name,
        about=dict(job.about),
        status=status,
        scores=finite(scores),
        steps=len(steps),
        tokens=len(steps) * train.batch * train.accumulate * model.context,
        parameters=shape.parameter_count(),
        flops_per_token=shape.flops_per_token(),
        seconds=round(sum(entry["seconds"] for entry in steps), 3),
        run=f"runs/{job.name}",
    )


def _locked(path: Path, seconds: float) -> Run:
    """A run that an earlier process of the study left."""
    run, until = Run(path), time.monotonic() + seconds
    while True:
        try:
            run.lock()
            return run
        except UsageError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


_last_prepared: dict[str, Prepared] = {}  # one entry: the newest


def _prepared(request: Request, note: Note) -> Prepared:
    """`prepare`, once for all jobs of this process that need the same."""
    model, train = (request.sets.get(section, {}) for section in ("model", "train"))
    encoder = architecture(request.arch).model.get("encoder_layers", 0)
    used = (
        replace(
            request, arch="", size=None, context=None, steps=None, tokens=None, seed=0, sets={}
        ),
        model.get("encoder_layers", encoder),
        {name: train[name] for name in ("patience", "until") if name in train},
    )
    if repr(used) not in _last_prepared:
        _last_prepared.clear()
        _last_prepared[repr(used)] = prepare(request, note)
    return _last_prepared[repr(used)]
