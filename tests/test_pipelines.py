"""Runs each one-liner of docs/pipelines.md, unchanged, in bash."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Tfm
from helpers import prose, put_tfm_on_path, run_shell_block, shell_blocks

PAGE = Path(__file__).parent.parent / "docs/pipelines.md"
BLOCKS = shell_blocks(PAGE)
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
    put_tfm_on_path(root, watch='shift 2; "$@"')
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
    out = run_shell_block(block, folder, QUICK)
    for line, wanted in SAYS.items():
        if line in block:
            assert re.search(wanted, out, re.M), out


SAYS = {  # a part of a block -> a pattern of its output
    "for lr": r"lr-0\.02 .*2/2",
    "min_by": r"^run +runs/",
    "select(.loss)": r"^2\t\d",
    "watch": r"^runs/old",
    "sort -rn": r"PANIC",
    "group_by": r'^\{"id":1,"title":"green snow","label":',
    "compare": r"\S",
    "tail.tfm": r"^PANIC",
    "wc -w": r"^\s*\d{4}$",
}


def test_every_expectation_is_of_a_block() -> None:
    assert len(BLOCKS) >= 10
    assert all(any(line in block for block in BLOCKS) for line in SAYS)
