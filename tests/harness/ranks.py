"""Processes that train small models together, in float64, and compare with one process alone.

    python tests/harness/ranks.py SIZE[:CASE,CASE...] ...

For each argument, SIZE processes print one JSON object: case -> kind of processes -> differences.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from typing import Any

import numpy as np
import torch

torch.float32 = torch.float64  # type: ignore[misc]
torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

import torch.distributed.fsdp  # noqa: E402
import torch.distributed.tensor  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402

from tfm.core.config import ModelConfig, TrainConfig  # noqa: E402
from tfm.core.model.sequence_model import SequenceModel  # noqa: E402
from tfm.core.ops import operations as ops  # noqa: E402
from tfm.core.protocols import Array, Batch, Ids  # noqa: E402
from tfm.core.train.distributed import join  # noqa: E402
from tfm.core.train.fsdp import Shards  # noqa: E402
from tfm.core.train.loop import train  # noqa: E402
from tfm.core.train.optim import make_optimizers, state_tensors  # noqa: E402
from tfm.core.train.peers import ALONE, Peers  # noqa: E402
from tfm.core.train.state import State  # noqa: E402

STEPS, SMALL = 5, dict(vocab_size=40, layers=2, heads=2, width=16, context=8)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "muon": (
        dict(dropout=0.2, ordered="3-39"),
        dict(steps=20, accumulate=2, average=0.9, clip=0.5),
    ),
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


def trained(case: str, peers: Peers) -> tuple[list[float], list[float], list[int], dict[str, Any]]:
    """The losses and norms of all steps, the rows asked for, and every tensor that is saved."""
    model_fields, train_fields = CASES[case]
    torch.manual_seed(1)
    model = SequenceModel(ModelConfig(**{**SMALL, **model_fields}))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    peers.place(model, torch.device("cpu"), "float32")
    config = TrainConfig(**{"steps": STEPS, "batch": 6, "lr": 0.005, "seed": 3, **train_fields})
    optimizers = make_optimizers(model, config, peers)
    data = Rows("encoder_layers" in model_fields)
    steps = list(train(model, data, config, optimizers, peers=peers))
    state = State(model, optimizers, config, peers=peers)
    tensors = {**state._weights(), **state_tensors(model, optimizers)}
    return [s.loss for s in steps], [s.gradient_norm for s in steps], data.asked, tensors


def compared(cases: list[str]) -> None:
    """Prints what differs: case -> kind of processes -> largest differences."""
    device = torch.device("cpu")
    replicas = join(device, shard=False)
    shape = (1, replicas.size)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
    found: dict[str, Any] = {}
    for case in cases:
        expected = trained(case, ALONE) if replicas.leads else None
        for kind in (replicas, Shards(device, mesh, replicas.store)):
            losses, norms, asked, tensors = trained(case, kind)
            (longest,) = replicas.agree(len(asked))
            rows = replicas.gather([*map(float, asked), *[-1.0] * (longest - len(asked))])
            if expected is None:
                continue
            pairs = [(tensors[name], value) for name, value in expected[3].items()]
            found.setdefault(case, {})[type(kind).__name__] = {
                "loss": np.abs(np.subtract(losses, expected[0])).max(),
                "gradient norm": np.abs(np.subtract(norms, expected[1])).max(),
                "saved": max(float((ours - theirs).abs().max()) for ours, theirs in pairs),
                "names": float(tensors.keys() != expected[3].keys()),
                "rows": float(sorted(expected[2]) != sorted(r for e in rows for r in e if r >= 0)),
            }
    replicas.wait()
    if replicas.leads:
        print(json.dumps(found), flush=True)


def main(size: int, cases: list[str]) -> None:
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
                    compared(cases)
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
    for argument in sys.argv[1:]:
        number, _, names = argument.partition(":")
        main(int(number), names.split(",") if names else list(CASES))
