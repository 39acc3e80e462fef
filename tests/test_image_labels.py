"""Labels as the last id: what the model reads beside the ids, augmentation, baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Tfm

from tfm.core.data.datasets import collate
from tfm.core.data.source import Source
from tfm.tasks._image.baselines import label_baselines
from tfm.tasks._image.dataset import UNSEEN, PictureRows, shifted
from tfm.tasks._image.pictures import Pictures
from tfm.tasks.image import ImageOptions, ImageTask
from tfm.tokenizers.patches import Form, PatchTokenizer, Picture

SIZE = 20  # more than 256 pixels


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures of three classes: a bright bar at the top, in the middle or at the bottom."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 120, (count, SIZE, SIZE)).astype(np.uint8)
    for number, label in enumerate(labels):
        pixels[number, 7 * label : 7 * label + 4] += 100
    return pixels, labels


def read(folder: Path, **options: object) -> tuple[ImageTask, Pictures]:
    pixels, labels = pictures(90)
    np.savez(folder / "bars.npz", images=pixels, labels=labels)
    task = ImageTask(ImageOptions(labels="last", **options))  # type: ignore[arg-type]
    return task, task.items(Source((str(folder / "bars.npz"),)))


def tokenizer_of(channels: int, height: int, width: int, stages: int) -> PatchTokenizer:
    random = np.random.default_rng(1)
    form = Form(height, width, channels)
    some = random.integers(0, 256, (40, height, width, channels)).astype(np.uint8)
    return PatchTokenizer.fit(some, form, (3, 2), 8, stages, ("a", "b"), "last", reads=True)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 6, 6), (3, 7, 5), (1, 2, 9)])
def test_the_model_reads_the_patch_and_what_came_before(
    channels: int, height: int, width: int, stages: int
) -> None:
    """Pixel by pixel, against the definition; and no row tells a later id."""
    tokenizer = tokenizer_of(channels, height, width, stages)
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, channels)).astype(np.uint8)
    sequence = tokenizer.encode(Picture(pixels, "b"))
    rows = tokenizer.feature_rows(len(sequence), sequence.side)
    assert rows.shape == (len(sequence), 5 * 3 * 2 * channels)
    down, across = tokenizer.grid(height, width)
    padded = np.pad(pixels, ((0, 3), (0, 2), (0, 0)), "edge")
    seen = 0
    for y in range(down):
        for x in range(across):
            wanted = []
            for i, j in ((y - 1, x - 1), (y - 1, x), (y - 1, x + 1), (y, x - 1), (y, x)):
                inside = 0 <= i < down and 0 <= j < across
                block = padded[3 * i : 3 * i + 3, 2 * j : 2 * j + 2] if inside else None
                wanted.append(np.zeros(6 * channels) if block is None else block / 127.5 - 1)
            at = stages * (y * across + x + 1)
            assert np.allclose(rows[at], np.concatenate([w.reshape(-1) for w in wanted]), atol=1e-6)
            seen += 1
            later = pixels.copy()
            flat = np.arange(height)[:, None] // 3 * across + np.arange(width) // 2
            later[flat > y * across + x] ^= 255
            other = tokenizer.encode(Picture(later, "b"))
            changed = tokenizer.feature_rows(len(other), other.side)
            assert (changed[: at + 1] == rows[: at + 1]).all()
    assert (np.abs(rows).sum(1) > 0).sum() == seen == down * across  # the last id of each patch


def test_training_rows_are_the_sequences(tmp_path: Path) -> None:
    task, items = read(tmp_path)
    tokenizer = task.fit_tokenizer("patches", items)
    assert tokenizer.reads and tokenizer.patch == (4, 4) and not tokenizer.lossless
    rows = PictureRows(items, tokenizer, 30, 1.0, 0)
    batch = rows.batch(np.arange(90))
    ours = list(task.sequences(items, tokenizer))
    theirs = collate([[(s, 0, len(s))] for s in ours], tokenizer, 31)
    length = len(ours[0])
    assert (batch.ids[:, :length] == theirs.ids[:, :length]).all()
    assert batch.features is not None and theirs.features is not None
    unseen = ~batch.features.any((1, 2))
    assert 0 < unseen.sum() < 3 * UNSEEN * 90
    assert (batch.features[~unseen] == theirs.features[~unseen]).all()


def test_pictures_are_moved_and_turned(tmp_path: Path) -> None:
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28, 1)
    moved = shifted(pixels, np.array([0.0, 0.99]), np.array([0.99, 0.5]))  # by -2, 2; 2, 0
    assert (moved[0, :26, 2:] == pixels[0, 2:, :26]).all()
    assert (moved[0, 26:, 2:] == pixels[0, 27, :26]).all()
    assert (moved[1, 2:] == pixels[1, :26]).all() and (moved[1, :2] == pixels[1, 0]).all()
    task, items = read(tmp_path)
    tokenizer = task.fit_tokenizer("patches", items)
    many = np.arange(90 * 20)
    for augment, turned in (("flip", True), ("shift", False), ("both", True)):
        made = PictureRows(items, tokenizer, 30, 1.0, 0, augment)._pixels(many, many % 90)
        plain = items.pixels()[many % 90]
        same = (made == plain).all((1, 2, 3)).mean()
        flipped = (made == plain[:, :, ::-1]).all((1, 2, 3)).mean()
        assert (same > 0.45) == (augment == "flip") and (0 < flipped) == turned
    once = PictureRows(items, tokenizer, 30, 1.0, 0, "both").batch(many[:90])
    again = PictureRows(items, tokenizer, 30, 1.0, 0, "both").batch(many[:90])
    assert (once.ids == again.ids).all() and once.ids.max() < tokenizer.vocab_size


def test_baselines_of_labels(tmp_path: Path) -> None:
    _, items = read(tmp_path)
    train, held = items.some(np.arange(70), "train"), items.some(np.arange(70, 90), "held")
    found = label_baselines(train, held)
    labels = [int(label) for label in held.labels if label is not None]
    assert found["majority_accuracy"] == labels.count(0) / 20  # 24 of the 70 are 0
    assert found["logistic_accuracy"] == found["neighbours_accuracy"] == 1.0


def test_a_classifier_reads_large_pictures_in_few_patches(tmp_path: Path) -> None:
    read(tmp_path)
    tfm = Tfm(tmp_path)
    flags = ("--labels", "last", "--size", "nano", "--augment", "shift", "--steps", 30)
    tfm("train", "--task", "image", "--data", "bars.npz", *flags, "--run", "bars")
    scores = tfm("eval", "bars", "--predictions", "p.csv", "--json").json()
    assert scores["tokens"] == scores["images"] * 26 and scores["bits_per_dim"] is None
    assert scores["accuracy"] >= 0.9 > scores["floor"]["majority_accuracy"]
    assert scores["floor"]["logistic_accuracy"] > 0.9
    said = tfm("sample", "bars", "-n", 2, "--json").lines()  # by the ids alone
    assert {record["label"] for record in said} <= {"0", "1", "2"}
    assert "--augment" in tfm.error("train", "--data", "bars.npz", "--augment", "turn")
