"""The base class of optimisers: parameter groups, per-parameter states, learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor


class Optimizer:
    """Parameter groups with their settings, and a state per parameter.

    Used instead of `torch.optim.Optimizer`, whose first use imports torch's compiler (about two
    seconds).
    """

    name: ClassVar[str]  # the first part of the names of its states in a checkpoint

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Each group: `params`, `lr` (the peak learning rate) and settings of the subclass."""
        self.param_groups = [{"peak_lr": group["lr"], **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def set_rates(self, factor: float, device: torch.device | None = None) -> None:
        """Sets the learning rates to `factor` of their peaks. device: keeps them as tensors there,
        updated in place, for steps captured as a CUDA graph; None: plain numbers."""
        for group in self.param_groups:
            rate = group["peak_lr"] * factor
            if device is None:
                group["lr"] = rate
            elif isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = torch.full((), rate, device=device)

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p in parameters:
                if p not in self.state:
                    self.state[p] = self._initial_state(p)
            if parameters:
                self._update(parameters, [p.grad for p in parameters], group)

    def allocate(self) -> None:
        """Creates the states that the first step would create."""
        for p in self._parameters():
            if p not in self.state:
                self.state[p] = self._initial_state(p)

    def _initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        raise NotImplementedError

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def state_to_save(self) -> dict[Tensor, dict[str, Tensor]]:
        """The state of each parameter by field, as a checkpoint saves it."""
        return self.state

    def load(self, states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        """Loads what `state_to_save` returned. ValueError if a state does not fit its parameter."""
        own = set(self._parameters())
        loaded: dict[Tensor, dict[str, Tensor]] = {}
        for p, state in states.items():
            if p not in own:
                raise ValueError(f"{self.name} moves no parameter {tuple(p.shape)}")
            expected = self._initial_state(p)
            if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in expected.items()}:
                raise ValueError(f"a state of {sorted(state)} for a parameter {tuple(p.shape)}")
            loaded[p] = {name: value.to(p.device) for name, value in state.items()}
        self.state = loaded
