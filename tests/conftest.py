"""What the tests of the command line share: the command, a home of its own, one trained run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from ctypes import CDLL
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: one thread each
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Models this small gain nothing from a second thread, and wait for it on a busy machine."""
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Result:
    """How a command ended: a negative code is the signal that ended it, as Popen has it."""

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


@dataclass(frozen=True)
class Tfm:
    """`tfm`, run as a process of its own in `folder`."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *args: object,
        stdin: bytes | None = None,
        code: int = 0,
        env: dict[str, str] | None = None,
    ) -> Result:
        """Runs to the end and expects the exit code."""
        done = subprocess.run(
            self.command(*args),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            cwd=self.folder,
            env={**os.environ, **self.env, **(env or {})},
            timeout=120,
        )
        result = Result(done.returncode, done.stdout, done.stderr.decode())
        assert result.code == code, f"tfm {args}: exit {result.code}\n{result.err}"
        assert "Traceback" not in result.err
        return result

    def start(self, *args: object, **settings: Any) -> subprocess.Popen[bytes]:
        """Starts the command and leaves it running."""
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        environment = {**os.environ, **self.env}
        return subprocess.Popen(
            self.command(*args), cwd=self.folder, env=environment, **{**pipes, **settings}
        )

    def error(self, *args: object, code: int = 2, stdin: bytes | None = None) -> str:
        """The one line that a command which cannot go on ends in; what was said before it, and
        on stdout nothing."""
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
    """Settings, caches and variables of the machine's user neither count nor change; the network
    is not asked; one thread a process, so that processes side by side do not wait."""
    root = tmp_path_factory.mktemp("home")
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


@pytest.fixture
def tfm(tmp_path: Path) -> Tfm:
    """The command in an empty folder."""
    return Tfm(tmp_path)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 12 kB."""
    from helpers import prose

    path = tmp_path_factory.mktemp("data") / "prose.txt"
    path.write_text(prose(12_000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> CDLL:
    """The C library. Without a C compiler, what asks for it is skipped."""
    from helpers import c_library

    found = c_library(tmp_path_factory.mktemp("cache"))
    if found is None:
        pytest.skip("no C compiler here that compiles core/ops/c")
    return found


@pytest.fixture
def kernels_in_c(library: CDLL) -> Iterator[None]:
    """Models compute by the C library meanwhile."""
    from tfm.core.ops import native_calls

    native_calls.load(library)
    yield
    native_calls.load(None)


@dataclass(frozen=True)
class Trained:
    """A run, and what `train --json` said of it."""

    path: Path
    scores: dict[str, Any]


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A character model of `text` after 20 steps. Tests only read it."""
    folder = tmp_path_factory.mktemp("trained")
    result = Tfm(folder)(
        *("train", "--task", "text", "--data", text, "--tokenizer", "char", "--size", "nano"),
        *("--steps", 20, "--run", "run", "--json", "-q"),
    )
    assert result.err == ""
    return Trained(folder / "run", result.json())
