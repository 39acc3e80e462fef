"""One directory on disk: what was saved comes back bit for bit, or is said to be damaged."""

import json
import string
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trained
from helpers import FakeTokenizer, random_weights, save_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.errors import ConfigError, DamagedError, DivergedError, TfmError, UsageError
from tfm.core.files import write_durably
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence
from tfm.core.runs.catalogue import all_runs, open_run
from tfm.core.runs.checkpoints import KEEP_NEWEST
from tfm.core.runs.run import Run
from tfm.core.train.optim import make_optimizers

SHAPE = ModelConfig(vocab_size=7, layers=1, width=8, heads=2, context=8)
HELDOUT = {"test": [Sequence(np.arange(5)), Sequence(np.arange(3), 2, None, {"rate": 8})]}
CONFIG: dict[str, Any] = {
    "task": "byte",
    "tokenizer": {"kind": "fake"},
    "model": asdict(SHAPE),
    "train": asdict(TrainConfig(steps=20)),
}


def made(path: Path, **other: Any) -> Run:
    return Run.create(path, {**CONFIG, **other}, FakeTokenizer(7), HELDOUT)


def saved(run: Run, *steps: int, config: ModelConfig = SHAPE) -> SequenceModel:
    """A checkpoint at each step, of the same random model."""
    model = random_weights(SequenceModel(config))
    for step in steps:
        save_checkpoint(run, step, model, make_optimizers(model, TrainConfig()), {"skipped": 0})
    return model


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(tmp_path / "run")


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# -- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_saved_comes_back(tmp_path: Path, tied: bool) -> None:
    config = ModelConfig(**{**asdict(SHAPE), "tied": tied, "positions": "learned"})
    run = made(tmp_path / "run", model=asdict(config))
    model = saved(run, 3, config=config)
    again = Run(tmp_path / "run")
    assert again.config == run.config and again.created == run.created
    assert again.model_config() == config and again.train_config() == TrainConfig(steps=20)
    loaded = again.load_model()
    assert (loaded.head.weight is loaded.embedding.weight) == tied
    for (name, weight), (_, other) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert torch.equal(weight, other), name
    held = again.heldout("test")
    assert [s.ids.tolist() for s in held] == [[0, 1, 2, 3, 4], [0, 1, 2]]
    assert (held[1].given, held[1].side) == (2, {"rate": 8})
    with pytest.raises(UsageError, match="--split train: this run keeps test"):
        again.heldout("train")


def test_the_layout_is_the_documented_one(run: Run) -> None:
    saved(run, 300)
    checkpoint = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
    store = ("ids.bin", "offsets.bin", "items.jsonl", "meta.json")
    assert files(run.path) == {
        "config.json",
        "tokenizer.json",
        "tokenizer.safetensors",
        "log.jsonl",
        "manifest.json",
        *(f"heldout/test/{name}" for name in store),
        *(f"checkpoints/000300/{name}" for name in checkpoint),
    }


def test_the_newest_checkpoints_stay(run: Run) -> None:
    with pytest.raises(UsageError, match="no checkpoint yet"):
        run.load_model()
    saved(run, 1, 20, 1000)
    assert [c.step for c in run.checkpoints()] == [1, 20, 1000][-KEEP_NEWEST:]
    assert run.checkpoint().step == 1000 and run.checkpoint("20").step == 20
    run.load_model("20")
    for unknown in ("3", "-1", "x"):
        with pytest.raises(UsageError, match="this run keeps last, 20, 1000"):
            run.checkpoint(unknown)


def test_runs_are_found_by_path_by_name_and_by_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no runs"):
        open_run(None, tmp_path)
    for name, created in (("b", "2020"), ("a", "2022"), ("c", "2021")):
        made(tmp_path / name, created=created)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert [run.name for run in all_runs(tmp_path)] == ["b", "c", "a"]
    assert open_run(None, tmp_path).name == "a" and open_run("c", tmp_path).name == "c"
    assert open_run(str(tmp_path / "b"), tmp_path / "elsewhere").name == "b"
    with pytest.raises(UsageError, match="d: no such run"):
        open_run("d", tmp_path)


# -- creation ------------------------------------------------------------------------------------

ALLOWED = string.ascii_letters + string.digits + "._-"
NAMES = st.text(ALLOWED, min_size=1, max_size=64).filter(lambda name: name[0] != ".")


@given(NAMES)
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_plain_name_is_taken_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("runs") / name
    assert made(path).name == name
    with pytest.raises(UsageError, match="already exists"):
        made(path)


