"""Which part of the data a step sees: permutations, windows over a stream, packed items."""

from typing import Any

import numpy as np
import pytest
from helpers import FakeTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.data.datasets import Packed, Windows, collate, step_batch
from tfm.core.data.keyed_random import permute, uniform
from tfm.core.data.sequence_store import Store, write_store
from tfm.core.errors import DataError
from tfm.core.protocols import Array, Batch, Ids, Sequence

BEGIN = 9999


# -- permutations --------------------------------------------------------------------------------


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=60)
def test_permute_is_a_permutation(size: int, seed: int) -> None:
    assert sorted(permute(np.arange(size), size, seed).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**40, 2**40 + 1, 10**12 + 39, 2**62])
def test_permute_of_any_size_is_one_to_one(size: int) -> None:
    indices = np.unique(np.random.default_rng(0).integers(0, size, 2000))
    images = permute(indices, size, 7)
    assert len(np.unique(images)) == len(indices)
    assert images.min() >= 0 and images.max() < size
    assert images.mean() == pytest.approx(size / 2, rel=0.1), "they spread over all of it"


def test_permute_is_another_with_another_seed() -> None:
    images = [tuple(permute(np.arange(100), 100, seed)) for seed in range(20)]
    assert len(set(images)) == 20 and tuple(range(100)) not in images
    one, other = (permute(np.arange(4096), 4096, seed) for seed in (0, 1))
    for a, b in ((one, other), (one, np.arange(4096)), (one[1:], one[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.06, "no order is left"


def test_uniform_is_in_the_unit_interval_and_even() -> None:
    drawn = np.array([uniform("a", i) for i in range(4000)])
    assert drawn.min() >= 0 and drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx(400, rel=0.25)


# -- steps ---------------------------------------------------------------------------------------


class Numbers:
    """Row i is the number i."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Ids) -> Batch[Array]:
        return Batch(indices[:, None], np.ones((len(indices), 1), np.float32))


@given(size=st.integers(1, 60), rows=st.integers(1, 17), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=50)
def test_each_epoch_sees_each_index_once(size: int, rows: int, seed: int) -> None:
    data, epochs = Numbers(size), 4
    steps = [step_batch(data, step, rows, seed).ids for step in range(-(-size * epochs // rows))]
    seen = np.concatenate(steps).ravel()[: size * epochs].reshape(epochs, size)
    for epoch, indices in enumerate(seen):
        assert (np.sort(indices) == epoch * size + np.arange(size)).all()
    if size > 20:
        orders = {tuple(indices % size) for indices in seen}
        assert len(orders) == epochs, "the order is drawn anew"


def test_a_step_is_a_function_of_seed_and_number() -> None:
    data = Numbers(1000)
    assert (step_batch(data, 37, 8, 1).ids == step_batch(data, 37, 8, 1).ids).all()
    assert (step_batch(data, 37, 8, 1).ids != step_batch(data, 37, 8, 2).ids).any()
    assert (step_batch(data, 37, 8, 1).ids != step_batch(data, 38, 8, 1).ids).any()
    endless = step_batch(Numbers(2**62), 10**9, 8, 1).ids
    assert len(np.unique(endless)) == 8 and endless.max() > 2**59


# -- windows over a stream -----------------------------------------------------------------------


@given(length=st.integers(2, 300), context=st.integers(1, 40), epoch=st.integers(0, 3))
@settings(deadline=None)
def test_targets_of_an_epoch_do_not_overlap(length: int, context: int, epoch: int) -> None:
    stream = np.arange(length, dtype=np.uint16)  # an id says where it stands
    windows = Windows(stream, context, seed=0, begin=BEGIN, support=(0, 5))
    batch = windows.batch(epoch * len(windows) + np.arange(len(windows)))
    assert batch.ids.shape == (len(windows), windows.context + 1) and batch.ids.dtype == np.int64
    assert windows.context == min(context, length - 1) and batch.support == (0, 5)
    assert (np.diff(batch.ids[:, 1:]) == 1).all(), "neighbours in the stream"
    first = batch.ids[:, 0]
    assert ((first == BEGIN) | (first == batch.ids[:, 1] - 1)).all()
    assert (batch.weight[:, 0] == 0).all() and (batch.weight[:, 1:] == 1).all()
    targets = batch.ids[:, 1:].ravel()
    assert len(set(targets.tolist())) == len(targets)
    assert len(targets) > (length - 1) - 2 * windows.context, "most of the stream is seen"


@pytest.mark.parametrize("length", [2, 3, 17, 40, 59, 60, 61])
def test_every_id_is_a_target_in_some_epoch(length: int) -> None:
    windows = Windows(np.arange(length), context=20, seed=0, begin=BEGIN, support=None)
    ids = windows.batch(np.arange(600 * len(windows))).ids
    assert set(ids[:, 1:].ravel().tolist()) == set(range(1, length))


def test_windows_begin_elsewhere_in_each_epoch() -> None:
    windows = Windows(np.arange(1000), context=50, seed=0, begin=BEGIN, support=None)
    starts = [windows.batch(np.array([epoch * len(windows)])).ids[0, 1] for epoch in range(20)]
    assert len(set(starts)) > 10
    other = Windows(np.arange(1000), context=50, seed=1, begin=BEGIN, support=None)
    assert (windows.batch(np.arange(40)).ids != other.batch(np.arange(40)).ids).any()


def test_the_begin_token_is_met_and_never_a_target() -> None:
    stream = np.arange(400)
    stream[::7] = BEGIN  # where one text ends and the next begins
    windows = Windows(stream, context=10, seed=0, begin=BEGIN, support=None)
    batch = windows.batch(np.arange(40 * len(windows)))
    assert (batch.weight[batch.ids == BEGIN] == 0).all()
    assert (batch.weight[:, 1:][batch.ids[:, 1:] != BEGIN] == 1).all()
    plain = Windows(np.arange(400), context=10, seed=0, begin=BEGIN, support=None)
    share = (plain.batch(np.arange(40 * len(plain))).ids[:, 0] == BEGIN).mean()
    assert share == pytest.approx(1 / 16, rel=0.4)


@pytest.mark.parametrize("length", [0, 1])
def test_a_stream_without_a_target_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"{length} tokens"):
        Windows(np.zeros(length, np.int64), context=8, seed=0, begin=BEGIN, support=None)


# -- packed items --------------------------------------------------------------------------------


def store_of(folder: Any, sequences: list[Sequence]) -> Store:
    write_store(folder, sequences, 10000)
    return Store(folder)


def numbered(lengths: list[int], given: int = 1) -> list[Sequence]:
    """Items whose ids are all different, over all of them."""
    ends = np.cumsum([0, *lengths])
    return [
        Sequence(np.arange(a, b), min(given, int(b - a)))
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    given_ids=st.integers(1, 3),
    context=st.integers(1, 20),
)
@settings(deadline=None, max_examples=150)
def test_every_id_that_counts_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], given_ids: int, context: int
) -> None:
    items = numbered(lengths, given_ids)
    store = store_of(tmp_path_factory.mktemp("store"), items)
    tokenizer: Any = FakeTokenizer(10000)
    packed = Packed(store, tokenizer, context)
    batch = packed.batch(np.arange(len(packed)))
    assert batch.ids.shape == (len(packed), context + 1)
    assert (batch.weight[:, 0] == 0).all()
    expected = [id for item in items for id in item.ids[item.given :].tolist()]
    assert sorted(batch.ids[batch.weight > 0].tolist()) == expected

    # a target stands right behind the id before it, in the same segment, one place on
    rows, columns = np.nonzero(batch.weight)
    assert (batch.ids[rows, columns - 1] == batch.ids[rows, columns] - 1).all()
    if batch.segments is not None:
        assert (batch.segments[rows, columns - 1] == batch.segments[rows, columns]).all()
        assert batch.positions is not None, "a segment's positions begin at 0"
        begins = np.diff(batch.segments, axis=1) != 0
        assert (batch.positions[:, 1:][begins] == 0).all()
        assert (np.diff(batch.positions[..., 0], axis=1)[~begins] <= 1).all()
        item_of = np.repeat(np.arange(len(items)), lengths)
        for row, segments in zip(batch.ids, batch.segments, strict=True):
            for number in set(segments[segments >= 0].tolist()):
                assert len(set(item_of[row[segments == number]])) == 1
        assert (batch.weight[batch.segments < 0] == 0).all(), "padding does not count"


def test_neighbours_share_a_row_and_long_items_go_on(tmp_path: Any) -> None:
    tokenizer: Any = FakeTokenizer(10000)
    batch = Packed(store_of(tmp_path, numbered([3, 4, 12])), tokenizer, 6).batch(np.arange(3))
    assert batch.segments is not None
    assert batch.ids.tolist() == [
        [0, 1, 2, 3, 4, 5, 6],
        [7, 8, 9, 10, 11, 12, 13],
        [13, 14, 15, 16, 17, 18, 0],
    ]
    assert batch.segments.tolist() == [[0] * 3 + [1] * 4, [0] * 7, [0] * 6 + [-1]]
    assert batch.weight.tolist() == [[0, 1, 1, 0, 1, 1, 1], [0] + [1] * 6, [0] + [1] * 5 + [0]]


def test_an_item_with_positions_of_its_own_must_fit(tmp_path: Any) -> None:
    placed: Any = FakeTokenizer(10000, axes=2)
    store = store_of(tmp_path, numbered([5, 9]))
    with pytest.raises(DataError, match="--context 8"):
        Packed(store, placed, 7)
    batch = Packed(store, placed, 8).batch(np.arange(2))
    assert batch.positions is not None
    assert batch.positions[1].tolist() == [[i // 3, i % 3] for i in range(9)]


def test_no_items_are_refused(tmp_path: Any) -> None:
    with pytest.raises(DataError, match="no items"):
        Packed(store_of(tmp_path, []), FakeTokenizer(10000), 8)  # type: ignore[arg-type]


def test_support_is_one_range_where_it_can_be() -> None:
    by_position = np.array([[0, 10000], [10, 20], [0, 5]])
    for legal, expected in (
        (None, None),
        ((5, 9), (5, 9)),
        (by_position, [[*by_position.tolist(), [0, 10000]]] * 2),
    ):
        tokenizer: Any = FakeTokenizer(10000, legal=legal)
        rows = [[(item, 0, 3)] for item in numbered([3, 3])]
        support = collate(rows, tokenizer, 4).support
        assert (support.tolist() if isinstance(support, np.ndarray) else support) == expected
