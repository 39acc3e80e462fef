"""`tfm tokenize` and `detokenize`: the output equals the input, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm, Trained
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.cli.tokenize import text_ids
from tfm.core.data.source import Source
from tfm.core.runs.run import Run
from tfm.tasks.image import ImageOptions, ImageTask
from tfm.tasks.series import SeriesOptions, SeriesTask
from tfm.tokenizers.bpe import BpeTokenizer
from tfm.tokenizers.byte import SingleByteTokenizer
from tfm.tokenizers.char import CharTokenizer

ODD = "a b\r\n\n\r été \0 \u2028 [BOS]\n\n<|endoftext|>\nno end".encode()
TRAINING = "the quick brown fox\nété\n" * 30


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "tokenizer",
    [SingleByteTokenizer(), CharTokenizer.fit([TRAINING]), BpeTokenizer.fit([TRAINING], 300)],
    ids=["byte", "char", "bpe"],
)
@settings(max_examples=25)
@given(data=st.text(st.sampled_from("ab\n\r é\0\U0001f600")).map(str.encode))
def test_items_end_to_end_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, whole: bool, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "items"
    path.write_bytes(data)
    items = list(text_ids(tokenizer, (str(path),), whole))
    assert b"".join(tokenizer.decode_bytes(ids) for ids in items) == data
    assert len(items) == (1 if whole else len(data.split(b"\n")) - (data[-1:] in (b"", b"\n")))


def test_the_command_round_trips(tfm: Tfm, trained: Trained) -> None:
    (tfm.folder / "odd").write_bytes(ODD)
    for which in (("--tokenizer", "byte"), (trained.path,)):
        for form in ((), ("--json",), ("--whole",)):
            lines = tfm("tokenize", *which, *form, stdin=ODD)
            assert tfm("detokenize", *which, stdin=lines.out).out == ODD
    plain = tfm("tokenize", "--tokenizer", "byte", "odd").text.splitlines()
    assert plain[1] == "10" and len(plain) == ODD.count(b"\n") + 1
    records = tfm("tokenize", trained.path, "odd", "--json").lines()
    assert all(set(record) == {"schema", "ids", "side"} for record in records)
    texts = tfm("detokenize", "--tokenizer", "byte", "--json", stdin=b"97 10\n98").lines()
    assert [record["text"] for record in texts] == ["a\n", "b"]
    assert tfm("tokenize", trained.path, stdin=b"").out == b""


def test_a_tokenizer_json_is_named_by_its_path(tfm: Tfm) -> None:
    state, _ = BpeTokenizer.fit([TRAINING], 300).state()
    (tfm.folder / "mine.json").write_text(json.dumps(state["tokenizer"]))
    for name in ("mine.json", "hf:mine.json"):
        lines = tfm("tokenize", "--tokenizer", name, stdin=ODD + b"\xff").out
        assert tfm("detokenize", "--tokenizer", name, stdin=lines).out == ODD + b"\xff"
    # training options do not apply to an existing run
    quick = tfm(
        "tokenize", "--tokenizer", "mine.json", env={"TFM_TOKENIZER": "char"}, stdin="é".encode()
    )
    assert len(quick.text.split()) == 1


def test_wrong_ids_name_their_line(tfm: Tfm, trained: Trained) -> None:
    byte = ("detokenize", "--tokenizer", "byte")
    for line, why in (
        (b"97\n256000\n", "256000"),
        (b"97\n1 x\n", "ids"),
        (b"9\n-1\n", "-1"),
        (b'1\n{"ids": [true]}\n', "ids"),
        (b'1\n{"no": 1}\n', "ids"),
    ):
        result = tfm(*byte, stdin=line, code=2)
        assert "line 2" in result.err and why in result.err and result.err.count("\n") == 1
    assert "learned" in tfm.error("tokenize", "--tokenizer", "bpe")
    assert "no such run" in tfm.error("tokenize", "nothing-here")


def test_lines_go_on_as_they_come_and_nobody_need_read_on(tfm: Tfm) -> None:
    process = tfm.start("tokenize", "--tokenizer", "byte", stdin=subprocess.PIPE)
    assert process.stdin and process.stdout and process.stderr
    for text in (b"a\n", b"b\n"):
        process.stdin.write(text)
        process.stdin.flush()
        assert process.stdout.readline() == b"%d 10\n" % text[0], "while the input is open"
    process.stdout.close()
    process.stdin.write(b"c\n" * 10)
    process.stdin.close()
    assert process.wait(60) in (-13, 141) and process.stderr.read() == b""
    process.stderr.close()
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            with tfm.start("tokenize", "--tokenizer", "byte", __file__, stdout=full) as process:
                assert process.stderr and process.wait(60) == 1
                assert process.stderr.read().count(b"\n") == 1


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    del resource
    (tmp_path / "many").write_bytes(b"a line of text, and another word\n" * 300_000)
    code = (
        "import resource as r\nfrom tfm.cli.tokenize import text_ids\n"
        "from tfm.tokenizers.byte import SingleByteTokenizer as B\n"
        "def peak(n):\n"
        "    for i, _ in enumerate(text_ids(B(), ('many',), False)):\n"
        "        if i > n: break\n"
        "    return r.getrusage(r.RUSAGE_SELF).ru_maxrss\n"
        "few = peak(1000)\nassert peak(10**9) < few + few // 20"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


# -- pictures and series -------------------------------------------------------------------------


def test_pictures_and_series_come_back_by_their_side_information(tfm: Tfm) -> None:
    for task, name in (
        (ImageTask(ImageOptions(labels="none")), "a"),
        (SeriesTask(SeriesOptions()), "s"),
    ):
        spec = task.default_tokenizer
        items = task.items(Source((str(_data(tfm.folder, task.name)),)))
        tokenizer = task.fit_tokenizer(spec, items)
        config = {
            "task": task.name,
            "task_options": asdict(task.options),
            "tokenizer": {"kind": spec},
        }
        Run.create(tfm.folder / "runs" / name, config, tokenizer, {})
    for name, file in (("a", "0.png"), ("s", "s.csv")):
        lines = tfm("tokenize", name, f"data/{file}", "--json").out
        back = tfm("detokenize", name, stdin=lines).out
        (tfm.folder / f"back-{file}").write_bytes(back)
        again = tfm("tokenize", name, f"back-{file}", "--json").lines()
        (first,) = [json.loads(line) for line in lines.splitlines()]
        if name == "a":
            assert again == [{**first, "side": {**first["side"], "id": "back-0.png"}}]
        else:
            assert back.startswith(b"id,time,value\nv,2000-01-02,") and back.count(b"\n") == 301
            assert len(first["ids"]) == 301
        plain = tfm("tokenize", name, f"data/{file}").out
        assert list(map(int, plain.split())) == first["ids"]
        assert "side information" in tfm("detokenize", name, stdin=plain, code=2).err


def _data(folder: Path, task: str) -> Path:
    from PIL import Image

    (folder / "data").mkdir(exist_ok=True)
    if task == "series":
        weeks = np.arange("2000-01-02", "2010-01-01", 7, dtype="datetime64[D]")[:300]
        rows = [f"{week},{300 + at % 52 + at / 10}" for at, week in enumerate(weeks)]
        (folder / "data/s.csv").write_text("\n".join(["date,v", *rows]) + "\n")
        return folder / "data/s.csv"
    draw = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(draw.integers(0, 256, (6, 6), dtype=np.uint8)).save(
            folder / f"data/{number}.png"
        )
    return folder / "data"
