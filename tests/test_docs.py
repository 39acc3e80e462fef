"""README, guides and CONTRIBUTING: commands run; linked and named files exist."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import Tfm
from helpers import prose, put_tfm_on_path, run_shell_block, shell_blocks

ROOT = Path(__file__).parent.parent
GUIDES = (
    "training",
    "data",
    "evaluation",
    "sampling",
    "view",
    "domains",
    "architectures",
    "command-line",
    "exchange",
    "studies",
)
EXTENDING = ("new-domain", "new-mixer", "new-tokenizer")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [(name, block) for name in GUIDES for block in shell_blocks(ROOT / f"docs/{name}.md")]
QUICK = {"TFM_SIZE": "nano", "TFM_SET": "train.batch=4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the guides use: notes, a run, and `tfm` itself."""
    root = tmp_path_factory.mktemp("guides")
    put_tfm_on_path(root)
    (root / "notes.txt").write_text(prose(40_000), encoding="utf-8")
    train = ("train", "--data", "notes.txt", "--tokenizer", "byte", "--steps", 2, "-q")
    Tfm(root, QUICK)(*train, "--run", "runs/old")
    return root


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[b.split("\n")[0][:40] for _, b in BLOCKS])
def test_a_guide_runs(folder: Path, name: str, block: str) -> None:
    """Runs each block in its own copy of the folder, with 2 steps unless the block sets --steps."""
    own = folder.with_name(f"{folder.name}-{BLOCKS.index((name, block))}")
    shutil.copytree(folder, own)
    steps = {} if "--steps" in block or "--budget" in block else {"TFM_STEPS": "2"}
    run_shell_block(block, own, {**QUICK, **steps})


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("name", EXTENDING)
def test_a_page_on_extending_runs_in_order_as_one_script(name: str, tmp_path: Path) -> None:
    """In a folder with the examples and small data of each. `pip` copies a package to where Python
    finds it, without a network."""
    site = tmp_path / "site"
    site.mkdir()
    put_tfm_on_path(
        tmp_path,
        pip=f'SITE={site} exec {sys.executable} {ROOT / "tests/harness/install.py"} "$@"',
        pytest='exec tfm -m pytest -p no:cacheprovider -c "$1/pyproject.toml" "$1"',  # in a fork
    )
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    draw = random.Random(0)
    chord = (67, 62, 57, 48)
    pieces = [[[n + draw.randrange(3) for n in chord] for _ in range(140)] for _ in range(30)]
    parts = {"train": pieces[:20], "valid": pieces[20:25], "test": pieces[25:]}
    (tmp_path / "chorales.json").write_text(json.dumps(parts))
    genes = ["".join(draw.choices("ACGT", k=60)) for _ in range(300)]
    (tmp_path / "genes.txt").write_text("\n".join(genes) + "\n")
    (tmp_path / "notes.txt").write_text(prose(40_000), encoding="utf-8")
    script = "\n".join(shell_blocks(ROOT / f"docs/{name}.md")).replace("--steps 20", "")
    run_shell_block(script, tmp_path, {**QUICK, "TFM_STEPS": "2", "PYTHONPATH": str(site)})


@pytest.mark.parametrize("name", EXTENDING)
def test_code_on_a_page_is_that_of_an_example(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    (example,) = set(re.findall(r"\(\.\./(examples/\w+)\)", text))
    files = [path.read_text(encoding="utf-8") for path in (ROOT / example).glob("*.*")]
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) > 3
    for block in blocks:
        assert any(block in file for file in files), f"not in {example}:\n{block}"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.skipif("README_HAS_RUN" in os.environ, reason=".ci/run has run it, with budgets")
def test_the_readme_runs_in_order_as_one_script(tmp_path: Path) -> None:
    """In one folder, with two steps instead of a budget."""
    put_tfm_on_path(tmp_path)
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    blocks = [b for b in shell_blocks(ROOT / "README.md") if "pip install" not in b]
    script = "\n".join(blocks).replace("--budget 5s", "--steps 2")
    out = run_shell_block(script, tmp_path, {**QUICK, "TFM_STEPS": "2"})
    assert "B is not significantly worse" in out
    assert (tmp_path / "runs/sevens.png").exists() and (tmp_path / "runs/fan.png").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_page_on_forecasting_runs_in_order_as_one_script(tmp_path: Path) -> None:
    """In one folder, with fewer steps. Either of the compared runs may be the worse one."""
    put_tfm_on_path(tmp_path, python3=f'exec {sys.executable} "$@"')
    script = "\n".join(shell_blocks(ROOT / "docs/forecasting.md")).replace(
        "--steps 30", "--steps 3"
    )
    out = run_shell_block(
        script.replace("|| echo", "2>&1 || echo"), tmp_path, {"TFM_SET": QUICK["TFM_SET"]}
    )
    assert "B - A" in out and (tmp_path / "fan.png").exists()
    assert (tmp_path / "runs/current").resolve().name != "calendar"  # the run of weekly.sh
    assert len((tmp_path / "forecast.csv").read_text().splitlines()) == 53


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_of_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)\)|src=\"([^\"]+)\"", text)
    for link in (one or other for one, other in links):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for name in re.findall(
        r"`((?:core|cli|tasks|tokenizers|tests|benchmarks|docs|examples|templates)/[\w./]+)`", text
    ):
        assert (ROOT / name).exists() or "NAME" in name, name


def test_every_test_that_the_guarantees_name_exists() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    file = ""
    for named, test in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", text):
        file = named or file
        if file:
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in source, f"{file}::{test}"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    reachable = text + (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert all(page.name in reachable for page in PAGES)


def test_the_terminal_picture_asks_no_network_and_names_no_folder() -> None:
    svg = (ROOT / "docs/terminal.svg").read_text(encoding="utf-8")
    assert len(svg) < 100_000
    assert set(re.findall(r"https?://[^\"']+", svg)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\((?!#)|/home/|/root/|/tmp/|/work/", svg)
