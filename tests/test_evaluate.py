"""Scores: every id once, each given exactly its window's prefix, whatever shares a pass with it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeTokenizer, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.errors import DataError, UsageError
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence
from tfm.core.score.likelihood import BATCH_TOKENS, BUFFER_TOKENS, evaluate, windows
from tfm.core.train.validation import Validation
from tfm.tasks.text import TextTask
from tfm.tokenizers.byte import SingleByteTokenizer

VOCAB, CONTEXT = 17, 8
PLAIN: Any = FakeTokenizer(VOCAB)


def model_of(context: int = CONTEXT, **fields: Any) -> SequenceModel:
    return small_model(vocab_size=VOCAB, context=context, dropout=0.5, **fields)


def item(length: int, given: int = 1, seed: int = 0) -> Sequence:
    ids = np.random.default_rng([length, seed]).integers(0, VOCAB, length)
    return Sequence(ids, given)


@torch.no_grad()
def one_by_one(
    model: SequenceModel, sequence: Sequence, stride: int, low: int = 0, high: int = VOCAB
) -> list[float]:
    """The nats of every id but the first, a full pass for each over exactly what it may see."""
    model.eval()
    ids, nats, end = sequence.ids, [], CONTEXT + 1
    for at in range(1, len(ids)):
        while at >= end:
            end = min(end + stride, len(ids))
        seen = torch.from_numpy(ids[max(0, min(end, len(ids)) - CONTEXT - 1) : at])[None]
        logits = model.logits(model(seen)[0, -1], low, high)
        nats.append(-float(logits.log_softmax(-1)[ids[at] - low]))
    return nats


@given(length=st.integers(0, 300), context=st.integers(1, 40), data=st.data())
@settings(deadline=None)
def test_every_id_but_the_first_is_scored_once(
    length: int, context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    cut = list(windows(3, length, context, stride))
    scored = [at for window in cut for at in range(window.scored, window.end)]
    assert scored == list(range(1, length))
    for window in cut:
        assert window.item == 3 and 0 <= window.start < window.scored < window.end <= length
        assert window.end - window.start <= context + 1
        least = min(window.scored, context + 1 - stride)
        assert window.scored - window.start >= least, "ids see what the stride leaves them"


@pytest.mark.parametrize("stride", [CONTEXT, 5, 1])
@pytest.mark.parametrize("length", [2, CONTEXT, CONTEXT + 1, CONTEXT + 2, 2 * CONTEXT + 1, 41])
def test_the_score_is_that_of_one_id_at_a_time(length: int, stride: int) -> None:
    model, sequence = model_of(), item(length)
    (score,) = evaluate(model, PLAIN, [sequence], None if stride == CONTEXT else stride)
    slow = one_by_one(model, sequence, stride)
    np.testing.assert_allclose(score.nats, slow, rtol=1e-4, atol=1e-5)
    assert score.nll == pytest.approx(math.fsum(slow), rel=1e-5)
    assert score.tokens == length - 1


def test_a_stride_of_one_is_the_whole_context_before_each_id() -> None:
    model, sequence = model_of(), item(30)
    (score,) = evaluate(model, PLAIN, [sequence], 1)
    for at in range(CONTEXT, 30):
        (alone,) = evaluate(model, PLAIN, [Sequence(sequence.ids[at - CONTEXT : at + 1])])
        assert score.nats[at - 1] == pytest.approx(alone.nats[-1], rel=1e-4, abs=1e-5)


def test_a_support_makes_scores_a_distribution_over_it() -> None:
    model = model_of()
    tokenizer: Any = FakeTokenizer(VOCAB, legal=(4, 9))
    sequence = Sequence(np.array([0, *item(20).ids % 5 + 4]))  # the begin token is outside
    (score,) = evaluate(model, tokenizer, [sequence])
    np.testing.assert_allclose(
        score.nats, one_by_one(model, sequence, CONTEXT, 4, 9), rtol=1e-4, atol=1e-5
    )


def test_what_shares_a_pass_changes_nothing_and_order_is_kept() -> None:
    model = model_of()
    lengths = [5, 40, 2, 9, 1, 8, 17, 0, 3, 9] * 8
    items = [item(length, seed=n) for n, length in enumerate(lengths)]
    alone = [next(evaluate(model, PLAIN, [each])) for each in items]
    together = list(evaluate(model, PLAIN, iter(items)))
    backwards = list(evaluate(model, PLAIN, items[::-1]))[::-1]
    for each, one, many, other in zip(items, alone, together, backwards, strict=True):
        assert many.sequence is each and other.sequence is each
        assert len(many.nats) == max(len(each) - each.given, 0)
        np.testing.assert_allclose(many.nats, one.nats, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other.nats, one.nats, rtol=1e-4, atol=1e-5)


def test_items_stream_and_keep_their_order_over_several_passes() -> None:
    """More than is read ahead: the first scores come before the last items are read."""
    model = model_of(context=1023, layers=1, width=4, heads=1)
    count = BUFFER_TOKENS // 1024 + 3
    assert BATCH_TOKENS < 1024 * count
    read = []

    def source() -> Any:
        for n in range(count):
            read.append(n)
            yield item(1024, seed=n % 2)

    scores = evaluate(model, PLAIN, source())
    first = next(scores)
    assert len(read) < count
    rest = list(scores)
    assert len(rest) == count - 1
    for n, score in enumerate([first, *rest]):
        expected = (first, rest[0])[n % 2].nll
        assert score.nll == pytest.approx(expected, rel=1e-6)
    assert first.nll != pytest.approx(rest[0].nll, rel=1e-6)


@pytest.mark.parametrize("stride", [None, CONTEXT - 1, 3, 1])
@pytest.mark.parametrize("given", [2, 3])
def test_given_ids_stand_before_every_window(given: int, stride: int | None) -> None:
    """Each id by itself: its probability after the given ids and those of its window."""
    model = model_of()
    sequence = Sequence(item(41).ids, given)
    (score,) = evaluate(model, PLAIN, [sequence], stride)
    room = CONTEXT + 1 - given
    step = min(stride or CONTEXT, room)
    slow, end = [], CONTEXT + 1
    for at in range(given, 41):
        if at >= end:
            end = min(41, end + step)
        cut = max(0, end - CONTEXT - 1)
        before = (
            sequence.ids[:at]
            if not cut
            else [*sequence.ids[:given], *sequence.ids[cut + given : at]]
        )
        (alone,) = evaluate(model, PLAIN, [Sequence(np.array([*before, sequence.ids[at]]))])
        slow.append(alone.nats[-1])
    np.testing.assert_allclose(score.nats, slow, rtol=1e-4, atol=1e-5)


def test_given_ids_and_weights_of_zero_do_not_count() -> None:
    model = model_of()
    ids = item(20).ids
    short = ids[: CONTEXT + 1]
    (first,) = evaluate(model, PLAIN, [Sequence(short)])
    (given,) = evaluate(model, PLAIN, [Sequence(short, given=6)])
    assert given.tokens == len(short) - 6
    np.testing.assert_allclose(given.nats, first.nats[5:], rtol=1e-5)
    (whole,) = evaluate(model, PLAIN, [Sequence(ids)])
    weight = np.ones(20, np.float32)
    weight[[3, 7, 19]] = 0
    weight[5] = 0.5
    (weighted,) = evaluate(model, PLAIN, [Sequence(ids, 1, weight)])
    assert weighted.tokens == 16
    expected = whole.nats.copy()
    expected[[2, 6, 18]] = 0
    np.testing.assert_allclose(weighted.nats, expected, rtol=1e-5)
    assert weighted.nll == pytest.approx(expected.sum() - expected[4] / 2, rel=1e-6)


@torch.no_grad()
def test_items_with_positions_of_their_own_are_seen_whole() -> None:
    model = model_of(axes=2)
    tokenizer: Any = FakeTokenizer(VOCAB, axes=2)
    sequence = item(CONTEXT + 1)
    (score,) = evaluate(model, tokenizer, [sequence])
    places = torch.from_numpy(tokenizer.positions(CONTEXT + 1, {}))[None]
    hidden = model.eval()(torch.from_numpy(sequence.ids)[None, :-1], places[:, :-1])
    logprobs = model.logits(hidden)[0].log_softmax(-1)
    expected = [-float(logprobs[t - 1, sequence.ids[t]]) for t in range(1, CONTEXT + 1)]
    np.testing.assert_allclose(score.nats, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="--context 9"):
        list(evaluate(model, tokenizer, [item(CONTEXT + 2)]))


@pytest.mark.parametrize("stride", [-1, CONTEXT + 1])
def test_a_stride_outside_the_context_is_refused(stride: int) -> None:
    with pytest.raises(UsageError, match="--stride"):
        list(evaluate(model_of(), PLAIN, [item(5)], stride))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_stays(training: bool) -> None:
    model = model_of().train(training)
    first, second = (next(evaluate(model, PLAIN, [item(9)])).nll for _ in range(2))
    assert first == second
    assert model.training == training


def test_a_part_of_the_held_out_items_is_of_some_items_at_least() -> None:
    """However short the budget: of one item there is no interval. Long items are cut instead."""

    class Items(list[Sequence]):
        def length(self, index: int) -> int:
            return len(self[index])

    validation: Any = object.__new__(Validation)
    validation.task, validation.tokenizer = TextTask(TextTask.Options()), SingleByteTokenizer()
    for length, whole in ((9, True), (4000, False)):
        chosen, part = validation._part_of(Items([item(length)] * 100), 0.0)
        assert 16 <= len(chosen) <= 20 and (len(chosen[0]) == length) is whole
        assert part == pytest.approx(sum(map(len, chosen)) / (100 * length))
        assert sum(map(len, chosen)) < 3000
