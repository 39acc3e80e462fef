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
            moved,
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

    name = "neighbours"

    def __init__(self, tables: list[Tensor], low: int, high: int, **settings: float) -> None:
        self.rows, self.near = slice(low, high), knot_weights(high - low).to(tables[0])
        super().__init__([dict(params=tables, **settings)])

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        shape = self.near.shape[1], parameter.shape[1]
        zeros = [torch.zeros(shape, device=parameter.device) for _ in range(2)]
        return {
            "step": torch.zeros((), device=parameter.device),
            "mean": zeros[0],
            "square": zeros[1],
        }

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["beta1"], group["beta2"]
        for p, gradient in zip(moved, gradients, strict=True):
            state, of_knots = self.state[p], self.near.T @ gradient[self.rows]
            step = state["step"].add_(1)
            mean = state["mean"].lerp_(of_knots, 1 - beta1) / (1 - beta1**step)
            square = state["square"].lerp_(of_knots.square(), 1 - beta2) / (1 - beta2**step)
            p[self.rows] -= group["lr"] * self.near @ (mean / (square.sqrt() + AdamW.EPS))
