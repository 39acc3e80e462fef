"""Whatever is damaged, wherever: told before it is used, in one line, with exit code 3."""

import os
from typing import Any

import pytest
from helpers import run_harness


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_flips_cuts_splices_and_zeroed_pages_of_every_file_are_told() -> None:
    report: dict[str, Any] = run_harness("damage.py", "--copies", 60)
    assert report["wrong"] == []
    assert {"config.json", "tokenizer.json", "manifest.json", "log.jsonl"} < set(report["files"])
    assert len(report["files"]) >= 12
    for name, row in report["files"].items():
        assert all(row[kind] for kind in ("flip", "truncate", "splice", "zeros")), name
        assert row["told"] or name == "log.jsonl"
