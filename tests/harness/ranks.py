"""Processes that train small models together, in float64, and compare with one process alone.

    python tests/harness/ranks.py SIZE[:CASE,CASE...[:WRITERS,...]] ...

For each argument, SIZE processes train, and print one JSON object: case -> who trained ->
differences. The sharded ones save a checkpoint in parts on the way. Then they go on from the parts
of WRITERS, numbers of processes that have trained before (by default from their own): sharded, not
sharded, and one alone. Where WRITERS lack SIZE, they only go on.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

torch.float32 = torch.float64  # type: ignore[misc]
torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

import numpy.random  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401  what FSDP would import in every process
import torch.distributed.checkpoint  # noqa: E402, F401
import torch.distributed.fsdp  # noqa: E402
import torch.distributed.tensor  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402

from tfm.core.config import ModelConfig, TrainConfig  # noqa: E402
from tfm.core.model.sequence_model import SequenceModel  # noqa: E402
from tfm.core.ops import operations as ops  # noqa: E402
from tfm.core.protocols import Array, Batch, Ids  # noqa: E402
from tfm.core.runs.checkpoints import MODEL, OPTIMIZER, Checkpoint  # noqa: E402
from tfm.core.runs.run import Run  # noqa: E402
from tfm.core.runs.tensors import read_tensors  # noqa: E402
from tfm.core.train.distributed import join  # noqa: E402
from tfm.core.train.fsdp import Shards  # noqa: E402
from tfm.core.train.loop import train  # noqa: E402
from tfm.core.train.optim import make_optimizers  # noqa: E402
from tfm.core.train.peers import ALONE, Peers  # noqa: E402
from tfm.core.train.state import State, _restored  # noqa: E402

sys.path.append(str(Path(__file__).parent.parent))
from helpers import FakeTokenizer  # noqa: E402

STEPS, SAVED_AT = 5, 2
SMALL = dict(vocab_size=41, layers=2, heads=2, width=16, context=8)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "muon": (dict(dropout=0.2, ordered="3-39"), dict(steps=8, accumulate=2, average=0.9, clip=0.5)),
    "adamw": (dict(tied=True, bias=True, norm="layernorm"), dict(optimizer="adamw")),
    "mixed": (dict(mixers="attention,lstm", kv_heads=1, ffn="swiglu"), dict(recompute=True)),
    "encoder": (dict(encoder_layers=1, dropout=0.2), {}),
}


class Rows:
    """Rows of random ids; the weight of every third row is 0, and sources differ in length."""

    context = 8

    def __init__(self, encoder: bool) -> None:
        self.encoder, self.asked = encoder, list[int]()

    def __len__(self) -> int:
        return 50

    def batch(self, indices: Ids) -> Batch[Array]:
        self.asked += indices.tolist()
        draws = [np.random.default_rng(int(index)) for index in indices]
        ids = np.stack([draw.integers(0, 40, 9) for draw in draws])
        weight = np.stack([draw.integers(0, 2, 9) for draw in draws])
        weight[indices % 3 == 0] = 0
        if not self.encoder:
            return Batch(ids, weight.astype(np.float32))
        lengths = [3 + int(index) % 4 for index in indices]
        source = np.zeros((len(ids), max(lengths)), np.int64)
        segments = np.full(source.shape, -1)
        for row, (draw, length) in enumerate(zip(draws, lengths, strict=True)):
            source[row, :length], segments[row, :length] = draw.integers(0, 40, length), 0
        return Batch(
            ids,
            weight.astype(np.float32),
            segments=np.zeros_like(ids),
            positions=np.broadcast_to(np.arange(9)[:, None], (*ids.shape, 1)).copy(),
            source=source,
            source_segments=segments,
        )


Found = tuple[list[float], list[float], list[int], dict[str, Any]]


def fresh(case: str, peers: Peers, folder: Path) -> tuple[State, Run]:
    """The first state of a training, and its run, which the leading process creates."""
    model_fields, train_fields = CASES[case]
    shape = ModelConfig(**{**SMALL, **model_fields})
    config = TrainConfig(**{"steps": STEPS, "batch": 6, "lr": 0.005, "seed": 3, **train_fields})
    if peers.leads:
        about = {"task": "byte", "model": asdict(shape), "train": asdict(config)}
        Run.create(folder, about, FakeTokenizer(shape.vocab_size), {})
    peers.wait()
    torch.manual_seed(1)
    model = SequenceModel(shape)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    peers.place(model, torch.device("cpu"), "float32")
    return State(model, make_optimizers(model, config, peers), config, peers=peers), Run(folder)


def finished(state: State, run: Run) -> Found:
    """Takes the remaining steps, and saves after step SAVED_AT and after the last. The losses and
    norms of all steps, the rows asked for, and every tensor that is saved at last (in the leading
    process)."""
    data, steps = Rows(state.model.has_encoder), []
    first, peers = state.step, state.peers
    for step in train(state.model, data, state.config, state.optimizers, first, peers=peers):
        steps.append(step)
        state.step = step.index
        if step.index == SAVED_AT:
            state.save(run)
    state.save(run)
    saved = tensors_of(run.checkpoint()) if peers.leads else {}
    return [s.loss for s in steps], [s.gradient_norm for s in steps], data.asked, saved


def tensors_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Every tensor of a checkpoint."""
    return read_tensors(checkpoint.path / MODEL) | read_tensors(checkpoint.path / OPTIMIZER)


