"""`ListTask`, the base of domains whose items fit in memory: reading, splits, training rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from tfm.core.data.datasets import step_batch
from tfm.core.data.item_list import ItemList, ListTask, content, count
from tfm.core.data.source import Source
from tfm.core.errors import ConfigError, DataError
from tfm.core.protocols import Ids, Sequence
from tfm.tokenizers.byte import SingleByteTokenizer


class Words(ListTask[bytes]):
    name, about, unit = "words", "lines", "byte"
    default_tokenizer, Tokenizer = "byte", SingleByteTokenizer

    def read(self, data: bytes) -> Iterable[bytes] | Mapping[str, Iterable[bytes]]:
        if data.startswith(b"{"):
            found = json.loads(data)
            return {part: [word.encode() for word in words] for part, words in found.items()}
        if b"?" in data:
            raise ValueError("a question")
        return data.split()

    def variants(self, item: bytes) -> Iterable[bytes]:
        return (item, item.upper())

    def floor(self, train: ItemList[bytes], held: ItemList[bytes]) -> dict[str, float]:
        return {}

    def write(self, items: list[bytes], prompt: Any, sampling: Any, out: BinaryIO) -> None:
        out.writelines(items)


@pytest.fixture
def task() -> Words:
    return Words(Words.Options())


def read(task: Words, folder: Path, **files: bytes) -> ItemList[bytes]:
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return task.items(Source((str(folder),)))


def test_items_of_all_files_are_read(task: Words, tmp_path: Path) -> None:
    found = read(task, tmp_path, a_txt=b"one two", b_gz=gzip.compress(b"three"))
    assert list(found) == [b"one", b"two", b"three"] and found.size == 3 + 3 + 5
    assert not task.parts(found) and found.about == str(tmp_path)


def test_parts_that_the_data_names(task: Words, tmp_path: Path) -> None:
    data = b'{"train": ["a", "b"], "test": ["c"]}'
    found = read(task, tmp_path, a_json=data, b_json=b'{"train": ["d"], "valid": []}')
    parts = task.parts(found)
    assert {name: list(part) for name, part in parts.items()} == {
        "train": [b"a", b"b", b"d"],
        "test": [b"c"],
    }
    assert parts["train"].about == "3 items" and len(found) == 4
    assert not task.parts(read(task, tmp_path, c_txt=b"e")), "a file without parts is beside them"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no items in it"),
        (b"why?", "a.txt: a question"),
        (b"{", "a.txt: Expecting property name"),
        (b'{"train": 3}', "a.txt: not of the form of --task words ('int' object is not iterable"),
        (b'{"train": [3]}', "a.txt: not of the form of --task words"),
    ],
)
def test_files_without_items(task: Words, tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(DataError) as found:
        read(task, tmp_path, a_txt=data)
    assert said in str(found.value) and str(found.value).startswith("--data ")


def test_equal_items_stay_together() -> None:
    items = ItemList([n % 50 for n in range(1000)], "numbers")
    rest, held = items.split(0.2, "split")
    assert len(rest) + len(held) == 1000 and not set(rest) & set(held)
    assert 0.1 < len(held) / 1000 < 0.3 and held.about == f"{len(held)} of 1,000 items"
    assert set(items.split(0.2, "halves")[1]) != set(held)
    more, _ = ItemList([*items, 50, 51], "more").split(0.2, "split")
    assert set(rest) <= set(more), "other items do not move an item to the other side"


@pytest.mark.parametrize("fraction", [0.0001, 0.5, 0.9999])
def test_both_sides_have_an_item(fraction: float) -> None:
    rest, held = ItemList(["a", "a", "b"], "letters").split(fraction, "split")
    assert sorted([*rest, *held]) == ["a", "a", "b"] and len(rest) and len(held)
    for items in ([], ["a"], ["a", "a"]):
        with pytest.raises(DataError, match="--data: letters: need at least 2 that differ"):
            ItemList(items, "letters").split(fraction, "split")


@dataclass(frozen=True)
class Note:
    pitch: int
    name: str


DIFFERENT = [
    0, 1, 1.5, "", "0", b"", b"0", None, [], [0], [[0]], [0, 1], {"a": 0}, {"a": 1}, Note(0, "c"),
    Note(1, "c"), np.zeros(2), np.zeros(2, np.float32), np.zeros((1, 2)), np.zeros((2, 1)),
    np.arange(2000), np.arange(2000) + (np.arange(2000) == 1000),
]  # fmt: skip


def test_the_content_of_different_items_differs() -> None:
    assert len({content(item) for item in DIFFERENT}) == len(DIFFERENT)
    assert content([1, (2, 3)]) == content((1, [2, 3])) and content(np.int64(3)) == content(3)
    assert content(Note(1, "c")) == content(Note(1, "c"))
    with pytest.raises(TypeError, match="an item has a set, of which no hash is known"):
        content([{1}])
    assert [count(item) for item in (3, "abc", b"ab", [[1, 2], "ab"], Note(1, "abc"))] == [
        *(1, 3, 2, 4, 4)
    ]
    assert count(np.zeros((2, 3))) == 6 and count({"a": [1, 2]}) == 2


def test_variants_are_trained_on_and_not_scored(task: Words, tmp_path: Path) -> None:
    items, tokenizer = ItemList([b"a", b"bc"], "words"), SingleByteTokenizer()
    data = task.dataset(items, tokenizer, 3, None, 0, tmp_path)
    rows = np.concatenate([step_batch(data, step, 1, 0).ids for step in range(len(data))])
    assert {bytes(row[row < 256].tolist()) for row in rows} == {b"aA", b"bc\0", b"BC\0"}
    assert [len(sequence) for sequence in task.sequences(items, tokenizer)] == [2, 3]
    assert task.units(task.sequences(items, tokenizer)) == {"byte": 3}
    assert not list(tmp_path.iterdir()), "no cache that a change of `variants` would not reach"
    other = task.dataset(ItemList([b"d"], "words"), tokenizer, 3, None, 0, tmp_path)
    assert len(other) == 1


class Placed(SingleByteTokenizer):
    def positions(self, length: int, side: Mapping[str, Any]) -> Ids:  # type: ignore[override]
        return np.arange(length)[:, None]


def test_items_with_coordinates_are_not_cut(task: Words) -> None:
    items = ItemList([b"a", b"bcd"], "words")
    assert task.longest(items, SingleByteTokenizer()) is None
    assert task.longest(items, Placed()) == 4


def test_a_prompt_is_an_item(task: Words) -> None:
    tokenizer = SingleByteTokenizer()
    assert task.prompt(b"abc", tokenizer, None).ids.tolist() == [256, *b"abc"]
    for nothing in (None, b""):
        assert isinstance(prompt := task.prompt(nothing, tokenizer, None), Sequence)
        assert prompt.ids.tolist() == [256]
    for wrong, said in ((b"a b", "must be one item, has 2"), (b"?", "a question")):
        with pytest.raises(DataError, match=f"--prompt: {said}"):
            task.prompt(wrong, tokenizer, None)


def test_another_tokenizer_is_refused(task: Words) -> None:
    items = ItemList([b"a"], "words")
    assert isinstance(task.fit_tokenizer("byte", items), SingleByteTokenizer)
    with pytest.raises(ConfigError, match="--tokenizer char: known for the words task: byte"):
        task.fit_tokenizer("char", items)
