"""The parts of `tfm data`: what is near and in common, against a comparison of all pairs; tokens as
text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import prose

from tfm.core.data.source import Source
from tfm.core.display import BACKGROUNDS, columns_of, marked
from tfm.core.inspection.near_duplicates import NEAR, NearIndex, jaccard, places, shingles
from tfm.core.inspection.runs_in_common import RunIndex
from tfm.core.inspection.samples import Samples
from tfm.core.protocols import Sequence
from tfm.core.train.prepare import make_task


def test_near_duplicates_are_those_of_all_pairs() -> None:
    """Against the Jaccard index of every pair: nothing far is called near, and little is missed."""
    draw = np.random.default_rng(0)
    train = [draw.integers(0, 50, draw.integers(60, 300)) for _ in range(300)]
    held = []
    for number in range(100):
        ids = train[number].copy()
        at = draw.integers(0, len(ids), draw.integers(0, 8))
        ids[at] = draw.integers(0, 50, len(at))
        held.append(ids)
    a, b = shingles(train, 5), shingles(held, 5)
    index = NearIndex(b, 20)
    for start in range(0, len(a), 64):
        index.add(range(start, start + 64), a[start : start + 64])
    true = [max(jaccard(np.unique(y), np.unique(x)) for x in a) for y in b]
    for found, best in zip(index.similarity.tolist(), true, strict=True):
        assert found == 0 or (found >= NEAR and found <= best)
    near = [best >= NEAR for best in true]
    assert 20 < sum(near) < 90
    assert sum(found > 0 for found in index.similarity) >= 0.97 * sum(near)
    assert [int(n) for n in index.nearest[index.similarity > 0]] == [
        n for n in range(100) if index.similarity[n] > 0
    ]


def test_features_tell_order_and_place() -> None:
    ids = np.arange(8)
    one, two, short = shingles([ids, ids[::-1].copy(), ids[:3]], 4)
    assert len(one) == len(two) == 5 and not {*one.tolist()} & {*two.tolist()} and not len(short)
    assert shingles([ids], 4)[0].tolist() == one.tolist()
    plain, other = np.array([0, 0, 0, 5, 5, 0]), np.array([0, 0, 5, 5, 5, 0])
    first, second = places([plain, other])
    assert len(first) == len(second) == 3, "where the id changes"
    assert len({*first.tolist()} & {*second.tolist()}) == 2, "the first place and the last"


def test_runs_in_common_are_those_of_all_windows() -> None:
    draw = np.random.default_rng(1)
    train, held = draw.integers(0, 3, 3000), draw.integers(0, 3, 400)
    held[50:130], held[200:249] = train[1000:1080], train[70:119]
    length = 50
    windows = {train[n : n + length].tobytes() for n in range(len(train) - length + 1)}
    expected = np.zeros(len(held), bool)
    for n in range(len(held) - length + 1):
        if held[n : n + length].tobytes() in windows:
            expected[n : n + length] = True
    assert expected[50:130].all() and expected.sum() < 100
    whole, parts = RunIndex(held, length), RunIndex(held, length)
    whole.add(train)
    for start in range(0, len(train), 700):
        parts.add(train[max(0, start - length + 1) : start + 700])
    assert (whole.covered() == expected).all() and (parts.covered() == expected).all()
    for size in (0, 49):
        few = RunIndex(held[:size], length)
        few.add(train)
        assert not few.covered().any() and len(few.covered()) == size


@pytest.mark.parametrize("count", [1, 3, 40, 2000])
def test_samples_of_any_number_of_items(count: int) -> None:
    samples = Samples(3, "train")
    samples.add("train", [Sequence(np.array([n, n])) for n in range(count)], running=False)
    numbers = [shown.number for shown in samples.chosen()]
    assert len(numbers) == min(3, count) and len({*numbers}) == len(numbers)
    assert len(samples.kept) <= 64 and max(numbers) > 0.6 * count


def test_tokens_are_marked_within_the_width() -> None:
    labels = ["a", "b\n", "語", "\x1b[0m", "x" * 200, " "] * 20
    for width, colour in ((20, False), (20, True), (61, False)):
        text = marked(labels, width, colour, lines=5)
        for code in (*BACKGROUNDS, "\x1b[0m") if colour else ():
            text = text.replace(code, "")
        rows = text.split("\n")
        assert len(rows) == 6 and rows[-1].endswith(" more tokens") and "\x1b" not in text
        assert all(columns_of(row) <= width for row in rows[:-1])
    assert marked(["a", "b"], 20, False) == "a│b│" and "⏎" in marked(["\n"], 9, False)


@pytest.mark.parametrize("options", [{}, {"each": "line"}])
def test_large_text_is_sampled(options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(prose(1_500_000))
    task = make_task("text", options)
    items: Any = task.items(Source((str(tmp_path / "a.txt"),)))
    some = task.sampled(items, items.size // 2)
    assert 0.2 * items.size < some.size < 0.8 * items.size
    assert task.sampled(items, items.size) is items
    spans = {tuple(span) for span in some.spans.tolist()}
    assert len(spans) == len(some.spans)


def test_many_pictures_are_sampled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 9, (40, 4, 4), np.uint8))
    task = make_task("image", {})
    items: Any = task.items(Source((str(tmp_path / "a.npy"),)))
    assert len(task.sampled(items, items.size // 4)) == 10
    assert task.sampled(items, items.size) is items
