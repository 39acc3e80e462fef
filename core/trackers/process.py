"""A tracker in a process of its own.

Packages of trackers start threads, install signal handlers and exit hooks, print, draw random
numbers, and wait for networks. None of that may touch a training, so it only writes lines of JSON
into a pipe, which a process reads that the terminal's Ctrl-C does not reach. When the training
ends, in whatever way, the pipe ends, and the tracker is closed.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from .tracker import TrackedRun, Tracker, find

MAX_PENDING_BYTES = 256 << 20  # that the tracker has not read; then it is too slow
START = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); import {__name__} as p; p.main()"


class TrackerProcess:
    """The training's end of the pipe. No method waits for the tracker but `close`."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        """OSError if no process can be started."""
        own_session: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            own_session = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps(sys.path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # the cores are for the training
            **own_session,
        )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._given = self._written = 0  # bytes
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        self._send(asdict(run) | {"folder": str(run.folder)})

    def values(self, step: int, values: dict[str, float]) -> None:
        self._send(["values", step, values])

    def media(self, step: int, kind: str, name: str, data: bytes) -> None:
        """A sample. kind: text (UTF-8), image (PNG) or audio (WAV)."""
        self._send([kind, step, name, base64.b64encode(data).decode()])

    def problem(self) -> str | None:
        """Why the tracker takes nothing more, or None."""
        if self._process.poll() is not None:
            return self._reason()
        if self._given - self._written > MAX_PENDING_BYTES:
            return f"more than {MAX_PENDING_BYTES >> 20} MB behind the training"
        return None

    def close(self, seconds: float) -> str | None:
        """Ends the tracker, which is killed if it takes longer. Returns what went wrong."""
        self._lines.put(None)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"not closed within {seconds:g} s"
        reason = self._reason()
        return reason if self._process.returncode else None

    def kill(self) -> None:
        """Ends the tracker at once, with the processes that it has started."""
        if os.name == "posix":
            with suppress(OSError):  # it has ended
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()
        self._reason()

    def _send(self, message: object) -> None:
        line = json.dumps(message).encode() + b"\n"
        self._given += len(line)
        self._lines.put(line)

    def _write(self) -> None:
        """What the thread does that feeds the pipe."""
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(OSError):  # the tracker has ended
            while (line := self._lines.get()) is not None:
                pipe.write(line)
                if self._lines.empty():
                    pipe.flush()
                self._written += len(line)
        with suppress(OSError):
            pipe.close()

    def _reason(self) -> str:
        """Why the process has ended, in its own words if it has said so. Closes the pipes."""
        self._lines.put(None)
        self._writer.join()
        said = b""
        if (answer := self._process.stdout) is not None and not answer.closed:
            said = answer.read().strip()
            answer.close()
        return said.decode(errors="replace") or f"it ended with code {self._process.returncode}"


# -- in the process ------------------------------------------------------------------------------


def main() -> None:
    """Serves the tracker named by the last argument. What goes wrong is one line on stdout."""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        if number is not None:
            signal.signal(number, signal.SIG_IGN)  # the training says when to end
    messages, answer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # what the package reads and prints
        os.dup2(nowhere, number)
    try:
        serve(sys.argv[2], messages)
    except BaseException as error:
        answer.write(" ".join(f"{type(error).__name__}: {error}".split()).encode())
        answer.close()
        os._exit(1)


def serve(name: str, messages: BinaryIO) -> None:
    """Hands the messages of a training to a tracker, and closes it when they end."""
    about = json.loads(messages.readline() or b"null")
    if about is None:  # ended before it began
        return
    folder = Path(about.pop("folder"))
    folder.mkdir(parents=True, exist_ok=True)
    tracker = find(name)(TrackedRun(folder, **about))
    try:
        for line in messages:
            if line.endswith(b"\n"):  # else the training was killed while writing it
                _take(tracker, *json.loads(line))
    except BaseException:
        with suppress(Exception):  # the first error says more
            tracker.close()
        raise
    tracker.close()


def _take(tracker: Tracker, kind: str, step: int, what: Any, data: str = "") -> None:
    if kind == "values":
        tracker.values(step, what)
    elif kind == "text":
        tracker.text(step, what, base64.b64decode(data).decode())
    elif kind == "image":
        tracker.image(step, what, base64.b64decode(data))
    else:
        tracker.audio(step, what, base64.b64decode(data))
