"""An exponential moving average of the weights, which is scored and saved in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .optimizer import Optimizer


class Average(Optimizer):
    """Updates no weight: after the other optimisers it averages what they gave.

    The decay grows with the steps, min(decay, (1 + n) / (10 + n)), so that the initial weights are
    soon forgotten. A checkpoint's model is the average (`in_use`), so the saved state of this
    optimiser is the weights that training continues from.
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
            state["mean"].lerp_(
                self.peers.local(p), 1 - ((1 + n) / (10 + n)).clamp(max=group["decay"])
            )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and their averages."""
        for p, state in self.state.items():
            if self.peers.shards:  # whose memory FSDP knows
                before = self.peers.local(p).clone()
                self.peers.local(p).copy_(state["mean"])
                state["mean"] = before
            else:
                p.data, state["mean"] = state["mean"], p.data

    def saved(self) -> dict[Tensor, dict[str, Tensor]]:
        """The weights that training continues from: the checkpoint's model has the averages."""
        return {
            p: {"step": s["step"], "weight": self.peers.local(p).detach()}
            for p, s in self.state.items()
        }

    def load(self, states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        """Takes the model's weights, as loaded from the checkpoint, for the averages."""
        super().load({p: {"step": s["step"], "mean": s["weight"]} for p, s in states.items()})
        self.swap()


@contextmanager
def in_use(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Inside, the model has the weights to score, save and sample with: their averages, if training
    keeps any."""
    averages = [each for each in optimizers if isinstance(each, Average)]
    for each in averages:
        each.swap()
    try:
        yield
    finally:
        for each in averages:
            each.swap()
