"""Losses: the nats of each token, for scoring, and their weighted sum, for training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import operations as ops
from ..ops.reference import masked_to_support
from ..protocols import Batch
from .sequence_model import RunBlock, SequenceModel, call_block


class Objective(nn.Module):
    """The training loss of a batch as a module, which torch.compile, DDP and FSDP can wrap."""

    def __init__(
        self, model: SequenceModel, run_block: RunBlock = call_block, compiled: bool = False
    ) -> None:
        """run_block: see `SequenceModel.forward`; compiled: whether torch.compile compiles the loss
        from the logits on."""
        super().__init__()
        self.model, self.run_block, self.compiled = model, run_block, compiled

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """sum(batch.weight[:, 1:] * token_nll(model, batch)) in float32.

        On a CPU no logits are computed for positions of weight 0.
        """
        run_block = call_block if ops.is_reference() else self.run_block
        hidden = hidden_states(self.model, batch, run_block)
        support, weight = batch.support, batch.weight[:, 1:]
        low, high = support if isinstance(support, tuple) else (0, self.model.config.vocab_size)
        legal = support[:, 1:] if isinstance(support, Tensor) else None
        targets, counted = batch.ids[:, 1:] - low, weight != 0
        all_counted = True
        if hidden.device.type == "cpu":
            all_counted = bool(counted.all())  # if so, selecting would only copy, twice
        else:  # the shapes may not depend on the weights: CUDA graphs replay the same calls
            targets = torch.where(counted, targets, 0)
            if legal is not None:
                first, end = legal.unbind(-1)
                first, end = torch.where(counted, first, 0), torch.where(counted, end, high)
                legal = torch.stack((first, end), dim=-1)

        def counted_rows(x: Tensor) -> Tensor:
            return x.flatten(0, 1) if all_counted else x[counted]

        return ops.linear_nll(
            self.model.head,
            counted_rows(hidden),
            counted_rows(targets),
            counted_rows(weight),
            (low, high),
            None if legal is None else counted_rows(legal),
            self.model.config.softcap,
            self.compiled,
        )


def token_nll(model: SequenceModel, batch: Batch[Tensor]) -> Tensor:
    """(B, T - 1) float32: nats of batch.ids[:, 1:], each given the ids before it; 0 where the
    weight is 0. Probabilities are normalised over the support."""
    hidden, support = hidden_states(model, batch), batch.support
    low, high = support if isinstance(support, tuple) else (0, None)
    logits = model.logits(hidden, low, high)
    if isinstance(support, Tensor):
        logits = masked_to_support(logits, support[:, 1:])
    targets = torch.where(batch.weight[:, 1:] > 0, batch.ids[:, 1:] - low, -100)
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view_as(targets)


def hidden_states(
    model: SequenceModel, batch: Batch[Tensor], run_block: RunBlock = call_block
) -> Tensor:
    """(B, T - 1, D) of all positions but the last, which predict batch.ids[:, 1:]."""
    out: Tensor = model(
        batch.ids[:, :-1],
        None if batch.positions is None else batch.positions[:, :-1],
        None if batch.segments is None else batch.segments[:, :-1],
        batch.source,
        batch.source_segments,
        run_block,
    )
    return out
