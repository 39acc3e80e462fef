"""Several processes that train one model, by torch.distributed. Imported only where there are.

`Replicas` keep all weights each, as DistributedDataParallel does: every process computes the
gradients of its rows of each micro-batch, and they are summed. `Shards` keep a part of every
weight, gradient and optimiser state each (FSDP2, `torch.distributed.fsdp.fully_shard`).

The loss of a micro-batch is weighted by its share of the whole step (loop.py), so a sum over
processes, not a mean, gives the gradients that one process would have.

A few numbers a step (counts of targets, stop requests) travel between CPUs by gloo, so that a GPU
does not wait for them.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous

from ..errors import TfmError
from .fsdp import Shards
from .replicas import Replicas

MEETING = timedelta(minutes=10)  # until all processes have started
WAITING = timedelta(days=2)  # for another: one may read data or score. Who died closes its sockets


def join(device: torch.device, shard: bool) -> Replicas:
    """Meets the other processes, which the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
    describe. TfmError if they cannot be reached, or the port is in use."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    address = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    try:
        store, rank, size = next(rendezvous("env://", timeout=MEETING))
        store.set_timeout(WAITING)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=WAITING,
        )
    except (RuntimeError, ValueError) as error:
        reason = "the port is in use" if "EADDRINUSE" in str(error) else str(error).splitlines()[0]
        raise TfmError(
            f"MASTER_ADDR:MASTER_PORT {address}: the processes cannot meet ({reason})"
        ) from error
    shape = (1, size) if shard else (size, 1)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    return (Shards if shard else Replicas)(device, mesh, store)
