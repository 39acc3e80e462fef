"""Texts and tables that went wrong when they were tried, with what is right. They lie beside this
repository; other tests hold the same promises on data of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tfm

MAKER = Path(__file__).parent.parent.parent / "shared" / "faults" / "make.py"
pytestmark = pytest.mark.skipif(not MAKER.exists(), reason="the files that went wrong are not here")
QUICK = ("--size", "nano", "--set", "train.batch=4", "-q")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    subprocess.run([sys.executable, MAKER, folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    "name, right",
    [
        ("t-numbers.csv", ["007", "008", "1e5", "1.10", "NA", "hello", "null"]),
        ("t-times.jsonl", ["2024-01-01T10:00:00+02:00", "2024-01-02T10:00:00+02:00", "2024-01-03"]),
    ],
)
def test_values_are_scored_as_they_stand(
    tfm: Tfm, faults: Path, name: str, right: list[str]
) -> None:
    train = ("train", "--data", faults / name, "--each", "record", "--column", "text", *QUICK)
    tfm(*train, "--steps", 1, "--run", "run")
    scored = tfm("score", "run", faults / name, "--tsv").text.splitlines()
    assert [line.split("\t")[2] for line in scored] == right


@pytest.mark.parametrize("tokenizer", ["bpe", "byte", "char"])
def test_random_high_bytes_cost_seven_bits(tfm: Tfm, faults: Path, tokenizer: str) -> None:
    train = ("train", "--task", "text", "--errors", "replace", "--tokenizer", tokenizer)
    scores = tfm(*train, "--data", faults / "t-high-bytes.bin", "--steps", 40, *QUICK, "--json")
    assert scores.json()["bits_per_byte"] > 6.9


def test_text_without_spaces_has_merges(tfm: Tfm, faults: Path) -> None:
    """(How long they take: benchmarks/many_items.py.)"""
    data = ("--data", faults / "t-unbroken.txt", "--steps", 2, "--tokenizer", "bpe")
    scores = tfm("train", *data, *QUICK, "--json").json()
    assert scores["tokens"] < 0.5 * scores["units"]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_many_files(tfm: Tfm, faults: Path) -> None:
    """(Other verbs, and the limit itself: tests/test_many_files.py.)"""
    data = ("--data", faults / "t-many", "--each", "file")
    run = tfm("train", *data, "--steps", 2, "--tokenizer", "byte", *QUICK).text.strip()
    assert len(tfm("score", run, faults / "t-many", "--tsv").text.splitlines()) == 1500


def test_commands_on_notes(tfm: Tfm, faults: Path) -> None:
    notes = faults / "t-notes.txt"
    tfm("train", "--data", notes, "--steps", 1, *QUICK, "--run", "runs/bpe")
    assert "finite number" in tfm.error("compare", "bpe", "bpe", "--margin", "nan")
    assert "finite number" in tfm.error("train", "--data", notes, "--holdout", "nan")
    cold = ("sample", "bpe", "-p", "the", "--length", 5, "--temperature", "1e-40")
    assert tfm(*cold).out == tfm("sample", "bpe", "-p", "the", "--length", 5, "--greedy").out
    assert tfm(*cold).err == ""
    assert "JSON object" in tfm.error("sample", "bpe", "--json-in", stdin=b"[" * 100_000)
