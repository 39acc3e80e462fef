"""Wherever a run is interrupted, it ends bit for bit as the one that was not: from every step, in
every domain, with all that a step could hang on switched on."""

from __future__ import annotations

import json
import shutil
from ctypes import CDLL
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import log_without_times, prose, train_run

from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.errors import DamagedError
from tfm.core.files import write_manifest
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import native_calls
from tfm.core.runs import checkpoints as checkpoints_module
from tfm.core.runs.run import Run
from tfm.core.train.average import Average, in_use
from tfm.core.train.budget import make_plan
from tfm.core.train.optim import make_optimizers
from tfm.core.train.prepare import prepare
from tfm.core.train.request import Request
from tfm.core.train.run_config import describe_config
from tfm.core.train.state import fresh_state, resume

STEPS = 30
TO_THE_END = (1, 3, 14, 23, 29)
SETS: dict[str, dict[str, object]] = {
    "model": {"layers": 1, "width": 16, "dropout": 0.2},
    "train": {
        "batch": 2,
        "accumulate": 2,
        "average": 0.9,
        "patience": 50,
        "eval_every": 4,
        "save_every": 1,
        "threads": 1,
    },
}


def quiet(text: str) -> None: ...


def data_of(task: str, folder: Path) -> dict[str, Any]:
    """A little of each domain: more than one pass in 30 steps."""
    if task in ("text", "byte"):
        (folder / "a.txt").write_text(prose(900))
        kind = {"text": "char", "byte": "byte"}[task]
        return dict(data=(str(folder / "a.txt"),), context=16, holdout=0.2, tokenizer=kind)
    if task == "image":
        rng = np.random.default_rng(0)
        np.save(folder / "a.npy", rng.integers(0, 255, (60, 4, 4), np.uint8))
        return dict(data=(str(folder / "a.npy"),), holdout=0.2)
    rows = [f"{t},{np.sin(t / 3) + t / 50:.4f}" for t in range(90)]
    (folder / "a.csv").write_text("\n".join(["t,value", *rows]) + "\n")
    options = {"history": 12, "horizon": 4}
    return dict(data=(str(folder / "a.csv"),), task_options=options, holdout=0.2)


@pytest.fixture(params=["text", "byte", "image", "series"])
def whole(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: CDLL | None,
) -> tuple[Run, Path]:
    """A run that nothing interrupts, with a checkpoint of every step, and its cache."""
    monkeypatch.setattr(checkpoints_module, "KEEP_NEWEST", STEPS)
    monkeypatch.setattr("tfm.core.files.os.fsync", lambda _: None)
    native_calls.load(compiled)
    request.addfinalizer(lambda: native_calls.load(None))
    monkeypatch.setattr("tfm.tasks._series.scores.EVALUATION_PATHS", 3)
    task, cache = request.param, tmp_path / "cache"
    asked = Request(
        task=task, size="nano", steps=STEPS, sets=SETS, device="cpu", **data_of(task, tmp_path)
    )
    prepared = prepare(asked, quiet)
    plan = make_plan(asked, prepared, None, cache, quiet)
    assert plan.model.dropout == 0.2
    assert 4 * 5 < len(plan.data) < 4 * (STEPS - 5) or task == "series", "a pass ends within"
    config = describe_config(asked, prepared, plan, [], {})
    run = Run.create(tmp_path / "whole", config, prepared.tokenizer, prepared.heldout)
    train_run(run, prepared.task, plan, fresh_state(plan, None))
    return run, cache


def files(checkpoint: Path) -> dict[str, Any]:
    """The tensors' bytes, and the state."""
    names = ("model.safetensors", "optimizer.safetensors")
    found: dict[str, Any] = {name: (checkpoint / name).read_bytes() for name in names}
    found["state"] = json.loads((checkpoint / "state.json").read_text())
    del found["state"]["train"]["save_every"]
    return found


def test_from_every_step_the_end_is_the_same(whole: tuple[Run, Path], tmp_path: Path) -> None:
    run, cache = whole
    steps = [checkpoint.step for checkpoint in run.checkpoints()]
    assert steps == list(range(1, STEPS + 1))
    log = log_without_times(run.path)
    assert log[-1]["event"] == "final" and log[-1]["scores"]["split"] == "report"
    assert sum(entry.get("event") == "eval" for entry in log) == STEPS // 4 + 1
    for step in steps[:-1]:
        path = tmp_path / f"from-{step}"
        others = [f"{other:06d}" for other in steps if other not in (step, step + 1)]
        shutil.copytree(run.path, path, ignore=shutil.ignore_patterns(*others))
        (path / f"checkpoints/{step + 1:06d}/state.json").write_text("{}")  # damaged, so not taken
        torch.manual_seed(step)  # what is random elsewhere does not matter
        again = Run(path)
        task, plan, state = resume(again, quiet, "cpu", cache)
        assert state.step == step
        state.config = replace(state.config, save_every=0)  # quick; no part of what is learned
        again.cut(step)
        # from here a checkpoint follows from the one before: not all need to go to the end
        end = None if step in TO_THE_END else min(step + 2, STEPS)
        train_run(again, task, plan, state, end)
        until = log if end is None else [entry for entry in log[:-1] if entry["step"] <= end]
        assert log_without_times(again.path) == until, step
        same = run.checkpoint("last" if end is None else str(end))
        assert files(again.checkpoint().path) == files(same.path), step
        shutil.rmtree(path)


@pytest.mark.parametrize("whole", ["text"], indirect=True)
def test_a_checkpoint_of_another_run_is_not_taken(whole: tuple[Run, Path], tmp_path: Path) -> None:
    """Not even one whose shapes fit: tokenizer, data and config are part of what weights mean."""
    run, _ = whole
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**config, "task_options": {"each": "line"}}))
    shutil.move(run.path / "checkpoints", tmp_path / "checkpoints")
    (run.path / "log.jsonl").unlink()
    write_manifest(run.path, {})
    shutil.move(tmp_path / "checkpoints", run.path / "checkpoints")
    other = Run(run.path)
    other.check()
    with pytest.raises(DamagedError, match="saved by another run"):
        other.load_model()


# -- the average of weights ----------------------------------------------------------------------


def test_the_average_is_the_mean_that_it_says() -> None:
    shape = ModelConfig(vocab_size=7, layers=1, width=8, heads=2, context=8)
    model = SequenceModel(shape)
    optimizers = make_optimizers(model, TrainConfig(average=0.5))
    average = optimizers[-1]
    assert isinstance(average, Average)
    weight = model.head.weight
    expected = None
    for n in range(1, 8):
        with torch.no_grad():
            weight.normal_()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        average.step()
        value = weight.detach().clone()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert expected is not None
    with in_use(optimizers):
        torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(weight, value), "and training goes on with the weights themselves"
