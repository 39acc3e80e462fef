"""`tfm ablate`: interrupted, killed and continued; contestants; wrong flags; a cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Tfm

from tfm.core.errors import ConfigError
from tfm.core.study import ladder

SMALL = (
    "--tokenizer",
    "byte",
    "--context",
    16,
    "--set",
    "model.layers=1",
    "--set",
    "model.width=16",
)
QUICK = (*SMALL, "--set", "train.save_every=5", "--jobs", 1, "--no-equal-time")


def waited(process: subprocess.Popen[bytes], results: Path, lines: int) -> None:
    """Waits until the file has so many lines."""
    until = time.monotonic() + 300  # a busy machine
    while not results.exists() or len(results.read_text().splitlines()) < lines:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)


def workers(folder: Path) -> list[str]:
    """The processes whose working folder is `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are found in /proc")
def test_a_study_interrupted_and_killed_is_continued(tfm: Tfm, text: Path) -> None:
    asked = ("--arch", "cnn", "--tokens", "6k", "--seeds", 3, "--lr", "0.5,1", "--study", "s")
    results = tfm.folder / "s/results.jsonl"

    first = tfm.start("ablate", text, *asked, *QUICK)
    waited(first, results, 1)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate()
    assert first.returncode == -signal.SIGINT
    assert err.decode().strip().splitlines()[-1] == "continue with: tfm ablate --resume s"
    assert not workers(tfm.folder)

    second = tfm.start("ablate", "--resume", "s", "-q")
    waited(second, results, 3)
    assert "works on this study" in tfm.error("ablate", "--resume", "s")
    os.kill(int((tfm.folder / "s/lock.pid").read_text()), signal.SIGKILL)
    second.communicate()
    until = time.monotonic() + 60
    while workers(tfm.folder):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)

    found = tfm("ablate", "--resume", "s", "--json", "--plot", "a.svg").json()
    assert (found["schema"], found["unit"], found["seeds"]) == (1, "bits per byte", 3)
    names = [json.loads(line)["name"] for line in results.read_text().splitlines()]
    (row,) = found["contestants"]
    assert len(names) == len(set(names)) == len(row["lr_sweep"]) + 2
    assert row["score"]["low"] < row["score"]["value"] < row["score"]["high"]
    assert set(row["lr_sweep"]) >= {"0.5", "1"}
    assert len(row["runs"]) == 3
    assert tfm("eval", f"s/{row['runs'][0]}", "--json").json()["nll"] > 0
    assert (tfm.folder / "a.svg").stat().st_size > 1000

    table = tfm("ablate", "--resume", "s").text
    heading, one, *_ = table.splitlines()
    assert heading.split()[:3] == ["contestant", "parameters", "lr"] and "bits per byte" in heading
    assert one.startswith("cnn ") and "±" in one
    assert ("* at the edge of the sweep" in table) is row["lr_at_edge"] and "cnn: " in table

    results.write_text("{}\n" + results.read_text())
    done = tfm("ablate", "--resume", "s", code=3)
    assert "results.jsonl: line 1" in done.err and "continue with" not in done.err


def test_a_domain_on_a_cluster(tfm: Tfm, text: Path) -> None:
    """On submitit's local executor, against the floor of the domain."""
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed")
    tasks = ("--tasks", f"text:{text}", "--seeds", 1, "--lr", 1, "--tokens", 500)
    found = tfm("ablate", *tasks, "--set", "model.layers=1", "--cluster", "local", "--jobs", 1)
    heading, one = found.text.splitlines()[:2]
    assert heading.split()[:4] == ["task", "contestant", "lr", "score"]
    assert one.split()[:2] == ["text", "transformer"] and "bits per" in one
    assert "Against the best trivial baseline of each domain, " in found.text
    (study,) = (tfm.folder / "studies").iterdir()
    assert len((study / "results.jsonl").read_text().splitlines()) == 1
    assert list((study / "cluster").iterdir())


# -- contestants ---------------------------------------------------------------------------------


def test_the_ladder_changes_one_thing_at_a_time() -> None:
    steps = ladder.ladder()
    first, *rungs = [each for each in steps if each.arch == "post-ln"]
    before: dict[str, Any] = {}
    assert not first.sets
    for each in rungs:
        now = dict(each.sets["model"])
        assert len(now.items() - before.items()) == 1 and before.items() <= now.items()
        before = now
    names = [each.name for each in steps]
    assert [each.after for each in steps] == [None, *names[:5], *[None] * 4]
    assert [each.name for each in steps[-5:]] == ["transformer", *ladder.OLDER]


def test_the_ladder_on_pictures_has_positions_that_pictures_can_have() -> None:
    found = [each.sets["model"]["positions"] for each in ladder.ladder(2) if "model" in each.sets]
    assert found == ["none", "none", "none", "none", "rope"]


def test_rates_at_which_it_diverges_are_a_result(tfm: Tfm, text: Path) -> None:
    """Also while speeds are measured."""
    (tfm.folder / "t.txt").write_bytes(text.read_bytes()[:20_000])
    grid = ("--grid", "train.lr=0.02,1e30", "--lr", 1, "--seeds", 1, "--tokens", 6000)
    asked = ("ablate", "t.txt", "--tokenizer", "byte", "--study", "s", "--json", "-q")
    rows = tfm(*asked, *grid, "--no-equal-time").json()["contestants"]
    assert rows[1]["score"]["diverged"] == 1 and rows[0]["score"]["diverged"] == 0


def test_a_grid_is_a_product() -> None:
    found = ladder.grid(["model.ffn=relu,swiglu", "train.warmup=0,0.02"], "gpt2")
    assert [each.name for each in found] == [
        "ffn=relu warmup=0",
        "ffn=relu warmup=0.02",
        "ffn=swiglu warmup=0",
        "ffn=swiglu warmup=0.02",
    ]
    assert found[3].arch == "gpt2"
    assert found[3].sets == {"model": {"ffn": "swiglu"}, "train": {"warmup": "0.02"}}


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("model.layer=1,2", "no such field; did you mean layers"),
        ("layers=1,2", "must be model.FIELD=A,B"),
        ("model.layers=1", "two or more different values"),
        ("model.layers=1,", "must be model.FIELD=A,B"),
        ("model.layers=1,x", "must be a whole number"),
        ("model.norm=rmsnorm,x", "must be one of"),
        ("train.seed=1,2", "the study or the data decides it"),
    ],
)
def test_a_wrong_grid_is_refused(grid: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ladder.grid([grid], "transformer")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--arch", "foo,cnn"], "--arch foo: no such architecture"),
        (["--arch", "vaswani"], "--arch vaswani: has an encoder"),
        (["--arch", "cnn,cnn"], "--arch cnn,cnn: cnn is there twice"),
        (["--arch", ","], "--arch ,: must be names, separated by commas"),
        (["--tasks", ""], "--tasks : must be names, separated by commas"),
        (["--lr", "0,1"], "--lr 0,1: must be positive numbers"),
        (["--tokens", "1k", "--budget", "1m"], "exclude each other"),
        (["--plot", "a.gif"], "must end in .png, .svg or .pdf"),
        (["--tasks", "text", "--task", "text"], "--task and --tasks exclude each other"),
        (["--tasks", "foo:x"], "--task foo: no such task"),
        (["--set", "train.threads=1"], "--set train.threads: the study decides it"),
        (["--resume", "nothing"], "--resume nothing: not a study"),
        (["--resume", "x", "--seeds", "2"], "--seeds and --resume exclude each other"),
        (["--data", "nothing.txt"], "nothing.txt: no such file"),
        (["--grid", "model.width=16,512", "--task", "copy"], "width=512: has .* parameters"),
    ],
    ids=str,
)
def test_wrong_flags_leave_nothing(tfm: Tfm, args: list[str], said: str) -> None:
    import re

    assert re.search(said.replace("(", r"\("), tfm.error("ablate", *args, "-q"))
    assert not list((tfm.folder).glob("studies/*"))
