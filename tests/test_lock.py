"""One process writes to a run; the system lets go of the lock of one that was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import FakeTokenizer

from tfm.core.errors import UsageError
from tfm.core.runs.run import Run

HOLD = """
import sys, time, pathlib
from tfm.core.runs.run import Run
run = Run(pathlib.Path(sys.argv[1]))
run.lock()
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"train": {"steps": 1}}, FakeTokenizer(7), {})


def test_one_process_writes_and_a_killed_one_lets_go(run: Run) -> None:
    assert not run.is_locked()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        assert run.is_locked() and run.status()["state"] == "running"
        with pytest.raises(UsageError, match=f"process {holder.pid} is writing"):
            run.lock()
        (run.path / "lock.pid").unlink()  # not written yet
        with pytest.raises(UsageError, match="is writing"):
            run.lock()
    finally:
        holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        holder.communicate()
    assert not run.is_locked()
    run.lock()
    assert run.is_locked() and (run.path / "lock.pid").read_text() == str(os.getpid())
    with pytest.raises(UsageError, match=f"process {os.getpid()} is writing"):
        Run(run.path).lock()
    run.unlock()
    assert not Run(run.path).is_locked()
