"""AdamW, and a variant that shares updates between neighbouring ids of an ordered quantity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..model.layers import between_knots
from .optimizer import Optimizer


class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019), by torch's fused kernel."""

    name = "adamw"
    EPS = 1e-10

    def _initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), device=parameter.device),
            "mean": torch.zeros_like(parameter),
            "square": torch.zeros_like(parameter),
        }

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        mean, square, step = (
            [self.state[p][name] for p in parameters] for name in ("mean", "square", "step")
        )
        torch._foreach_add_(step, 1)
        torch._fused_adamw_(
            parameters,
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


class NeighbourAdamW(Optimizer):
    """Moves the embedding rows of neighbouring ordered ids together, in addition to AdamW.

    Equivalent to AdamW for rows that are a sum of their own vector and an interpolation between
    coarse knots (`between_knots`); this optimiser updates the knots. So what is learned for one
    bin of a quantity also moves nearby bins, while the model stores plain rows.
    """

    name = "neighbours"

    def __init__(self, tables: list[Tensor], low: int, high: int, **settings: float) -> None:
        """tables: (vocabulary, width) each; low <= id < high are ordered."""
        self.rows = slice(low, high)
        self.interpolation = between_knots(high - low).to(tables[0])  # (ids, knots)
        super().__init__([dict(params=tables, **settings)])

    def _initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        shape = self.interpolation.shape[1], parameter.shape[1]
        zeros = [torch.zeros(shape, device=parameter.device) for _ in range(2)]
        return {
            "step": torch.zeros((), device=parameter.device),
            "mean": zeros[0],
            "square": zeros[1],
        }

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["beta1"], group["beta2"]
        for p, gradient in zip(parameters, gradients, strict=True):
            state, knots = self.state[p], self.interpolation.T @ gradient[self.rows]
            step = state["step"].add_(1)
            mean = state["mean"].lerp_(knots, 1 - beta1) / (1 - beta1**step)
            square = state["square"].lerp_(knots.square(), 1 - beta2) / (1 - beta2**step)
            update = mean / (square.sqrt() + AdamW.EPS)
            p[self.rows] -= group["lr"] * self.interpolation @ update
