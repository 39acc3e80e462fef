"""Many files at the usual limit of open ones, in memory that does not grow with them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Tfm
from hypothesis import given, settings
from hypothesis import strategies as st
from server import OPEN_FILES

from tfm.core.data.byte_stream import MAX_OPEN, ByteStream
from tfm.core.data.source import Source
from tfm.core.errors import DataError
from tfm.tasks._text.reading import read
from tfm.tasks._text.spans import lines
from tfm.tasks._text.split import Largest, split_by_hash

posix = pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
COUNT = 600


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(COUNT):
        (folder / f"{number:04}.txt").write_text(f"line {number}\n")
    return folder


@posix
def test_all_verbs_read_more_files_than_may_be_open(tfm: Tfm, many: Path) -> None:
    quick = ("--size", "nano", "--steps", 1, "-q", "--tokenizer", "byte")
    tfm("train", many, *quick, "--run", "stream")
    tfm("train", many, *quick, "--each", "file", "--run", "files")
    for args in (
        ("train", many, "--task", "byte", *quick[:-2], "--each", "line"),
        ("eval", "files", "--data", many),
        ("compare", "stream", "stream", "--data", many),
        ("score", "files", many, "--tsv"),
    ):
        out = tfm(*args, env={OPEN_FILES: "256"}).out
    assert len(out.splitlines()) == COUNT, "one score a file"


@posix
def test_few_files_are_open_at_a_time_and_none_at_the_end(many: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))

    before = opened()
    stream = ByteStream(Source((str(many),)).files())
    whole = b"".join(f"line {number}\n".encode() for number in range(COUNT))
    assert stream.read(0, len(stream)) == whole and len(stream) == len(whole)
    for start in np.random.default_rng(0).integers(0, len(whole), 500).tolist():
        assert stream.read(start, start + 20) == whole[start : start + 20]
    assert opened() <= before + MAX_OPEN
    del stream
    assert opened() == before


def test_a_file_that_becomes_shorter_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    stream = ByteStream([tmp_path / "a.txt"])
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"a\.txt: became shorter"):
        stream.read(0, 6)


@posix
def test_an_unreadable_folder_or_file_is_named(many: Path, tfm: Tfm, tmp_path: Path) -> None:
    """Root may read everything, unless it gives up that right."""
    import shutil
    import subprocess

    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("no setpriv here")
    give_up = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    (tmp_path / "d/sealed").mkdir(parents=True)
    (tmp_path / "d/a.txt").write_text("words")
    for name, path in (("d/sealed: not readable", "d/sealed"), ("a.txt: not readable", "d/a.txt")):
        (tmp_path / path).chmod(0)
        done = subprocess.run(
            [*give_up, *map(str, tfm.command("train", tmp_path / "d", "--task", "text"))],
            capture_output=True,
            cwd=tmp_path,
        )
        (tmp_path / path).chmod(0o700)
        message = done.stderr.decode().splitlines()[-1]
        assert done.returncode == 2 and name in message, message


# -- lines ---------------------------------------------------------------------------------------


@given(
    files=st.lists(
        st.tuples(
            st.sampled_from([b"\n", b"\r\n"]),
            st.lists(st.binary(max_size=6).filter(lambda x: b"\n" not in x), max_size=8),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    block=st.integers(1, 9),
)
@settings(max_examples=60)
def test_lines_are_those_of_each_file_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[bytes, list[bytes], bool]],
    block: int,
) -> None:
    """CR LF is judged by the first line of each file."""
    folder = tmp_path_factory.mktemp("lines")
    expected, paths = [], []
    for number, (end, parts, ended) in enumerate(files):
        data = end.join(parts) + (end if ended else b"")
        paths.append(folder / f"{number}")
        paths[-1].write_bytes(data)
        found = data.split(b"\n")
        if found[0].endswith(b"\r"):
            found = [line.removesuffix(b"\r") for line in found]
        expected += [line for line in found if line]
    stream = ByteStream(paths)
    ends = np.array(stream.starts, np.int64)
    spans = np.stack((ends[:-1], ends[1:]), axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfm.tasks._text.spans.SEARCH_BYTES", block)
        try:
            found = [stream.read(a, b) for a, b in lines(stream, spans).tolist()]
        except DataError:
            found = []
    assert found == expected


@given(
    items=st.lists(st.sampled_from([b"a", b"b", b"cc", b"dd" * 30, b"e"]), min_size=5, max_size=60)
)
@settings(max_examples=40)
def test_equal_items_stay_together_wherever_they_are_read(
    tmp_path_factory: pytest.TempPathFactory, items: list[bytes]
) -> None:
    """Whatever the size of what is read at a time; and as many are held out as asked for."""
    folder = tmp_path_factory.mktemp("split")
    (folder / "a.txt").write_bytes(b"\n".join([*items, b"x", b"y"]))
    spans = read(Source((str(folder / "a.txt"),)), "line")
    whole = [split_by_hash(spans, 0.3, "split")[1].spans.tolist()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfm.tasks._text.split.BLOCK_BYTES", 3)
        whole.append(split_by_hash(spans, 0.3, "split")[1].spans.tolist())
    assert whole[0] == whole[1]
    train, held = split_by_hash(spans, 0.3, "split")
    sides = [{part.read(n) for n in range(len(part.spans))} for part in (train, held)]
    assert not sides[0] & sides[1] and all(sides)


def test_few_of_many_items_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number}\n" for number in range(20_000)))
    spans = read(Source((str(tmp_path / "a.txt"),)), "line")
    for largest, wanted in ((Largest(500, 10**9), 500), (Largest(10**9, 10_000), 1000)):
        _, held = split_by_hash(spans, 0.1, "split", largest)
        assert len(held.spans) == pytest.approx(wanted, rel=0.15)
    assert len(split_by_hash(spans, 0.1, "split")[1].spans) == pytest.approx(2000, rel=0.1)
