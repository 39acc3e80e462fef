"""A run that was interrupted, in any way, ends as the one that was not."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Tfm
from helpers import log_without_times, prose, saved_weights

from tfm.core.runs.run import Run

STEPS = 50
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def training(text: Path, run: object, *more: object, steps: int = STEPS) -> tuple[object, ...]:
    """Some seconds of training, with a dropout that hangs on seed and step."""
    return (
        *("train", "--task", "text", "--data", text, "--tokenizer", "byte", "--size", "nano"),
        *("--steps", steps, "--run", run, "--set", "model.dropout=0.1"),
        *("--set", "train.batch=8", *more),
    )


def interrupt(process: subprocess.Popen[bytes], path: Path, number: int, steps: int) -> str:
    """Sends the signal once the log has so many lines; gives what was said on stderr."""
    deadline = time.monotonic() + 60
    log = path / "log.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            break
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -number, err.decode()
    assert out == b""
    return err.decode()


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    Tfm(folder)(*training(text, "run", "-q"))
    return folder / "run"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_end_is_the_same(tfm: Tfm, text: Path, whole: Path, number: int) -> None:
    path = tfm.folder / "run"
    # --save-every is no part of what is learned
    fresh = number == signal.SIGKILL  # which a process cannot pass on
    process = tfm.start(*training(text, "run", "--save-every", 4), fresh=fresh)
    said = interrupt(process, path, number, steps=8)
    saved = Run(path).status()
    listed = tfm("runs", "--runs", ".")
    assert "interrupted" in listed.text
    assert listed.err == "resume with: tfm train --resume run\n"
    assert saved["state"] == "interrupted" and 4 <= saved["step"] < STEPS
    if number != signal.SIGKILL:
        assert f"saved at step {saved['step']}; resume with: tfm train --resume run" in said
        assert log_without_times(path)[-1]["step"] == saved["step"], "nothing is lost"
        assert "Error" not in said
    resumed = tfm("train", "--resume", "run")
    assert resumed.text == "run\n"
    assert f"resuming from step {saved['step']} of {STEPS}" in resumed.err
    assert saved_weights(path, STEPS) == saved_weights(whole, STEPS)
    assert log_without_times(path) == log_without_times(whole)
    assert Run(path).status()["state"] == "done"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_look_does_not_stop_it(tfm: Tfm, text: Path, whole: Path) -> None:
    path = tfm.folder / "run"
    process = tfm.start(*training(text, "run"))
    deadline = time.monotonic() + 60
    while not (path / "log.jsonl").exists() or (path / "log.jsonl").read_bytes().count(b"\n") < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"run\n")
    *_, looked, last = Run(path).checkpoints()
    assert last.step == STEPS and 5 <= looked.step < STEPS
    before, saved, after = err.decode().partition(f"saved at step {looked.step}\nsample:\n  ")
    assert saved and after.count("sample:") == 1
    assert saved_weights(path, STEPS) == saved_weights(whole, STEPS)


def test_before_the_first_step_it_leaves_at_once_and_nothing_behind(tfm: Tfm, text: Path) -> None:
    process = tfm.start(*training(text, "run"))
    assert process.stderr is not None
    assert process.stderr.readline(), "it is under way"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert not list(tfm.folder.iterdir())


def test_a_run_killed_while_it_was_scored_is_scored_when_resumed(
    tfm: Tfm, text: Path, whole: Path
) -> None:
    shutil.copytree(whole, tfm.folder / "run")
    log = tfm.folder / "run/log.jsonl"
    *entries, final = log.read_text().splitlines(keepends=True)
    assert json.loads(final)["event"] == "final"
    log.write_text("".join(entries))
    tfm("train", "--resume", "run")
    assert log_without_times(tfm.folder / "run") == log_without_times(whole)


def test_half_a_line_of_the_log_is_what_a_kill_leaves(tfm: Tfm, whole: Path) -> None:
    shutil.copytree(whole, tfm.folder / "run")
    with (tfm.folder / "run/log.jsonl").open("a") as log:
        log.write(f'{{"step": {STEPS + 1}, "lo')
    assert tfm("runs", "--runs", ".", "--json").json()["runs"][0]["state"] == "done"


def test_a_damaged_checkpoint_costs_one_interval(tfm: Tfm, text: Path, whole: Path) -> None:
    path = tfm.folder / "run"
    interrupt(tfm.start(*training(text, "run", "--save-every", 4)), path, signal.SIGTERM, 9)
    for _ in ("interrupted", "at its end"):
        *_, before, last = Run(path).checkpoints()
        with (last.path / "optimizer.safetensors").open("r+b") as file:
            file.seek(5000)
            file.write(b"\x01")
        resumed = tfm("train", "--resume", "run")
        assert "optimizer.safetensors: damaged" in resumed.err
        assert f"resuming from step {before.step} " in resumed.err
        assert saved_weights(path, STEPS) == saved_weights(whole, STEPS)
        assert log_without_times(path) == log_without_times(whole)


def test_a_run_may_be_trained_longer(tfm: Tfm, whole: Path) -> None:
    shutil.copytree(whole, tfm.folder / "run")
    assert "done" in tfm.error("train", "--resume", "run")
    assert f"at step {STEPS} already" in tfm.error("train", "--resume", "run", "--steps", 30)
    longer = tfm("train", "--resume", "run", "--steps", STEPS + 4)
    assert f"{STEPS + 4} steps in total instead of {STEPS}" in longer.err
    assert Run(tfm.folder / "run").status()["step"] == STEPS + 4
    steps = [entry["step"] for entry in log_without_times(tfm.folder / "run") if "loss" in entry]
    assert steps == list(range(1, STEPS + 5))
    assert tfm("runs", "--runs", ".", "--json").json()["runs"][0]["state"] == "done"


def test_a_run_killed_within_a_line_of_its_log_may_be_trained_longer(tfm: Tfm, whole: Path) -> None:
    shutil.copytree(whole, tfm.folder / "run")
    with (tfm.folder / "run/log.jsonl").open("a") as log:
        log.write(f'{{"step": {STEPS + 1}, "lo')
    tfm("train", "--resume", "run", "--steps", STEPS + 1, "-q")
    assert Run(tfm.folder / "run").status()["state"] == "done"


def test_other_flags_than_steps_are_the_runs_own(tfm: Tfm, whole: Path) -> None:
    shutil.copytree(whole, tfm.folder / "run")
    error = tfm.error("train", "--resume", "run", "--steps", 99, "--context", 32)
    assert "--context and --resume exclude each other" in error


def test_data_that_changed_is_not_gone_on_with(tfm: Tfm) -> None:
    data = tfm.folder / "a.txt"
    data.write_text(prose(5000))
    tfm(*training(data, "run", "-q", steps=2))
    data.write_text(prose(5000).replace("fox", "cat"))
    error = tfm.error("train", "--resume", "run", "--steps", 4)
    assert "a.txt" in error and "changed" in error
    data.unlink()
    assert "a.txt" in tfm.error("train", "--resume", "run", "--steps", 4)


def test_one_writer_at_a_time(tfm: Tfm, text: Path) -> None:
    path = tfm.folder / "run"
    process = tfm.start(*training(text, "run", steps=100_000), fresh=True)  # its own process id
    deadline = time.monotonic() + 60
    while not (path / "log.jsonl").exists() or not (path / "log.jsonl").stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert f"process {process.pid} is writing" in tfm.error("train", "--resume", "run")
    assert tfm("runs", "--runs", ".", "--json").json()["runs"][0]["state"] == "running"
    interrupt(process, path, signal.SIGINT, steps=2)
    assert tfm("runs", "--runs", ".", "--json").json()["runs"][0]["state"] == "interrupted"


def test_fine_tuning_starts_from_the_weights_of_a_run(tfm: Tfm, whole: Path) -> None:
    other = tfm.folder / "other.txt"
    other.write_text(prose(5000, seed=9))
    common = ("train", "--task", "text", "--data", other, "--steps", 2, "-q", "--run")
    tfm(*common, "fresh", "--tokenizer", "byte", "--size", "nano")
    tfm(*common, "tuned", "--init", whole)
    fresh, tuned = (log_without_times(tfm.folder / name)[0]["loss"] for name in ("fresh", "tuned"))
    assert tuned < 0.8 * fresh
    assert json.loads((tfm.folder / "tuned/config.json").read_text())["init"] == str(whole)
    for flag, value in (("--size", "tiny"), ("--tokenizer", "char"), ("--context", 32)):
        error = tfm.error(*common, "no", "--init", whole, flag, value)
        assert f"{flag} and --init exclude each other" in error
    assert "is a text run" in tfm.error(*common, "no", "--init", whole, "--task", "byte")
    (tfm.folder / "noise.bin").write_bytes(bytes(range(256)) * 20)
    error = tfm.error("train", "--init", whole, "--data", "noise.bin", "--steps", 2)
    assert "noise.bin: not UTF-8" in error, "the task is that of the run"


def test_data_that_moved_is_asked_for_by_name(tfm: Tfm) -> None:
    (tfm.folder / "old.txt").write_text(prose(4000))
    tfm(*training(Path("old.txt"), "run", "-q", steps=2))
    (tfm.folder / "old.txt").rename(tfm.folder / "new.txt")
    said = tfm.error("train", "--resume", "run", "--steps", 3)
    old = tfm.folder / "old.txt"
    assert said == (
        f"Error: run: its data {old} is not there any more; name its new place with --data"
    )
    tfm("train", "--resume", "run", "--steps", 3, "--data", "new.txt", "-q")
    assert Run(tfm.folder / "run").status()["step"] == 3


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
def test_commands_that_are_printed_can_be_pasted(tfm: Tfm) -> None:
    """A name with a space and a quote, in what `train`, `runs` and errors print."""
    (tfm.folder / "a b'c").mkdir()
    (tfm.folder / "data.txt").write_text(prose(4000))
    path = "a b'c/run"
    done = tfm(*training(Path("data.txt"), path, steps=2))
    pasted = next(line for line in done.err.splitlines() if "next: " in line).partition("next: ")[2]
    assert shlex.split(pasted) == ["tfm", "sample", path]
    Run(tfm.folder / path).cut(1)  # as if it had been interrupted
    (record,) = tfm("runs", "--runs", "a b'c", "--json").json()["runs"]
    assert shlex.split(record["resume"]) == ["tfm", "train", "--resume", path]
    tfm(*shlex.split(record["resume"])[1:], "-q")


def test_four_trainings_of_one_second_are_four_runs(tfm: Tfm) -> None:
    (tfm.folder / "data.txt").write_text(prose(4000))
    flags = [
        f for f in training(Path("data.txt"), "run", "-q", steps=2) if f not in ("--run", "run")
    ]
    started = [tfm.start(*flags) for _ in range(4)]
    paths = {process.communicate(timeout=120)[0].decode().strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(paths) == 4 and all((tfm.folder / path / "config.json").exists() for path in paths)
