"""Fast computation of a training step: gradients of micro-batches, clipping, optimiser update.

On a GPU, micro-batches and updates are CUDA graphs (ops/cuda_graphs.py). A large model spends its
time there on memory traffic between matrix products; torch.compile (`train.compile`) fuses those
operations, one block at a time, so that all blocks share one compilation. On a CPU with AMX tiles
a block is one C call.
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

from ..config import ModelConfig, TrainConfig
from ..model.loss import Objective
from ..model.mixer import Context
from ..model.sequence_model import RunBlock, SequenceModel, call_block
from ..ops import amx_block, optimizer_kernels
from ..ops import operations as ops
from ..ops.cuda_graphs import WARMUP_CALLS, CapturedGraph, GraphCache, shapes
from ..ops.device import autocast
from ..ops.native_calls import has_kernels
from .optimizer import Optimizer

MicroStep = Callable[[dict[str, Any]], Tensor]
CLIP_MARGIN = 1e-5  # a norm below the bound by this much is not clipped
COMPILERS = ("cc", "gcc", "clang")  # torch.compile needs a C compiler for its GPU launchers


# -- gradients -----------------------------------------------------------------------------------


def make_micro_step(model: SequenceModel, config: TrainConfig) -> MicroStep:
    """A function of a micro-batch (the arguments of `Objective.forward` by name) that accumulates
    its gradients and returns its loss. The next call overwrites the loss."""
    device = model.head.weight.device
    config = replace(config, compile=config.compile and can_compile(device))
    objective = Objective(model, choose_run_block(model, config), config.compile)

    def micro_step(batch: dict[str, Any]) -> Tensor:
        with autocast(device, config.dtype):
            loss: Tensor = objective(**batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    if device.type != "cuda":
        return micro_step
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = [torch.empty_like(p) for p in parameters] if config.accumulate > 1 else None
    graphs = GraphCache(micro_step, functools.partial(_CapturedMicroStep, parameters, sums))
    return lambda batch: graphs(shapes(batch), batch)


class _CapturedMicroStep:
    """A micro-batch as a CUDA graph, which overwrites its own gradient buffers at each replay.

    sums: buffers that accumulate the gradients over micro-batches; None where a step is one
    micro-batch, whose buffers are then the parameters' gradients.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        sums: list[Tensor] | None,
        call: Callable[[dict[str, Any]], Any],
        inputs: Mapping[str, Any],
    ) -> None:
        previous_gradients = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        self.graph = CapturedGraph(call, inputs)
        captured = [p.grad for p in parameters]
        self.with_gradient = [p for p in parameters if p.grad is not None]
        self.gradients = [gradient for gradient in captured if gradient is not None]
        self.sums = self.gradients
        if sums is not None:
            self.sums = [s for s, grad in zip(sums, captured, strict=True) if grad is not None]
        for p, gradient in zip(parameters, previous_gradients, strict=True):
            p.grad = gradient

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        loss = self.graph(inputs)
        if self.with_gradient[0].grad is not None:
            sums = [p.grad for p in self.with_gradient if p.grad is not None]
            torch._foreach_add_(sums, self.gradients)
            return loss
        if self.sums is not self.gradients:
            torch._foreach_copy_(self.sums, self.gradients)
        for p, gradient in zip(self.with_gradient, self.sums, strict=True):
            p.grad = gradient
        return loss


# -- updates -------------------------------------------------------------------------------------


class Update:
    """Ends a step: `clip` clips the gradients, `apply` moves the parameters by the optimisers."""

    def __init__(
        self, model: SequenceModel, optimizers: list[Optimizer], config: TrainConfig
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers, self.bound = optimizers, config.clip
        self.captures = model.head.weight.device.type == "cuda"
        self._clip, self._apply = (GraphCache(call) for call in (self._clipped, self._applied))

    def clip(self) -> Tensor:
        """Scales the gradients down to the norm `config.clip`, unless that is 0. Returns their norm
        before."""
        norm: Tensor = self._clip(self._addresses(), {}) if self.captures else self._clipped({})
        return norm

    def apply(self, factor: float) -> None:
        """Moves every parameter, at `factor` of the peak learning rates."""
        for optimizer in self.optimizers:
            optimizer.set_rates(factor, self.parameters[0].device if self.captures else None)
        if self.captures:
            self._apply(self._addresses(), {})
        else:
            self._applied({})

    def _addresses(self) -> tuple[int, ...]:
        """The addresses of the gradients: a captured graph is valid only for these."""
        return tuple(0 if p.grad is None else p.grad.data_ptr() for p in self.parameters)

    def _clipped(self, _: dict[str, Any]) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if all(has_kernels(g) and g.dtype == torch.float32 for g in gradients):
            norm = optimizer_kernels.norm_of(gradients)
        else:
            norm = torch.nn.utils.get_total_norm(gradients)
        # comparing the norm on a GPU would synchronise; clipping by a factor of 1 changes nothing
        if self.bound and (self.captures or not float(norm) <= self.bound - CLIP_MARGIN):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.bound, norm)
        return norm

    def _applied(self, _: dict[str, Any]) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def warmup_steps(device: torch.device) -> int:
    """The first steps, which are slower than later ones: captures, compilation, allocation."""
    return 2 * WARMUP_CALLS + 1 if device.type == "cuda" else 1


# -- blocks --------------------------------------------------------------------------------------


def choose_run_block(model: SequenceModel, config: TrainConfig) -> RunBlock:
    """The function that runs a block in training: plain, compiled, or one C call for AMX tiles;
    with activation checkpointing if `config.recompute`."""
    run_block: RunBlock = call_block
    if config.compile:
        run_block = compiled_block()
    elif model.head.weight.device.type == "cpu" and amx_block.knows(model.config):
        run_block = functools.partial(_amx_block, model.config)
    return functools.partial(_recomputed, run_block) if config.recompute else run_block


def can_compile(device: torch.device) -> bool:
    """Whether this is a GPU and torch.compile has Triton and a C compiler."""
    return (
        device.type == "cuda"
        and importlib.util.find_spec("triton") is not None
        and any(shutil.which(name) for name in COMPILERS)
    )


@functools.cache
def compiled_block(backend: str = "inductor") -> RunBlock:
    """`call_block`, compiled once per shape and process."""
    compiled: RunBlock = torch.compile(call_block, fullgraph=True, dynamic=False, backend=backend)
    return compiled


def _amx_block(config: ModelConfig, block: Any, x: Tensor, context: Context) -> Tensor:
    """A block of the default wiring by c/amx_block.c if that supports x, else by torch."""
    if not (ops.is_native() and amx_block.serves(x)):
        return call_block(block, x, context)
    layers = (
        *(block.mixer_norm, block.mixer.qkv, block.mixer.out),
        *(block.ffn_norm, block.ffn.up, block.ffn.down),
    )
    rates = (block.mixer.dropout, block.add.rate) if block.training else (0.0, 0.0)
    weights = [layer.weight for layer in layers]  # in the order of amx_block.WEIGHTS
    return amx_block.block(x, weights, config, context.rotary, context.segment_start, rates)


def _recomputed(run_block: RunBlock, block: nn.Module, x: Tensor, context: Context) -> Tensor:
    """Activation checkpointing (Chen et al. 2016), with the same dropout masks in both passes."""
    from torch.utils.checkpoint import checkpoint

    out: Tensor = checkpoint(run_block, block, x, context, use_reentrant=False)
    return out
