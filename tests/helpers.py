"""What several tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfm.core.model.sequence_model import SequenceModel
from tfm.core.runs.checkpoints import Checkpoint
from tfm.core.runs.run import Run
from tfm.core.train.optim import state_tensors
from tfm.core.train.optimizer import Optimizer


def save_checkpoint(
    run: Run,
    step: int,
    model: SequenceModel,
    optimizers: list[Optimizer] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """A checkpoint of weights and optimiser states as they are."""
    weights = dict(model.named_parameters())
    return run.save(step, weights, state_tensors(model, optimizers or []), state or {})
