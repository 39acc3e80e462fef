"""Scores and samples by several processes: the bytes that one process prints, however they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, Tfm
from helpers import prose
from test_distributed import Training, free_port, linux

from tfm.core.divided import divided, packed, unpacked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
LINES = prose(11_000, seed=3).encode()  # several forward passes
PROMPTS = b"the quick\nthe\nlazy dog\nfox\nquick brown fox\n"
# what is divided: (standard input, the command)
COMMANDS: dict[str, tuple[bytes, tuple[object, ...]]] = {
    "windows of a text": (b"", ("eval", "text", "--stride", 1, "--json")),
    "forecasts": (b"", ("eval", "series", "--paths", 2000, "--json")),
    "greedy decoding": (b"", ("eval", "pairs", "--json")),
    "recall": (b"", ("eval", "recall", "--json")),
    "lines of a pipe": (LINES, ("score", "byte", "--tokens")),
    "a file": (b"", ("score", "byte", "lines.txt", "--tsv")),
    "pictures": (b"", ("score", "image", *["pictures.npy"] * 9)),
    "samples": (b"", ("sample", "text", "-p", "fox", "-n", 5, "--length", 9, "--json")),
    "prompts": (PROMPTS, ("sample", "byte", "-n", 3, "--length", 9, "--stop", "e", "--json")),
    "beams of prompts": (PROMPTS, ("sample", "text", "--beam", 100, "--length", 4)),
    "new pictures": (b"", ("sample", "image", "-n", 3, "--out", "new.png", "--force", "-q")),
    "a forecast": (b"", ("sample", "series", "--horizon", 4, "--paths", 2000)),
}


def by_two(
    folder: Path, *args: object, stdin: bytes = b"", codes: tuple[int, int] = (0, 0)
) -> Result:
    """What the first of two processes prints that meet as those of torchrun do. The other one
    prints nothing, and its standard input is the same file."""
    first, second = started(folder, *args)
    out, err = first.communicate(stdin, timeout=60)
    others = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == codes, err.decode() + others[1].decode()
    assert others == (b"", b"")
    return Result(first.returncode, out, err.decode())


def started(folder: Path, *args: object, fresh: bool = False) -> list[subprocess.Popen[bytes]]:
    """The processes of a command; fresh: the second is no fork, so that it gets every signal."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    found = []
    for rank, stdin in enumerate((subprocess.PIPE, subprocess.DEVNULL)):
        one = Tfm(folder, {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        own = fresh and rank == 1
        found.append(one.start(*args, "--device", "cpu", stdin=stdin, fresh=own))
    return found


def without_times(out: bytes) -> bytes:
    """Without the speed, the only figure that differs between two equal commands."""
    return re.sub(rb"tokens_per_second\W+[\d.,]+", b"", out)


@pytest.mark.parametrize("what", COMMANDS)
def test_several_processes_print_the_bytes_of_one(domains: Path, what: str) -> None:
    stdin, args = COMMANDS[what]
    (domains / "lines.txt").write_bytes(LINES)
    one, files = Tfm(domains)(*args, "--device", "cpu", stdin=stdin), written(domains)
    two = by_two(domains, *args, stdin=stdin)
    assert without_times(one.out) == without_times(two.out)
    assert (one.out or files) and one.err == two.err
    assert files == written(domains)


def written(folder: Path) -> list[bytes]:
    """The file of --out, which is deleted."""
    files = list(folder.glob("new.png"))
    found = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    return found


@pytest.mark.parametrize("more", [(), ("--beam", 2)], ids=str)
def test_a_wrong_line_is_said_once_after_what_comes_before(
    domains: Path, more: tuple[object, ...]
) -> None:
    args = ("sample", "text", "--json-in", "--length", 3, "-n", 2, *more)
    lines = b'{"prompt": "fox"}\n' * 2 + b"fox\n"
    one = Tfm(domains)(*args, "--device", "cpu", stdin=lines, code=2)
    two = by_two(domains, *args, stdin=lines, codes=(2, 0))
    assert one.out.count(b"\n") == 4 and "Error: standard input, line 3" in one.err
    assert (one.out, one.err) == (two.out, two.err)


def test_a_wrong_run_is_said_once(domains: Path) -> None:
    (first, second) = started(domains, "eval", "texxt")
    said = first.communicate(timeout=60)[1].decode() + second.communicate(timeout=60)[1].decode()
    assert said.count("Error: ") == 1 and "texxt: no such run" in said
    assert first.returncode == 2


@linux
def test_a_command_whose_processes_are_killed_ends(domains: Path, tmp_path: Path) -> None:
    """The launcher's: lines are scored as they come, and the end of one is the end of all."""
    run = tmp_path / "to-be-killed"
    run.symlink_to(domains / "byte")
    tfm = Tfm(tmp_path)
    args = ("score", run, "--tsv", "--device", "cpu")
    command = tfm.start(*args, "--nproc", 2, stdin=subprocess.PIPE)
    assert command.stdin is not None and command.stdout is not None
    command.stdin.write(LINES)
    command.stdin.flush()
    expected = tfm(*args, stdin=LINES).out.splitlines(keepends=True)
    assert [command.stdout.readline() for _ in expected] == expected
    os.kill(Training(run, command).ranks()[1][0], signal.SIGKILL)
    assert Training(run, command).ended(1) == "Error: process 1 of 2 was ended by SIGKILL\n"


def test_a_signal_ends_all(domains: Path) -> None:
    first, second = started(domains, "score", "byte")
    assert first.stdin is not None and first.stdout is not None
    first.stdin.write(b"fox\n")
    first.stdin.flush()
    assert b"fox" in first.stdout.readline()
    for each in (first, second):
        each.send_signal(signal.SIGTERM)
    ends = [each.communicate(timeout=60) for each in (first, second)]
    assert (first.returncode, second.returncode) == (-signal.SIGTERM, -signal.SIGTERM)
    assert ends == [(b"", b"")] * 2


def test_a_signal_ends_the_leading_one_beside_one_that_is_stuck(domains: Path) -> None:
    first, second = started(domains, "score", "byte", fresh=True)
    try:
        assert first.stdin is not None and first.stdout is not None
        first.stdin.write(b"fox\n")
        first.stdin.flush()
        assert b"fox" in first.stdout.readline()
        second.send_signal(signal.SIGSTOP)
        first.send_signal(signal.SIGTERM)
        assert first.communicate(timeout=20) == (b"", b"")
        assert first.returncode == -signal.SIGTERM
    finally:
        second.kill()
        second.communicate(timeout=60)


def test_a_message_is_what_it_was() -> None:
    sent = {
        "ids": np.arange(6)[::2],
        "nats": np.array([[0.1, -0.0], [np.inf, np.nan]]),
        "none": np.zeros((0, 3), np.float32),
        "names": ["é", None, 0.1 + 0.2, {"json": [1, True]}],
    }
    found = unpacked(packed(sent))
    assert list(found) and found["names"] == sent["names"]
    for name in ("ids", "nats", "none"):
        np.testing.assert_array_equal(found[name], sent[name])
        assert (found[name].dtype, found[name].flags.writeable) == (sent[name].dtype, True)


def test_one_process_computes_a_unit_when_it_is_asked_for() -> None:
    asked: list[int] = []

    def units() -> Iterator[dict[str, int]]:
        for number in range(3):
            asked.append(number)
            yield {"number": number}

    found = divided(lambda thing, number: {"sum": thing + number}, (5,), units())
    assert next(found) == {"sum": 5} and asked == [0]
    assert [each["sum"] for each in found] == [6, 7]
