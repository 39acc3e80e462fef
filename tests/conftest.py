"""Fixtures of the command-line tests: the command, an empty home folder, one trained run."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from ctypes import CDLL
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent / "harness"))

from server import Server

SERVER = Server()
# of `tfm` outside the tests, where its C library may be compiled
USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfm")

settings.register_profile("untimed", deadline=None)  # tests can be slow on a busy machine
settings.load_profile("untimed")

os.environ["OMP_WAIT_POLICY"] = "passive"  # a thread that waits leaves its core to other tests

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: one thread each
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """What is there before the first test is not looked at by any later collection of garbage: with
    all tests imported, each would take half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread: models this small are no faster with two, and slower on a busy machine."""
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Result:
    """The exit code and output of a command; a negative code is a signal, as in Popen."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    def json(self) -> Any:
        """The one object on stdout."""
        (line,) = self.text.splitlines()
        return json.loads(line)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text.splitlines()]


HARMLESS = (
    *("TFM_", "COLUMNS", "LINES", "PYTHONPATH"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "SLURM_"),
)


def can_fork(env: Iterable[str]) -> bool:
    """Whether commands can be forks: not if a variable could matter to Python or to a library as
    it starts."""
    return hasattr(os, "fork") and all(name.startswith(HARMLESS) for name in env)


@dataclass(frozen=True)
class Tfm:
    """Runs `tfm` as a process in `folder`."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *args: object,
        stdin: bytes | None = None,
        code: int = 0,
        env: dict[str, str] | None = None,
    ) -> Result:
        """Runs a command to its end and checks the exit code. It is a fork of a process that has
        imported torch, unless its environment could matter to Python or to a library."""
        more = {**self.env, **(env or {})}
        if can_fork(more):
            ended, out, err = SERVER(
                list(map(str, args)), self.folder, {**os.environ, **more}, stdin
            )
        else:
            done = subprocess.run(
                self.command(*args),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                cwd=self.folder,
                env={**os.environ, **more},
                timeout=120,
            )
            ended, out, err = done.returncode, done.stdout, done.stderr
        result = Result(ended, out, err.decode())
        assert result.code == code, f"tfm {args}: exit {result.code}\n{result.err}"
        assert "Traceback" not in result.err
        return result

    def start(self, *args: object, fresh: bool = False, **settings: Any) -> subprocess.Popen[bytes]:
        """Starts the command and leaves it running: the command itself if `fresh`, or a process
        that passes signals on to a fork (see harness/client.py) and ends as the fork does."""
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        environment = {**os.environ, **self.env}
        forked = not fresh and can_fork(self.env) and settings.keys() <= pipes.keys()
        command = [*SERVER.client(), *map(str, args)] if forked else self.command(*args)
        return subprocess.Popen(command, cwd=self.folder, env=environment, **{**pipes, **settings})

    def error(self, *args: object, code: int = 2, stdin: bytes | None = None) -> str:
        """Runs a command that fails, and returns its error: the last line of stderr. Checks that
        stdout is empty."""
        result = self(*args, code=code, stdin=stdin)
        assert not result.out
        *_, last = result.err.splitlines()
        assert last.startswith("Error: ")
        assert result.err.count("Error: ") == 1
        return last

    @staticmethod
    def command(*args: object) -> list[str]:
        return [sys.executable, "-m", "tfm", *map(str, args)]


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home folder: no config files, caches or variables of the user, no network, and one
    thread per process, so that parallel processes do not compete for cores. A C library that is
    compiled already is copied; its name tells which sources it is of (`native_library`)."""
    root = tmp_path_factory.mktemp("home")
    native = root / "xdg_cache_home/tfm/native"
    native.mkdir(parents=True)
    for file in (USER_CACHE / "native").glob("step-*.so"):
        shutil.copy(file, native)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("TFM_"):
                patch.delenv(name)
        patch.setenv("HOME", str(root))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
            patch.setenv(name, str(root / name.lower()))
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS"):
            patch.setenv(name, "1")
        yield root


@pytest.fixture(scope="session", autouse=True)
def server() -> Iterator[None]:
    yield
    SERVER.close()


@pytest.fixture
def tfm(tmp_path: Path) -> Tfm:
    """The `tfm` command, in an empty folder."""
    return Tfm(tmp_path)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 12 kB."""
    from helpers import prose

    path = tmp_path_factory.mktemp("data") / "prose.txt"
    path.write_text(prose(12_000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def compiled(home: Path) -> CDLL | None:
    """The C library, where `tfm` finds it too; None without a C compiler."""
    from helpers import c_library

    return c_library(home / "xdg_cache_home" / "tfm")


@pytest.fixture(scope="session")
def library(compiled: CDLL | None) -> CDLL:
    """The C library. Without a C compiler, tests that use this fixture are skipped."""
    if compiled is None:
        pytest.skip("no C compiler here that compiles core/ops/c")
    return compiled


@pytest.fixture
def kernels_in_c(library: CDLL) -> Iterator[None]:
    """Models use the C library during the test."""
    from tfm.core.ops import native_calls

    native_calls.load(library)
    yield
    native_calls.load(None)


@dataclass(frozen=True)
class Trained:
    """A run and the scores that `train --json` printed."""

    path: Path
    scores: dict[str, Any]


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A character model of `text` after 20 steps, shared: tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    result = Tfm(folder)(
        *("train", "--task", "text", "--data", text, "--tokenizer", "char", "--size", "nano"),
        *("--steps", 20, "--run", "run", "--json", "-q"),
    )
    assert result.err == ""
    return Trained(folder / "run", result.json())


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of every domain in helpers.DOMAINS, and a run of each after two steps,
    shared: tests must not change it."""
    from helpers import DOMAINS, SMALL_RUN, write_domains

    root = tmp_path_factory.mktemp("domains")
    write_domains(root)
    tfm = Tfm(root, {"TFM_QUIET": "1"})
    for task, (data, _, _) in DOMAINS.items():
        tfm("train", "--task", task, *data, *SMALL_RUN, "--run", task)
    return root
