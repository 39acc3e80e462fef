"""The generated tasks: answers are exact, training never meets what is held out, batches are pure
functions of their numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.data.datasets import with_sources
from tfm.core.errors import ConfigError, DataError
from tfm.core.plugins import find
from tfm.core.train.prepare import make_task
from tfm.tokenizers.integers import IntegerTokenizer

NAMES = ("copy", "reverse", "sort", "recall", "induction", "parity", "addition")


def task_of(name: str, **options: object) -> Any:
    return make_task(name, options)


def parts_of(task: Any) -> tuple[Any, Any, Any]:
    """(training items, held-out items, tokenizer)."""
    train, held = task.split(task.items(task.default_source()), None)
    return train, held, task.fit_tokenizer(task.default_tokenizer, train)


def right(name: str, question: str) -> str:
    """The answer, by another way than the task's."""
    if name in ("copy", "reverse"):
        return question if name == "copy" else "".join(reversed(question))
    if name == "sort":
        return "".join(letter * question.count(letter) for letter in sorted(set(question)))
    if name == "parity":
        odd = False
        for bit in question:
            odd ^= bit == "1"
        return str(int(odd))
    if name == "addition":
        return str(eval(question, {}))
    return question[question.index("*") + 1]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"recall"}))
def test_answers_are_right_and_questions_of_both_parts_differ(name: str) -> None:
    task = task_of(name)
    train, held, _ = parts_of(task)
    seen = [train.item(3, number) for number in range(2000)]
    for question, answer in (*seen, *held):
        assert answer == right(name, question), question
    questions = {question for question, _ in seen}
    assert not questions & {question for question, _ in held}
    assert len(questions) > 500
    assert seen == [train.item(3, number) for number in range(2000)]
    assert seen[:50] != [train.item(4, number) for number in range(50)]
    assert train.fingerprint != held.fingerprint
    if name in ("copy", "parity"):
        assert {len(question) for question in questions} == set(range(1, 21))


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_batches_are_pure_functions_of_their_numbers(
    tmp_path: Path, name: str, encoder: bool
) -> None:
    task = task_of(name)
    train, _, tokenizer = parts_of(task)
    context = task.longest(train, tokenizer) + 30
    data = task.dataset(train, tokenizer, context, None, 5, tmp_path)
    data = with_sources(data) if encoder else data
    numbers = np.array([7, 0, 123_456_789_012])
    batch, again = data.batch(numbers), data.batch(numbers[::-1])
    np.testing.assert_array_equal(batch.ids, again.ids[::-1])
    np.testing.assert_array_equal(batch.weight, again.weight[::-1])
    assert batch.ids.shape == (3, context + 1) and (batch.weight.sum(1) > 0).all()
    assert (batch.source is not None) == encoder
    segments = 0 if batch.segments is None else batch.segments.max()
    assert segments > 0 or name == "recall", "several short items share a row"
    with pytest.raises(DataError, match="must be seen whole"):
        task.dataset(train, tokenizer, 3, None, 0, tmp_path).batch(np.arange(50))


