"""New processes that share nothing with this one: of measurements and of studies."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, TypeVar

T = TypeVar("T")
# where this process was killed, Python's tracker of its semaphores removes them, and would warn
LEAKS = "ignore:resource_tracker"


class Processes:
    """`count` new processes, each of which begins with `set_up(*about)`. On Linux they are forks of
    a server that has imported only `module`, so that several of them import torch once; elsewhere,
    where a fork after the import of torch is not safe, each starts by itself. Ctrl-C is for this
    process alone, which then ends the others by `close`."""

    def __init__(
        self, count: int, module: str, set_up: Callable[..., object], *about: object
    ) -> None:
        server = sys.platform == "linux"
        context = multiprocessing.get_context("forkserver" if server else "spawn")
        context.set_forkserver_preload([module])
        if LEAKS not in sys.warnoptions:
            sys.warnoptions.append(LEAKS)  # the tracker of shared memory starts with these
        self._others = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(count, context, set_up, about)

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Calls a function in one of the processes."""
        with _interrupts_blocked():
            return self._pool.submit(function, *args)

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        for child in set(multiprocessing.active_children()) - self._others:
            child.kill()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that start within do not take Ctrl-C; this one gets one of this time at the end.
    They inherit the mask. It holds for this thread only, and a library's threads take the signal
    all the same, so that a handler keeps it."""
    if not hasattr(signal, "pthread_sigmask") or current_thread() is not main_thread():
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited by processes
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
        for number in came[:1]:
            signal.raise_signal(number)
