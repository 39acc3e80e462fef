"""Where the jobs of a study run: in processes of this machine, or on a cluster through submitit.

https://github.com/facebookincubator/submitit submits job arrays to Slurm; its local executor runs
the same code in processes of this machine, to try a study before it is submitted.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import TfmError, UsageError
from ..ops.processes import Processes
from .study import Job, Result
from .worker import Worker, run_job

T = TypeVar("T")
CLUSTER_MINUTES = 24 * 60  # that a job of a cluster may take


class LocalProcesses:
    """An executor of `count` processes of this machine (`Executor`). They end with this process,
    however it ends."""

    def __init__(self, count: int, worker: Worker) -> None:
        self.count, self.worker = count, worker
        self._pool: Processes | None = None

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Calls a function in one of the processes."""
        if self._pool is None:
            self._pool = Processes(self.count, "tfm.core.study.worker", _begin, self.worker)
        return self._pool.submit(function, *args)

    def results(self, jobs: Sequence[Job], folder: Path) -> Iterator[Result]:
        futures = [self.submit(run_job, job, folder, self.worker) for job in jobs]
        try:
            yield from _as_they_finish(futures)
        except BrokenProcessPool:
            raise TfmError(
                f"{folder}: a process was killed, perhaps for want of memory; continue with fewer "
                "--jobs"
            ) from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class Cluster:
    """An executor that submits jobs through submitit (`Executor`). kind: slurm, or local for
    processes of this machine; count: of jobs that run at a time. UsageError without submitit or
    without Slurm."""

    def __init__(self, kind: str, count: int, worker: Worker, folder: Path) -> None:
        try:
            import submitit
        except ImportError:
            raise UsageError(
                "--cluster: needs submitit; pip install 'tfm-toolkit[cluster]'"
            ) from None
        self.kind, self.count = kind, count
        self.worker = replace(worker, lock_seconds=math.inf)  # a job of before may still run
        self._submitted: list[Any] = []
        try:
            self.executor = submitit.AutoExecutor(folder / "cluster", cluster=kind)
        except RuntimeError as error:
            raise UsageError(f"--cluster {kind}: {str(error).splitlines()[0]}") from error
        self.executor.update_parameters(
            name="tfm",
            timeout_min=CLUSTER_MINUTES,
            cpus_per_task=worker.threads,
            slurm_array_parallelism=count,
        )

    def results(self, jobs: Sequence[Job], folder: Path) -> Iterator[Result]:
        def submitted(job: Job) -> Any:
            self._submitted.append(self.executor.submit(run_on_cluster, job, here, self.worker))
            return self._submitted[-1]

        here = folder.absolute()
        if self.kind == "slurm":  # one job array, of which Slurm runs `count` at a time
            with self.executor.batch():
                array = [submitted(job) for job in jobs]
            waiting = ThreadPoolExecutor(len(jobs))
            futures = [waiting.submit(_outcome, each) for each in array]
        else:
            waiting = ThreadPoolExecutor(self.count)
            futures = [waiting.submit(lambda job: _outcome(submitted(job)), job) for job in jobs]
        try:
            yield from _as_they_finish(futures)
        finally:
            waiting.shutdown(wait=False, cancel_futures=True)
            self.close()

    def close(self) -> None:
        for each in self._submitted:
            if not each.done():
                each.cancel(check=False)
        self._submitted = []


def run_on_cluster(job: Job, folder: Path, worker: Worker) -> Result | TfmError:
    """A job in a process of its own. An error is returned, as submitit wraps those that are
    raised."""
    worker.set_up()
    try:
        return run_job(job, folder, worker)
    except TfmError as error:
        return error


def _outcome(submitted: Any) -> Result:
    """The result of a job of submitit, when it is there."""
    outcome: Result | TfmError = submitted.result()
    if isinstance(outcome, TfmError):
        raise outcome
    return outcome


def _as_they_finish(futures: Sequence[Future[Result]]) -> Iterator[Result]:
    for future in as_completed(futures):
        yield future.result()


def _begin(worker: Worker) -> None:
    """Prepares a process, which ends with its parent, and not by Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    worker.set_up()
