"""Every architecture with every task that it serves, through train, resume, eval, sample, score."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm, Trained
from helpers import prose, saved_weights

from tfm.core.architectures import ARCHS, SIZES, architecture, model_config
from tfm.core.config import ModelConfig
from tfm.core.errors import ConfigError
from tfm.core.model.sequence_model import SequenceModel, on_meta
from tfm.core.plugins import names
from tfm.core.runs.run import Run

SMALL = ("--size", "nano", "--set", "train.batch=2", "--set", "model.dropout=0.1")
WITH_ENCODER = {name for name, arch in ARCHS.items() if arch.model.get("encoder_layers")}
ONE_AXIS = {"gpt2", "post-ln"}  # learned and sinusoidal positions have one axis
DATA: dict[str, tuple[object, ...]] = {
    "text": ("--data", "text.txt", "--each", "line", "--tokenizer", "char"),
    "image": ("--data", "pictures.npy"),
    "series": ("--data", "series.csv", "--history", 16, "--horizon", 4),
    "pairs": ("--data", "pairs.tsv"),
}
GENERATED = ("copy", "reverse", "sort", "recall", "induction", "parity", "addition")
SHORT: dict[str, tuple[object, ...]] = {
    "recall": ("--length", 16, "--pairs", 2, "--vocabulary", 32),
    "induction": ("--min-length", 3, "--max-length", 4),
    "addition": ("--max-length", 1),
    "parity": ("--max-length", 5),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("architectures")
    lines = prose(3000).splitlines()
    (root / "text.txt").write_text("\n".join(lines))
    (root / "pairs.tsv").write_text("".join(f"{x}\t{x[::-1]}\n" for x in sorted(set(lines))))
    draw = np.random.default_rng(0)
    np.save(root / "pictures.npy", draw.integers(0, 255, (40, 4, 4), np.uint8))
    walk = draw.normal(size=200).cumsum()
    rows = [f"2020-01-01 {n // 60 % 24:02d}:{n % 60:02d},{x:.3f}" for n, x in enumerate(walk)]
    (root / "series.csv").write_text("time,value\n" + "\n".join(rows) + "\n")
    return root


def goes_through(folder: Path, arch: str, task: str, *data: object) -> None:
    """Trains, evaluates and samples. Of each task one architecture, and of each architecture one
    task, is also resumed, as a run has it that was not killed, and scored by item."""
    tfm = Tfm(folder, {"TFM_QUIET": "1"})
    run = f"{arch}-{task}"
    whole = ("train", "--task", task, *data, "--arch", arch, *SMALL, "--run", run, "--json")
    trained = tfm(*whole, "--steps", 3, "--save-every", 2).json()
    assert trained["nll"] > 0 and np.isfinite(trained["nll"])
    whole_way = task == "text" or arch == "transformer" or task in GENERATED
    if whole_way or (task == "pairs" and arch in WITH_ENCODER):
        weights, log = saved_weights(folder / run, 3), folder / run / "log.jsonl"
        shutil.rmtree(folder / run / "checkpoints/000003")  # as if it had been killed in step 3
        lines = log.read_text().splitlines()
        before = [line for line in lines if json.loads(line).get("step", 9) <= 2]
        log.write_text("\n".join(before) + "\n")
        tfm("train", "--resume", run)
        assert saved_weights(folder / run, 3) == weights
        items = tfm("score", run, "--heldout").lines()
        assert sum(item["nll"] for item in items) == pytest.approx(trained["nll"], rel=1e-5)
    scored = tfm("eval", run, "--json").json()
    assert scored["nll"] == pytest.approx(trained["nll"], rel=1e-6)
    prompt = {"recall": ("-p", "3 17 5 20 3"), "image": ("--out", "o.png", "--force")}
    asked = prompt.get(task, () if task == "series" else ("-p", "the fox"))
    if task in set(GENERATED) - {"recall"}:
        asked = ("-p", "1")
    if task == "text":
        data = prose(300).encode() + b"\xff\0"
        packed = tfm("compress", run, "-", stdin=data).out
        assert tfm("decompress", run, "-", stdin=packed).out == data
    length = ("--length", 4) if task in ("text", "pairs") else ()
    assert tfm("sample", run, *asked, *length).out or task != "series"


SERVED = [
    (arch, task)
    for arch in ARCHS
    for task in DATA
    if task == "pairs" or arch not in WITH_ENCODER
    if task != "image" or arch not in ONE_AXIS
]


@pytest.mark.parametrize(("arch", "task"), SERVED, ids=str)
def test_an_architecture_serves_a_task(folder: Path, arch: str, task: str) -> None:
    goes_through(folder, arch, task, *DATA[task])


@pytest.mark.parametrize(
    ("arch", "task"),
    [(("transformer", "lstm", "encoder-decoder")[n % 3], task) for n, task in enumerate(GENERATED)]
    + [(arch, "recall") for arch in ("lstm", "encoder-decoder")],
    ids=str,
)
def test_an_architecture_learns_a_generated_task(folder: Path, arch: str, task: str) -> None:
    goes_through(folder, arch, task, *SHORT.get(task, ("--max-length", 2)))


def test_a_killed_training_goes_on_exactly(folder: Path) -> None:
    tfm, arch, task = Tfm(folder), "encoder-decoder", "pairs"
    train = ("train", "--task", task, *DATA[task], "--arch", arch, *SMALL, "--steps", 2)
    tfm(*train, "--run", f"{arch}-killed")
    assert "killed in step 6" in tfm("verify", f"{arch}-killed", "--resume-exact").err


# -- what an architecture does not serve -----------------------------------------------------------


@pytest.mark.parametrize("arch", sorted(WITH_ENCODER))
@pytest.mark.parametrize("task", ["text", "image", "series"])
def test_an_encoder_needs_pairs(folder: Path, arch: str, task: str) -> None:
    tfm = Tfm(folder)
    said = tfm.error("train", "--task", task, *DATA[task], "--arch", arch, "--steps", 1)
    assert f"--arch {arch}: has an encoder" in said and f"--task {task}" in said


def test_positions_of_one_axis_are_no_pictures(folder: Path) -> None:
    for arch in sorted(ONE_AXIS):
        said = Tfm(folder).error("train", "--data", "pictures.npy", "--arch", arch, "--steps", 1)
        assert "--set model.positions: must be rope or none" in said


def test_a_wrong_name_is_found_before_data_is_read(folder: Path) -> None:
    for field, value in (("mixers", "attention,lsmt"), ("ffn", "swigloo"), ("positions", "rotary")):
        said = Tfm(folder).error(
            "train", "--data", "missing.txt", "--set", f"model.{field}={value}"
        )
        assert f"--set model.{field}" in said and "missing.txt" not in said


def test_a_field_that_no_layer_uses_is_said(folder: Path) -> None:
    train = ("train", *DATA["text"], *SMALL, "--steps", 1, "--run", "unused")
    said = Tfm(folder)(
        *train, "--arch", "gru", "--set", "model.window=4", "--set", "model.bias=1"
    ).err
    assert "model.window has no effect" in said and "model.bias" not in said
    shown = Tfm(folder)("info", "unused").text
    assert "gru, context" in shown and "heads" not in shown
    said = Tfm(folder)(*train, "--arch", "lstm", "--set", "model.heads=5", "--run", "odd").err
    assert "model.heads has no effect" in said


@pytest.mark.parametrize(
    ("arch", "field", "value"),
    [
        ("gru", "window", 4),
        ("lstm", "heads", 8),
        ("lstm", "positions", "rope"),
        ("lstm", "zero_init", False),
        ("lstm", "norm_position", "sandwich"),
        ("cnn", "qk_norm", True),
        ("cnn", "ffn_width", 48),
        ("gpt2", "rope_theta", 50.0),
        ("gpt2", "kernel", 5),
        ("transformer", "window", 4),
        ("transformer", "kv_heads", 1),
        ("transformer", "rope_theta", 50.0),
        ("transformer", "norm_eps", 0.1),
        ("transformer", "zero_init", True),
        ("attention-rnn", "heads", 8),
        ("cnn", "kernel", 5),
    ],
)
def test_a_field_is_used_where_it_changes_the_model(arch: str, field: str, value: object) -> None:
    shape: dict[str, Any] = dict(layers=2, width=32, heads=2, context=16, vocab_size=40)
    # layers that write nothing at first would hide a change, so they start at zero only here
    starts = {"zero_init": field == "zero_init" and not value}
    usual = ModelConfig(**{**ARCHS[arch].model, **shape, **starts})
    hidden = []
    for config in (usual, replace(usual, **{field: value})):
        torch.manual_seed(0)
        with torch.no_grad():
            hidden.append(SequenceModel(config).eval()(torch.arange(12)[None]))
    changed = not torch.equal(*hidden)
    assert replace(usual, **{field: value}).uses(field) == changed


def test_a_run_that_goes_on_keeps_its_own_dropout(folder: Path) -> None:
    tfm = Tfm(folder)
    train = ("train", "--task", "pairs", *DATA["pairs"], "--steps", 1, *SMALL[:4])
    tfm(*train, "--arch", "vaswani", "--run", "published")
    tfm(*train, "--arch", "vaswani", "--set", "model.dropout=0", "--run", "none")
    tfm("train", "--init", "none", *DATA["pairs"], "--steps", 1, "--run", "on")
    found = [tfm("info", run, "--json").json()["model"]["dropout"] for run in ("published", "on")]
    assert found == [0.1, 0.0]


# -- presets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", sorted(set(ARCHS) - WITH_ENCODER))
def test_sizes_have_the_same_parameters_and_flops(arch: str, size: str) -> None:
    ours, theirs = (on_meta(model_config(a, size, context=64)) for a in (arch, "transformer"))
    ratio = ours.blocks_parameter_count() / theirs.blocks_parameter_count()
    assert 0.93 < ratio < 1.09, arch
    head, other = (6 * m.head.weight.numel() for m in (ours, theirs))  # grows with the width
    assert 0.75 < (ours.flops_per_token() - head) / (theirs.flops_per_token() - other) < 1.1, arch


def test_a_list_of_mixers_sets_the_number_of_layers() -> None:
    assert model_config("transformer", "tiny", mixers="attention,lstm,conv").layers == 3
    assert model_config("transformer", "tiny", mixers="lstm").layers == 4
    with pytest.raises(ConfigError, match="each of the 2 blocks"):
        model_config("transformer", "tiny", mixers="attention,lstm,conv", layers=2)


def test_names_are_known_and_described() -> None:
    assert {"vaswani", "lstm", "cnn", "attention-rnn", "encoder-decoder"} <= set(ARCHS)
    assert all(arch.about for arch in ARCHS.values())
    with pytest.raises(ConfigError, match="did you mean lstm"):
        architecture("lstmm")
    assert set(GENERATED) <= set(names("tasks"))


def test_a_run_from_before_mixers_were_a_list_is_read(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "old")
    config = json.loads((tmp_path / "old/config.json").read_text())
    config["model"]["mixer"] = config["model"].pop("mixers")
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    assert Run(tmp_path / "old").model_config() == Run(trained.path).model_config()
    assert ModelConfig().mixer(3) == "attention"
