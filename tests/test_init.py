"""`--init`: new data is brought to the form of the run, or refused, in every domain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from helpers import prose
from PIL import Image

from tfm.core.errors import ConfigError, DataError, UsageError
from tfm.core.runs.run import Run
from tfm.core.train.prepare import Prepared, prepare
from tfm.core.train.request import Request


def noise(*shape: int, top: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8)


def seasonal(points: int, freq: str, season: int, name: str) -> str:
    """A CSV of one series."""
    import pandas as pd

    times = pd.date_range("2020-01-01", periods=points, freq=freq)
    extra = np.random.default_rng(season).random(points).round(3)
    rows = [f"{name},{time},{10 + k % season + extra[k]}" for k, time in enumerate(times)]
    return "\n".join(["id,ds,y", *rows]) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of each kind, and new data of another form for each."""
    folder = tmp_path_factory.mktemp("init")
    (folder / "old.txt").write_text(prose(6000))
    (folder / "new.txt").write_text(
        "".join(f"Ein völlig anderer Text {n}: naïve, ﬁnal.\n" for n in range(80))
    )
    (folder / "new.jsonl").write_text("".join(f'{{"text": "line {n} ü"}}\n' for n in range(60)))
    (folder / "old.bin").write_bytes(noise(5000).tobytes())
    (folder / "new.bin").write_bytes(noise(3000, top=9).tobytes())
    np.savez(folder / "old.npz", images=np.minimum(noise(60, 6, 6), 16), labels=np.arange(60) % 3)
    np.savez(folder / "new.npz", images=noise(40, 6, 6) > 99, labels=np.arange(40) % 3)
    (folder / "old.csv").write_text(seasonal(200, "D", 7, "a"))
    (folder / "new.csv").write_text(seasonal(300, "h", 24, "b"))
    tfm = Tfm(folder)
    for name, task, data, *flags in (
        ("text", "text", "old.txt"),
        ("lines", "text", "old.txt", "--each", "line"),
        ("byte", "byte", "old.bin"),
        ("image", "image", "old.npz"),
        ("series", "series", "old.csv", "--horizon", 7, "--history", 28),
    ):
        quick = ("--steps", 1, "--size", "nano", "-q")
        tfm("train", "--task", task, "--data", data, "--run", f"runs/{name}", *quick, *flags)
    return folder


def prepared(folder: Path, run: str, data: str, **options: object) -> Prepared:
    init = Run(folder / "runs" / run)
    request = Request(
        task=init.config["task"],
        data=(str(folder / data),),
        init=init,
        task_options=options,
        steps=1,
    )
    return prepare(request, lambda text: None)


@pytest.mark.parametrize(
    "run, data",
    [
        ("text", "new.txt"),
        ("lines", "new.txt"),
        ("lines", "new.jsonl"),
        ("byte", "new.bin"),
        ("image", "new.npz"),
        ("series", "new.csv"),
    ],
)
def test_training_heldout_and_baselines_have_one_form(folder: Path, run: str, data: str) -> None:
    """The form of a sequence is what the model is told of it: vocabulary, legal ids, positions, the
    side information but for names and numbers."""
    old = Run(folder / "runs" / run)
    found = prepared(folder, run, data)
    tokenizer, own = found.tokenizer, old.tokenizer()
    assert tokenizer.state()[0] == own.state()[0]
    heldout = found.heldout["valid"]
    assert heldout and all(0 <= s.ids.min() and s.ids.max() < own.vocab_size for s in heldout)
    context = old.model_config().context
    rows = found.task.dataset(found.train, tokenizer, context, 2000, 0, folder / "cache")
    batch = rows.batch(np.arange(min(8, len(rows))))
    assert batch.ids.min() >= 0 and batch.ids.max() < own.vocab_size
    if isinstance(batch.support, np.ndarray):
        counted = batch.weight > 0
        low, high = batch.support[..., 0], batch.support[..., 1]
        assert ((low <= batch.ids) & (batch.ids < high))[counted].all()
    known = next(iter(old.heldout("valid")))
    for name in ("height", "width", "channels", "levels", "history", "horizon", "season"):
        usual = tokenizer.season if name == "season" and run == "series" else None
        own_side = known.side.get(name, usual)
        assert {s.side.get(name, usual) for s in heldout} == {own_side}, name
    assert found.floor and all(np.isfinite(value) for value in found.floor.values())
    assert set(found.floor) == set(old.config["floor"])


