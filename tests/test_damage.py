"""Whatever is damaged, wherever: told before it is used, in one line, with exit code 3."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).parent / "harness"


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_flips_cuts_splices_and_zeroed_pages_of_every_file_are_told() -> None:
    done = subprocess.run(
        [sys.executable, HARNESS / "damage.py", "--copies", "60", "--json"],
        capture_output=True,
        timeout=300,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["wrong"] == []
    assert {"config.json", "tokenizer.json", "manifest.json", "log.jsonl"} < set(report["files"])
    assert len(report["files"]) >= 12
    for name, row in report["files"].items():
        assert all(row[kind] for kind in ("flip", "truncate", "splice", "zeros")), name
        assert row["told"] or name == "log.jsonl"
