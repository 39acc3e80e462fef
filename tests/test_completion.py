"""`tfm completion`: the completions that a shell gets for a Tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tfm

from tfm.cli.main import COMMANDS, cli

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("small", "smaller", "large", ".small-hidden"):
        (tmp_path / "runs" / name / "checkpoints" / "000020").mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").touch()
    (tmp_path / "runs" / "smart").mkdir()
    return tmp_path


def complete(line: str) -> set[str]:
    """The completions of the last word of a line, by click in this process."""
    from click.shell_completion import BashComplete

    *words, last = line.split(" ")
    found = BashComplete(cli, {}, "tfm", "_TFM_COMPLETE").get_completions(words[1:], last)
    return {item.value if item.type == "plain" else f"<{item.type}>" for item in found}


def test_names_are_completed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    for line, wanted in {
        "tfm ": set(COMMANDS),
        "tfm comp": {"compare", "compress", "completion"},
        "tfm train --task s": {"series", "sort"},
        "tfm train --arch ll": {"llama"},
        "tfm train --size ": {"nano", "tiny", "small", "base", "large"},
        "tfm train --tokenizer b": {"byte", "bpe", "bins"},
        "tfm train --budg": {"--budget"},
        "tfm train --task image --label-": {"--label-column", "--label-weight"},
        "tfm train --task text --each ": {"stream", "line", "file", "record"},
        "tfm train --init sm": {"small", "smaller"},
        "tfm train --data ": {"<file>"},
        "tfm info sm": {"small", "smaller"},
        "tfm compare small l": {"large"},
        "tfm data sm": {"small", "smaller"},
        "tfm data --task text --each ": {"stream", "line", "file", "record"},
        "tfm data --stri": {"--strict"},
        "tfm score la": {"large"},
        "tfm score nothing": {"<file>"},
        "tfm eval small --checkpoint ": {"last", "20"},
        "tfm tasks im": {"image"},
        "tfm completion ": set(SHELLS),
    }.items():
        assert complete(line) == wanted, line
    monkeypatch.setenv("TFM_RUNS", str(runs / "elsewhere"))
    assert complete("tfm info ") == {"<file>"}


def test_a_tab_loads_little_and_errs_in_silence(runs: Path) -> None:
    code = (
        "import sys, tfm.cli.main as m\n"
        "heavy = {'torch', 'datasets', 'pandas', 'rich'}\n"
        "m.os._exit = lambda code: sys.exit(8 if heavy & set(sys.modules) else code)\n"
        "m.main()"
    )
    for line, wanted in (
        ("tfm sample sm", b"plain,small"),
        ("tfm train --task ", b"plain,byte"),
        ("tfm nothing ", b""),
    ):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=runs,
            capture_output=True,
            timeout=60,
            env={**os.environ, **words, "_TFM_COMPLETE": "bash_complete"},
        )
        assert wanted in done.stdout and not done.stderr and done.returncode != 8


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_by_the_script(runs: Path, tfm: Tfm) -> None:
    folder = runs / "bin"
    folder.mkdir()
    (folder / "tfm").write_text(f'#!/bin/sh\nexec {sys.executable} -m tfm "$@"\n')
    (folder / "tfm").chmod(0o755)
    script = (
        "source <(tfm completion bash)\n"
        "complete -p tfm > /dev/null || exit 1\n"
        "COMP_WORDS=(tfm info sma); COMP_CWORD=2\n"
        '_tfm_completion tfm; echo "${COMPREPLY[@]}"'
    )
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=runs,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": path},
    )
    assert set(done.stdout.split()) == {"small", "smaller"}, done.stderr


def test_each_shell_has_a_script(tfm: Tfm) -> None:
    assert "compdef" in tfm("completion", "zsh").text
    assert "--command tfm" in tfm("completion", "fish").text
    assert "bash" in tfm.error("completion", "tcsh")