def test_pictures_train_on_the_values_that_they_are_scored_on(folder: Path) -> None:
    """Two levels in a run of 17: all of one range, from 0 to 16, in training and in scoring."""
    found = prepared(folder, "image", "new.npz")
    train, held = found.train.pixels(), found.held["valid"].pixels()  # type: ignore[attr-defined]
    assert set(np.unique(train)) == {0, 16} == set(np.unique(held))
    assert found.floor["histogram"] < 1.3


def test_few_values_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    """A part of the data of the run may lack its largest value."""
    pixels = np.minimum(noise(30, 6, 6), 12)
    np.savez(folder / "darker.npz", images=pixels, labels=np.arange(30) % 3)
    found = prepared(folder, "image", "darker.npz")
    assert found.train.pixels().max() == 12  # type: ignore[attr-defined]


def test_colour_size_and_depth_are_brought_to_the_run(folder: Path) -> None:
    rows = [
        json.dumps({"image": noise(3, 9, 7, seed=n).tolist(), "label": n % 3}) for n in range(20)
    ]
    (folder / "colour.jsonl").write_text("\n".join(rows))
    done = Tfm(folder)(
        "train", "--init", "runs/image", "--data", "colour.jsonl", "--steps", 1, "--run", "colour"
    )
    assert "20 resized; 20 made grey" in done.err
    assert "brought to the form of the run: 6x6 grey, 17 levels" in done.err
    scores = Tfm(folder)("eval", "colour", "--json").json()
    assert scores["levels"] == 17 and scores["bits_per_dim"] < 8
    # the new run reads new data in the same form, and goes on with its own
    again = Tfm(folder)("eval", "colour", "--data", "colour.jsonl", "--json").json()
    assert again["images"] == 20
    Tfm(folder)("train", "--resume", "colour", "--steps", 2)


def test_labels_that_the_run_does_not_know_are_named(folder: Path) -> None:
    np.savez(folder / "labels.npz", images=noise(20, 6, 6), labels=np.arange(20) % 5)
    with pytest.raises(DataError, match="2 labels that the run does not know: 3, 4; it knows 0, 1"):
        prepared(folder, "image", "labels.npz")
    for n in range(12):
        at = folder / "kinds" / ("0" if n % 2 else "cat")
        at.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(6, 6, seed=n)).save(at / f"{n}.png")
    said = Tfm(folder).error("train", "--init", "runs/image", "--data", "kinds", "--steps", 1)
    assert "1 labels that the run does not know: cat" in said


@pytest.mark.parametrize(
    "options",
    [{"levels": "4"}, {"pixels": "3x3"}, {"patch": "2"}, {"labels": "last"}, {"grey": "true"}],
)
def test_options_that_the_tokenizer_has_decided_are_refused(
    folder: Path, options: dict[str, Any]
) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"--{name} and --init exclude each other"):
        prepared(folder, "image", "new.npz", **options)


def test_items_with_an_end_need_a_run_that_knows_it(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--each line: .*trained with --each stream"):
        prepared(folder, "text", "new.txt", each="line")
    with pytest.raises(ConfigError, match="--each stream: .*--each line, file or record"):
        prepared(folder, "lines", "new.txt", each="stream")
    (folder / "files").mkdir()
    for n in range(4):
        (folder / "files" / f"{n}.txt").write_text(f"file {n}\n")
    assert len(prepared(folder, "lines", "files", each="file").heldout["valid"]) == 1
