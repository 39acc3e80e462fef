"""Two processes save a checkpoint in parts, and the N-th call to the file system of one of them
kills it or finds the disk full, for every N.

    python tests/harness/part_saves.py

Prints one JSON object: fault -> how many there were, and what is broken. After each the newest
checkpoint must be the previous or the new one, complete, with the right tensors; a full disk ends
both processes with exit code 1; and the next save must succeed.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import warm

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
LOST, NOT_REACHED = 7, 8  # exit codes: the other process is gone; there are fewer calls than N
ROWS = 5  # of the saved tensors, of which process 0 has 3


def main() -> None:
    gc.freeze()
    found = {}
    with warm.workspace() as root:
        ready = prepared(root / "ready")
        for fault in ("kill", "ENOSPC"):
            wrong: list[str] = []
            count = 0
            for rank in (0, 1):
                for number in range(1, 1000):
                    shutil.copytree(ready, root / "run")
                    codes = saved_by_two(root / "run", fault, rank, number)
                    problem = broken(root / "run", fault, codes)
                    shutil.rmtree(root / "run")
                    if NOT_REACHED in codes:
                        break
                    count += 1
                    wrong += [f"call {number} of process {rank}: {problem}"] if problem else []
            found[fault] = {"faults": count, "wrong": wrong}
    print(json.dumps(found))


def tensors(step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights and states of a step."""
    import torch

    rows = torch.arange(ROWS * 2.0).reshape(ROWS, 2) + 100 * step
    return {"embedding.weight": rows}, {"adamw.embedding.weight.mean": -rows}


def prepared(folder: Path) -> Path:
    """A run with two checkpoints, of which the third save deletes one."""
    from helpers import FakeTokenizer

    from tfm.core.config import ModelConfig, TrainConfig
    from tfm.core.runs.run import Run

    shape = ModelConfig(vocab_size=7, layers=1, width=8, heads=2, context=8)
    about = {"task": "byte", "model": asdict(shape), "train": asdict(TrainConfig(steps=3))}
    run = Run.create(folder, about, FakeTokenizer(7), {})
    for step in (1, 2):
        run.save(step, *tensors(step), {})
    return folder


def saved_by_two(folder: Path, fault: str, faulty: int, number: int) -> list[int]:
    """The exit codes of two processes that save step 3; in process `faulty` the call fails. The
    other one is this."""
    ends = socket.socketpair()
    child = os.fork()
    if not child:
        ends[0].close()
        code = 1
        try:
            code = save_part(folder, faulty, ends[1], fault, number)
        finally:
            os._exit(code)
    ends[1].close()
    with ends[0]:
        own = save_part(folder, 1 - faulty, ends[0])
    codes = [own, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
    return codes if faulty == 1 else codes[::-1]


def save_part(folder: Path, rank: int, end: socket.socket, fault: str = "", number: int = 0) -> int:
    """Saves the part of a process, whose call `number` (from 1) fails; the exit code."""
    from tfm.core.errors import TfmError
    from tfm.core.runs.checkpoints import Part
    from tfm.core.runs.run import Run

    run, calls = Run(folder), 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == number and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rows = slice(0, 3) if rank == 0 else slice(3, ROWS)
    weights, states = ({k: v[rows] for k, v in each.items()} for each in tensors(3))
    part = Part(rank, 2, dict.fromkeys([*weights, *states], rows.start), sharing(rank, end))
    if number:
        sys.addaudithook(lambda event, args: call() if event in EVENTS else None)
        fsync = os.fsync
        os.fsync = lambda handle: (call(), fsync(handle))[1]  # which has no audit event
    try:
        run.save(3, weights, states, {}, part)
    except TfmError as error:
        return error.exit_code
    except EOFError:
        return LOST
    return NOT_REACHED if number > calls else 0


def sharing(rank: int, end: socket.socket) -> Callable[[Any], list[Any]]:
    """`Part.share` of two processes that a socket connects."""
    lines = end.makefile()

    def share(value: Any) -> list[Any]:
        try:
            end.sendall(json.dumps(value).encode() + b"\n")
            line = lines.readline()
        except OSError:
            line = ""
        if not line:
            raise EOFError("the other process has ended")
        both = [json.loads(json.dumps(value)), json.loads(line)]
        return both if rank == 0 else both[::-1]

    return share


def broken(folder: Path, fault: str, codes: list[int]) -> str:
    """What is broken in what two processes have left behind; empty if nothing is."""
    from tfm.core.runs.checkpoints import MODEL, OPTIMIZER
    from tfm.core.runs.run import Run
    from tfm.core.runs.tensors import read_tensors

    possible = ([-9, LOST], [LOST, -9], [-9, 0], [0, -9]) if fault == "kill" else ([1, 1], [0, 0])
    if codes not in possible and NOT_REACHED not in codes:
        return f"exit codes {codes}"
    try:
        run = Run(folder)
        for _ in range(2):
            newest = run.checkpoints()[-1]
            run.check_checkpoint(newest)
            for name, expected in zip((MODEL, OPTIMIZER), tensors(newest.step), strict=True):
                saved = read_tensors(newest.path / name)
                if saved.keys() != expected.keys() or any(
                    not saved[key].equal(value) for key, value in expected.items()
                ):
                    return f"{name} of step {newest.step}: other tensors"
            if newest.step not in (2, 3, 4) or (codes == [0, 0] and newest.step < 3):
                return f"newest step {newest.step} after exit codes {codes}"
            run.save(4, *tensors(4), {})
        left = sorted(p.name for p in (folder / "checkpoints").iterdir())
        return "" if left[-1] == "000004" and len(left) == 2 else f"left behind: {left}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
