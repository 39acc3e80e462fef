"""The loss of each position in the context: how much a model gains from more tokens before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..model.loss import token_nll
from .estimate import Estimate, Floats, half_octaves, ratio
from .sample import Sample


@dataclass(frozen=True)
class PositionLoss:
    """The loss, in nats per token, of the tokens that are predicted from `first` to `last` tokens
    before them in the window. tokens: how many were predicted."""

    first: int
    last: int
    tokens: int
    loss: Estimate


@torch.no_grad()
def loss_by_position(sample: Sample) -> list[PositionLoss]:
    """The loss of each bin of positions in which tokens are scored. The bins begin at 1, 2, 3, 4,
    6, 8, 12 ... tokens, see `half_octaves`.

    Tokens have the weight that they have in the score; the interval is over windows."""
    longest = sample.ids().shape[1]
    starts = bin_starts(longest)
    ends = np.append(starts[1:] - 1, longest)
    bin_of = np.searchsorted(starts, np.arange(1, longest + 1), "right") - 1
    over, under, tokens = (np.zeros((len(sample), len(starts))) for _ in range(3))
    for group in sample.groups("batches, loss by position"):
        nats = token_nll(sample.model, group.batch).cpu().double().numpy()  # (B, T - 1)
        weight = group.batch.weight[:, 1:].cpu().double().numpy()
        for each, total in ((nats * weight, over), (weight, under), (weight > 0, tokens)):
            for row, number in zip(each, group.numbers, strict=True):
                total[number] = np.bincount(bin_of[: len(row)], row, len(starts))
    found = []
    for number, (first, last) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        loss = ratio(over[:, number], under[:, number])
        if loss is not None:
            found.append(PositionLoss(first, last, int(tokens[:, number].sum()), loss))
    return found


def bin_starts(longest: int) -> npt.NDArray[np.int64]:
    """The first position of each bin. The last one is at least as wide as the one before it."""
    starts = half_octaves(longest)
    if len(starts) > 1 and longest - starts[-1] + 1 < starts[-1] - starts[-2]:
        starts.pop()
    return np.array(starts)


@torch.no_grad()
def window_loss(sample: Sample) -> tuple[Floats, Floats]:
    """(weighted nats, weight) of each window, (N,) both."""
    over, under = np.zeros(len(sample)), np.zeros(len(sample))
    for group in sample.groups():
        nats = token_nll(sample.model, group.batch).double()
        weight = group.batch.weight[:, 1:].double()
        over[group.numbers] = (nats * weight).sum(1).cpu().numpy()
        under[group.numbers] = weight.sum(1).cpu().numpy()
    return over, under
