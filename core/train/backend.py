"""What a step is made of, as fast as the device does it: passes, then the move of the weights.

A pass is forward and backward over one batch. On a GPU passes and moves are CUDA graphs
(recorded.py). A large model's time there is reading and writing what lies between the products:
torch.compile fuses that (`train.compile`), a block at a time, so that all blocks share what was
compiled for the first.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..model.attention import Place
from ..model.loss import weighted_nll
from ..model.sequence_model import SequenceModel, Through
from ..ops import cpu_kernels
from ..ops.cuda_graphs import BEFORE, Recorded, Repeated, shapes
from ..ops.device import autocast
from .optimizer import Optimizer

Pass = Callable[[dict[str, Any]], Tensor]
SURE = 1e-5  # below a bound by that, gradients are not scaled down
COMPILERS = ("cc", "gcc", "clang")  # torch.compile's own parts for a GPU are in C


def make_pass(model: SequenceModel, config: TrainConfig) -> Pass:
    """Takes the arguments of `weighted_nll` by name, adds the gradients to the parameters', and
    gives the loss, which is good until the next pass."""
    device = model.head.weight.device
    config = replace(config, compile=config.compile and can_compile(device))
    model.through = _through(config)

    def plain(batch: dict[str, Any]) -> Tensor:
        with autocast(device, config.dtype):
            loss = weighted_nll(model, **batch, compiled=config.compile)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    if device.type != "cuda":
        return plain
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = [torch.empty_like(p) for p in parameters] if config.accumulate > 1 else None
    repeated = Repeated(plain, functools.partial(_RecordedPass, parameters, sums))
    return lambda batch: repeated(shapes(batch), batch)


class _RecordedPass:
    """Each time it overwrites gradients of its own; they are the parameters' where a step is one
    pass, else they are added up in `sums`."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        sums: list[Tensor] | None,
        call: Callable[[dict[str, Any]], Any],
        inputs: Mapping[str, Any],
    ) -> None:
        given = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        self.recorded = Recorded(call, inputs)
        own = [p.grad for p in parameters]
        self.learning = [p for p in parameters if p.grad is not None]
        self.gradients = [gradient for gradient in own if gradient is not None]
        self.sums = self.gradients
        if sums is not None:
            self.sums = [s for s, gradient in zip(sums, own, strict=True) if gradient is not None]
        for p, gradient in zip(parameters, given, strict=True):
            p.grad = gradient

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        loss = self.recorded(inputs)
        if self.learning[0].grad is not None:
            sums = [p.grad for p in self.learning if p.grad is not None]
            torch._foreach_add_(sums, self.gradients)
            return loss
        if self.sums is not self.gradients:
            torch._foreach_copy_(self.sums, self.gradients)
        for p, gradient in zip(self.learning, self.sums, strict=True):
            p.grad = gradient
        return loss


class Moves:
    """What follows the passes of a step: `clip`, and where all is finite `move`."""

    def __init__(
        self, model: SequenceModel, optimizers: list[Optimizer], config: TrainConfig
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers, self.bound = optimizers, config.clip
        self.repeats = model.head.weight.device.type == "cuda"
        self._clip, self._move = (Repeated(call) for call in (self._clipped, self._moved))

    def clip(self) -> Tensor:
        """The norm of all gradients, which are scaled down to the bound, where there is one."""
        norm: Tensor = self._clip(self._where(), {}) if self.repeats else self._clipped({})
        return norm

    def move(self, factor: float) -> None:
        """Every parameter, at `factor` of the peak rates."""
        for optimizer in self.optimizers:
            optimizer.at(factor, self.parameters[0].device if self.repeats else None)
        if self.repeats:
            self._move(self._where(), {})
        else:
            self._moved({})

    def _where(self) -> tuple[int, ...]:
        return tuple(0 if p.grad is None else p.grad.data_ptr() for p in self.parameters)

    def _clipped(self, _: dict[str, Any]) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        known = all(cpu_kernels.known(g) and g.dtype == torch.float32 for g in gradients)
        norm = cpu_kernels.norm_of(gradients) if known else torch.nn.utils.get_total_norm(gradients)
        # what is multiplied by one stays what it is: only a GPU is not asked, and waited for
        if self.bound and (self.repeats or not float(norm) <= self.bound - SURE):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.bound, norm)
        return norm

    def _moved(self, _: dict[str, Any]) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def warming_up(device: torch.device) -> int:
    """Steps that take longer than all that follow."""
    return 2 * BEFORE + 1 if device.type == "cuda" else 1


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs to make kernels of its own for a GPU."""
    return (
        device.type == "cuda"
        and importlib.util.find_spec("triton") is not None
        and any(shutil.which(name) for name in COMPILERS)
    )


def _through(config: TrainConfig) -> Through | None:
    inside = compiled_block() if config.compile else _block
    if config.recompute:
        return functools.partial(_recomputed, inside)
    return inside if config.compile else None


def _block(block: nn.Module, x: Tensor, place: Place) -> Tensor:
    out: Tensor = block(x, place)
    return out


@functools.cache
def compiled_block(backend: str = "inductor") -> Through:
    """Of one shape each time; what was compiled is kept for the whole process."""
    compiled: Through = torch.compile(_block, fullgraph=True, dynamic=False, backend=backend)
    return compiled


def _recomputed(inside: Through, block: nn.Module, x: Tensor, place: Place) -> Tensor:
    """Activation checkpointing (Chen et al. 2016); dropout draws the same again."""
    from torch.utils.checkpoint import checkpoint

    out: Tensor = checkpoint(inside, block, x, place, use_reentrant=False)
    return out
