"""Faults of the machine and of strangers: disks, mounts, payloads, terminals, signals."""

from __future__ import annotations

import io
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Tfm, Trained
from hypothesis import given
from hypothesis import strategies as st

from tfm.cli.drawing import Prompt, Sampler
from tfm.cli.render import printable
from tfm.core.config import SampleConfig
from tfm.core.errors import DamagedError, DataError, UsageError
from tfm.core.files import to_json, write_manifest
from tfm.core.ops.device import pick_device
from tfm.core.runs.checkpoints import identity
from tfm.core.runs.run import Run

posix = pytest.mark.skipif(os.name != "posix", reason="mounts, limits and terminals of POSIX")


@pytest.fixture
def run(tfm: Tfm, trained: Trained) -> Run:
    """A run of 20 steps to do anything to."""
    shutil.copytree(trained.path, tfm.folder / "run")
    return Run(tfm.folder / "run")


# -- disks ---------------------------------------------------------------------------------------


@posix
def test_a_read_only_mount_is_read_and_never_trained_in(tfm: Tfm, run: Run, text: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mounts of one's own here")
    sealed = "mount --bind . . && mount -o remount,bind,ro . && cd . && exec "

    def call(*args: object) -> tuple[int, bytes, str]:
        command = ["unshare", "-m", "sh", "-c", f'cd / && cd "$0" && {sealed} "$@"', tfm.folder]
        done = subprocess.run(
            [*map(str, command), "env", "-C", str(tfm.folder), *tfm.command(*args)],
            cwd=tfm.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        return done.returncode, done.stdout, done.stderr.decode()

    quick = ("--task", "text", "--data", text, "--size", "nano", "--steps", 1, "-q")
    code, out, err = call("train", *quick, "--run", "new")
    assert (code, out) == (1, b"") and "--run new: cannot be written (Read-only" in err, err
    assert err.count("\n") == 1
    code, out, err = call("train", "--resume", "run", "--steps", 30)
    assert (code, out) == (1, b"") and "run: cannot be written (Read-only" in err, err
    code, out, err = call("sample", "run", "-p", "a", "--length", 3)
    assert (code, len(out.decode()), err) == (0, 3, "")


@posix
def test_a_limit_on_the_size_of_files_leaves_the_checkpoint_before(tfm: Tfm, run: Run) -> None:
    """`ulimit -f`: weights do not fit, so that every save fails as on a full disk."""
    import resource

    before = Run(run.path).checkpoint().path
    sound = {p.name: p.read_bytes() for p in before.iterdir()}
    size = len(sound["optimizer.safetensors"]) // 2
    process = tfm.start(
        *("train", "--resume", "run", "--steps", 22, "--save-every", 1, "-q"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    out, err = process.communicate(timeout=120)
    line = err.decode().splitlines()[-1]
    assert (process.returncode, out) == (1, b"")
    assert line.startswith("Error: run/checkpoints/000021: not saved (File too large), about")
    assert "earlier checkpoints are intact" in line
    assert {p.name: p.read_bytes() for p in before.iterdir()} == sound
    assert [p.name for p in before.parent.iterdir()] == [before.name], "nothing half-written"
    Run(run.path).load_model()


# -- payloads ------------------------------------------------------------------------------------


class Payload:
    """What would make a folder, if it were ever unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_payload_in_a_checkpoint_is_never_run(tfm: Tfm, run: Run, name: str) -> None:
    """Its checksums are right: who can write a checkpoint can write a manifest."""
    import numpy as np
    import torch

    from tfm.core.train.peers import ALONE
    from tfm.core.train.state import _restored

    marker = tfm.folder / "marker"
    checkpoint = run.checkpoint()
    payload = Payload(marker)
    torch.save({"weights": payload}, checkpoint.path / name)
    for data in (
        (checkpoint.path / name).read_bytes(),
        pickle.dumps(payload),
        np.array([payload], object).dumps(),
    ):
        assert not marker.exists()
        (checkpoint.path / name).write_bytes(data)
        (checkpoint.path / "manifest.json").unlink()
        write_manifest(checkpoint.path, {"run": identity(run.path)})
        with pytest.raises(DamagedError, match=name):
            _restored(run, checkpoint, torch.device("cpu"), ALONE)
        assert not marker.exists()
    pickle.loads(pickle.dumps(payload))
    assert marker.is_dir(), "the payload is one"


def test_a_payload_among_the_data_is_never_run(tfm: Tfm) -> None:
    import numpy as np

    marker = tfm.folder / "marker"
    np.save(tfm.folder / "x.npy", np.array([Payload(marker)], object), allow_pickle=True)
    error = tfm.error("train", "--task", "image", "--data", "x.npy", "--steps", 1)
    assert "x.npy" in error and not marker.exists()


# -- what the model may see ----------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("strict", [False, True])
def test_a_prompt_of_about_the_context(
    trained: Trained, capsys: pytest.CaptureFixture[str], more: int, strict: bool
) -> None:
    run = Run(trained.path)
    task, tokenizer, model = run.task(), run.tokenizer(), run.load_model()
    context = model.config.context
    sampler = Sampler(
        task,
        tokenizer,
        model,
        SampleConfig(length=2, greedy=True),
        task.SampleOptions(),
        strict=strict,
        quiet=False,
    )
    own = len(task.prompt(b"", tokenizer, task.SampleOptions()))  # a begin token
    prompt = Prompt(b"a" * (context - own + more))
    if more > 0 and strict:
        with pytest.raises(DataError, match=f"{context + 1} tokens, the context {context}"):
            sampler.sample(prompt, 1)
        return
    job = sampler.sample(prompt, 1)
    assert len(job.samples[0].ids) == 2 and len(job.sequence) == context + more
    said = capsys.readouterr().err
    assert (f"the context of {context}" in said) == (more > 0)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(UsageError, match=f"--device {device}: this machine has none"):
        pick_device(device)
    assert pick_device("auto").type == "cpu"


def test_a_run_whose_config_is_of_a_newer_version(tfm: Tfm, run: Run) -> None:
    config = {**run.config, "format": 99, "tfm": "9.1"}
    (run.path / "config.json").write_bytes(to_json(config))
    assert "made by tfm 9.1, which is newer; upgrade" in tfm.error("eval", "run")
    config = {**run.config, "model": {**run.config["model"], "layerz": 3}}
    (run.path / "config.json").write_bytes(to_json(config))
    (run.path / "manifest.json").unlink()
    (run.path / "checkpoints").rename(tfm.folder / "aside")
    (run.path / "log.jsonl").unlink()
    write_manifest(run.path, {})
    (tfm.folder / "aside").rename(run.path / "checkpoints")
    checkpoint = run.checkpoint().path
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint, {"run": identity(run.path)})
    error = tfm.error("sample", "run")
    assert "unknown layerz (did you mean layers" in error and "upgrade" in error


# -- streams -------------------------------------------------------------------------------------


@given(st.text())
def test_no_control_byte_reaches_a_terminal(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert printable(shown) == shown


@posix
def test_a_sample_with_control_bytes_is_spelled_out_on_a_terminal(tfm: Tfm) -> None:
    import pty

    (tfm.folder / "x.txt").write_text("\x1b]0;title\x07\x1b[31m\x9b2J" * 200)
    tfm(
        *("train", "--task", "text", "--data", "x.txt", "--tokenizer", "char", "--size", "nano"),
        *("--steps", 1, "--run", "run", "-q"),
    )
    main, side = pty.openpty()
    process = tfm.start("sample", "run", "--length", 200, "-q", stdout=side)
    os.close(side)
    shown = b""
    try:
        while block := os.read(main, 4096):
            shown += block
    except OSError:  # Linux, at the end of a terminal
        pass
    os.close(main)
    process.communicate()
    assert process.returncode == 0 and b"\\x1b" in shown
    assert not {*shown} & {*range(9), *range(11, 13), *range(14, 32), 0x7F}
    piped = tfm("sample", "run", "--length", 200, "-q").out
    assert b"\x1b" in piped, "a pipe gets what was drawn"


@posix
def test_an_error_about_a_strange_name_is_spelled_out_on_a_terminal(tfm: Tfm) -> None:
    import pty

    main, side = pty.openpty()
    process = tfm.start("eval", "\x1b[31mrun", stderr=side)
    os.close(side)
    shown = os.read(main, 4096)
    process.communicate()
    os.close(main)
    assert process.returncode == 2
    assert shown.startswith(b"Error: \\x1b[31mrun: no such run"), shown


def test_ids_come_back_as_they_are_or_guarded_against_spreadsheets() -> None:
    import numpy as np

    from tfm.tasks._series.clock import Clock
    from tfm.tasks._series.output import Forecast
    from tfm.tasks.series import SeriesSampleOptions, SeriesTask

    for name, cell in (("=1+1", "'=1+1"), ("@x", "'@x"), ("-1", "'-1"), ("+1", "'+1"), ("a", "a")):
        forecast = Forecast(name, np.zeros(3), np.ones((2, 1)), Clock(), 3)
        for options, wanted in (
            (SeriesSampleOptions(), name),
            (SeriesSampleOptions(guard_formulas=True), cell),
        ):
            out = io.BytesIO()
            SeriesTask(SeriesTask.Options()).write([forecast], None, options, out)
            assert out.getvalue().decode().splitlines()[1].split(",")[0] == wanted


@posix
def test_standard_input_is_not_waited_for(tfm: Tfm, trained: Trained) -> None:
    """Of endless input no more is held than the line at hand."""
    process = tfm.start("sample", trained.path, "--length", 1, "-q", stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"the quick\n")
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready and process.stdout.readline().endswith(b"\n"), "before the input has ended"
    process.send_signal(signal.SIGINT)
    process.wait(60)  # before `communicate` ends its input
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (-signal.SIGINT, b"")


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_draw_at_once(tfm: Tfm, trained: Trained, number: int) -> None:
    process = tfm.start("sample", trained.path, "-p", "a", "--length", 1_000_000)
    assert process.stdout is not None and process.stdout.read(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (-number, b"")


@posix
def test_a_terminal_that_is_closed_stops_a_training_after_a_save(tfm: Tfm, text: Path) -> None:
    """The terminal of the process goes away while the progress bar is drawn on it."""
    import pty

    args = ("train", "--data", text, "--tokenizer", "byte", "--size", "nano", "--steps", 100_000)
    child, terminal = pty.fork()
    if not child:
        try:
            os.chdir(tfm.folder)
            os.execv(sys.executable, tfm.command(*args, "--run", "run"))
        finally:
            os._exit(1)
    shown = b""
    while b"tokens/s" not in shown:
        shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGHUP
    run = Run(tfm.folder / "run")
    assert run.status()["state"] == "interrupted" and run.status()["step"] > 0
    assert len([e for e in run.log() if "loss" in e]) == run.status()["step"]


@posix
def test_a_small_temporary_folder_is_one_line(tfm: Tfm) -> None:
    """Pixels are mapped from a file in TMPDIR: on a file system of 100 kB, and under a limit on
    the size of files. A map without space would end the process by SIGBUS."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 32)).astype(np.uint8)
    np.save(tfm.folder / "a.npy", pixels)
    train = tfm.command("train", "--data", "a.npy", "--steps", 1, "--size", "nano", "-q")
    (tfm.folder / "small").mkdir()
    mounted = "mount -t tmpfs -o size=100k tmpfs small && exec env TMPDIR=small "
    cases = [["bash", "-c", 'ulimit -f 50; exec "$@"', "-"]]
    if not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        cases.append(["unshare", "-m", "sh", "-c", mounted + '"$@"', "-"])
    for case in cases:
        done = subprocess.run([*case, *train], cwd=tfm.folder, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == "", done
        assert "needs 204,800 bytes" in done.stderr and "TMPDIR" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tfm.folder / "runs").exists()
