"""`--track`: what trackers show, and that none of them can touch a training.

TensorBoard's own reader checks what TensorBoard gets; the other ways a tracker can behave are those
of the plugins in `PLUGINS`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import pytest
from conftest import Tfm
from helpers import DOMAINS, SMALL_RUN, log_without_times, saved_weights

from tfm.core.errors import UsageError
from tfm.core.runs.run import Run
from tfm.core.trackers import tracker
from tfm.core.trackers.process import TrackerProcess
from tfm.core.trackers.tracker import TrackedRun

PLUGINS = '''
import atexit, json, os, signal, sys, threading, time

class Recorder:
    """Writes what it gets; behaves otherwise like the worst of packages."""
    def __init__(self, run):
        print("hello from a tracker")
        print("and an error", file=sys.stderr)
        for name in ("SIGINT", "SIGTERM"):
            signal.signal(getattr(signal, name), lambda *_: os._exit(1))
        threading.Thread(target=time.sleep, args=(0.1,)).start()
        atexit.register(print, "goodbye")
        self.file = open(run.folder / "record.jsonl", "a")
        self.write("begin", run.step, {"name": run.name, "id": run.id, "config": run.config})
    def write(self, kind, step, *what):
        print(json.dumps([kind, step, *what]), file=self.file, flush=True)
    def values(self, step, values): self.write("values", step, values)
    def text(self, step, name, text): self.write("text", step, name, text)
    def image(self, step, name, png): self.write("image", step, name, png.hex())
    def audio(self, step, name, wav): self.write("audio", step, name, wav.hex())
    def close(self): self.write("close", 0)

class Full(Recorder):
    def values(self, step, values): raise OSError(28, "No space left on device")

class Dying(Recorder):
    def __init__(self, run): os.kill(os.getpid(), 9)

class Hanging(Recorder):
    def values(self, step, values): time.sleep(100)
'''
NAMES = {"recorder": "Recorder", "full": "Full", "dying": "Dying", "hanging": "Hanging",
         "broken": "Missing"}  # fmt: skip
TRAIN = ("train", "--task", "text", "--tokenizer", "byte", *SMALL_RUN[:-1])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the trackers of `PLUGINS`."""
    site = tmp_path_factory.mktemp("site")
    (site / "tfm_worst.py").write_text(PLUGINS)
    metadata = site / "tfm_worst-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tfm-worst\nVersion: 1\n")
    lines = [f"{name} = tfm_worst:{kind}" for name, kind in NAMES.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[tfm.trackers]", *lines]) + "\n")
    return site


def records(run: Path) -> list[Any]:
    text = (run / "trackers/recorder/record.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def steps_of(record: list[Any]) -> list[int]:
    """The steps whose loss was shown."""
    return [step for kind, step, *what in record if kind == "values" and "train/loss" in what[0]]


def shown(run: Path) -> Any:
    """What TensorBoard's reader finds."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    kinds = ("scalars", "images", "audio", "tensors")
    found = reading.EventAccumulator(
        str(run / "trackers/tensorboard"), size_guidance=dict.fromkeys(kinds, 0)
    )
    return found.Reload()


# -- what is shown -------------------------------------------------------------------------------


def test_tensorboard_shows_the_log_a_sample_and_the_config(tfm: Tfm, text: Path) -> None:
    pytest.importorskip("tensorboard")
    plain = ("--data", text, "--set", "train.eval_every=2", "--save-every", 2)
    tfm(*TRAIN, 6, *plain, "--run", "plain")
    done = tfm(*TRAIN, 6, *plain, "--run", "run", "--track", "tensorboard")
    assert done.text == "run\n"
    run = tfm.folder / "run"
    assert saved_weights(run, 6) == saved_weights(tfm.folder / "plain", 6)
    assert log_without_times(run) == log_without_times(tfm.folder / "plain")
    found, log = shown(run), Run(run).log()
    steps = [entry for entry in log if "loss" in entry]
    for name in ("loss", "lr", "gradient_norm"):
        values = [(e.step, pytest.approx(e.value)) for e in found.Scalars(f"train/{name}")]
        assert values == [(entry["step"], entry[name]) for entry in steps]
    assert all(e.value > 0 for e in found.Scalars("train/tokens_per_second"))
    nats = [(e.step, pytest.approx(e.value)) for e in found.Scalars("heldout/nats_per_token")]
    evaluations = [entry for entry in log if entry.get("event") == "eval"]
    assert nats == [(e["step"], e["nats_per_token"]) for e in evaluations]
    scores = log[-1]["scores"]
    (final,), (floor,) = (found.Scalars(f"final/{x}") for x in ("bits_per_byte", "floor/gzip"))
    assert final.value == pytest.approx(scores["bits_per_byte"])
    assert floor.value == pytest.approx(scores["floor"]["gzip"])
    (config,) = found.Tensors("config")
    assert json.loads(config.tensor_proto.string_val[0]) == Run(run).config
    *_, sample = found.Tensors("sample/text")
    assert sample.step == 6
    first = sample.tensor_proto.string_val[0].decode().splitlines()[0]
    assert first.strip() and first.strip() in done.err
    tfm("verify", run)
    assert tfm("runs", "--runs", ".").text.count("done") == 2

    # killed after step 6: TensorBoard shows the steps that are taken again once
    shutil.rmtree(run / "checkpoints/000006")
    tfm("train", "--resume", run, "--steps", 5)
    again = shown(run).Scalars("train/loss")
    assert [e.step for e in again] == [1, 2, 3, 4, 5]
    assert shown(run).Scalars("final/bits_per_byte")[-1].step == 5
    assert len(list((run / "trackers/tensorboard").iterdir())) == 2


@pytest.mark.parametrize("task", ["image", "series", "audio"])
def test_samples_are_pictures_forecasts_and_sound(
    tfm: Tfm, domains: Path, site: Path, task: str
) -> None:
    from PIL import Image

    pytest.importorskip("tensorboard")
    data, _, _ = DOMAINS[task]
    args = [domains / x if (domains / str(x)).exists() else x for x in data]
    track = {"PYTHONPATH": str(site), "TFM_TRACK": "tensorboard recorder"}
    tfm("train", "--task", task, *args, *SMALL_RUN, "--run", "run", "-q", env=track)
    found = shown(tfm.folder / "run")
    *_, image = found.Images("sample/image")
    picture = Image.open(io.BytesIO(image.encoded_image_string))
    assert image.step == 2 and (image.width, image.height) == picture.size
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 4  # type: ignore[arg-type]
    kinds = {kind for kind, *_ in records(tfm.folder / "run")}
    assert ("audio" in kinds) == (task == "audio") and "text" not in kinds
    if task == "audio":
        *_, sound = found.Audio("sample/audio")
        with wave.open(io.BytesIO(sound.encoded_audio_string)) as clip:
            assert clip.getframerate() == sound.sample_rate == 1000
            assert any(clip.readframes(clip.getnframes()))


def test_a_plugin_gets_everything_also_from_a_config_file(tfm: Tfm, text: Path, site: Path) -> None:
    (tfm.folder / "my.toml").write_text('track = "recorder"\n')
    env = {"PYTHONPATH": str(site), "TFM_CONFIG": "my.toml"}
    tfm(*TRAIN, 2, "--data", text, "--run", "run", env=env)
    run = tfm.folder / "run"
    (kind, step, about), *rest, last = records(run)
    assert (kind, step, about["config"]) == ("begin", 0, Run(run).config)
    versions, threads = about["config"]["versions"], about["config"]["train"]["threads"]
    assert versions["torch"] and threads and about["config"]["device"] == "cpu"
    assert last[0] == "close"
    assert steps_of(rest) == [1, 2]

    tfm("train", "--resume", run, "--steps", 3, env={"PYTHONPATH": str(site)})
    again = records(run)[len(rest) + 2 :]
    assert again[0][:2] == ["begin", 2] and again[0][2]["id"] == about["id"]
    done = tfm("train", "--resume", run, "--steps", 4)  # the plugin is gone
    (warning,) = [line for line in done.err.splitlines() if "warning" in line]
    assert "--track recorder: no such tracker" in warning and records(run)[-1] == again[-1]


# -- what a tracker cannot do --------------------------------------------------------------------


def test_a_tracker_that_fails_costs_a_warning(tfm: Tfm, text: Path, site: Path) -> None:
    names = ("full", "dying", "broken", "recorder")
    track = [word for name in names for word in ("--track", name)]
    arguments = (*TRAIN, 30, "--data", text, "--set", "train.eval_every=10")
    done = tfm(*arguments, "--run", "run", *track, env={"PYTHONPATH": str(site)})
    assert done.text == "run\n" and "hello" not in done.err and "goodbye" not in done.err
    warnings = [line for line in done.err.splitlines() if "warning" in line]
    for name, reason in (
        ("full", "OSError: [Errno 28] No space left on device"),
        ("dying", "it ended with code -9"),
        ("broken", "ConfigError: tracker broken: tfm_worst:Missing failed"),
    ):
        said = f"warning: the tracker {name} failed, training goes on without it: {reason}"
        assert sum(line.startswith(said) for line in warnings) == 1
    assert len(warnings) == 3
    record = records(tfm.folder / "run")
    assert steps_of(record) == list(range(1, 31))
    assert record[-1][0] == "close"
    tfm(*arguments, "--run", "plain")
    assert saved_weights(tfm.folder / "run", 30) == saved_weights(tfm.folder / "plain", 30)


def tracked(folder: Path) -> TrackedRun:
    return TrackedRun(folder, "run", "0" * 32, 0, {})


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_tracker_that_hangs_is_not_waited_for(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    process = TrackerProcess("hanging", tracked(tmp_path / "hanging"))
    began = time.monotonic()
    for step in range(50_000):  # more than a pipe holds
        process.values(step, {"train/loss": 1.0})
    assert time.monotonic() - began < 5 and process.problem() is None
    while not (tmp_path / "hanging/record.jsonl").exists():
        time.sleep(0.05)
    assert process.close(0.3) == "not closed within 0.3 s"
    with pytest.raises(ProcessLookupError):
        os.killpg(process._process.pid, 0)


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_saves_and_the_tracker_is_closed(tfm: Tfm, text: Path, site: Path) -> None:
    """The signal reaches the whole process group, as from a terminal."""
    run = tfm.folder / "run"
    env = {**tfm.env, "PYTHONPATH": str(site)}
    arguments = (*TRAIN, 100_000, "--data", text, "--run", "run", "--track", "recorder")
    process = Tfm(tfm.folder, env).start(*arguments, start_new_session=True)
    record = run / "trackers/recorder/record.jsonl"
    while not (record.exists() and "train/loss" in record.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and not out, err
    assert b"resume with" in err and b"warning" not in err
    step = Run(run).checkpoint().step
    assert steps_of(records(run)) == list(range(1, step + 1))
    assert records(run)[-1][0] == "close"


def test_a_training_that_is_killed_ends_its_tracker(tmp_path: Path, site: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from tfm.core.trackers.process import TrackerProcess
from tfm.core.trackers.tracker import TrackedRun
process = TrackerProcess("recorder", TrackedRun(Path({str(tmp_path)!r}), "run", "0", 0, {{}}))
process.values(1, {{"train/loss": 1.0}})
while not Path({str(tmp_path / "record.jsonl")!r}).exists():
    time.sleep(0.05)
os.abort()
"""
    env = {**os.environ, "PYTHONPATH": str(site)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode
    end = time.monotonic() + 30
    while '"close"' not in (tmp_path / "record.jsonl").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)


# -- names ---------------------------------------------------------------------------------------


def test_an_unknown_tracker_and_one_that_is_not_installed_are_refused(
    tfm: Tfm, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = tfm.error(*TRAIN, 2, "--data", text, "--run", "run", "--track", "tensorbord")
    assert "--track tensorbord: no such tracker; did you mean tensorboard?" in error
    assert not (tfm.folder / "run").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"--track wandb: needs wandb; .* pip install .*\[wandb\]"):
        tracker.check(["wandb"])


def test_trackers_are_not_imported_by_the_training() -> None:
    code = (
        "import sys; from tfm.cli.train import command; "
        "from tfm.core.trackers import process, tensorboard, trackio, wandb; "
        "sys.exit(bool({'tensorboard', 'wandb', 'trackio', 'google.protobuf'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- wandb and trackio, where they are installed -------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_keep_the_run_inside_its_folder(tfm: Tfm, text: Path, name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    tfm(*TRAIN, 3, "--data", text, "--run", "run", "--track", name)
    done = tfm("train", "--resume", "run", "--steps", 4)
    assert "warning" not in done.err and done.text == "run\n"
    folder = tfm.folder / "run/trackers" / name
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"train/loss" in kept and b"final/bits_per_byte" in kept
    if name == "wandb":
        ids = {path.name.rpartition("-")[2] for path in folder.glob("offline-run-*")}
        assert len(ids) == 1 and len(list(folder.glob("offline-run-*"))) == 2
    assert {path.name for path in tfm.folder.iterdir()} == {"run"}
