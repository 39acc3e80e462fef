"""Losses: the nats of each token, for scoring, and their weighted sum, for training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import operations as ops
from ..ops.reference import masked_to_support
from ..protocols import Batch
from .block import RunBlock, call_block
from .sequence_model import SequenceModel

ROWS = 64  # whose multiples are the numbers of rows of a loss
MAX_RANGES = 8  # of legal ids, with which a loss is computed range by range


class Objective(nn.Module):
    """The training loss of a batch as a module, which torch.compile, DDP and FSDP can wrap."""

    def __init__(
        self,
        model: SequenceModel,
        run_block: RunBlock = call_block,
        compiled: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        """run_block: see `SequenceModel.forward`; compiled: whether torch.compile compiles the loss
        from the logits on; label_smoothing: the share of each target that is spread evenly over all
        legal ids (Szegedy et al. 2016, section 7)."""
        super().__init__()
        self.model, self.run_block, self.compiled = model, run_block, compiled
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """sum(batch.weight[:, 1:] * token_nll(model, batch)) in float32.

        On a CPU no logits are computed for positions of weight 0, but for a few that make the
        number of rows a multiple of `ROWS`: oneDNN compiles a product for each number.
        """
        run_block = call_block if ops.is_reference() else self.run_block
        hidden = hidden_states(self.model, batch, run_block)
        support, weight = batch.support, batch.weight[:, 1:]
        low, high = support if isinstance(support, tuple) else (0, self.model.config.vocab_size)
        legal = support[:, 1:] if isinstance(support, Tensor) else None
        counted = weight != 0
        targets = torch.where(counted, batch.ids[:, 1:] - low, 0)
        if legal is not None:
            first, end = legal.unbind(-1)
            first, end = torch.where(counted, first, 0), torch.where(counted, end, high)
            legal = torch.stack((first, end), dim=-1)
        chosen = None  # all; with CUDA graphs, shapes may not depend on the weights
        if hidden.device.type == "cpu":
            multiple = ROWS if legal is None else 1  # each range has a number of rows of its own
            chosen = _rows_to_compute(counted.flatten(), multiple)

        def rows_of(x: Tensor) -> Tensor:
            x = x.flatten(0, 1)
            return x if chosen is None else x[chosen]

        rows = rows_of(hidden), rows_of(targets), rows_of(weight)
        legal = None if legal is None else rows_of(legal)
        if self.label_smoothing:
            return self._smoothed(*rows, (low, high), legal)
        if legal is not None and hidden.device.type == "cpu":
            return self._by_range(*rows, legal)
        return self._nll(*rows, (low, high), legal)

    def _nll(
        self,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        ids: tuple[int, int],
        legal: Tensor | None = None,
    ) -> Tensor:
        """See `operations.linear_nll`."""
        cap = self.model.config.softcap
        return ops.linear_nll(
            self.model.head, hidden, targets, weight, ids, legal, cap, self.compiled
        )

    def _by_range(self, hidden: Tensor, targets: Tensor, weight: Tensor, legal: Tensor) -> Tensor:
        """The same as the masked loss. Where positions have a few different ranges of legal ids
        that are small parts of the vocabulary (several domains), each range has a product of its
        own rows of the head."""
        vocabulary = self.model.config.vocab_size
        low, high = legal.unbind(-1)
        pairs, which = torch.unique(low * (vocabulary + 1) + high, return_inverse=True)
        ranges = torch.stack((pairs // (vocabulary + 1), pairs % (vocabulary + 1)), dim=-1)
        sizes = ranges[:, 1] - ranges[:, 0]
        products = int((sizes * which.bincount(minlength=len(ranges))).sum())
        few = 0 < len(ranges) <= MAX_RANGES  # none where no position counts
        if not few or 2 * products > len(legal) * vocabulary:
            return self._nll(hidden, targets, weight, (0, vocabulary), legal)
        total = hidden.new_zeros((), dtype=torch.float32)
        for number, (low, high) in enumerate(ranges.tolist()):
            here = which == number
            total = total + self._nll(hidden[here], targets[here] - low, weight[here], (low, high))
        return total

    def _smoothed(
        self,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        ids: tuple[int, int],
        legal: Tensor | None,
    ) -> Tensor:
        """As `operations.linear_nll`, of smoothed targets."""
        logits = self.model.logits(hidden, *ids)
        inside = torch.ones_like(logits)
        if legal is not None:
            logits = masked_to_support(logits, legal)
            inside = logits.isfinite().to(logits)
        nats = -logits.log_softmax(-1)
        even = (nats * inside).nan_to_num(0.0, 0.0).sum(-1) / inside.sum(-1).clamp(min=1)
        own = nats.gather(1, targets[:, None])[:, 0]
        smoothed = own + self.label_smoothing * (even - own)
        return torch.where(weight != 0, weight * smoothed, 0.0).sum()


def _rows_to_compute(counted: Tensor, multiple: int) -> Tensor | None:
    """The numbers of the positions that count, and of as many others as make a multiple; None for
    all positions, which need no copy."""
    size = -(-int(counted.count_nonzero()) // multiple) * multiple
    if size >= len(counted):
        return None
    return counted.to(torch.uint8).argsort(descending=True, stable=True)[:size]


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
        None if batch.features is None else batch.features[:, :-1],
    )
    return out
