"""AdamW, and AdamW for tables whose rows are bins of one quantity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..model.layers import knot_weights
from .optimizer import Optimizer


class AdamW(Optimizer):
    """Loshchilov & Hutter 2019, by torch's fused kernel."""

    name = "adamw"
    EPS = 1e-10

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), device=parameter.device),
            "mean": torch.zeros_like(parameter),
            "square": torch.zeros_like(parameter),
        }

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        mean, square, step = (
            [self.state[p][name] for p in moved] for name in ("mean", "square", "step")
        )
        torch._foreach_add_(step, 1)
        torch._fused_adamw_(
            [self.peers.local(p) for p in moved],
            gradients,
            mean,
            square,
            [],
            step,
            lr=group["lr"],
            beta1=group["beta1"],
            beta2=group["beta2"],
            weight_decay=group["weight_decay"],
            eps=self.EPS,
            amsgrad=False,
            maximize=False,
        )


class Neighbours(Optimizer):
    """Updates neighbouring rows of ordered ids together, in addition to the update of each row.

    It acts as if a row were the sum of a vector of its own and of a linear interpolation between
    coarse knots (`knot_weights`): AdamW on the knots, whose gradients are sums over the rows around
    them. A bin so learns from its neighbours, while the model stays an ordinary embedding table.
    """

    name, divided = "neighbours", False

    def __init__(
        self, tables: list[Tensor], ranges: list[tuple[int, int]], **settings: float
    ) -> None:
        """ranges: of ids, each an ordered quantity of its own."""
        like = tables[0]
        near = [knot_weights(high - low).to(like.device, like.dtype) for low, high in ranges]
        self.ranges = [(slice(*each), weights) for each, weights in zip(ranges, near, strict=True)]
        self.knots = [weights.shape[1] for weights in near]
        super().__init__([dict(params=tables, **settings)])

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        shape = sum(self.knots), parameter.shape[1]
        zeros = [torch.zeros(shape, device=parameter.device) for _ in range(2)]
        return {
            "step": torch.zeros((), device=parameter.device),
            "mean": zeros[0],
            "square": zeros[1],
        }

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["beta1"], group["beta2"]
        for p, part in zip(moved, gradients, strict=True):
            state, gradient = self.state[p], self.peers.whole(p, part)
            of_knots = torch.cat([near.T @ gradient[rows] for rows, near in self.ranges])
            step = state["step"].add_(1)
            mean = state["mean"].lerp_(of_knots, 1 - beta1) / (1 - beta1**step)
            square = state["square"].lerp_(of_knots.square(), 1 - beta2) / (1 - beta2**step)
            moves = (mean / (square.sqrt() + AdamW.EPS)).split(self.knots)
            weight = self.peers.whole(p, self.peers.local(p))
            for (rows, near), move in zip(self.ranges, moves, strict=True):
                weight[rows] -= group["lr"] * near @ move
            if self.peers.shards:
                self.peers.local(p).copy_(weight[self.peers.rows_of(p)])
