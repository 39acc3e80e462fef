"""SQLite's method: the N-th file-system call fails, for every N until none is left. What was saved
before is intact or the new checkpoint is there, and what was no kill ends in one line."""

import os
import shutil
import subprocess
from typing import Any

import pytest
from helpers import run_harness


def traceable() -> str:
    """Why no call can be made to fail here; nothing where it can."""
    if os.name != "posix" or shutil.which("strace") is None:
        return "no strace here"
    done = subprocess.run(
        ["strace", "-f", "-e", "inject=chdir:error=EIO", "true"], capture_output=True, text=True
    )
    return f"strace may not trace here: {done.stderr.strip()}" if done.returncode else ""


def injected(*args: str) -> dict[str, Any]:
    if why := traceable():
        pytest.skip(why)
    reports: dict[str, Any] = run_harness("inject.py", *args)
    for fault, report in reports.items():
        assert not report["wrong"], f"{fault}: {report['wrong'][:5]}"
    return reports


def test_every_call_of_a_save_killed_or_refused() -> None:
    reports = injected("--what", "save")
    assert set(reports) == {"kill", "ENOSPC", "EIO"}
    for report in reports.values():
        assert {"write", "fsync", "rename", "mkdir", "openat"} <= set(report["calls"])
        assert report["calls"]["fsync"] >= 6, "each file, the manifest, the folders"
    assert "unlinkat" in reports["kill"]["calls"], "an older checkpoint is deleted meanwhile"


def test_a_disk_that_is_full_from_any_write_of_training_on() -> None:
    report = injected("--what", "train", "--fault", "ENOSPC")["ENOSPC"]
    assert report["calls"]["write"] > 15 and report["calls"]["rename"] > 8
