"""Scores of items: their sum is the score of `eval`, and unlikely items score worse."""

import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import Tfm, Trained
from helpers import prose

QUICK = ("--size", "nano", "--steps", 8, "-q")


@dataclass(frozen=True)
class Runs(Tfm):
    """A folder with a run of each kind, and the final scores of `train`."""

    scores: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs on lines, images and series."""
    tfm = Tfm(tmp_path_factory.mktemp("score"))
    (tfm.folder / "lines.txt").write_text(prose(6000), encoding="utf-8")
    draw = np.random.default_rng(0)
    (tfm.folder / "pictures").mkdir()
    for number in range(30):
        np.save(tfm.folder / "pictures" / f"{number}.npy", draw.integers(0, 4, (1, 6, 6), np.uint8))
    t = np.arange(300)
    rows = [
        f"{x:.3f},{y:.3f}" for x, y in zip(np.sin(t / 4) + 2, t % 7 + draw.random(300), strict=True)
    ]
    (tfm.folder / "series.csv").write_text("a,b\n" + "\n".join(rows) + "\n")
    line = ("--task", "text", "--each", "line", "--tokenizer", "bpe:300")
    series = ("--task", "series", "--season", 7, "--horizon", 7)
    asked: dict[str, tuple[object, ...]] = {
        "lines": (*line, "--data", "lines.txt"),
        "image": ("--task", "image", "--data", "pictures"),
        "series": (*series, "--data", "series.csv"),
    }
    scores = {
        name: tfm("train", *args, *QUICK, "--json", "--run", name).json()
        for name, args in asked.items()
    }
    return Runs(tfm.folder, scores=scores)


@pytest.mark.parametrize("name", ["text", "lines", "image", "series"])
def test_heldout_adds_up_to_what_eval_says(runs: Runs, trained: Trained, name: str) -> None:
    run = trained.path if name == "text" else name
    records = runs("score", run, "--heldout").lines()
    whole = trained.scores if name == "text" else runs.scores[name]
    unit = whole["unit"]
    assert math.fsum(r["nll"] for r in records) == pytest.approx(whole["nll"], rel=1e-9)
    assert sum(r["tokens"] for r in records) == whole["tokens"]
    assert sum(r["units"] for r in records) == whole["units"]
    assert all(r["unit"] == unit and f"bits_per_{unit}" in r for r in records)
    assert len(records) == 1 if name == "text" else len(records) > 1
    if name == "series":
        assert all(r["bits_per_point"] is None for r in records), "no exact figure of binned points"


def test_lines_on_stdin(runs: Tfm) -> None:
    lines = ["the quick brown fox", "été", "", "QZ#@!~ZZQ", "the quick brown fox", "x" * 900]
    stdin = "".join(line + "\n" for line in lines).encode()
    records = runs("score", "lines", "--tokens", stdin=stdin).lines()
    assert [r["item"] for r in records] == lines
    assert [r["units"] for r in records] == [len(line.encode()) for line in lines]
    assert records[2]["bits_per_byte"] is None and records[2]["tokens"] == 1, "only its end"
    for r, line in zip(records, lines, strict=True):
        assert len(r["nats"]) == len(r["ids"]) == r["tokens"]
        assert math.fsum(r["nats"]) == pytest.approx(r["nll"])
        assert line.isascii() is False or "".join(r["pieces"]) == line
        if line:
            assert r["bits_per_byte"] == pytest.approx(r["nll"] / math.log(2) / r["units"])
    assert records[0]["nll"] == pytest.approx(records[4]["nll"], rel=1e-5)
    tsv = runs("score", "lines", "--tsv", stdin=stdin).text.splitlines()
    ranked = sorted(tsv, reverse=True)
    by_nll = sorted(records, key=lambda r: -r["nll"])
    assert [line.split("\t")[2] for line in ranked][:2] == [r["item"] for r in by_nll][:2]
    assert float(tsv[1].split("\t")[0]) == pytest.approx(records[1]["nll"], abs=1e-3)
    null = runs("score", "lines", "-0", stdin=b"two\nlines\0one").lines()
    assert [r["item"] for r in null] == ["two\nlines", "one"]


def test_files(runs: Tfm, trained: Trained) -> None:
    """A running text is one item, a file of lines one item per line; the sums equal
    `eval --data`."""
    (whole,) = runs("score", trained.path, "lines.txt").lines()
    evaluated = runs("eval", trained.path, "--data", "lines.txt", "--json").json()
    assert whole["item"] == "lines.txt" and whole["nll"] == pytest.approx(evaluated["nll"])
    lines = runs("score", "lines", "lines.txt").lines()
    texts = (runs.folder / "lines.txt").read_text(encoding="utf-8").splitlines()
    assert [r["item"] for r in lines] == texts
    pictures = runs("score", "image", "pictures/3.npy", "pictures/4.npy", "--tsv").text
    assert [line.split("\t")[2].rpartition("/")[2][:5] for line in pictures.splitlines()] == [
        "3.npy",
        "4.npy",
    ]
    stdin = (runs.folder / "series.csv").read_bytes()
    assert {r["item"] for r in runs("score", "series", stdin=stdin).lines()} == {"a", "b"}
    assert "nothing.txt: no such file" in runs.error("score", "lines", "nothing.txt")


def test_a_line_longer_than_any_buffer_is_one_item(runs: Tfm) -> None:
    long = "the quick brown fox é " * 30_000
    stdin = f"fox\n{long}\ndog".encode()
    one, big, other = runs("score", "lines", stdin=stdin).lines()
    assert (one["item"], other["item"]) == ("fox", "dog")
    assert big["units"] == len(long.encode()) and long.startswith(big["item"])
    assert big["nll"] > 1e5


def test_bytes_that_are_no_text_are_scored_too(runs: Tfm) -> None:
    done = runs("score", "lines", stdin=b"fox\n\xff\xfe\xff\xfe\nfox\n")
    fox, bad, again = done.lines()
    assert fox == again and bad["units"] == 4 and bad["nll"] > fox["nll"]


def test_a_line_is_scored_before_the_next_comes(runs: Tfm) -> None:
    process = runs.start("score", "lines", stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    for line in ("fox", "dog"):
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["item"] == line
    process.stdin.close()
    assert process.wait(60) == 0
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def test_flags_that_exclude_each_other(runs: Tfm) -> None:
    assert "--tokens" in runs.error("score", "lines", "--tokens", "--tsv")
    assert "--heldout" in runs.error("score", "lines", "lines.txt", "--heldout")
    assert "--split" in runs.error("score", "lines", "--split", "valid")


def test_memory_does_not_grow_with_the_input(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of items read ahead is bounded."""
    from tfm.cli import score as module
    from tfm.core.runs.run import Run
    from tfm.core.score import likelihood

    monkeypatch.setattr(likelihood, "BUFFER_TOKENS", 4096)
    run = Run(trained.path)
    task, tokenizer, model = run.task(), run.tokenizer(), run.load_model()
    read = 0

    def items() -> Iterator[Any]:
        nonlocal read
        line = task.encode_bytes(b"fox " * 250, tokenizer)
        for _ in range(20):
            read += 1
            yield module.Item("x", line)

    totals = module._totals(task, tokenizer, model, items(), False)
    next(totals)
    assert read == 5
    assert 1 + sum(1 for _ in totals) == 20 == read
