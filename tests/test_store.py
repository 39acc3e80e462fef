"""Sequences on disk: what went in comes out, or it is said to be damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.data.sequence_store import Store, cached_store, write_store
from tfm.core.errors import DamagedError
from tfm.core.protocols import Sequence

SIDES = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
    max_size=3,
)


@st.composite
def sequences(draw: st.DrawFn, vocab_size: int) -> Sequence:
    ids = np.array(draw(st.lists(st.integers(0, vocab_size - 1), max_size=20)), np.int64)
    given = draw(st.integers(0, 3))
    weight = draw(
        st.none() | st.lists(st.floats(0, 2, width=32), min_size=len(ids), max_size=len(ids))
    )
    side = draw(SIDES)
    return Sequence(ids, given, None if weight is None else np.array(weight, np.float32), side)


@pytest.mark.parametrize("vocab_size", [1, 1 << 16, (1 << 16) + 1, 1 << 31])
@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, vocab_size: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("store")
    items = data.draw(st.lists(sequences(vocab_size), max_size=5))
    write_store(folder, items, vocab_size)
    store = Store(folder)
    assert len(store) == len(items)
    for index, (item, back) in enumerate(zip(items, store, strict=True)):
        assert back.ids.dtype == np.int64 and back.ids.tolist() == item.ids.tolist()
        assert (back.given, back.side) == (item.given, item.side)
        assert back.target_weight().tolist() == item.target_weight().tolist()
        assert store.length(index) == len(item)
    if all(item.weight is None for item in items):
        assert all(item.weight is None for item in store)


ITEMS = [
    Sequence(np.arange(300), 2, None, {"rate": 8000}),
    Sequence(np.arange(3), 1, np.array([0, 1, 0.5], np.float32)),
]


@pytest.mark.parametrize(
    "name", ["ids.bin", "offsets.bin", "items.jsonl", "weight.bin", "meta.json"]
)
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    write_store(tmp_path, ITEMS, 1000)
    file = tmp_path / name
    sound = file.read_bytes()
    for at in range(0, len(sound), max(1, len(sound) // 200)):
        for bit in (1, 4, 128):
            file.write_bytes(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
            with pytest.raises(DamagedError, match="store|checksum"):
                Store(tmp_path)
    for damaged in (b"", sound[: len(sound) // 2], sound + b"0"):
        file.write_bytes(damaged)
        with pytest.raises(DamagedError):
            Store(tmp_path)
    file.unlink()
    with pytest.raises(DamagedError):
        Store(tmp_path)
    file.write_bytes(sound)
    assert len(Store(tmp_path)) == 2


def test_a_cache_is_written_once_and_again_where_it_is_damaged(tmp_path: Path) -> None:
    written = []

    def source() -> Any:
        written.append(1)
        yield from ITEMS

    for damage, times in ((None, 1), (None, 1), ("ids.bin", 2), ("meta.json", 3), (None, 3)):
        if damage:
            (tmp_path / "cache" / "name" / damage).write_bytes(b"?")
        store = cached_store(tmp_path / "cache", "name", source(), 1000)
        assert [item.ids.tolist() for item in store] == [item.ids.tolist() for item in ITEMS]
        assert len(written) == times
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["name"]


def test_a_cache_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    def source() -> Any:
        yield ITEMS[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cached_store(tmp_path, "name", source(), 1000)
    assert list(tmp_path.iterdir()) == []
