"""Forecasts of a slow baseline within a time limit, in several processes.

Processes speak JSON, a line a forecast: multiprocessing would run the user's script again in each
of them, and libraries that compute in C hold the lock of Python, which rules out threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np

from ...core.cores import allowed_cores
from ...core.progress import tracked
from ...tokenizers._scales import Values
from .classical import forecast

SERIAL_SECONDS = 2.0  # after which further processes are started, if they are worth their start
START_SECONDS = 3.0  # of such a process
MAX_PROCESSES = 16
HOPELESS = 1.5  # a baseline is given up early if it would take so many times its limit


@dataclass(frozen=True)
class Job:
    """A history (N,) to forecast `horizon` points of."""

    history: Values
    season: int
    horizon: int

    def forecast(self, name: str) -> Values:
        return forecast(name, self.history, self.season, self.horizon)


class TooSlow(Exception):
    """Not all forecasts can be made within the limit."""


def forecast_all(name: str, jobs: Sequence[Job], limit: float) -> list[Values]:
    """The result of `classical.forecast` for all jobs. TooSlow if that takes more than `limit`
    seconds."""
    began = time.monotonic()
    found: dict[int, Values] = {}
    for index, paths in tracked(_forecasts(name, jobs, limit), len(jobs), f"forecasts of {name}"):
        found[index] = paths
    if len(found) < len(jobs):
        seconds = time.monotonic() - began
        raise TooSlow(
            f"{name}: left out, {len(found):,} of {len(jobs):,} forecasts took {seconds:.0f} s, "
            f"all would take more than {limit:g} s (--baseline-seconds)"
        )
    return [found[index] for index in range(len(jobs))]


def _forecasts(name: str, jobs: Sequence[Job], limit: float) -> Iterator[tuple[int, Values]]:
    """(index of the job, forecast), in any order. It ends early at the limit, or when it is clear
    that the limit is too low."""
    deadline = time.monotonic() + limit
    # any first part of this order is spread evenly over the jobs, which are sorted by series
    order = np.argsort(np.arange(len(jobs)) * ((5**0.5 - 1) / 2) % 1).tolist()
    processes = min(allowed_cores(), MAX_PROCESSES)
    began = time.monotonic()
    for done, index in enumerate(order):
        now = time.monotonic()
        if done and now > deadline:
            return
        if done > 1 and now - began > SERIAL_SECONDS:
            left = (now - began) / (done - 1) * (len(jobs) - done)  # seconds in one process
            if now + left / processes > deadline + (HOPELESS - 1) * limit:
                return
            if left > START_SECONDS + left / processes:
                yield from _in_processes(name, jobs, order[done:], processes, deadline)
                return
        yield index, jobs[index].forecast(name)
        if not done:
            began = time.monotonic()  # the first forecast also imports the library


def _in_processes(
    name: str, jobs: Sequence[Job], order: list[int], processes: int, deadline: float
) -> Iterator[tuple[int, Values]]:
    """The forecasts of the jobs `order`, as far as they are made before the deadline."""
    left = iter(order)  # the threads share it: each takes the next job
    made: SimpleQueue[tuple[int, Values] | None] = SimpleQueue()
    started = [_start() for _ in range(min(processes, len(order)))]
    for process in started:
        Thread(target=_feed, args=(process, name, jobs, left, made), daemon=True).start()
    running, missing = len(started), set(order)
    try:
        while running and missing:
            try:
                one = made.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                return
            if one is None:
                running -= 1
            else:
                missing.discard(one[0])
                yield one
    finally:
        for process in started:
            process.kill()
            process.wait()
    for index in order:  # of processes that have died
        if index in missing and time.monotonic() < deadline:
            yield index, jobs[index].forecast(name)


def _feed(
    process: subprocess.Popen[str],
    name: str,
    jobs: Sequence[Job],
    left: Iterator[int],
    made: SimpleQueue[tuple[int, Values] | None],
) -> None:
    """Gives a process one job after the other; None into `made` at the end."""
    assert process.stdin is not None and process.stdout is not None
    try:
        with process.stdin, process.stdout:
            for index in left:
                job = jobs[index]
                line = json.dumps([name, job.history.tolist(), job.season, job.horizon])
                process.stdin.write(line + "\n")
                process.stdin.flush()
                made.put((index, np.array(json.loads(process.stdout.readline()))))
    except (OSError, ValueError):  # the process has ended
        pass
    made.put(None)


def _start() -> subprocess.Popen[str]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        text=True,
        encoding="utf-8",
    )


def serve() -> None:
    """The loop of a process: a job a line on stdin, its forecast a line on stdout."""
    out, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not spoil the answers
    for line in sys.stdin:
        name, history, season, horizon = json.loads(line)
        paths = Job(np.array(history, np.float64), season, horizon).forecast(name)
        out.write(json.dumps(paths.tolist()) + "\n")
        out.flush()
