"""`train()`: the training loop, as a generator of `Step`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..config import TrainConfig
from ..data.datasets import step_batch
from ..data.keyed_random import key
from ..errors import DivergedError, TfmError
from ..model.sequence_model import SequenceModel
from ..ops.device import keep_freed_memory
from ..ops.out_of_memory import halved, is_out_of_memory, release
from ..protocols import Dataset
from ..score.likelihood import as_tensors
from .backend import MicroStep, Update, make_micro_step
from .optim import lr_factor
from .optimizer import Optimizer

MAX_SKIPPED_STEPS = 10  # in a row, for lack of a finite gradient: then training has diverged


@dataclass(frozen=True)
class Step:
    """One optimiser step. loss: weighted mean over its targets, in nats per token, with the weights
    before the update."""

    index: int  # from 1
    loss: float
    lr: float
    gradient_norm: float
    tokens: int  # targets of non-zero weight
    seconds: float
    skipped: int = 0  # steps skipped in a row, up to this one, for lack of a finite gradient

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def record(self) -> dict[str, Any]:
        """The step as a line of the log. Values that are not finite become null: JSON has none."""
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
) -> Iterator[Step]:
    """Takes the steps start + 1 ... config.steps. A step depends only on (config, weights,
    optimiser state, step index), so a resumed run repeats the uninterrupted one bit for bit.

    DivergedError after MAX_SKIPPED_STEPS steps in a row without a finite loss and gradient;
    TfmError if a micro-batch does not fit into memory, with a batch size that does.
    """
    model.train()
    micro_step = make_micro_step(model, config)
    update = Update(model, optimizers, config)
    keep_freed_memory()
    for index in range(start, config.steps):
        began = time.perf_counter()
        try:
            loss_sum, tokens = _add_gradients(model, micro_step, data, config, index)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            loss_sum = None
        if loss_sum is None:  # outside the except clause, so that the step's tensors are freed
            del micro_step
            raise _out_of_memory(model, data, config, optimizers, index)
        norm = update.clip()
        # the only GPU synchronisation of a step: the update overlaps with reading the next batch
        loss, gradient_norm = torch.stack((loss_sum, norm.float())).tolist()

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


def _add_gradients(
    model: SequenceModel, micro_step: MicroStep, data: Dataset, config: TrainConfig, index: int
) -> tuple[torch.Tensor, int]:
    """Accumulates the gradients of a step's micro-batches. Returns its loss and target count."""
    device = model.head.weight.device
    micro_batches = [
        step_batch(data, index * config.accumulate + k, config.batch, config.seed)
        for k in range(config.accumulate)
    ]
    total = sum(float(batch.weight[:, 1:].sum()) for batch in micro_batches)
    tokens = sum(int((batch.weight[:, 1:] > 0).sum()) for batch in micro_batches)

    loss = torch.zeros((), device=device)
    for number, batch in enumerate(micro_batches):
        if model.config.dropout:
            torch.manual_seed(key(config.seed, "dropout", index, number))
        normalised = (batch.weight / max(total, 1e-9)).astype(np.float32)
        loss += micro_step(as_tensors(replace(batch, weight=normalised), device))
    return loss, tokens


def _out_of_memory(
    model: SequenceModel,
    data: Dataset,
    config: TrainConfig,
    optimizers: list[Optimizer],
    index: int,
) -> TfmError:
    """The error to raise: halves the rows of a micro-batch until a step fits, and names them."""
    problem = f"out of memory in a pass of {config.batch} rows of {model.config.context} tokens"
    smaller = halved(config)
    while smaller is not None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        release()
        try:
            for optimizer in optimizers:
                optimizer.allocate()
            # two micro-batches suffice: later ones need the memory of the second
            two = replace(smaller, accumulate=min(2, smaller.accumulate))
            _add_gradients(model, make_micro_step(model, two), data, two, index)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return TfmError(
                f"{problem}; {smaller.batch} rows fit; for the same step: "
                f"--set train.batch={smaller.batch} --set train.accumulate={smaller.accumulate}"
            )
        smaller = halved(smaller)
    return TfmError(f"{problem}; not even one row fits: use a smaller --size or --context")
