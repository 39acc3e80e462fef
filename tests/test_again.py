"""`tfm verify` and `tfm rerun`: whether a run is what was written, resumes exactly, and comes out
the same when it is repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from conftest import Tfm, Trained
from helpers import prose

from tfm.core.files import log_line
from tfm.core.runs.reproduce import differences
from tfm.core.runs.run import Run


def test_a_sound_run_is_verified_and_resumes_exactly(tfm: Tfm, trained: Trained) -> None:
    said = tfm("verify", trained.path, "--resume-exact", "--json")
    assert "killed in step 6, resumed from step 3" in said.err
    found = said.json()
    assert (found["damaged"], found["resume_exact"], found["differences"]) == ([], True, [])
    listed = [p for p in trained.path.rglob("*") if p.is_file()]
    unlisted = {"lock", "lock.pid"}
    assert found["checked"] == len([p for p in listed if p.name not in unlisted])


def test_each_damaged_file_is_a_line(tfm: Tfm, trained: Trained) -> None:
    path = tfm.folder / "run"
    shutil.copytree(trained.path, path)
    log = path / "log.jsonl"
    log.write_text(log.read_text().replace('"lr"', '"LR"', 2))
    (path / "config.json").write_text("{")
    (path / "tokenizer.json").unlink()
    weights = path / "checkpoints/000020/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    shutil.copytree(path / "checkpoints/000020", path / "checkpoints/000010")
    (path / "checkpoints/000010/manifest.json").write_text("{}")
    said = tfm("verify", "run", code=3)
    lines = dict(line.split(": ", 1) for line in said.text.splitlines())
    names = ("config.json", "tokenizer.json", "checkpoints/000010/manifest.json")
    expected = {*names, "checkpoints/000020/model.safetensors", "log.jsonl"}
    assert {str(Path(name).relative_to("run")) for name in lines} == expected
    assert lines["run/log.jsonl"] == "line 1, 2 damaged" and "missing" in lines[f"run/{names[1]}"]
    assert said.err.startswith("Error: run: 5 of ") and said.err.count("\n") == 1


def test_a_run_repeated_is_the_same(tfm: Tfm, trained: Trained) -> None:
    """Also one that was trained for longer afterwards, and one that has no end yet."""
    path = tfm.folder / "run"
    shutil.copytree(trained.path, path)
    tfm("train", "--resume", "run", "--steps", 24, "-q")
    said = tfm("rerun", "run", "--json", "-q").json()
    assert (said["run"], said["step"], said["same"], said["differences"]) == ("run-2", 24, True, [])
    steps = [entry["step"] for entry in Run(tfm.folder / "run-2").log() if "loss" in entry]
    assert steps == list(range(1, 25))

    run = Run(path)
    run.truncate_after(24)  # what an interruption leaves
    entries = run.log()
    next(e for e in entries if e["step"] == 8)["loss"] += 1e-6
    (path / "log.jsonl").write_text("".join(map(log_line, entries)))
    told = tfm("rerun", "run", "--run", "other", code=5)
    assert told.text == "other\n"
    assert "Error: other: not the same as run: step 8, training: loss" in told.err
    assert Run(tfm.folder / "other").status()["state"] == "interrupted"
    assert differences(Run(tfm.folder / "run-2"), Run(tfm.folder / "other"))[0].startswith(
        "the log has"
    ), "but for the end, it is the same"


def test_what_cannot_be_repeated_is_said(tfm: Tfm, trained: Trained) -> None:
    path = tfm.folder / "run"
    shutil.copytree(trained.path, path)
    (tfm.folder / "b.txt").write_text(prose(12_000, seed=3))
    error = tfm.error("rerun", "run", "--data", "b.txt")
    assert "b.txt" in error and "changed" in error
    assert not (tfm.folder / "run-2").exists()
    config = json.loads((path / "config.json").read_text())
    assert config["versions"]["torch"]
    shutil.rmtree(path / "checkpoints/000020")
    assert "no checkpoint yet" in tfm.error("rerun", "run")
