"""A running mean of the weights, scored and saved in place of the weights themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .optimizer import Optimizer


class Average(Optimizer):
    """Moves nothing: keeps a running mean of the weights, behind what moves them.

    The decay grows with the steps, min(decay, (1 + n) / (10 + n)), so that where training began
    is soon forgotten. What is saved for use are the means (`in_use`), so the state that goes on
    disk are the weights themselves.
    """

    name = "average"

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        super().__init__([dict(params=list(parameters), lr=0.0, decay=decay)])

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        step = torch.zeros((), device=parameter.device)
        return {"step": step, "mean": parameter.detach().clone()}

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for p in moved:
            state = self.state[p]
            n = state["step"].add_(1)
            state["mean"].lerp_(p, 1 - ((1 + n) / (10 + n)).clamp(max=group["decay"]))

    @torch.no_grad()
    def swap(self) -> None:
        """Means for weights, or back."""
        for p, state in self.state.items():
            p.data, state["mean"] = state["mean"], p.data

    def saved(self) -> dict[Tensor, dict[str, Tensor]]:
        """The weights themselves, since a checkpoint's weights are the means."""
        return {p: {"step": s["step"], "weight": p.data} for p, s in self.state.items()}

    def load(self, states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        """Takes the parameters' values for the means."""
        super().load({p: {"step": s["step"], "mean": s["weight"]} for p, s in states.items()})
        self.swap()


@contextmanager
def in_use(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Inside, the model has the weights that are scored, saved and drawn from: their means, where
    training keeps such."""
    averages = [each for each in optimizers if isinstance(each, Average)]
    for each in averages:
        each.swap()
    try:
        yield
    finally:
        for each in averages:
            each.swap()
