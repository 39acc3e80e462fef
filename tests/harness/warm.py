"""Runs tfm commands in forks of a process that has imported everything: real processes that get
real signals, in some 80 ms each rather than two seconds. POSIX only. Do not import this into a
process with threads."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent.parent / "benchmarks")]  # helpers and _common

PACKAGES = ("cli", "core", "tasks", "tokenizers")


def warm() -> None:
    """Imports all of tfm, so that its modules are read and compiled once and not in each fork."""
    import filelock  # noqa: F401
    import safetensors.numpy
    import safetensors.torch  # noqa: F401
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork, which would wait for them forever
    root = HERE.parent.parent
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            name = ".".join(file.relative_to(root).with_suffix("").parts)
            importlib.import_module(f"tfm.{name}")


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary folder, which also holds the cache and config of tfm. It is in memory if
    possible: on a disk, processes mostly wait for fsync, and most kills would hit that."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="tfm-", dir=memory if memory.is_dir() else None))
    compiled = Path(os.environ.get("XDG_CACHE_HOME", ""), "tfm/native")
    if compiled.is_dir():  # of the same sources: tfm compares checksums
        shutil.copytree(compiled, root / "cache/tfm/native")
    os.environ.update(XDG_CACHE_HOME=str(root / "cache"), XDG_CONFIG_HOME=str(root / "config"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def start(
    folder: Path,
    *args: object,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    closed: Iterable[int] = (),
) -> int:
    """Starts `tfm args` in `folder` and returns its process id. Its stdout and stderr go to the
    files .out and .err there. env: changes of the environment; closed: standard streams that are
    closed."""

    def work() -> None:
        from tfm.cli.main import main

        os.environ.update(env or {})
        for number in closed:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python starts
        sys.argv = ["tfm", *map(str, args)]
        main()

    return fork(folder, work, stdin)


def fork(folder: Path, work: Callable[[], object], stdin: bytes = b"") -> int:
    """Starts a child that calls `work` in `folder` and exits 0, or 1 with a traceback in .err."""
    (folder / ".in").write_bytes(stdin)
    for name in (".out", ".err"):
        (folder / name).unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    _child(folder, work)


def _child(folder: Path, work: Callable[[], object]) -> NoReturn:
    def settled() -> None:
        os.chdir(folder)
        os.setpgid(0, 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for name, number in ((".in", 0), (".out", 1), (".err", 2)):
            handle = os.open(name, flags if number else os.O_RDONLY, 0o644)
            os.dup2(handle, number)
            os.close(handle)
        reopen_streams()
        work()

    run_and_exit(settled)


def reopen_streams() -> None:
    """Makes Python's standard streams those of the descriptors, which have been replaced."""
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")


def run_and_exit(work: Callable[[], object]) -> NoReturn:
    """Ends this process after `work`: with the code of its SystemExit, with 0, or with 1 and a
    traceback."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(frozen=True)
class Ended:
    """How a process ended: a negative code is the signal that ended it."""

    code: int
    out: str
    err: str
    seconds: float
    kilobytes: int  # peak resident memory, including what the fork shares with its parent

    @property
    def last(self) -> str:
        return (self.err.splitlines() or [""])[-1]


def ended(pid: int, folder: Path, began: float) -> Ended:
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    files = [folder / name for name in (".out", ".err")]
    out, err = (f.read_text(errors="replace") if f.exists() else "" for f in files)
    return Ended(code, out, err, time.perf_counter() - began, usage.ru_maxrss)


def call(folder: Path, *args: object) -> Ended:
    began = time.perf_counter()
    return ended(start(folder, *args), folder, began)
