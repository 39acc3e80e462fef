"""`tfm new task`: the skeleton works as it is written; what cannot be written leaves nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import Tfm
from install import install

from tfm.core.plugins import names

TEMPLATE = Path(__file__).parent.parent / "templates" / "task"
FILES = ["README.md", "pyproject.toml", "test_tides.py", "tfm_tides.py"]


def test_the_skeleton_is_a_task_once_installed(tfm: Tfm, tmp_path: Path) -> None:
    """Its own tests are run by test_docs.py, as docs/new-domain.md says."""
    done = tfm("new", "task", "tides")
    assert done.text == "tides\n"
    assert "next: pip install -e tides && pytest tides" in done.err
    package, site = tfm.folder / "tides", tmp_path / "site"
    assert sorted(path.name for path in package.iterdir()) == FILES
    assert not re.search("newtask", "".join(path.read_text() for path in package.iterdir()), re.I)
    install(package, site)
    installed = Tfm(tfm.folder, {"PYTHONPATH": str(site)})
    assert "tides" in installed("tasks").text
    assert "a task of this name exists" in installed.error("new", "task", "tides", "--out", "more")


def test_it_is_told_as_json(tfm: Tfm) -> None:
    done = tfm("new", "task", "high_tides", "--out", "some folder", "--json", "-q")
    found = done.json()
    files = [name.replace("tides", "high_tides") for name in FILES]
    assert found == {
        "schema": 1,
        "kind": "task",
        "name": "high_tides",
        "path": "some folder",
        "files": files,
    }
    assert not done.err
    assert "class HighTidesTask(" in (tfm.folder / "some folder/tfm_high_tides.py").read_text()


def test_an_empty_folder_is_filled(tfm: Tfm) -> None:
    assert tfm("new", "task", "tides", "--out", ".").text == ".\n"
    assert sorted(path.name for path in tfm.folder.iterdir()) == FILES
    (tfm.folder / "empty").mkdir()
    tfm("new", "task", "waves", env={"TFM_OUT": "empty"})
    assert len(list((tfm.folder / "empty").iterdir())) == len(FILES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Tides",), "tfm new task Tides: not a name; use lower-case letters"),
        (("high-tides",), "not a name"),
        (("_tides",), "not a name"),
        (("1st",), "not a name"),
        (("tidés",), "not a name"),
        (("",), "not a name"),
        (("tides\n",), "not a name"),
        (("text",), "tfm new task text: a task of this name exists; use another"),
        (("addition",), "a task of this name exists"),
        (("char",), "tfm new task char: a tokenizer of this name exists; use another"),
        (("tides", "--out", "full"), "full: already exists; choose another folder with --out DIR"),
        (("tides", "--out", "full/file"), "full/file: already exists"),
        (("tides", "--out", "full/file/below"), "there is no folder"),
        (("tides", "--out", "nowhere/tides"), "there is no folder"),
        (("tides", "--out", "link"), "link: already exists"),
    ],
    ids=str,
)
def test_what_is_refused(tfm: Tfm, arguments: tuple[str, ...], said: str) -> None:
    (tfm.folder / "full").mkdir()
    (tfm.folder / "full" / "file").touch()
    (tfm.folder / "link").symlink_to("nothing")
    before = sorted(tfm.folder.rglob("*"))
    assert said in tfm.error("new", "task", *arguments)
    assert sorted(tfm.folder.rglob("*")) == before, "nothing is left"


def test_other_kinds_are_refused(tfm: Tfm) -> None:
    assert "tfm new tsk: no such kind of package; did you mean task?" in tfm.error(
        "new", "tsk", "x"
    )
    assert "Missing argument" in tfm.error("new", "task")
    assert "Missing argument" in tfm.error("new")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tfm: Tfm) -> None:
    (tfm.folder / "locked").mkdir(0o555)
    for out in ("locked", "locked/tides"):
        error = tfm.error("new", "task", "tides", "--out", out, code=1)
        assert f"{out}: cannot be written (Permission denied)" in error
    assert not list((tfm.folder / "locked").iterdir())


@pytest.mark.skipif(not Path("/proc").exists(), reason="no folder that refuses files of everyone")
def test_a_file_system_that_takes_no_files(tfm: Tfm) -> None:
    assert "/proc/tides: cannot be written" in tfm.error(
        *("new", "task", "tides", "--out", "/proc/tides"), code=1
    )


def test_no_template_has_the_name_of_a_task() -> None:
    assert "newtask" not in {*names("tasks"), *names("tokenizers")}