@pytest.mark.parametrize("fillers", ["zeros", "random"])
def test_recall_is_zoologys(fillers: str) -> None:
    """Keys of the first half of the vocabulary and values of the second; each key once more at an
    even place, its value after it; only these values count."""
    task = task_of("recall", length=64, pairs=4, vocabulary=100, fillers=fillers)
    train, _, tokenizer = parts_of(task)
    gaps = []
    for number in range(200):
        sequence = task._pair(train.item(0, number), tokenizer)
        ids, weight = sequence.ids, sequence.target_weight()
        assert len(ids) == 65 and ids[8] == tokenizer.begin and sequence.given == 9
        keys, values = ids[:8:2], ids[1:8:2]
        assert len(set(keys.tolist())) == 4 and 1 <= keys.min() <= keys.max() < 50
        assert len(set(values.tolist())) == 4 and 50 <= values.min() <= values.max() < 100
        asked = np.flatnonzero(weight)
        assert len(asked) == 4 and (asked % 2 == 0).all() and (asked > 9).all()
        recalled = dict(zip(keys.tolist(), values.tolist(), strict=True))
        assert [recalled[k] for k in ids[asked - 1].tolist()] == ids[asked].tolist()
        assert sorted(ids[asked - 1].tolist()) == sorted(keys.tolist())
        if fillers == "zeros":
            rest = np.delete(ids[9:], np.concatenate((asked, asked - 1)) - 9)
            assert (rest == 0).all()
        gaps += ((asked - 10) // 2).tolist()
    counts = np.bincount(gaps, minlength=28)
    expected = 0.01 * np.arange(1, 29) ** (0.01 - 1.0)
    assert counts[0] > 100 and counts[1] > counts[5] > counts[20], "a power law"
    assert abs(counts[4:].sum() / counts.sum() - expected[4:].sum() / expected.sum()) < 0.2


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("copy", {"min_length": 0}, "--min-length 0: must be 1 to --max-length 20"),
        ("sort", {"min_length": 9, "max_length": 8}, "must be 1 to --max-length 8"),
        ("induction", {"min_length": 2}, "must be at least 3"),
        ("recall", {"length": 63}, "--length 63: must be even"),
        ("recall", {"length": 64, "pairs": 17}, "at least 4 times --pairs 17"),
        ("recall", {"min_length": 65}, "--min-length 65: must be 4 to --length 64, or 0"),
        ("recall", {"min_length": 2}, "--min-length 2: must be 4 to --length 64, or 0"),
        ("recall", {"vocabulary": 64}, "must exceed --length 64"),
        ("recall", {"power": -30.0}, "--power -30.0: must be 0 to 10"),
        ("addition", {"max_length": 5000}, "must be at most 1000"),
        ("recall", {"fillers": "ones"}, "must be one of zeros, random"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        task_of(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_no_item_is_longer_than_the_longest(name: str) -> None:
    """The context follows from it, and a longer item would stop a training."""
    options = {} if name == "recall" else {"min_length": 6, "max_length": 7}
    task = task_of(name, **options)
    train, held, tokenizer = parts_of(task)
    lengths = [len(task._pair(train.item(1, number), tokenizer)) for number in range(500)]
    assert max(lengths) == task.longest(train, tokenizer)
    assert len({question for question, _ in held}) == len(list(held)), "each question once"


def test_numbers_have_the_digits_that_were_asked_for() -> None:
    train, _, _ = parts_of(task_of("addition", min_length=3, max_length=3))
    for number in range(200):
        question, _ = train.item(0, number)
        assert [len(part) for part in question.split("+")] == [3, 3]


def test_too_few_questions_are_named() -> None:
    task = task_of("parity", max_length=1)
    with pytest.raises(ConfigError, match="there are too few different questions"):
        list(parts_of(task)[1])


def test_items_of_recall_have_many_lengths() -> None:
    """Those of --min-length, and all between whose length is halved, each with its pairs."""
    task = task_of("recall", length=64, pairs=4, min_length=16, vocabulary=100)
    assert task.options.shapes == [(64, 4), (32, 2), (16, 1)]
    train, held, tokenizer = parts_of(task)
    seen = [task._pair(train.item(0, number), tokenizer) for number in range(300)]
    lengths = Counter((len(each) - 1, each.side["value"]) for each in seen)
    assert set(lengths) == set(task.options.shapes) and min(lengths.values()) > 60
    assert task.window_floor(lambda: None, [], tokenizer, None)["guess_accuracy"] == 3 / 7


def test_a_key_is_recalled(tfm: Tfm) -> None:
    """A small recall is learned, and asked for by hand."""
    shape = ("--length", 8, "--pairs", 2, "--vocabulary", 12, "--size", "nano")
    train = ("train", "--task", "recall", *shape, "--set", "train.batch=32", "--run", "r")
    scores = tfm(*train, "--steps", 150, "--json").json()
    assert scores["accuracy"] > 0.9 > scores["floor"]["guess_accuracy"] == 0.5
    assert scores["unit"] == "value" and scores["units"] > 100
    answers = {(a, b): tfm("sample", "r", "-p", f"3 {a} 5 {b} 5").text for a, b in ((7, 9), (9, 7))}
    assert [x.strip() for x in answers.values()] == ["9", "7"]
    assert "then one key" in tfm.error("sample", "r", "-p", "3 7 5 9")
    assert "not a whole number from 0 to 11" in tfm.error("sample", "r", "-p", "3 12 5")
    assert "not for the recall task" in tfm.error("eval", "r", "--protocol", "last")
    assert "beam" in tfm.error("sample", "r", "-p", "3 7 5", "--beam", 2, "-n", 3)


def test_data_and_parts_are_the_tasks_own(tfm: Tfm) -> None:
    (tfm.folder / "d").write_text("ab\n")
    train = ("train", "--task", "copy", "--steps", 1)
    assert "the copy task generates its items" in tfm.error(*train, "--data", "d")
    assert "--holdout: the copy task holds out 1,000" in tfm.error(*train, "--holdout", "0.2")
    assert "known for the copy task: byte" in tfm.error(*train, "--tokenizer", "bpe")
    assert find("tasks", "copy").generated
    assert task_of("copy").make(Random(0))[0].islower()


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.integers(0, 99)), ends=st.booleans())
def test_numbers_are_tokens(numbers: list[int], ends: bool) -> None:
    """The laws of tokenizers, for items of numbers."""
    tokenizer, text = IntegerTokenizer(100, ends), " ".join(map(str, numbers))
    sequence = tokenizer.encode(text)
    assert sequence.ids.tolist() == [tokenizer.begin, *numbers, *[tokenizer.end] * ends]
    assert tokenizer.decode(sequence.ids, {}) == text
    again = IntegerTokenizer.from_state(*tokenizer.state())
    np.testing.assert_array_equal(again.encode(text).ids, sequence.ids)
    assert again.vocab_size == 101 + ends and again.support(3, {}) == (0, again.begin)
    with pytest.raises(DataError, match="not a whole number from 0 to 99"):
        tokenizer.encode(f"{text} 100")
