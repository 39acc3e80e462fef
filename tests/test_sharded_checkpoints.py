"""Checkpoints in parts, which processes that shard the weights write: they are read as one file is,
and faults cost what they cost there. Training that goes on from them is in test_distributed.py."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from conftest import Tfm, Trained
from helpers import run_harness
from torch import Tensor

from tfm.core.errors import DamagedError, DivergedError
from tfm.core.files import check_files
from tfm.core.runs.checkpoints import MODEL, OPTIMIZER, Checkpoint, Part
from tfm.core.runs.run import Run
from tfm.core.runs.tensors import files_of, open_tensors, part_bytes, part_name, read_tensors

Tensors = dict[str, Tensor]
SIZE = 3


def rows_of(x: Tensor, rank: int, size: int) -> slice:
    """The rows of each process, as FSDP divides them: the last ones can have fewer, or none."""
    each = -(-x.shape[0] // size)
    return slice(min(rank * each, x.shape[0]), min((rank + 1) * each, x.shape[0]))


def part_of(tensors: Tensors, rank: int, size: int) -> tuple[Tensors, dict[str, int]]:
    """What a process has of tensors, and their first rows; those without rows are the first's."""
    divided = {name: rows_of(x, rank, size) for name, x in tensors.items() if x.ndim}
    own = {name: tensors[name][rows] for name, rows in divided.items()}
    single = {name: x for name, x in tensors.items() if not x.ndim and rank == 0}
    return own | single, {name: rows.start for name, rows in divided.items()}


def save_in_parts(
    run: Run, step: int, weights: Tensors, optimizer: Tensors, state: Any, size: int = SIZE
) -> list[Any]:
    """Saves as `size` processes do, which are threads here; the checkpoint or error of each."""
    values: list[Any] = [None] * size
    barrier = Barrier(size, timeout=30)

    def sharing(rank: int) -> Callable[[Any], list[Any]]:
        def share(value: Any) -> list[Any]:
            values[rank] = json.loads(json.dumps(value))
            barrier.wait()
            found = list(values)
            barrier.wait()
            return found

        return share

    def save(rank: int) -> Any:
        (own, first), (states, more) = (part_of(each, rank, size) for each in (weights, optimizer))
        part = Part(rank, size, first | more, sharing(rank))
        try:
            return run.save(step, own, states, state, part)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(save, range(size)))


def in_parts(run: Run, step: int | None = None) -> Checkpoint:
    """Replaces the newest checkpoint of a run by one in parts, of another step if given."""
    newest = run.checkpoint()
    state = json.loads((newest.path / "state.json").read_bytes())
    tensors = [read_tensors(newest.path / name) for name in (MODEL, OPTIMIZER)]
    tensors = [{name: x.clone() for name, x in each.items()} for each in tensors]
    if step is None:
        shutil.rmtree(newest.path)
    del state["step"]
    saved: Checkpoint = save_in_parts(run, step or newest.step, *tensors, state)[0]
    return saved


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Run:
    shutil.copytree(trained.path, tmp_path / "run")
    return Run(tmp_path / "run")


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_any_rows_are_read_from_parts_as_from_one_tensor(tmp_path: Path, size: int) -> None:
    tensors = {f"rows.{rows}": torch.randn(rows, 2) for rows in range(1, 8)}
    tensors |= {"vector": torch.randn(5), "number": torch.tensor(3.0), "whole": torch.ones(3).int()}
    for rank in range(size):
        own, first_rows = part_of(tensors, rank, size)
        name = part_name("model.safetensors", rank, size)
        (tmp_path / name).write_bytes(part_bytes(own, first_rows if size > 1 else None))
    stored = open_tensors(tmp_path / "model.safetensors")
    assert stored.keys() == tensors.keys()
    for name, x in tensors.items():
        assert stored[name].shape == x.shape and stored[name][...].equal(x)
        for low in range(x.shape[0] if x.ndim else 0):
            for high in range(low, x.shape[0] + 1):
                assert stored[name][low:high].equal(x[low:high]), (name, low, high)


