"""`sample` and `score` in pipelines: closed pipes, endless input, full disks."""

import os
import queue
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tfm, Trained

from tfm.cli.prompts import BLOCK_BYTES, MAX_QUEUED_BLOCKS, RecordReader

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")

COMMANDS: dict[str, tuple[object, ...]] = {
    "sample": ("--length", 3, "--json"),
    "score": (),
    "compare": (),
}


def arguments(command: str, trained: Trained) -> tuple[object, ...]:
    runs = (trained.path, trained.path) if command == "compare" else (trained.path,)
    return (command, *runs, *COMMANDS[command])


@pytest.fixture
def endless() -> Iterator[subprocess.Popen[bytes]]:
    """`yes the quick brown fox`."""
    with subprocess.Popen(["yes", "the quick brown fox"], stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def close(process: subprocess.Popen[bytes]) -> bytes:
    """Closes stdout, and returns all of stderr when the process ends."""
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        return stderr.read()


@pytest.mark.parametrize("command", ["sample", "score"])
def test_endless_input_and_a_reader_that_leaves(
    tfm: Tfm, trained: Trained, endless: Any, command: str
) -> None:
    """`yes | tfm sample | head -3`: records are written as lines arrive; no error at the end."""
    process = tfm.start(*arguments(command, trained), stdin=endless.stdout)
    endless.stdout.close()
    records = [process.stdout.readline() for _ in range(3)]  # type: ignore[union-attr]
    assert all(b'"the quick brown fox"' in line for line in records)
    said = close(process)
    assert (process.wait(60), said) == (-signal.SIGPIPE, b"")


def test_an_interrupt_in_the_middle(tfm: Tfm, trained: Trained, endless: Any) -> None:
    process = tfm.start(*arguments("sample", trained), stdin=endless.stdout)
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGINT)
    while process.stdout.read(1 << 16):
        pass
    assert process.wait(60) == -signal.SIGINT
    assert b"Traceback" not in close(process)


def test_an_interrupt_while_waiting(tfm: Tfm, trained: Trained) -> None:
    process = tfm.start(*arguments("score", trained), stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"fox\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    process.stdin.close()
    assert b"Traceback" not in close(process)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["score", "compare"])  # sample: test_bad_input.py
def test_a_full_disk_is_one_line(tfm: Tfm, trained: Trained, command: str) -> None:
    with open("/dev/full", "wb") as full:
        process = tfm.start(*arguments(command, trained), stdin=subprocess.PIPE, stdout=full)
        _, said = process.communicate(b"the quick\n" * 5, timeout=60)
    assert process.returncode == 1
    assert said.decode().splitlines() == ["Error: standard output: No space left on device"]


def test_no_input_at_all(tfm: Tfm, trained: Trained) -> None:
    """`< /dev/null`: `sample` samples without a prompt, `score` prints nothing."""
    assert tfm(*arguments("sample", trained)).json()["prompt"] is None
    assert tfm(*arguments("score", trained)).out == b""


def test_no_more_is_read_than_is_held() -> None:
    """The reading thread is at most a few blocks ahead, even of an endless stream."""
    sizes: queue.Queue[int] = queue.Queue()

    class Endless:
        def read1(self, size: int) -> bytes:
            sizes.put(size)
            return b"fox\n" * (size // 4)

    stream: Any = Endless()
    reader = RecordReader(stream)
    for _ in range(3 * BLOCK_BYTES // 4):
        assert reader.take() == (b"fox", True)
    time.sleep(0.1)
    assert sizes.qsize() <= 3 + MAX_QUEUED_BLOCKS + 2
    assert len(reader._records) <= BLOCK_BYTES // 4
