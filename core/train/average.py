"""An exponential moving average of the weights, scored and saved instead of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .optimizer import Optimizer


class Average(Optimizer):
    """Changes no parameter; averages the weights after the other optimisers have moved them.

    The decay at step n is min(decay, (1 + n) / (10 + n)), so that the initial weights are soon
    forgotten. A checkpoint's model file has the averages (`averaged_weights`); its optimiser file
    has the weights that training continues with.
    """

    name = "average"

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        super().__init__([dict(params=list(parameters), lr=0.0, decay=decay)])

    def _initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        step = torch.zeros((), device=parameter.device)
        return {"step": step, "mean": parameter.detach().clone()}

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        for p in parameters:
            state = self.state[p]
            n = state["step"].add_(1)
            state["mean"].lerp_(p, 1 - ((1 + n) / (10 + n)).clamp(max=group["decay"]))

    @torch.no_grad()
    def swap_weights(self) -> None:
        """Exchanges weights and averages."""
        for p, state in self.state.items():
            p.data, state["mean"] = state["mean"], p.data

    def state_to_save(self) -> dict[Tensor, dict[str, Tensor]]:
        """The weights that training continues with: the model file has the averages."""
        return {p: {"step": s["step"], "weight": p.data} for p, s in self.state.items()}

    def load(self, states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        """Restores the state where the parameters have the averages as their values."""
        super().load({p: {"step": s["step"], "mean": s["weight"]} for p, s in states.items()})
        self.swap_weights()


@contextmanager
def averaged_weights(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Within the context, parameters have their averaged values, where training averages them:
    those are scored, saved and sampled from."""
    averages = [each for each in optimizers if isinstance(each, Average)]
    for each in averages:
        each.swap_weights()
    try:
        yield
    finally:
        for each in averages:
            each.swap_weights()
