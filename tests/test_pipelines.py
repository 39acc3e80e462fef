"""Runs each one-liner of docs/pipelines.md, unchanged, in bash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tfm
from helpers import prose

PAGE = Path(__file__).parent.parent / "docs/pipelines.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
QUICK = {
    "TFM_SIZE": "nano",
    "TFM_STEPS": "2",
    "TFM_CONTEXT": "32",
    "TFM_TOKENIZER": "byte",
    "TFM_TASK": "text",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page uses: notes, a log, prompts, records, a run, and `tfm` itself.
    `watch` needs a terminal and never ends, so it is replaced by one run of its command."""
    root = tmp_path_factory.mktemp("pipelines")
    (root / "bin").mkdir()
    for name, does in (("tfm", f'exec {sys.executable} -m tfm "$@"'), ("watch", 'shift 2; "$@"')):
        (root / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (root / "bin" / name).chmod(0o755)
    (root / "notes.txt").write_text(prose(3000), encoding="utf-8")
    usual = [f"12:00:{at:02} GET /index.html 200" for at in range(20)]
    (root / "app.log").write_text("\n".join([*usual, "PANIC " + "\x7f\x01~" * 40]) + "\n")
    (root / "prompts.txt").write_text("the quick\nbrown\nfox\nsnow\n")
    rows = [{"id": at, "title": title} for at, title in enumerate(("a fox", "green snow"))]
    (root / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Tfm(root, QUICK)("train", "--data", "notes.txt", "--run", "runs/old", "-q")
    return root


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_a_pipeline_does_what_it_says(folder: Path, block: str) -> None:
    if re.search(r"\bjq\b", block) and shutil.which("jq") is None:
        pytest.skip("no jq")
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        env={**os.environ, **QUICK, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    for line, wanted in SAYS.items():
        if line in block:
            assert re.search(wanted, done.stdout, re.M), done.stdout


SAYS = {  # a part of a block -> a pattern of its output
    "for lr": r"lr-0\.02 .*2/2",
    "min_by": r"^run +runs/",
    "select(.loss)": r"^2\t\d",
    "watch": r"^runs/old",
    "sort -rn": r"PANIC",
    "group_by": r'^\{"id":"1","title":"green snow","label":',
    "compare": r"\S",
    "tail.tfm": r"^PANIC",
    "wc -w": r"^\s*\d{4}$",
}


def test_every_expectation_is_of_a_block() -> None:
    assert len(BLOCKS) >= 10
    assert all(any(line in block for block in BLOCKS) for line in SAYS)