def largest(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference between tensors of equal names; infinity if names differ."""
    if found.keys() != expected.keys():
        return float("inf")
    return max(float((found[name] - value).abs().max()) for name, value in expected.items())


def by_torch(checkpoint: Checkpoint) -> dict[str, Any]:
    """Every tensor of a checkpoint in parts, as torch's own reader finds them."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    found = {n: torch.full_like(t, torch.nan) for n, t in tensors_of(checkpoint).items()}
    load(found, storage_reader=HuggingFaceStorageReader(str(checkpoint.path)), no_dist=True)
    return found


def compared(cases: list[str], writers: list[int], root: Path) -> None:
    """Prints what differs: case -> who trained -> largest differences."""
    device = torch.device("cpu")
    replicas = join(device, shard=False)
    mesh = init_device_mesh("cpu", (1, replicas.size), mesh_dim_names=("replicate", "shard"))
    shards = Shards(device, mesh, replicas.store)
    found: dict[str, Any] = {}
    for case in cases:
        differences = found.setdefault(case, {})
        name = f"{case}-{replicas.size}-of-{writers[0]}"
        expected = finished(*fresh(case, ALONE, root / name)) if replicas.leads else None

        for kind in (replicas, shards) if replicas.size in writers else ():
            folder = root / f"{case}-{type(kind).__name__}-{kind.size}"
            losses, norms, asked, tensors = finished(*fresh(case, kind, folder))
            (longest,) = replicas.agree(len(asked))
            rows = replicas.gather([*map(float, asked), *[-1.0] * (longest - len(asked))])
            if expected is not None:
                differences[type(kind).__name__] = {
                    "loss": np.abs(np.subtract(losses, expected[0])).max(),
                    "gradient norm": np.abs(np.subtract(norms, expected[1])).max(),
                    "saved": largest(tensors, expected[3]),
                    "rows": float(
                        sorted(expected[2]) != sorted(r for e in rows for r in e if r >= 0)
                    ),
                }

        for size in writers:
            source = Run(root / f"{case}-Shards-{size}")
            saved = source.checkpoint(str(SAVED_AT))
            others = (replicas, ALONE) if replicas.leads else (replicas,)
            for kind in (shards, *(others if size != shards.size else ())):
                name = f"{size} to {kind.size} {type(kind).__name__}"
                _, run = fresh(case, kind, root / f"{case}-{shards.size}-{name.replace(' ', '-')}")
                losses, *_, tensors = finished(_restored(source, saved, device, kind), run)
                if expected is not None:
                    differences[name] = {
                        "loss": np.abs(np.subtract(losses, expected[0][SAVED_AT:])).max(),
                        "saved": largest(tensors, expected[3]),
                    }
                    if size == kind.size:
                        differences["as if it had not stopped"] = {
                            "saved": largest(tensors, tensors_of(source.checkpoint()))
                        }
            if expected is not None and size != shards.size:
                differences[f"{size} to torch"] = {
                    "saved": largest(by_torch(saved), tensors_of(saved))
                }
    replicas.wait()
    if replicas.leads:
        print(json.dumps(found), flush=True)


def main(size: int, cases: list[str], writers: list[int], root: Path) -> None:
    """Forks the processes, and fails if one of them does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            os.environ["RANK"] = str(rank)
            code = 1
            try:
                with ops.use("reference"):
                    compared(cases, writers, root)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise SystemExit(f"{size} processes ended with {codes}")


if __name__ == "__main__":
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # does not wait for a disk
    with tempfile.TemporaryDirectory(dir=memory) as temporary:
        for argument in sys.argv[1:]:
            number, names, sizes = [*argument.split(":"), "", ""][:3]
            cases = names.split(",") if names else list(CASES)
            main(int(number), cases, list(map(int, (sizes or number).split(","))), Path(temporary))
