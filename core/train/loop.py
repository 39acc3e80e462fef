"""The training loop: `train` is a generator of optimiser steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..config import TrainConfig
from ..data.datasets import step_batch, with_source_width
from ..data.keyed_random import key
from ..errors import DivergedError, TfmError
from ..model.sequence_model import SequenceModel
from ..ops import operations as ops
from ..ops.device import keep_freed_memory
from ..ops.out_of_memory import halve_micro_batch, is_out_of_memory, release_memory
from ..protocols import Array, Batch, Dataset
from ..score.likelihood import as_tensors
from .backend import MicroStep, Update, make_micro_step
from .optim import lr_factor
from .optimizer import Optimizer
from .peers import ALONE, Peers

MAX_SKIPPED_STEPS = 10  # in a row; then training has diverged


@dataclass(frozen=True)
class Step:
    """One optimiser step. loss: nats per token, the weighted mean over its batch, before the
    update."""

    index: int  # from 1
    loss: float
    lr: float
    gradient_norm: float
    tokens: int  # targets of weight above 0
    seconds: float
    skipped: int = 0  # steps in a row, up to this one, that were skipped as not finite

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def record(self) -> dict[str, Any]:
        """The step as an entry of the log. JSON has no NaN or infinity, so these become null."""
        return {
            "step": self.index,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "lr": self.lr,
            "gradient_norm": self.gradient_norm if math.isfinite(self.gradient_norm) else None,
            "tokens": self.tokens,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 6),
        }


def train(
    model: SequenceModel,
    data: Dataset,
    config: TrainConfig,
    optimizers: list[Optimizer],
    start: int = 0,
    skipped: int = 0,
    peers: Peers = ALONE,
) -> Iterator[Step]:
    """Takes the steps start + 1 ... config.steps and yields each. A step is a function of (config,
    weights, optimiser state, index) alone, so that training can be resumed after any step. skipped:
    how many steps in a row before `start` were skipped. peers: the processes that compute the rows
    of each micro-batch; all take the same steps.

    A step whose loss or gradient is not finite is skipped. DivergedError after MAX_SKIPPED_STEPS in
    a row.
    """
    model.train()
    micro_step = make_micro_step(model, config, peers)
    update = Update(model, optimizers, config, peers)
    keep_freed_memory()
    for index in range(start, config.steps):
        began = time.perf_counter()
        try:
            summed, tokens = _gradients(model, micro_step, data, config, index, peers)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            summed = None
        if summed is None:  # outside the except clause, which keeps the step's tensors alive
            del micro_step
            raise _out_of_memory(model, data, config, optimizers, index, peers)
        summed, norm = peers.sum(summed), update.clip()
        # the only wait for a GPU, which then updates the weights while the next batch is read
        loss, gradient_norm = torch.stack((summed, norm.float())).tolist()

        factor = lr_factor(index, config)
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        if finite:
            update.apply(factor)
        for optimizer in optimizers:
            optimizer.zero_grad()

        skipped = 0 if finite else skipped + 1
        if skipped >= MAX_SKIPPED_STEPS:
            raise DivergedError(
                f"step {index + 1}: the last {skipped} steps had no finite loss or gradient; "
                f"lower --set train.lr (now {config.lr}) and train.adam_lr ({config.adam_lr})"
            )
        yield Step(
            index + 1,
            loss,
            config.lr * factor,
            gradient_norm,
            tokens,
            time.perf_counter() - began,
            skipped,
        )


def _gradients(
    model: SequenceModel,
    micro_step: MicroStep,
    data: Dataset,
    config: TrainConfig,
    index: int,
    peers: Peers,
) -> tuple[torch.Tensor, int]:
    """Accumulates the gradients of this process's rows of a step's micro-batches. Returns their
    part of the step's loss, and the step's number of targets with a weight above 0."""
    device, rows = model.head.weight.device, peers.rows(config.batch)
    micro = [
        step_batch(data, index * config.accumulate + k, config.batch, config.seed, rows)
        for k in range(config.accumulate)
    ]
    total, tokens, widths = _totals(micro, peers)

    loss = torch.zeros((), device=device)
    for number, (batch, width) in enumerate(zip(micro, widths, strict=True)):
        if model.config.dropout:
            # a CPU drops the same numbers of a row in whichever process; a GPU draws for its own
            own = (rows.start,) if device.type != "cpu" and rows.start else ()
            torch.manual_seed(key(config.seed, "dropout", index, number, *own))
            ops.set_dropout_rows(rows.start, rows.stop - rows.start)
        share = (batch.weight / max(total, 1e-9)).astype(np.float32)
        mine = with_source_width(replace(batch, weight=share), width)
        loss += micro_step(as_tensors(mine, device))
    return loss, tokens


def _totals(micro: list[Batch[Array]], peers: Peers) -> tuple[float, int, list[int]]:
    """Of all processes' rows of a step: the sum of the weights, the number of targets with a weight
    above 0, and the longest encoder source of each micro-batch."""
    weights = [float(batch.weight[:, 1:].sum()) for batch in micro]
    counts = [float((batch.weight[:, 1:] > 0).sum()) for batch in micro]
    widths = [0.0 if batch.source is None else batch.source.shape[1] for batch in micro]
    found = np.array(peers.gather([*weights, *counts, *widths])).reshape(-1, 3, len(micro))
    longest = [int(width) for width in found[:, 2].max(0)]
    return sum(found[:, 0].sum(0).tolist()), int(found[:, 1].sum()), longest


def _out_of_memory(
    model: SequenceModel,
    data: Dataset,
    config: TrainConfig,
    optimizers: list[Optimizer],
    index: int,
    peers: Peers,
) -> TfmError:
    """An error that names the largest micro-batch that fits, found by halving it, if no other
    process waits for this one."""
    problem = f"out of memory in a pass of {config.batch} rows of {model.config.context} tokens"
    smaller = halve_micro_batch(config)
    if peers.size > 1 and smaller is not None:
        return TfmError(
            f"{problem} by {peers.size} processes, in process {peers.rank}; half as many rows a "
            f"pass, for the same step: --set train.batch={smaller.batch} "
            f"--set train.accumulate={smaller.accumulate}"
        )
    while smaller is not None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        release_memory()
        try:
            for optimizer in optimizers:
                optimizer.allocate()
            # the second micro-batch adds to the gradients of the first; further ones need no more
            two = replace(smaller, accumulate=min(2, smaller.accumulate))
            _gradients(model, make_micro_step(model, two), data, two, index, ALONE)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return TfmError(
                f"{problem}; {smaller.batch} fit, for the same step: "
                f"--set train.batch={smaller.batch} --set train.accumulate={smaller.accumulate}"
            )
        smaller = halve_micro_batch(smaller)
    return TfmError(f"{problem}; not even one row fits: use a smaller --size or --context")
