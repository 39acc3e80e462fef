"""SIGKILL at random moments of real training loses at most one save interval, and nothing of the
end: weights bit for bit, the log but for its fields of time."""

import os
import subprocess
import sys
from typing import Any

import pytest
from helpers import run_harness

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and forks of POSIX")


def killed(times: int, signal: str) -> dict[str, Any]:
    report: dict[str, Any] = run_harness("kills.py", "--kills", times, "--signal", signal)
    assert report["kills"] == times and report["runs finished"] > 0
    assert report["runs lost"] == report["checkpoints lost"] == 0
    assert report["weights identical"] == report["logs identical"] == report["runs finished"]
    return report


def test_fifty_kills_lose_no_run_and_no_bit() -> None:
    report = killed(50, "KILL")
    assert 0 < report["most steps lost"] <= report["save interval"]
    assert len(report["killed while"]) > 2, "kills hit more than one phase"


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_signals_at_any_moment_lose_no_step(signal: str) -> None:
    """In reading, training, saving and scoring; the process ends by the signal, without error."""
    assert killed(15, signal)["most steps lost"] == 0


TWICE = """
import os, signal, time
from tfm.cli.training import Signals
signals = Signals()
signals.stepped = True
os.kill(os.getpid(), signal.SIGINT)
print("the step goes on", signals.number == signal.SIGINT, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("never said")
"""


def test_the_second_signal_quits() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-15, "the step goes on True\n"), done.stderr