def test_parts_that_do_not_fit_each_other_are_damaged(tmp_path: Path) -> None:
    """As where files of several checkpoints have come into one folder."""
    x = torch.arange(12.0).reshape(6, 2)
    paths = [tmp_path / part_name(MODEL, rank, 2) for rank in (0, 1)]
    paths[0].write_bytes(part_bytes({"x": x[:3]}, {"x": 0}))
    for broken, first in ((x[4:], 4), (x[2:], 2), (x[3:].double(), 3), (x[3:, :1], 3), (x[3:], 0)):
        paths[1].write_bytes(part_bytes({"x": broken}, {"x": first}))
        with pytest.raises(DamagedError, match="its parts do not"):
            open_tensors(tmp_path / MODEL)
    paths[1].write_bytes(part_bytes({"x": x[3:]}, {"x": 3}))
    assert read_tensors(tmp_path / MODEL)["x"].equal(x)
    paths[0].unlink()
    with pytest.raises(DamagedError, match="not readable as tensors"):
        open_tensors(tmp_path / MODEL)
    assert files_of(MODEL, ["model-00001-of-00002.safetensors", "optimizer.safetensors"]) == []


# -- all verbs -----------------------------------------------------------------------------------


def test_a_run_whose_checkpoint_is_in_parts_is_used_as_any_other(tfm: Tfm, copied: Run) -> None:
    verbs = {
        "eval": ("eval", "run", "--json"),
        "sample": ("sample", "run", "-p", "the ", "--length", 20, "--seed", 1),
        "score": ("score", "run", "text", "--json"),
        "verify": ("verify", "run"),
    }

    def answers() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, command in verbs.items():
            found[name] = tfm(*command).text.splitlines()
            if name == "eval":
                (found[name],) = map(json.loads, found[name])
                found[name].pop("tokens_per_second")
        tfm("compress", "run", "text", "-q", "--out", "packed", "--force")
        found["decompress"] = tfm("decompress", "run", "packed", "--out", "-").out
        shutil.rmtree(tfm.folder / "out", ignore_errors=True)
        tfm("export", "run", "--to", "hf", "out")
        found["export"] = {p.name: p.read_bytes() for p in (tfm.folder / "out").iterdir()}
        return found

    (tfm.folder / "text").write_text("a lazy dog\n")
    expected = answers()
    checkpoint = in_parts(copied)
    names = {part_name(f"{name}.safetensors", rank, SIZE)
             for name in ("model", "optimizer") for rank in range(SIZE)}  # fmt: skip
    assert {p.name for p in checkpoint.path.iterdir()} == {*names, "state.json", "manifest.json"}
    found = answers()
    assert "model.safetensors" in found["export"]
    for name in ("eval", "sample", "score", "decompress", "export"):
        assert found[name] == expected[name], name


# -- faults --------------------------------------------------------------------------------------


def test_a_part_that_is_missing_cut_or_changed_is_told(copied: Run) -> None:
    checkpoint = in_parts(copied)
    for name in check_files(checkpoint.path)["files"]:
        path = checkpoint.path / name
        sound = path.read_bytes()
        changed = sound[:-1] + bytes([sound[-1] ^ 1])
        for damaged in (None, sound[: len(sound) // 2], changed):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(DamagedError, match=f"{name}: (damaged|missing)"):
                copied.load_model()
        path.write_bytes(sound)
    copied.load_model()


def test_a_damaged_part_costs_one_interval(tfm: Tfm, copied: Run) -> None:
    copied.cut(20)  # as after an interruption
    in_parts(copied, 10)
    last = in_parts(copied)
    (last.path / "optimizer-00002-of-00003.safetensors").unlink()
    resumed = tfm("train", "--resume", "run")
    assert "optimizer-00002-of-00003.safetensors: missing" in resumed.err
    assert "resuming from step 10 " in resumed.err
    assert (copied.checkpoint().path / MODEL).exists(), "one process writes one file"


def test_what_one_process_finds_ends_the_save_of_all(copied: Run) -> None:
    weights, before = {"a": torch.ones(6, 2), "b": torch.ones(6)}, copied.checkpoints()
    weights["b"][5] = torch.nan  # which the last process has
    errors = save_in_parts(copied, 30, weights, {}, {})
    assert all(isinstance(e, DivergedError) and "b is not finite" in str(e) for e in errors)
    assert copied.checkpoints() == before
    weights["b"][5] = 1
    first, second = (save_in_parts(copied, 30, weights, {}, {}) for _ in range(2))
    assert first == second == [copied.checkpoint()] * SIZE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
def test_every_call_of_a_save_in_parts_killed_or_refused() -> None:
    reports = run_harness("part_saves.py")
    assert set(reports) == {"kill", "ENOSPC"}
    for fault, report in reports.items():
        assert not report["wrong"], f"{fault}: {report['wrong'][:5]}"
        assert report["faults"] > 40
