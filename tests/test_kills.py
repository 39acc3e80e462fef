"""SIGKILL at random moments of real training loses at most one save interval, and nothing of the
end: weights bit for bit, the log but for its fields of time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork of POSIX")
def test_fifty_kills_lose_no_run_and_no_bit() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "kills.py", "--kills", "50", "--json"],
        capture_output=True,
        timeout=300,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["kills"] == 50
    assert report["runs finished"] > 3
    assert report["runs lost"] == report["checkpoints lost"] == 0, done.stderr
    assert report["weights identical"] == report["logs identical"] == report["runs finished"]
    assert 0 < report["most steps lost"] <= report["save interval"]
    assert len(report["killed while"]) > 2, "kills hit more than one phase"
