"""Losses: the nats of each token, for scoring, and their weighted sum, for training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import operations as ops
from ..ops.reference import masked_to_support
from .sequence_model import RunBlock, SequenceModel, call_block

Support = tuple[int, int] | Tensor | None


class Objective(nn.Module):
    """The training loss of a batch as a module, which torch.compile, DDP and FSDP can wrap."""

    def __init__(
        self, model: SequenceModel, run_block: RunBlock = call_block, compiled: bool = False
    ) -> None:
        """run_block: see `SequenceModel.forward`; compiled: whether torch.compile compiles the loss
        from the logits on."""
        super().__init__()
        self.model, self.run_block, self.compiled = model, run_block, compiled

    def forward(
        self,
        ids: Tensor,
        weight: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        support: Support = None,
        source: Tensor | None = None,
        source_segments: Tensor | None = None,
    ) -> Tensor:
        """sum(weight[:, 1:] * token_nll(...)) in float32. Arguments as in `protocols.Batch`.

        On a CPU no logits are computed for positions of weight 0.
        """
        run_block = call_block if ops.is_reference() else self.run_block
        hidden = _hidden(self.model, ids, positions, segments, source, source_segments, run_block)
        low, high = support if isinstance(support, tuple) else (0, self.model.config.vocab_size)
        legal = support[:, 1:] if isinstance(support, Tensor) else None
        targets, counted = ids[:, 1:] - low, weight[:, 1:] != 0
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
            counted_rows(weight[:, 1:]),
            (low, high),
            None if legal is None else counted_rows(legal),
            self.model.config.softcap,
            self.compiled,
        )


def token_nll(
    model: SequenceModel,
    ids: Tensor,
    weight: Tensor,
    positions: Tensor | None = None,
    segments: Tensor | None = None,
    support: Support = None,
    source: Tensor | None = None,
    source_segments: Tensor | None = None,
) -> Tensor:
    """(B, T - 1) float32: nats of ids[:, 1:], each given the ids before it; 0 where weight is 0.

    Arguments as in `protocols.Batch`. Probabilities are normalised over the support.
    """
    hidden = _hidden(model, ids, positions, segments, source, source_segments, call_block)
    counted = weight[:, 1:] > 0
    low, high = support if isinstance(support, tuple) else (0, None)
    logits = model.logits(hidden, low, high)
    if isinstance(support, Tensor):
        logits = masked_to_support(logits, support[:, 1:])
    targets = torch.where(counted, ids[:, 1:] - low, -100)
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view_as(targets)


def _hidden(
    model: SequenceModel,
    ids: Tensor,
    positions: Tensor | None,
    segments: Tensor | None,
    source: Tensor | None,
    source_segments: Tensor | None,
    run_block: RunBlock,
) -> Tensor:
    """Hidden states of all but the last position, (B, T - 1, D)."""
    out: Tensor = model(
        ids[:, :-1],
        None if positions is None else positions[:, :-1],
        None if segments is None else segments[:, :-1],
        source,
        source_segments,
        run_block,
    )
    return out
