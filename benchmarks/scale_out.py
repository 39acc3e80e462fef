"""Training by several processes of one machine beside one process: tokens a second, the memory of
each process, and how long the processes wait to sum their gradients. All train the same model on
the same rows; gloo sums over the machine's loopback.

python benchmarks/scale_out.py [--size tiny] [--rows 32] [--steps 12] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from _common import heading, table, use_kernels

from tfm.core.protocols import Array, Batch, Ids

VOCAB, CONTEXT, WARMUP = 256, 64, 3
# name, processes, threads of each, flags
WAYS = (
    ("1 process, 1 thread", 1, 1, ()),
    ("1 process, 2 threads", 1, 2, ()),
    ("2 processes, 1 thread each", 2, 1, ()),
    ("2 processes, 1 thread each, --shard", 2, 1, ("--shard",)),
)


class RandomIds:
    """Rows of random ids."""

    context = CONTEXT

    def __len__(self) -> int:
        return 1 << 20

    def batch(self, indices: Ids) -> Batch[Array]:
        ids = np.random.default_rng(int(indices[0])).integers(0, VOCAB, (len(indices), CONTEXT + 1))
        weight = np.ones(ids.shape, np.float32)
        weight[:, 0] = 0
        return Batch(ids, weight)


def work(options: argparse.Namespace) -> None:
    """One of the processes. The first prints what it measured, as JSON."""
    import torch

    from tfm.core.architectures import model_config
    from tfm.core.config import TrainConfig
    from tfm.core.model.sequence_model import SequenceModel
    from tfm.core.train.loop import train
    from tfm.core.train.optim import make_optimizers
    from tfm.core.train.peers import ALONE

    cpu, peers = torch.device("cpu"), ALONE
    torch.set_num_threads(options.threads)
    use_kernels()
    if int(os.environ["WORLD_SIZE"]) > 1:
        from tfm.core.train.distributed import join

        peers = join(cpu, options.shard)
    torch.manual_seed(0)
    shape = model_config("transformer", options.size, vocab_size=VOCAB, context=CONTEXT)
    model = SequenceModel(shape)
    parameters = model.parameter_count()
    peers.place(model, cpu, "float32")
    waits: list[float] = []
    own_sum = peers.sum_gradients

    def timed(parameters: list[Any]) -> None:
        peers.wait()  # so that only the sum is timed, and not a slower process
        began = time.perf_counter()
        own_sum(parameters)
        waits.append(time.perf_counter() - began)

    if options.sync:
        peers.sum_gradients = timed  # type: ignore[method-assign]
    config = TrainConfig(steps=WARMUP + options.steps, batch=options.rows)
    steps = train(model, RandomIds(), config, make_optimizers(model, config, peers), peers=peers)
    seconds = [step.seconds for step in steps][WARMUP:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if peers.leads:
        found = {
            "tokens": options.rows * CONTEXT / statistics.median(seconds),
            "memory": peak,
            "sync": statistics.median(waits[WARMUP:] or [0.0]) / statistics.median(seconds),
            "parameters": parameters,
        }
        print(json.dumps(found), flush=True)
    peers.wait()
    if peers.size > 1:
        torch.distributed.destroy_process_group()


def measured(options: argparse.Namespace, processes: int, threads: int, flags: Any) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shape = ("--size", options.size, "--rows", options.rows, "--steps", options.steps)
    command = [sys.executable, __file__, "--threads", threads, *shape, *flags]
    running = []
    for rank in range(processes):
        place = {"RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        variables = {name: str(value) for name, value in place.items()}
        environment = {**os.environ, **variables, "MASTER_ADDR": "127.0.0.1"}
        words = list(map(str, command))
        running.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE))
    first, *_ = [process.communicate()[0] for process in running]
    return json.loads(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--shard", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sync", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        work(options)
        return
    heading()
    found: dict[str, list[Any]] = {name: [] for name, *_ in WAYS}
    sync: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, processes, threads, flags in WAYS:
            found[name].append(measured(options, processes, threads, flags))
    for name, processes, threads, flags in WAYS:
        if processes > 1 and not flags:  # FSDP sums inside the backward pass
            sync[name] = measured(options, processes, threads, ("--sync",))["sync"]
    first = found[WAYS[0][0]]
    parameters, rows = first[0]["parameters"], options.rows
    print(f"{options.size}, {parameters:,} parameters, {rows} rows of {CONTEXT}\n")
    alone = statistics.median(each["tokens"] for each in first)
    lines: list[Any] = [("", "tokens/s", "times", "MB a process", "summing gradients, of a step")]
    for name, several in found.items():
        tokens = statistics.median(each["tokens"] for each in several)
        memory = max(each["memory"] for each in several)
        share = f"{sync[name]:.1%}" if name in sync else ""
        lines.append((name, f"{tokens:,.0f}", f"{tokens / alone:.2f}", f"{memory:,.0f}", share))
    table(lines)


if __name__ == "__main__":
    main()
