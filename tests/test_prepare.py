"""`tfm prepare`: training on the folder is training on the data, bit for bit; nothing damaged, half
written or contradictory is trained on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from helpers import prose, saved_weights

from tfm.core.data.datasets import step_batch
from tfm.core.errors import DamagedError
from tfm.core.protocols import Dataset
from tfm.core.runs.run import Run
from tfm.core.train.prepare import read_data
from tfm.core.train.request import Request
from tfm.core.train.write_prepared import write_prepared
from tfm.tasks._text import running, spans

TRAIN = ("--size", "nano", "--steps", 4, "--set", "train.batch=4", "-q")


def quiet(*_: object) -> None: ...


def write(request: Request, folder: Path, shard: int = 300_000) -> dict[str, Any]:
    return write_prepared(request, folder, shard, quiet, quiet)


def rows(request: Request, tokens: int | None, cache: Path) -> Dataset:
    """The training rows of a request."""
    data = read_data(request, quiet)
    return data.task.dataset(data.train, data.tokenizer, 31, tokens, 5, cache)


@pytest.mark.parametrize(
    ("task", "options", "tokenizer"),
    [
        ("byte", {}, None),
        ("text", {}, "bpe:300"),
        ("text", {"each": "line"}, "byte"),
        ("text", {"each": "file", "errors": "replace"}, "byte"),
    ],
)
def test_batches_are_those_of_the_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    options: dict[str, str],
    tokenizer: str | None,
) -> None:
    """Of all the text, and of the part that a short training reads."""
    for module, name in ((spans, "PIECE_BYTES"), (running, "PIECE_BYTES"),
                         (running, "TOKEN_RATIO_BYTES")):  # fmt: skip
        monkeypatch.setattr(module, name, 4000)
    (tmp_path / "data").mkdir()
    for number in range(5):
        text = prose(5000 + 3000 * number, number)
        (tmp_path / f"data/{number}.txt").write_text(text, encoding="utf-8")
    request = Request(task, options, (str(tmp_path / "data"),), tokenizer=tokenizer, holdout=0.2)
    about = write(request, tmp_path / "folder", 9000)
    ids = sum(shard["ids"] for shard in about["shards"])
    assert len(about["shards"]) > 1
    for tokens in (500, 9_000, None):
        data, stored = (
            rows(each, tokens, tmp_path)
            for each in (request, replace(request, data=(str(tmp_path / "folder"),)))
        )
        assert len(data) == len(stored) and data.context == stored.context
        share = len(data) * 31 / ids
        assert share > 0.9 if tokens is None else share < 0.7 or tokens > 500
        for step in (0, 1, 400):
            batches = [step_batch(each, step, 6, 3) for each in (data, stored)]
            for name, array in vars(batches[0]).items():
                assert np.array_equal(array, getattr(batches[1], name)), name


def test_tokenizations_of_a_text_that_is_repeated_are_those_of_the_data(tmp_path: Path) -> None:
    """With BPE-dropout, for which the text is decoded from the ids."""
    (tmp_path / "a.txt").write_text(prose(3000), encoding="utf-8")
    request = Request("text", {}, (str(tmp_path / "a.txt"),), tokenizer="bpe:300")
    write(request, tmp_path / "folder")
    stored = replace(request, data=(str(tmp_path / "folder"),))
    for options in ({}, {"bpe_dropout": 0.5}):
        one, other = (
            rows(replace(each, task_options=options), 60_000, tmp_path / name)
            for name, each in (("1", request), ("2", stored))
        )
        assert len(one) == len(other) > 1000
        batches = [step_batch(each, 3, 40, 0).ids for each in (one, other)]
        assert np.array_equal(*batches)
    without = rows(replace(stored, task_options={"bpe_dropout": 0}), 60_000, tmp_path)
    assert len(without) < 100


@pytest.mark.parametrize("flags", [(), ("--each", "line", "--patience", 2), ("--test", "b.txt")])
def test_a_run_on_the_folder_is_the_run_on_the_data(tfm: Tfm, flags: tuple[Any, ...]) -> None:
    """The weights, the log, the held-out items, the scores."""
    for number, name in enumerate(("a.txt", "b.txt")):
        (tfm.folder / name).write_text(prose(9000, number), encoding="utf-8")
    data, more = (*flags[:2], "--tokenizer", "bpe:300"), flags[2:]
    tfm("train", "a.txt", *data, *more, *TRAIN, "--run", "raw")
    assert tfm("prepare", "a.txt", *data, "-o", "folder", "-q").text == "folder\n"
    (tfm.folder / "a.txt").unlink()
    (tfm.folder / "b.txt").unlink()
    tfm("train", "folder", *more, *TRAIN, "--run", "stored")
    raw, stored = Run(tfm.folder / "raw"), Run(tfm.folder / "stored")
    assert saved_weights(raw.path, 4) == saved_weights(stored.path, 4)
    timed = {"seconds", "tokens_per_second", "check", "run"}
    logs = [
        [{k: v for k, v in {**e, **e.get("scores", {})}.items() if k not in {*timed, "scores"}}
         for e in run.log()]
        for run in (raw, stored)
    ]  # fmt: skip
    assert logs[0] == logs[1]
    assert raw.splits() == stored.splits()
    for split in raw.splits():
        one, other = (list(run.heldout(split)) for run in (raw, stored))
        assert [s.ids.tolist() for s in one] == [s.ids.tolist() for s in other]
        assert [s.side for s in one] == [s.side for s in other]
    assert raw.config["floor"] == stored.config["floor"]
    assert raw.config["data"]["fingerprint"] == stored.config["data"]["fingerprint"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Tfm:
    """a.txt, the folder `folder` of it, and a run on it, shared: tests must not change them."""
    tfm = Tfm(tmp_path_factory.mktemp("prepared"))
    (tfm.folder / "a.txt").write_text(prose(9000), encoding="utf-8")
    tfm("prepare", "a.txt", "--tokenizer", "char", "-o", "folder", "-q")
    tfm("train", "folder", *TRAIN, "--run", "run")
    return tfm


@pytest.fixture
def own(prepared: Tfm, tmp_path: Path) -> Tfm:
    """A copy of them."""
    shutil.copytree(prepared.folder, tmp_path / "own")
    return Tfm(tmp_path / "own")


def test_the_folder_says_what_it_is_and_names_no_place(own: Tfm) -> None:
    about = json.loads((own.folder / "folder/prepared.json").read_text())
    facts = own("prepare", "a.txt", "--tokenizer", "char", "-o", "b", "--json").json()
    assert (facts["folder"], facts["task"], facts["tokenizer"]["spec"]) == ("b", "text", "char")
    assert facts["ids"] == sum(shard["ids"] for shard in about["shards"])
    assert facts["fingerprint"] == about["fingerprint"]
    assert str(own.folder) not in json.dumps(about)
    assert not list(own.folder.glob(".*"))
    assert "9 files" not in own("verify", "folder").err
    assert "ids" in own("data", "folder", "-n", 1).text


@pytest.mark.parametrize("what", ["shards/000000.ids", "shards/000000.items", "tokenizer.json",
                                  "prepared.json", "heldout/valid/ids.bin"])  # fmt: skip
def test_damage_is_found_before_it_is_trained_on(own: Tfm, what: str) -> None:
    """Also on a machine that has found the folder sound before."""
    path = own.folder / "folder" / what
    if "shards" in what:
        own("train", "folder", *TRAIN, "--run", "sound")
    sound = path.read_bytes()
    for damaged in (sound[:20] + bytes([sound[20] ^ 1]) + sound[21:], sound[:-8], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        error = own.error("train", "folder", *TRAIN, "--run", "none", code=3)
        assert str(Path(what).with_suffix("")) in error
        assert not (own.folder / "none").exists()
        assert own("verify", "folder", "-q", code=3).code == 3


def test_resuming_takes_the_folder_wherever_it_is(own: Tfm) -> None:
    """And the data itself, as the ids are the same; but not the folder with another tokenizer."""
    shutil.copytree(own.folder / "run", own.folder / "other")
    (own.folder / "folder").rename(own.folder / "moved")
    own("train", "--resume", "run", "--data", "moved", "--steps", 6, "-q")
    own("train", "--resume", "other", "--data", "a.txt", "--steps", 6, "-q")
    assert saved_weights(own.folder / "run", 6) == saved_weights(own.folder / "other", 6)
    own("prepare", "a.txt", "--tokenizer", "byte", "-o", "folder", "-q")
    error = own.error("train", "--resume", "run", "--data", "folder", "--steps", 8)
    assert "another tokenizer" in error


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("folder --tokenizer bpe:300", "was prepared with --tokenizer char"),
        ("folder --holdout 0.2", "was prepared without --holdout"),
        ("folder --task byte", "was prepared with --task text"),
        ("folder --each line", "was prepared with --each stream"),
        ("folder --set task.errors=replace", "was prepared with --errors strict"),
        ("folder --column text", "was prepared without --column"),
        ("folder --valid a.txt", "has its own held-out items"),
        ("folder a.txt", "all of the data"),
        ("a.txt --valid folder", "all of the data"),
        ("--mix text:folder", "all of the data"),
        ("folder --init byterun", "has another tokenizer"),
    ],
)
def test_flags_that_contradict_the_folder_are_refused(own: Tfm, flags: str, says: str) -> None:
    if "byterun" in flags:
        own("train", "a.txt", "--tokenizer", "byte", *TRAIN, "--run", "byterun")
    assert says in own.error("train", *flags.split(), "--steps", 1, "--run", "none")
    assert not (own.folder / "none").exists()


def test_flags_that_agree_and_init_are_taken(own: Tfm) -> None:
    same = ("--tokenizer", "char", "--task", "text", "--each", "stream")
    own("train", "folder", *same, *TRAIN, "--run", "agreed")
    own("prepare", "a.txt", "--init", "agreed", "-o", "again", "-q")
    own("train", "again", "--init", "agreed", "--steps", 1, "-q")


def test_what_cannot_be_prepared_is_refused(own: Tfm) -> None:
    for task in ("series", "image", "copy", "pairs"):
        assert "cannot be prepared" in own.error("prepare", "--task", task, "-o", "x")
    assert "already exists" in own.error("prepare", "a.txt", "-o", "folder")
    assert "prepared already" in own.error("prepare", "folder", "-o", "x")
    assert not (own.folder / "x").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_kill_at_any_moment_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    """SIGKILL at the N-th time that a file is made durable, for every N. The same command again
    makes the folder that an uninterrupted one makes, and keeps the shards that were complete."""
    (tmp_path / "a.txt").write_text(prose(6000), encoding="utf-8")
    request = Request("text", {"each": "line"}, (str(tmp_path / "a.txt"),), tokenizer="char")
    write(request, tmp_path / "whole", 2000)
    expected, again = contents(tmp_path / "whole"), 0
    for number in range(1, 100):
        folder = tmp_path / f"folder{number}"
        code = in_a_fork(lambda to=folder: write(request, to, 2000), number)  # type: ignore[misc]
        if not code:
            break
        assert code == -signal.SIGKILL
        if not folder.exists():
            notes: list[str] = []
            write_prepared(request, folder, 2000, notes.append, quiet)
            again += any("going on after" in text for text in notes)
        assert contents(folder) == expected
    assert number > 8 and again > 4


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a folder, but for what a killed command can leave beside them."""
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if name not in ("lock", "shards.jsonl")}


def in_a_fork(work: Callable[[], object], kill_at: int) -> int:
    """The exit code of a process that is killed at its `kill_at`-th fsync."""
    pid = os.fork()
    if not pid:
        real, calls = os.fsync, 0

        def fsync(file: int) -> None:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            real(file)

        os.fsync = fsync
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_machine_checks_a_shard_once(prepared: Tfm, tmp_path: Path) -> None:
    """What was checked is remembered by the size and the times of the file."""
    from tfm.core.train.prepared_folder import PreparedFolder

    shutil.copytree(prepared.folder / "folder", tmp_path / "folder")
    PreparedFolder(tmp_path / "folder").shards.check(tmp_path)
    (record,) = (tmp_path / "checked").iterdir()
    before = record.stat().st_mtime_ns
    PreparedFolder(tmp_path / "folder").shards.check(tmp_path)
    assert record.stat().st_mtime_ns == before
    path = tmp_path / "folder/shards/000000.ids"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DamagedError, match="000000.ids"):
        PreparedFolder(tmp_path / "folder").shards.check(tmp_path)
