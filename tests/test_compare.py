"""Two runs on the same items: the interval, the blocks of a text, the exit code."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm, Trained
from helpers import small_model
from hypothesis import given
from hypothesis import strategies as st

from tfm.core.protocols import Score, Sequence
from tfm.core.score.paired_bootstrap import BLOCK_BYTES, _blocks, _content, difference, scored
from tfm.tokenizers.byte import SingleByteTokenizer
from tfm.tokenizers.patches import Picture

# -- the interval --------------------------------------------------------------------------------


def test_an_equal_difference_everywhere_is_certain() -> None:
    units = np.array([3.0, 1, 8, 2])
    a = np.array([1.0, 9, 4, 2])
    found = difference(a, a + 0.5 * units, units)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    same = difference(a, a, units)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_interval_is_that_of_the_normal_approximation_where_items_are_many() -> None:
    draw = np.random.default_rng(1)
    hard = draw.gamma(2, 5, 4000)  # how hard an item is drops out: both see the same
    a, b = hard + draw.normal(0, 1, 4000), hard + draw.normal(0.1, 1, 4000)
    found = difference(a, b, np.ones(4000))
    each = b - a
    margin = 1.96 * each.std() / math.sqrt(4000)
    assert found.value == pytest.approx(each.mean())
    assert found.low == pytest.approx(each.mean() - margin, abs=0.1 * margin)
    assert found.high == pytest.approx(each.mean() + margin, abs=0.1 * margin)
    assert difference(a, b, np.ones(4000)) == found != difference(a, b, np.ones(4000), seed=1)
    turned = difference(b, a, np.ones(4000))
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(2)
    inside = 0
    for _ in range(60):
        units = draw.integers(20, 200, 40).astype(float)
        worse = 0.1 * units + draw.normal(0, 1, 40) * np.sqrt(units)
        found = difference(np.zeros(40), worse, units)
        inside += found.low <= 0.1 <= found.high
    assert 49 <= inside <= 60


# -- blocks --------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 2))
def test_a_tokens_nats_are_its_first_bytes(ids: list[int], given: int) -> None:
    pieces = [b"", b"x", b"y" * 100, b"z" * 700, b"w" * 1500]
    sequence = Sequence(np.array([5] * given + ids, np.int64), given)  # 5: begin
    nats = np.arange(1.0, len(ids) + 1)
    found, units = _blocks(Score(sequence, nats), pieces, BLOCK_BYTES)
    size = sum(len(pieces[i]) for i in ids)
    assert units.sum() == size and len(units) == max(1, math.ceil(size / BLOCK_BYTES))
    assert (units[:-1] == BLOCK_BYTES).all()
    expected = np.zeros(len(units))
    at = 0
    for i, each in zip(ids, nats, strict=True):
        expected[min(at // BLOCK_BYTES, len(units) - 1)] += each
        at += len(pieces[i])
    np.testing.assert_allclose(found, expected)


def test_items_by_the_model_and_what_they_are() -> None:
    model, tokenizer = small_model(vocab_size=258, context=12), SingleByteTokenizer(ends=True)
    one = tokenizer.encode(b"ab" * 800)
    units: Any = len
    pieces = tokenizer.pieces
    (first,) = scored(model, tokenizer, [one], units, as_ids=False, pieces=tokenizer.pieces)
    as_text = SingleByteTokenizer(ends=True, text=True)
    (second,) = scored(model, as_text, [one], units, as_ids=False)
    (other,) = scored(model, tokenizer, [tokenizer.encode(b"ab" * 799 + b"ax")], units, False)
    assert first.content == second.content != other.content
    assert first.units.tolist() == [200] * 8, "a short text is cut into eight blocks at least"
    (long,) = scored(model, tokenizer, [tokenizer.encode(b"ab" * 5000)], units, False, pieces)
    assert long.units.tolist() == [1024] * 9 + [10000 - 9 * 1024]
    pixels = np.zeros((2, 2, 1), np.uint8)
    assert _content(Picture(pixels, "7")) == _content(Picture(pixels, None))
    assert _content(Picture(pixels)) != _content(Picture(pixels + 1))


# -- the command ---------------------------------------------------------------------------------


def test_the_question_is_answered_by_the_exit_code(tfm: Tfm, trained: Trained, text: Path) -> None:
    """The other run has other tokens, which say more a byte, and held out more."""
    tfm(
        *("train", "--task", "text", "--data", text, "--tokenizer", "bpe:300", "--size", "nano"),
        *("--steps", 1, "--holdout", "0.3", "--run", "other", "-q"),
    )
    same = tfm("compare", trained.path, trained.path, "--json").json()
    assert (same["difference"], same["low"], same["high"], same["worse"]) == (0, 0, 0, False)
    assert same["bits_per_byte_a"] == pytest.approx(trained.scores["bits_per_byte"])
    assert same["units"] == trained.scores["units"]
    assert "do not hold out the same items" in tfm.error("compare", trained.path, "other")

    shared = ("--data", text)
    answer = tfm("compare", "other", trained.path, *shared, "--json", code=5)
    assert len(answer.err.splitlines()) == 1 and "is worse than other" in answer.err
    found = answer.json()
    assert 0 < found["low"] <= found["difference"] <= found["high"] and found["worse"]
    assert found["blocks"] == math.ceil(text.stat().st_size / BLOCK_BYTES)
    assert found["difference"] == pytest.approx(found["bits_per_byte_b"] - found["bits_per_byte_a"])
    assert "+" in tfm("compare", "other", trained.path, *shared, "--margin", 100).text
    assert "B is better" in tfm("compare", trained.path, "other", *shared).text
