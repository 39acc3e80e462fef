"""Tests of the task `newtask`: the laws of its tokenizer, its floor, and a run of two steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tfm_newtask import NewtaskTask, NewtaskTokenizer

from tfm.core.data.item_list import ItemList
from tfm.core.laws import check_tokenizer

ITEMS = [[n % 10, n % 7, 99][: n % 4] for n in range(100)]


def test_laws() -> None:
    check_tokenizer(NewtaskTokenizer(), ITEMS)


def test_the_floor_of_equal_numbers_is_near_zero() -> None:
    task = NewtaskTask(NewtaskTask.Options())
    items = ItemList([[5] * 1000] * 100, "fives")
    assert 0 < task.floor(items, items)["unigram"] < 0.1


def test_other_files_are_refused() -> None:
    task = NewtaskTask(NewtaskTask.Options())
    with pytest.raises(ValueError, match="line 2: "):
        list(task.read(b"1 2\n1 two\n"))


def test_it_trains_and_samples(tmp_path: Path) -> None:
    def tfm(*words: str) -> str:
        command = [sys.executable, "-m", "tfm", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = (" ".join(map(str, item)) for item in ITEMS)
    (tmp_path / "data.txt").write_text("\n".join(lines))
    train = ("train", "--task", "newtask", "--data", "data.txt", "--run", "run", "--json")
    scores = json.loads(tfm(*train, "--size", "nano", "--steps", "2"))
    assert scores["bits_per_number"] > 0 and "unigram" in scores["floor"]
    assert tfm("sample", "run", "-p", "3 1 4").startswith("3 1 4")
