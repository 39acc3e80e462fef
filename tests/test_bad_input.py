"""Invalid input: one line of error says what is wrong, where, and what to do; no partial files
remain."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Tfm, Trained
from helpers import prose

QUICK = ("--size", "nano", "--steps", 1)


@pytest.fixture
def refused(tfm: Tfm) -> Iterator[Tfm]:
    """The `tfm` command, in a folder in which it must not leave a run."""
    yield tfm
    left = [p for p in tfm.folder.rglob("*") if p.is_dir() and p.name not in ("data", "folder")]
    assert not left, "a partial run is left"


# -- data ----------------------------------------------------------------------------------------

TOO_LITTLE = {
    "nothing": (b"", "empty"),
    "one character": (b"a", "need at least"),
    "one character of four bytes": ("\U0001f600".encode(), "need at least"),
    "nine bytes": (b"123456789", "need at least 11 bytes"),
}


@pytest.mark.parametrize("data, says", TOO_LITTLE.values(), ids=TOO_LITTLE)
def test_too_little_data(refused: Tfm, data: bytes, says: str) -> None:
    (refused.folder / "little.txt").write_bytes(data)
    error = refused.error("train", "--task", "text", "--data", "little.txt", *QUICK)
    assert "little.txt" in error and says in error


def test_the_least_that_there_can_be_is_enough(tfm: Tfm) -> None:
    (tfm.folder / "least.txt").write_text("123456789ab")
    result = tfm("train", "--task", "text", "--data", "least.txt", *QUICK, "--json")
    assert result.json()["units"] == 1 and "context" in result.err


def test_binary_given_as_text_is_told_by_file_and_byte(refused: Tfm) -> None:
    data = prose(600_000, seed=1).encode()
    (refused.folder / "good.txt").write_bytes(data)
    (refused.folder / "mixed.txt").write_bytes(data[:300_000] + b"\xff" + data[300_000:])
    at = 300_000 - (data[299_999] >= 0xC0)  # or the byte before, if this cuts a character
    given = ("--task", "text", "--data", "good.txt", "--data", "mixed.txt")
    error = refused.error("train", *given, *QUICK)
    assert f"mixed.txt: not UTF-8 text at byte {at};" in error
    assert "the byte task" in error and "--errors replace" in error


def test_what_is_not_there(refused: Tfm) -> None:
    assert "nothing.txt" in refused.error("train", "--data", "nothing.txt", *QUICK)
    (refused.folder / "folder").mkdir()
    assert "an empty folder" in refused.error("train", "--data", "folder", *QUICK)
    assert "nothing.toml" in refused.error("train", "--config", "nothing.toml")


# -- names and numbers ---------------------------------------------------------------------------

NAMES = {
    "task": (("--task", "txet"), "did you mean text"),
    "architecture": (("--arch", "lama"), "did you mean llama"),
    "size": (("--size", "tyni"), "did you mean tiny"),
    "tokenizer": (("--tokenizer", "word"), "known: byte, char, bpe"),
    "tokenizer's size": (("--tokenizer", "bpe:7"), "256 to 1000000"),
    "tokenizer's file": (("--tokenizer", "hf:no/such.json"), "hf:no/such.json"),
    "device": (("--device", "abacus"), "known: auto, cpu"),
    "option": (("--stesp", 4), "--steps"),
    "choice": (("--each", "word"), "'line'"),
    "field": (("--set", "model.layer=2"), "did you mean layers"),
    "no field": (("--set", "layers=2"), "section.field=value"),
    "run": (("--run", "../a b"), "1 to 64"),
    "run that exists": (("--run", "."), "already exists"),
    "run to begin from": (("--init", "nothing"), "no such run"),
}
NUMBERS = {
    "steps": (("--steps", 0), "positive whole number"),
    "merges left out": (("--bpe-dropout", 1), "below 1"),
    "steps of a fraction": (("--steps", 1.5), "positive whole number"),
    "steps of nothing": (("--steps", "many"), "'many'"),
    "budget": (("--budget", "soon"), "90s, 2m or 1h"),
    "no budget": (("--budget", "0s"), "90s, 2m or 1h"),
    "context": (("--context", 0), "positive whole number"),
    "heads": (("--set", "model.heads=1000000"), "divisor of the width"),
    "no heads": (("--set", "model.heads=0"), "at least 1"),
    "layers in words": (("--set", "model.layers=two"), "whole number"),
    "rate": (("--set", "train.lr=-1"), "above 0"),
    "infinite rate": (("--set", "train.lr=inf"), "finite"),
    "dropout": (("--set", "model.dropout=1"), "[0, 1)"),
    "holdout": (("--holdout", 2), "0<x<=0.9"),
    "no holdout": (("--holdout", 0), "0<x<=0.9"),
    "seed": (("--seed", -1), "x>=0"),
}


@pytest.mark.parametrize(
    "flags, says", [*NAMES.values(), *NUMBERS.values()], ids=[*NAMES, *NUMBERS]
)
def test_a_flag_that_cannot_be(
    refused: Tfm, text: Path, flags: tuple[object, ...], says: str
) -> None:
    usual = {"--task": "text", "--size": "nano", "--steps": 1}
    usual = {name: value for name, value in usual.items() if name not in (*flags, "--budget")}
    if "--budget" in flags:
        del usual["--steps"]
    given = [word for pair in usual.items() for word in pair]
    error = refused.error("train", "--data", text, *given, *flags)
    assert says in error, error
    assert str(flags[0]) in error or str(flags[1]).split("=")[0] in error, "the flag is named"


BAD_DRAWS = {
    "temperature": ("--temperature", 0, "--temperature"),
    "top-k": ("--top-k", -1, "--top-k"),
    "top-p": ("--top-p", 1.5, "--top-p"),
    "min-p": ("--min-p", 2, "--min-p"),
    "draws": ("-n", 0, "-n"),
    "length": ("--length", -1, "--length"),
    "field": ("--set", "sample.topk=3", "did you mean top_k"),
    "checkpoint": ("--checkpoint", "7", "this run keeps last, 20"),
    "prompt's file": ("-p", "@nothing.txt", "nothing.txt"),
    "out": ("--out", "no/folder/x", "no/folder/x"),
}


@pytest.mark.parametrize("flag, value, says", BAD_DRAWS.values(), ids=BAD_DRAWS)
def test_a_draw_that_cannot_be(
    refused: Tfm, trained: Trained, flag: str, value: object, says: str
) -> None:
    value = os.fsdecode(value) if isinstance(value, bytes) else value
    assert says in refused.error("sample", trained.path, "--length", 2, flag, value)


# -- runs ----------------------------------------------------------------------------------------

CONFIG, IDS = "config.json", "heldout/valid/ids.bin"
WEIGHTS = "checkpoints/000020/model.safetensors"
FLIPPED = [
    *(CONFIG, "tokenizer.json", "manifest.json", IDS, "heldout/valid/items.jsonl", WEIGHTS),
    *("checkpoints/000020/manifest.json", "checkpoints/000020/state.json"),
]
DAMAGES = [
    *(("flipped", file) for file in FLIPPED),
    *(("cut", CONFIG), ("cut", WEIGHTS), ("gone", CONFIG), ("gone", IDS), ("gone", WEIGHTS)),
]


@pytest.mark.parametrize("how, file", DAMAGES)
def test_a_damaged_run_is_not_used(tfm: Tfm, trained: Trained, how: str, file: str) -> None:
    """A flipped bit, a missing byte or a missing file: the error names the file."""
    shutil.copytree(trained.path, tfm.folder / "run")
    path = tfm.folder / "run" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data if how == "flipped" else data[: len(data) - 2])
    code = 2 if (file, how) == ("config.json", "gone") else 3  # without config.json it is not a run
    command = "eval" if how == "flipped" else "sample"
    error = tfm.error(command, "run", code=code)
    assert path.name in error or "manifest.json" in error, error


def test_a_task_flipped_in_the_config_is_damage_and_no_other_task(
    tfm: Tfm, trained: Trained
) -> None:
    shutil.copytree(trained.path, tfm.folder / "run")
    config = tfm.folder / "run/config.json"
    config.write_text(config.read_text().replace('"task": "text"', '"task": "tezt"'))
    for command in ("eval", "sample"):
        assert "config.json: damaged" in tfm.error(command, "run", code=3)


@pytest.mark.parametrize("command", ["eval", "sample", "info"])
def test_what_is_no_run(refused: Tfm, command: str) -> None:
    (refused.folder / "folder").mkdir()
    (refused.folder / "file").write_text("{}")
    assert "not a run" in refused.error(command, "folder")
    assert "not a run" in refused.error(command, "file")
    assert "no such run" in refused.error(command, "nothing")
    assert "start with: tfm train" in refused.error(command)


# -- streams and disks ---------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="signals and devices of POSIX")


@posix
@pytest.mark.parametrize("command", ["sample", "eval", "runs"])
def test_a_reader_that_left_is_no_error(tfm: Tfm, trained: Trained, command: str) -> None:
    arguments = {"runs": ["--runs", trained.path.parent]}.get(command, [trained.path])
    read, write = os.pipe()
    os.close(read)
    process = tfm.start(command, *arguments, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGPIPE, b"")


@posix
def test_a_reader_that_leaves_early_ends_a_long_draw(tfm: Tfm, trained: Trained) -> None:
    """`tfm sample --length 1000000 | head -c 1`."""
    process = tfm.start("sample", trained.path, "-p", "a", "--length", 1_000_000)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == -signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["sample", "eval", "train"])
def test_a_full_disk_is_one_line(tfm: Tfm, trained: Trained, text: Path, command: str) -> None:
    arguments = {"train": ["--data", text, "--task", "text", *QUICK, "-q"]}
    with open("/dev/full", "wb") as full:
        process = tfm.start(command, *arguments.get(command, [trained.path]), stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.decode().splitlines() == ["Error: standard output: No space left on device"]


def test_a_run_where_none_can_be(refused: Tfm, text: Path) -> None:
    (refused.folder / "file").touch()
    error = refused.error(
        "train", "--task", "text", "--data", text, *QUICK, "--run", "file/run", code=1
    )
    assert "--run file/run: cannot be written" in error


@posix
def test_what_may_not_be_read_or_written(refused: Tfm, text: Path) -> None:
    """Files without permission. As root, the command runs with dropped capabilities."""
    rights = list[str]()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root, and no setpriv here")
        rights = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]

    def call(*args: object) -> tuple[int, str]:
        command = [*rights, *refused.command("train", "--task", "text", *QUICK, "-q", *args)]
        done = subprocess.run(
            command, cwd=refused.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        return done.returncode, done.stderr

    (refused.folder / "secret.txt").write_text("secret" * 9)
    (refused.folder / "secret.txt").chmod(0)
    (refused.folder / "folder").mkdir(mode=0o555)
    secret = "Error: --data secret.txt: not readable (permission denied)\n"
    assert call("--data", "secret.txt") == (2, secret)
    sealed = "Error: --run folder/run: cannot be written (Permission denied)\n"
    assert call("--data", text, "--run", "folder/run") == (1, sealed)
    assert not list((refused.folder / "folder").iterdir())
