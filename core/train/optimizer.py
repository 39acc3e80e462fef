"""The base of all optimisers: parameter groups, a state for each parameter, a rate schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from .peers import ALONE, Peers


class Optimizer(ABC):
    """Groups of parameters with their settings, and a state for each parameter.

    Like `torch.optim.Optimizer`, whose first use imports torch's compiler (about two seconds).
    """

    name: ClassVar[str]  # prefix of its states in a checkpoint
    divided: ClassVar[bool] = True  # processes that shard a parameter shard its state with it
    peers: Peers = ALONE  # `make_optimizers` sets it

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Each group: `params`, `lr`, and whatever else `_move` reads."""
        self.param_groups = [{"peak_lr": group["lr"], **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def at(self, factor: float, device: torch.device | None = None) -> None:
        """Sets the learning rates of the next step to `factor` of their peaks: as floats, or with a
        device as tensors there, updated in place, as a captured CUDA graph needs."""
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
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            for p in moved:
                if p not in self.state:
                    self.state[p] = self._fresh(self.peers.local(p))
            if moved:
                self._move(moved, [self.peers.local(p.grad) for p in moved], group)

    def allocate(self) -> None:
        """Creates the states that the first step would create."""
        for p in self._parameters():
            if p not in self.state:
                self.state[p] = self._fresh(self.peers.local(p))

    @abstractmethod
    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first step, by field. parameter: this process's
        part."""

    @abstractmethod
    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Updates this process's part of the parameters `moved` and their states by its part of
        their gradients."""

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def saved(self) -> dict[Tensor, dict[str, Tensor]]:
        """The state of each parameter as it is saved, by field: this process's part."""
        return self.state

    def load(self, states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        """Restores what `saved` returned, of this process's part. ValueError if a state does not
        fit its parameter."""
        known = set(self._parameters())
        fresh: dict[Tensor, dict[str, Tensor]] = {}
        for p, state in states.items():
            if p not in known:
                raise ValueError(f"{self.name} moves no parameter {tuple(p.shape)}")
            expected = self._fresh(self.peers.local(p))
            if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in expected.items()}:
                raise ValueError(f"a state of {sorted(state)} for a parameter {tuple(p.shape)}")
            fresh[p] = {name: value.to(p.device) for name, value in state.items()}
        self.state = fresh

    def is_divided(self, shape: tuple[int, ...]) -> bool:
        """Whether processes that shard a parameter have some rows each of a tensor of its state."""
        return self.divided and len(shape) > 0
