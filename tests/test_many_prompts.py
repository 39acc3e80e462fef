"""Many prompts in one pipe: a sample depends on its own prompt only, to the last byte."""

import io
import json
import os
import subprocess
from typing import Any

import pytest
from conftest import Tfm, Trained
from hypothesis import given
from hypothesis import strategies as st

from tfm.cli.prompts import RecordReader, complete_characters

PROMPTS = [
    f"{word} {number} fox" * (1 + number % 5)
    for number in range(9)
    for word in ("the", "été", "a", "", "brown dog", "\\n")
]


@pytest.fixture(scope="module")
def sample(trained: Trained) -> Any:
    def call(lines: list[str], *args: object, **settings: Any) -> Any:
        stdin = "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")
        options = ("--length", 20, "--device", "cpu", *args)
        return Tfm(trained.path.parent)("sample", trained.path, *options, stdin=stdin, **settings)

    return call


def test_bytes_are_equal_however_prompts_are_split_and_ordered(sample: Any) -> None:
    """More prompts than batch rows, with lengths below, at and above the context."""
    prompts = [*PROMPTS, "x" * 300, PROMPTS[0]]
    whole = sample(prompts, "--json", "-q").text.splitlines()
    assert [json.loads(line)["prompt"] for line in whole] == prompts
    assert whole[-1] == whole[0], "equal prompts draw alike"
    turned = sample(prompts[::-1], "--json", "-q").text.splitlines()
    assert turned == whole[::-1]
    assert sample(prompts[7:40], "--json", "-q").text.splitlines() == whole[7:40]


def test_draws_and_ids(sample: Any) -> None:
    lines = [json.dumps({"id": id, "prompt": "fox"}) for id in ("a", "b", "a")]
    records = sample(lines, "--json-in", "--json", "-n", 20).lines()
    assert [r["id"] for r in records] == ["a"] * 20 + ["b"] * 20 + ["a"] * 20
    assert records[:20] == records[40:]
    assert len({str(r["tokens"]) for r in records}) == 40, "each id and each draw its own"
    assert sample(lines[1:2], "--json-in", "--json").lines() == records[20:21]


def test_ends_differ_and_order_stays(sample: Any) -> None:
    """A stop text ends some samples early; the order of the records stays."""
    records = sample(PROMPTS, "--json", "--stop", "e").lines()
    assert [r["prompt"] for r in records] == PROMPTS
    assert {r["finish_reason"] for r in records} == {"length", "stop"}
    assert all("e" not in r["text"] for r in records)
    assert sample(PROMPTS[:3], "--length", 0).out == b"\n\n\n"


def test_what_came_before_an_error_is_answered(sample: Any) -> None:
    lines = [json.dumps({"prompt": "fox"}), json.dumps({"prompt": "dog"}), "{", "{}"]
    done = sample(lines, "--json-in", "--json", code=2)
    assert [r["prompt"] for r in done.lines()] == ["fox", "dog"]
    assert done.err.splitlines() == [
        "Error: standard input, line 3: must be a JSON object with a string `prompt`"
    ]
    assert len(sample(["fox", "dog", "\udcff"]).out.splitlines()) == 3, "any bytes are a prompt"


def test_a_line_is_answered_before_the_next_comes(tfm: Tfm, trained: Trained) -> None:
    process = tfm.start("sample", trained.path, "--length", 5, "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    for prompt in ("fox", "dog"):
        process.stdin.write(prompt.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["prompt"] == prompt
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()


# -- reading of records --------------------------------------------------------------------------


def arrived(stream: Any, limit: int = 0) -> list[tuple[bytes, bool]]:
    reader = RecordReader(stream, b"\n", limit)
    out = []
    while (record := reader.take()) is not None:
        out.append(record)
    return out


@given(st.lists(st.text(st.sampled_from("ab\ré\t")).map(str.encode)), st.booleans())
def test_lines_are_what_splitting_makes(lines: list[bytes], ended: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    expected = [line.removesuffix(b"\n").removesuffix(b"\r") for line in io.BytesIO(data)]
    if not ended and expected and lines[-1].endswith(b"\r"):
        expected[-1] = lines[-1]  # no LF at the end
    assert arrived(io.BytesIO(data)) == [(line, True) for line in expected]


@given(st.text(st.sampled_from("aé東\U0001f600"), max_size=60), st.integers(4, 9))
def test_long_records_come_in_whole_characters(text: str, limit: int) -> None:
    data = text.encode()
    small = io.BytesIO(data)
    read = small.read1
    small.read1 = lambda size: read(3)  # type: ignore[assignment, method-assign, misc]
    pieces = arrived(small, limit)
    assert b"".join(piece for piece, _ in pieces) == data
    assert [ends for _, ends in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)
    for piece, _ in pieces:
        piece.decode()
        assert len(piece) < limit + 3


@given(st.binary(max_size=6))
def test_any_bytes_are_cut_near_their_end(data: bytes) -> None:
    assert len(data) - 3 <= complete_characters(data) <= len(data)


def test_nothing_there_is_not_the_end() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream:
        reader = RecordReader(stream)
        assert reader.take(0) is None and not reader.at_end
        os.write(write, b"a\nb")
        assert reader.take() == (b"a", True)
        assert reader.take(0.01) is None and not reader.at_end
        os.close(write)
        assert reader.take() == (b"b", True) and reader.take() is None and reader.at_end