@given(
    st.text(min_size=1, max_size=80).filter(lambda name: "/" not in name and name.strip(ALLOWED))
    | st.text(ALLOWED, min_size=65, max_size=80)
    | NAMES.map(lambda name: "." + name[:63])
    | NAMES.map(lambda name: name[:63] + "\n")
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a run's name is"):
        made(tmp_path / "runs" / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["heldout", "tokenizer", "rename"])
def test_nothing_is_left_of_a_run_that_could_not_be_made(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(FakeTokenizer):
        def state(self) -> Any:
            raise ZeroDivisionError

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    def sequences() -> Any:
        yield HELDOUT["test"][0]
        assert any(tmp_path.rglob("config.json")), "it is being written"
        raise ZeroDivisionError

    if broken == "rename":
        monkeypatch.setattr(Path, "rename", fail)
    tokenizer = Broken(7) if broken == "tokenizer" else FakeTokenizer(7)
    with pytest.raises(ZeroDivisionError):
        heldout = {"test": sequences()} if broken == "heldout" else HELDOUT
        Run.create(tmp_path / "run", CONFIG, tokenizer, heldout)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TfmError, match="cannot be written"):
        made(tmp_path / "file" / "run")


def test_a_checkpoint_that_could_not_be_saved_leaves_the_one_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(run, 1)

    def full(path: Path, data: bytes) -> None:
        if path.name == "state.json":
            raise OSError(28, "No space left on device")
        write_durably(path, data)

    monkeypatch.setattr("tfm.core.runs.checkpoints.write_durably", full)
    with pytest.raises(TfmError, match="No space left on device.*intact"):
        save_checkpoint(run, 2, model)
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["000001"]
    run.load_model()


def test_a_damaged_checkpoint_is_saved_again_where_training_went_back(run: Run) -> None:
    saved(run, 1, 2)
    weights = run.checkpoint().path / "model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + b"x")
    (run.path / "checkpoints" / ".new-000007").mkdir()  # left by a kill
    saved(run, 2)
    assert weights.read_bytes() == sound
    assert {p.name for p in (run.path / "checkpoints").iterdir()} == {"000001", "000002"}
    run.load_model()


# -- damage --------------------------------------------------------------------------------------


def test_every_listed_file_is_checked(run: Run) -> None:
    """A byte changed, a file cut, emptied, lengthened or gone: DamagedError and nothing else."""
    saved(run, 5)
    checkpoint = run.checkpoint().path
    listed = [
        run.path / name for name in json.loads((run.path / "manifest.json").read_bytes())["files"]
    ]
    listed += [
        checkpoint / n for n in json.loads((checkpoint / "manifest.json").read_bytes())["files"]
    ]
    listed += [run.path / "manifest.json", checkpoint / "manifest.json"]
    unlisted = {"log.jsonl"}
    assert {p.relative_to(run.path).as_posix() for p in listed} == files(run.path) - unlisted
    for file in listed:
        sound = file.read_bytes()
        spots = {0, 1, len(sound) // 3, len(sound) // 2, len(sound) - 1}
        flipped = [sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in spots]
        for damaged in (*flipped, sound[: len(sound) // 2], b"", sound + b"\0", None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            kind = UsageError if damaged is None and file.name == "config.json" else DamagedError
            with pytest.raises(kind, match=f"{file.name}|meta.json"):
                Run(run.path).load_model()
        file.write_bytes(sound)
    Run(run.path).load_model()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"format": "x"}', '{"format": 1}', "\xff"]
)
def test_a_config_that_is_none_is_damaged(run: Run, text: str) -> None:
    (run.path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedError, match="config.json"):
        Run(run.path)


def test_what_a_newer_version_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"made by tfm 9\.1, which is newer; upgrade"):
        made(tmp_path / "format", format=2, tfm="9.1")
    for section, read in (("model", Run.model_config), ("train", Run.train_config)):
        run = made(tmp_path / section, **{section: {**CONFIG[section], "widht": 3}})
        with pytest.raises(ConfigError, match=f"{section}: unknown widht .*upgrade"):
            read(run)
    with pytest.raises(UsageError, match="not a run"):
        Run(tmp_path)


# -- the log -------------------------------------------------------------------------------------


def test_the_log_comes_back_and_is_cut_at_a_step(run: Run) -> None:
    entries = [{"step": n, "loss": n / 3} for n in range(1, 5)]
    assert run.log() == []
    for entry in [*entries, {"step": 2, "event": "final"}]:
        run.append_log(entry)
    assert run.log()[:4] == entries
    run.cut(2)
    assert run.log() == entries[:2]


def test_the_state_of_a_run_is_what_its_files_say(run: Run) -> None:
    assert run.status() == {"state": "empty", "step": 0, "steps": 20, "final": None}
    saved(run, 20)
    assert run.status()["state"] == "interrupted" and run.status()["step"] == 20
    run.append_log({"step": 20, "event": "final"})
    assert run.status()["state"] == "done"
    run.append_log({"step": 20, "event": "replan", "steps": 30})
    assert (run.status()["state"], run.status()["steps"]) == ("interrupted", 30)


def test_weights_that_are_not_finite_are_never_saved(run: Run) -> None:
    model = saved(run, 1)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(DivergedError, match="not finite, so nothing is saved"):
        save_checkpoint(run, 2, model)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [1]


def test_a_config_from_before_lists_of_mixers_and_ranges_is_read(trained: Trained) -> None:
    run = Run(trained.path)
    fields = {**run.config["model"], "mixer": "lstm", "ordered_from": 3, "ordered_to": 9}
    run.config["model"] = {k: v for k, v in fields.items() if k not in ("mixers", "ordered")}
    config = run.model_config()
    assert (config.mixers, config.ordered, config.ordered_ranges) == ("lstm", "3-9", [(3, 9)])
