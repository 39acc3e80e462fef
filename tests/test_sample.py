"""Sampling: filters against their definitions, reproducible samples, and when sampling stops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeTokenizer, small_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfm.core.config import SampleConfig
from tfm.core.decode.sampling import (
    clip_prompt,
    filter_logits,
    generate,
    sample_ids,
    sample_ids_and_fractions,
)
from tfm.core.errors import ConfigError, DataError
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)


def probabilities(logits: list[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    powers = [math.exp((x - top) / temperature) for x in logits]
    return [p / math.fsum(powers) for p in powers]


def kept(logits: list[float], **options: Any) -> set[int]:
    out = filter_logits(torch.tensor(logits), SampleConfig(**options))
    return {i for i, x in enumerate(out.tolist()) if x > -math.inf}


# -- filters -------------------------------------------------------------------------------------


@given(LOGITS, st.integers(1, 14))
def test_top_k_keeps_the_k_likeliest(logits: list[float], k: int) -> None:
    kth = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    assert kept(logits, top_k=k) == {i for i, x in enumerate(logits) if x >= kth}


@given(LOGITS, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_holds_p(logits: list[float], top_p: float) -> None:
    p, left = probabilities(logits), kept(logits, top_p=top_p)
    held = math.fsum(p[i] for i in left)
    assert held >= top_p - 1e-5
    assert held - min(p[i] for i in left) < top_p + 1e-5, "without its least it holds less"
    assert min(p[i] for i in left) >= max([p[i] for i in range(len(p)) if i not in left] or [0])


@given(LOGITS, st.floats(0.01, 1))
def test_min_p_keeps_what_is_likely_beside_the_likeliest(logits: list[float], min_p: float) -> None:
    p = probabilities(logits)
    assume(all(abs(x / max(p) - min_p) > 1e-5 for x in p))
    assert kept(logits, min_p=min_p) == {i for i, x in enumerate(p) if x > min_p * max(p)}


def test_filters_apply_in_the_order_of_their_fields() -> None:
    logits = [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]
    assert kept(logits, top_p=0.72) == {0, 1, 2}
    assert kept(logits, top_k=3, top_p=0.72) == {0, 1}, "of 0.9, 0.7 are 78 %"
    assert kept(logits, temperature=0.5, top_p=0.72) == {0, 1}
    assert kept(logits, top_p=1e-9) == {0}, "one is always left"


@given(LOGITS, st.floats(0.1, 3))
def test_a_filter_leaves_the_others_odds_alone(logits: list[float], temperature: float) -> None:
    out = filter_logits(torch.tensor(logits), SampleConfig(temperature=temperature, top_p=0.9))
    left = [i for i, x in enumerate(out.tolist()) if x > -math.inf]
    expected = probabilities([logits[i] for i in left], temperature)
    np.testing.assert_allclose(out[left].softmax(-1).numpy(), expected, rtol=1e-3, atol=1e-6)


# -- one id --------------------------------------------------------------------------------------


@given(LOGITS)
@settings(deadline=None)
def test_ids_are_drawn_as_often_as_they_are_likely(logits: list[float]) -> None:
    grid = [(i + 0.5) / 2000 for i in range(2000)]
    rows = torch.tensor(logits).expand(2000, -1)
    ids = sample_ids(rows, SampleConfig(), np.array(grid))
    same, within = sample_ids_and_fractions(rows, SampleConfig(), np.array(grid))
    np.testing.assert_array_equal(same, ids)
    p = probabilities(logits)
    where = (np.cumsum(p) - p)[ids.numpy()] + within * np.asarray(p)[ids.numpy()]
    np.testing.assert_allclose(where, grid, atol=1e-5)
    drawn = np.bincount(ids.numpy(), minlength=len(logits)) / 2000
    np.testing.assert_allclose(drawn, probabilities(logits), atol=1.01 / 2000)
    assert (ids.diff() >= 0).all(), "the inverse of the cumulative distribution"


@given(LOGITS, st.integers(0, 4), st.floats(0.05, 1), st.floats(0, 1))
@settings(deadline=None)
def test_a_filtered_id_is_never_drawn(
    logits: list[float], top_k: int, top_p: float, min_p: float
) -> None:
    options: dict[str, Any] = dict(top_k=top_k, top_p=top_p, min_p=min_p)
    edges = [0.0, 1e-300, 0.25, 0.5, 0.75, 1 - 2**-53]
    ids = sample_ids(torch.tensor(logits).expand(6, -1), SampleConfig(**options), np.array(edges))
    assert set(ids.tolist()) <= kept(logits, **options)


@given(LOGITS)
def test_greedy_is_the_likeliest(logits: list[float]) -> None:
    (id,) = sample_ids(torch.tensor([logits]), SampleConfig(greedy=True), np.zeros(1)).tolist()
    assert logits[id] == max(logits)


@pytest.mark.parametrize(
    "flag, options",
    [
        ("--temperature", dict(temperature=0.0)),
        ("--top-p", dict(top_p=0.0)),
        ("--top-p", dict(top_p=1.1)),
        ("--min-p", dict(min_p=-0.1)),
        ("--top-k", dict(top_k=-1)),
        ("--length", dict(length=-1)),
    ],
)
def test_what_cannot_be_is_refused_by_its_flag(flag: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=flag):
        SampleConfig(**options)


# -- sequences -----------------------------------------------------------------------------------


MODEL = small_model()
PROMPT = Sequence(np.array([1, 2, 3]), given=1)


def draw(
    legal: Any = None,
    model: SequenceModel = MODEL,
    prompt: Sequence = PROMPT,
    axes: int = 1,
    draws: int = 1,
    record: str = "",
    end: int | None = None,
    **options: Any,
) -> list[list[int]]:
    """(draws, length) ids."""
    tokenizer: Any = FakeTokenizer(legal=legal, axes=axes)
    config = SampleConfig(**{"length": 30, **options})
    steps = generate(model, tokenizer, prompt, config, draws, record, end)
    return np.array([step.ids for step in steps], int).reshape(-1, draws).T.tolist()


def test_a_draw_is_a_function_of_seed_record_and_number() -> None:
    ids = draw(draws=3)
    assert ids == draw(draws=3) and len(ids[0]) == 30
    assert len({tuple(each) for each in ids}) == 3
    assert draw(seed=1) != draw(seed=0)
    assert draw(record="a") != draw(record="b")


def test_a_draw_is_the_same_however_many_are_drawn() -> None:
    many = draw(draws=5)
    assert draw(draws=1) == many[:1] and draw(draws=3) == many[:3]


def test_a_shorter_draw_is_the_beginning_of_a_longer_one() -> None:
    assert draw(length=9)[0] == draw(length=30)[0][:9]


def test_logprobs_are_the_models_own() -> None:
    tokenizer: Any = FakeTokenizer(legal=(3, 9))
    config = SampleConfig(length=9, temperature=0.3, top_k=2)
    ids = PROMPT.ids.tolist()
    for step in generate(MODEL, tokenizer, PROMPT, config):
        with torch.no_grad():
            logits = MODEL.logits(MODEL(torch.tensor([ids]))[0, -1], 3, 9)
        expected = float(logits.log_softmax(-1)[step.ids[0] - 3])
        assert step.logprobs[0] == pytest.approx(expected, abs=1e-5)
        ids += step.ids


def test_it_stops_where_every_draw_has_ended() -> None:
    endless = draw(draws=4, seed=1)
    end = endless[0][2]
    tokenizer: Any = FakeTokenizer()
    steps = list(generate(MODEL, tokenizer, PROMPT, SampleConfig(length=300, seed=1), 4, end=end))
    ids = np.array([step.ids for step in steps]).T.tolist()
    assert all(end in each for each in ids), "each draw has its end"
    longest = max(each.index(end) for each in ids)
    assert len(steps) == longest + 1 < 300
    for number, step in enumerate(steps):
        assert step.ended == [end in each[: number + 1] for each in ids]
    assert [each[:3] for each in ids] == [each[:3] for each in endless]


def test_length_is_kept_and_may_be_nothing() -> None:
    assert draw(length=0) == [[]]
    assert len(draw(length=1)[0]) == 1


@pytest.mark.parametrize("greedy", [True, False])
def test_only_what_is_legal_is_drawn(greedy: bool) -> None:
    (ids,) = draw((5, 8), greedy=greedy)
    assert len(ids) == 30 and set(ids) <= {5, 6, 7}
    ranges = np.array([[0, 1]] * 3 + [[4 * k % 20, 4 * k % 20 + 3] for k in range(30)])
    (ids,) = draw(ranges, greedy=greedy)
    assert len(ids) == 30
    assert all(low <= id < high for id, (low, high) in zip(ids, ranges[3:], strict=True))


def test_it_stops_where_nothing_is_legal() -> None:
    ranges = np.array([[0, 23]] * 7 + [[0, 0]] * 30)
    (ids,) = draw(ranges)
    assert len(ids) == 4, "three ids of the prompt, four that may follow"
    assert draw((4, 4)) == [[]]


@pytest.mark.parametrize("length, given", [(12, 1), (13, 1), (40, 1), (40, 5), (40, 11)])
def test_a_long_prompt_keeps_its_given_part_and_its_end(length: int, given: int) -> None:
    prompt = Sequence(np.arange(length) % 23, given, None, {"rate": 1})
    clipped = clip_prompt(prompt, 12)
    assert len(clipped) == 12 and clipped.given == given and clipped.side == {"rate": 1}
    assert clipped.ids[:given].tolist() == prompt.ids[:given].tolist()
    assert clipped.ids[given:].tolist() == prompt.ids[given - 12 :].tolist()
    assert draw(prompt=prompt) == draw(prompt=clipped)


def test_a_given_part_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="context 12"):
        draw(prompt=Sequence(np.zeros(13, np.int64), 13))


def test_an_item_that_must_be_seen_whole_does_not_outgrow_the_context() -> None:
    model = small_model(axes=2)
    assert len(draw(model=model, axes=2, length=10)[0]) == 10
    with pytest.raises(DataError, match="--context"):
        draw(model=model, axes=2, length=11)


@pytest.mark.parametrize("tiny", [1e-320, 1e-40, 1e-9])
def test_a_temperature_of_any_size_has_its_limit(tiny: float) -> None:
    """Greedy near zero, an equal chance for all legal ids at infinity."""
    logits = torch.tensor([[1.0, 3.0, 2.999999, -torch.inf]])
    cold = filter_logits(logits, SampleConfig(temperature=tiny)).softmax(-1)
    assert cold.tolist() == [[0, 1, 0, 0]]
    hot = filter_logits(logits, SampleConfig(temperature=1e300)).softmax(-1)
    torch.testing.assert_close(hot, torch.tensor([[1, 1, 1, 0]]).double() / 3)
