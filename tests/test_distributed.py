"""Training by several processes: as by one, bit by bit or nearly, and however it ends."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, Tfm
from helpers import FakeTokenizer, RandomRows, log_without_times, small_model

from tfm.cli.launch import LOST_PEER, exit_code, processes_to_start
from tfm.cli.processes import size_from_launcher
from tfm.core.config import TrainConfig
from tfm.core.errors import TfmError, UsageError
from tfm.core.ops import native_calls, reference
from tfm.core.runs.checkpoints import MODEL
from tfm.core.runs.run import Run
from tfm.core.runs.tensors import StoredTensor
from tfm.core.train.loop import train
from tfm.core.train.optim import make_optimizers
from tfm.core.train.state import State, _restored

ROOT = Path(__file__).parent.parent
OF_SEVERAL = ("distributed.py", "replicas.py", "fsdp.py")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")


# -- the same training ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    """What 2 and 4 processes compute that one alone does not, see harness/ranks.py; at last 2 only
    go on where 4 have stopped."""
    command = [sys.executable, str(ROOT / "tests/harness/ranks.py"), "2", "4:muon:4,2", "2:muon:4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(("2", "4", "4 to 2"), map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("kind", ["Replicas", "Shards"])
@pytest.mark.parametrize(
    "size, case", [(2, "muon"), (2, "adamw"), (2, "mixed"), (2, "encoder"), (4, "muon")]
)
def test_several_processes_train_as_one(
    compared: dict[str, Any], size: int, case: str, kind: str
) -> None:
    """Losses, gradient norms, weights and states in float64; with dropout, micro-batches, ordered
    ids, averaged weights, rows without targets, and rows that do not divide evenly."""
    found = compared[str(size)][case][kind]
    assert all(difference < 1e-12 for difference in found.values()), found


@pytest.mark.parametrize(
    "where, to",
    [("4", "2 to 4 Shards"), ("4", "2 to 4 Replicas"), ("4", "2 to 1 Peers"), ("4", "2 to torch")]
    + [("4 to 2", "4 to 2 Shards"), ("4 to 2", "4 to 2 Replicas"), ("4 to 2", "4 to 1 Peers")],
)
def test_parts_of_a_checkpoint_are_read_by_any_number(
    compared: dict[str, Any], where: str, to: str
) -> None:
    """Sharded, not sharded, one alone, and torch's own reader: losses, weights and states of a
    training by one process that was not stopped."""
    found = compared[where]["muon"][to]
    assert all(difference < 1e-12 for difference in found.values()), found


@pytest.mark.parametrize(
    "size, case", [(2, "muon"), (2, "adamw"), (2, "mixed"), (2, "encoder"), (4, "muon")]
)
def test_as_many_processes_go_on_bit_by_bit(compared: dict[str, Any], size: int, case: str) -> None:
    assert compared[str(size)][case]["as if it had not stopped"] == {"saved": 0.0}


def test_a_row_drops_the_same_numbers_wherever_it_is_computed() -> None:
    x = torch.ones(6, 3, 5)

    def dropped(first: int, end: int) -> torch.Tensor:
        torch.manual_seed(4)
        reference.set_dropout_rows(first, end - first)
        return reference.dropout(x[first:end], 0.5)

    try:
        whole = dropped(0, 6)
        assert torch.equal(torch.cat((dropped(0, 1), dropped(1, 4), dropped(4, 6))), whole)
    finally:
        reference.set_dropout_rows(0, 1)


def test_c_kernels_drop_the_same_numbers_of_a_row(kernels_in_c: None) -> None:
    from tfm.core.ops import cpu_kernels

    x, y = torch.zeros(6, 2, 64), torch.ones(6, 2, 64)

    def dropped(rows: slice) -> torch.Tensor:
        torch.manual_seed(4)
        reference.set_dropout_rows(rows.start, rows.stop - rows.start)
        return cpu_kernels.add_dropout(x[rows], y[rows], 0.5)

    assert native_calls.library() is not None
    try:
        parts = torch.cat((dropped(slice(0, 2)), dropped(slice(2, 6))))
        assert torch.equal(parts, dropped(slice(0, 6)))
    finally:
        reference.set_dropout_rows(0, 1)


def test_64_processes_are_rehearsed_without_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 64, whose communication is a fake: it has a 64th of every weight and state, takes
    steps, reads and writes its rows of a checkpoint, and gathers whole weights to score."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from tfm.core.train.fsdp import Shards

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=64)
    try:
        mesh = init_device_mesh("cpu", (1, 64), mesh_dim_names=("replicate", "shard"))
        peers = Shards(torch.device("cpu"), mesh, None)
        model = small_model(width=64, heads=2)
        shapes = {name: p.shape for name, p in model.named_parameters()}
        peers.place(model, torch.device("cpu"), "float32")
        config = TrainConfig(steps=2, batch=64, average=0.9)
        optimizers = make_optimizers(model, config, peers)
        steps = list(train(model, RandomRows(), config, optimizers, peers=peers))
        assert len(steps) == 2
        for name, p in model.named_parameters():
            assert peers.local(p).shape[0] == -(-shapes[name][0] // 64), name
        state = State(model, optimizers, config, peers=peers)
        with state.in_whole() as whole:
            assert {name: p.shape for name, p in whole.named_parameters()} == shapes
        for optimizer in optimizers:
            for p, fields in optimizer.state.items():
                assert all(f.numel() in (1, peers.local(p).numel()) for f in fields.values())

        about = {"task": "byte", "model": asdict(model.config), "train": asdict(config)}
        run = Run.create(tmp_path / "run", about, FakeTokenizer(23), {})
        whole_model = small_model(width=64, heads=2)
        whole_optimizers = make_optimizers(whole_model, config)
        list(train(whole_model, RandomRows(), config, whole_optimizers))
        State(whole_model, whole_optimizers, config).save(run)
        reads: list[tuple[int, int]] = []
        read = StoredTensor.__getitem__

        def counted(stored: StoredTensor, rows: Any) -> torch.Tensor:
            found = read(stored, rows)
            reads.append((found.numel(), math.prod(stored.shape)))
            return found

        monkeypatch.setattr(StoredTensor, "__getitem__", counted)
        restored = _restored(run, run.checkpoint(), torch.device("cpu"), peers)
        assert len(reads) > 30 and all(n * 23 <= total or total == 1 for n, total in reads)
        for name, p in restored.model.named_parameters():
            rows = whole_model.get_parameter(name)[peers.rows_of(p)]
            assert torch.equal(peers.local(p), rows), name
        restored.step = 9
        restored.save(run)
        (part,) = run.path.glob("checkpoints/000009/model-00001-of-00064.safetensors")
        whole_size = (run.path / "checkpoints/000000" / MODEL).stat().st_size
        assert part.stat().st_size < whole_size / 10
    finally:
        dist.destroy_process_group()


# -- the command ---------------------------------------------------------------------------------


class Training:
    """A `tfm train` by processes that write to one run."""

    def __init__(self, run: Path, *starters: subprocess.Popen[bytes]) -> None:
        self.run, self.starters = run, starters

    def losses(self) -> list[float]:
        log = self.run / "log.jsonl"
        return [e["loss"] for e in Run(self.run).log() if "loss" in e] if log.exists() else []

    def wait(self, ready: Callable[[], Any]) -> None:
        until = time.monotonic() + 100
        while not ready():
            assert all(p.poll() is None for p in self.starters) and time.monotonic() < until
            time.sleep(0.05)

    def wait_for_steps(self, more: int) -> None:
        seen = len(self.losses())
        self.wait(lambda: len(self.losses()) >= seen + more)

    def ranks(self) -> dict[int, tuple[int, int]]:
        """(process, its parent) of each rank, as the system has them."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
                words = (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            rank = [int(v[5:]) for v in variables if v.startswith(b"RANK=")]
            if rank and os.fsencode(self.run.name) in words:
                found[rank[0]] = int(folder.name), parent
        return found

    def ended(self, *codes: int) -> str:
        """What all starters say on stderr, once they and all ranks have ended with these codes."""
        errors = [p.communicate(timeout=60)[1].decode() for p in self.starters]
        assert tuple(p.returncode for p in self.starters) == codes, errors
        until = time.monotonic() + 30
        while self.ranks() and time.monotonic() < until:
            time.sleep(0.05)
        assert not self.ranks()
        return "".join(errors)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_a_training_that_changes_hands(tfm: Tfm, text: Path) -> None:
    """It is killed, stopped and orphaned, goes on by other numbers of processes, and takes the
    steps of a training by one process."""
    run = tfm.folder / "handed-on"
    small = ("--task", "byte", "--size", "nano", "--set", "train.batch=4", "--steps", 100_000)
    sets = ("--set", "model.dropout=0.1", "--set", "train.dtype=bfloat16")
    begin = ("train", "--data", text, *small, *sets, "--device", "cpu")

    # two processes; a signal to the launcher saves; one is killed
    training = Training(run, tfm.start(*begin, "--nproc", 2, "--run", run))
    training.wait_for_steps(2)
    training.starters[0].send_signal(signal.SIGUSR1)
    training.wait(lambda: Run(run).checkpoints())
    os.kill(training.ranks()[1][0], signal.SIGKILL)
    *_, last = training.ended(1).splitlines()
    again = f"tfm train --resume {run} --nproc 2"
    assert last == f"Error: process 1 of 2 was ended by SIGKILL; resume with: {again}"

    # two that find each other as Slurm's do, with sharded weights; one is asked to stop
    slurm = {"SLURM_NTASKS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    starters = []
    for rank in (0, 1):
        placed = Tfm(tfm.folder, {**slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        starters.append(placed.start("train", "--resume", run, "--shard", "--device", "cpu"))
    training = Training(run, *starters)
    training.wait_for_steps(2)
    starters[1].send_signal(signal.SIGTERM)
    said = training.ended(-signal.SIGTERM, -signal.SIGTERM)
    assert said.count("resume with:") == 1 and "Error" not in said
    before, last = Run(run).checkpoints()
    assert last.step == len(training.losses())

    # two whose launcher is killed: they save and end. They began before a part that was damaged
    part = last.path / "model-00002-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    training = Training(run, tfm.start("train", "--resume", run, "--nproc", 2, "--device", "cpu"))
    training.wait_for_steps(2)
    second = tfm.error("train", "--resume", run, "--device", "cpu")
    assert "is writing to this run" in second
    os.kill(training.ranks()[0][1], signal.SIGKILL)
    said = training.ended(1)  # as the client of a fork that is gone
    assert said.count("going back to the checkpoint before") == 1
    assert f"{part.name}: damaged" in said and f"from step {before.step} " in said
    assert Run(run).checkpoints()[-1].step == len(training.losses())

    # one process goes on, and another takes the same steps alone
    training = Training(run, tfm.start("train", "--resume", run, "--device", "cpu"))
    training.wait_for_steps(2)
    training.starters[0].send_signal(signal.SIGTERM)
    training.ended(-signal.SIGTERM)
    alone = Training(tfm.folder / "alone", tfm.start(*begin, "--run", tfm.folder / "alone"))
    alone.wait(lambda: len(alone.losses()) >= len(training.losses()))
    alone.starters[0].send_signal(signal.SIGTERM)
    alone.ended(-signal.SIGTERM)
    ours = [e for e in log_without_times(run) if "loss" in e]
    theirs = [e for e in log_without_times(alone.run) if "loss" in e][: len(ours)]
    assert [e["tokens"] for e in ours] == [e["tokens"] for e in theirs]
    assert [e["loss"] for e in ours] == pytest.approx([e["loss"] for e in theirs], abs=0.02)


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_standard_input_is_read_by_one_and_used_by_all(tfm: Tfm, text: Path) -> None:
    """And the final score, the sample and the run's path come once."""
    flags = ("--task", "byte", "--size", "nano", "--set", "train.batch=4", "--device", "cpu")
    result: Result = tfm(
        *("train", "--data", "-", *flags, "--steps", 2, "--nproc", 2, "--run", "piped"),
        stdin=text.read_bytes(),
    )
    assert result.text == "piped\n"
    assert result.err.count("bits per byte;") == result.err.count("trained in") == 1
    run = Run(tfm.folder / "piped")
    assert (run.config["processes"], run.config["shard"]) == (2, False)
    assert (run.path / "stdin").read_bytes() == text.read_bytes()


def test_flags_that_are_wrong_start_nothing(tfm: Tfm, text: Path) -> None:
    for wrong in ("0", "-2", "x", "1.5"):
        said = tfm.error("train", "--data", text, "--nproc", wrong)
        assert f"'--nproc': '{wrong}': must be a positive whole number, or auto" in said
    if not torch.cuda.is_available():
        said = tfm.error("train", "--data", text, "--nproc", 2, "--device", "cuda")
        assert "--nproc 2: this machine has 0 GPUs" in said
    said = tfm.error("train", "--data", text, "--nproc", 2, "--task", "txt", "--device", "cpu")
    assert "--task txt: no such task" in said
    (tfm.folder / "taken").mkdir()
    said = tfm.error("train", "--data", text, "--nproc", 2, "--run", "taken", "--device", "cpu")
    assert "--run taken: already exists" in said
    assert processes_to_start(0, "cpu") == 1


def test_variables_of_a_launcher_that_do_not_fit(tfm: Tfm, text: Path) -> None:
    import socket

    for wrong in (
        {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        {"RANK": "0", "WORLD_SIZE": "two", "MASTER_ADDR": "127.0.0.1"},
        {"RANK": "0", "WORLD_SIZE": "2"},
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(UsageError, match="WORLD_SIZE"):
            for name, value in wrong.items():
                patch.setenv(name, value)
            size_from_launcher()
    there = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        placed = Tfm(tfm.folder, {**there, "MASTER_PORT": str(taken.getsockname()[1])})
        flags = ("train", "--data", text, "--task", "byte", "--device", "cpu")
        assert "the port is in use" in placed.error(*flags, code=1)
        assert "--nproc 3: a launcher has started 2" in placed.error(*flags, "--nproc", 3)


@pytest.mark.parametrize(
    "codes, code, says",
    [
        ({0: 3, 1: LOST_PEER}, 3, ""),
        ({0: LOST_PEER, 1: 2}, 2, ""),
        ({0: -15, 1: -15}, 143, ""),
        ({0: -2}, 130, ""),
        ({0: LOST_PEER, 3: -9}, 1, "process 3 of 4 was ended by SIGKILL"),
        ({3: -9, 0: -9}, 1, "process 3 of 4 was ended by SIGKILL"),
        ({0: LOST_PEER, 1: -15, 2: -11}, 1, "process 2 of 4 was ended by SIGSEGV"),
        ({0: LOST_PEER, 1: LOST_PEER}, 1, "lost each other"),
        ({0: LOST_PEER, 1: -15}, 1, "lost each other"),
    ],
)
def test_how_processes_end_is_how_the_command_ends(
    tmp_path: Path, codes: dict[int, int], code: int, says: str
) -> None:
    if not says:
        assert exit_code(codes, tmp_path, 4) == code
        return
    with pytest.raises(TfmError, match=re.escape(says)) as error:
        exit_code(codes, tmp_path, 4)
    assert error.value.exit_code == code


def test_one_process_imports_nothing_of_several() -> None:
    """torch.distributed is imported inside functions only, but for the files of several."""
    files: Iterator[Path] = (f for layer in ("core", "cli") for f in (ROOT / layer).rglob("*.py"))
    found = [
        f"{file.name}: {line}"
        for file in files
        if file.name not in OF_SEVERAL
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"(from|import) \S*(distributed|replicas|fsdp)\b", line)
    ]
    assert not found
