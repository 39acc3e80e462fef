"""The fastest way to compute a training step on each device: gradients, then the update.

A step accumulates the gradients of one or more micro-batches. On a GPU, micro-batches and updates
are replayed as CUDA graphs (ops/cuda_graphs.py). A large model there spends much of its time on
element-wise operations between matrix products, which are bound by memory; torch.compile fuses them
(`train.compile`). It compiles one block, and all blocks share the result. On a CPU with AMX tiles a
block is one C call.
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
from ..model.block import RunBlock, call_block
from ..model.loss import Objective
from ..model.mixer import Context
from ..model.sequence_model import SequenceModel
from ..ops import amx_block, optimizer_kernels
from ..ops import operations as ops
from ..ops.cuda_graphs import WARMUP_CALLS, CapturedGraph, GraphCache, shapes
from ..ops.device import autocast
from ..ops.native_calls import has_kernels
from ..protocols import Batch
from .optimizer import Optimizer
from .peers import ALONE, Peers

MicroStep = Callable[[Batch[Tensor]], Tensor]
CLIP_MARGIN = 1e-5  # a gradient is clipped if its norm exceeds the bound minus this
COMPILERS = ("cc", "gcc", "clang")  # torch.compile needs one of them, for its launchers


# -- gradients -----------------------------------------------------------------------------------


def make_micro_step(model: SequenceModel, config: TrainConfig, peers: Peers = ALONE) -> MicroStep:
    """A function of a micro-batch that adds its gradients to those of the parameters and returns
    the loss, in memory that the next call may overwrite."""
    device = model.head.weight.device
    # FSDP gathers a block's weights when the block is called as a module, which is not captured
    compiles = config.compile and can_compile(device) and not peers.shards
    config = replace(config, compile=compiles)
    run_block = choose_run_block(model, config, as_modules=peers.shards)
    objective = Objective(model, run_block, config.compile, config.label_smoothing)

    def micro_step(batch: Batch[Tensor]) -> Tensor:
        with autocast(device, config.dtype):
            loss: Tensor = objective(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    if device.type != "cuda" or model.dynamic or peers.shards:
        return micro_step
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = [torch.empty_like(p) for p in parameters] if config.accumulate > 1 else None
    graphs = GraphCache(
        lambda fields: micro_step(Batch(**fields)),
        functools.partial(_CapturedMicroStep, parameters, sums),
    )
    return lambda batch: graphs(shapes(vars(batch)), vars(batch))


class _CapturedMicroStep:
    """A CUDA graph that overwrites its own gradient tensors at each replay. They become the
    parameters' gradients if a step is one micro-batch; else they are accumulated in `sums`."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        sums: list[Tensor] | None,
        call: Callable[[dict[str, Any]], Any],
        inputs: Mapping[str, Any],
    ) -> None:
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        self.graph = CapturedGraph(call, inputs)
        own = [p.grad for p in parameters]
        self.learning = [p for p in parameters if p.grad is not None]
        self.gradients = [gradient for gradient in own if gradient is not None]
        self.sums = self.gradients
        if sums is not None:
            self.sums = [s for s, gradient in zip(sums, own, strict=True) if gradient is not None]
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        loss = self.graph(inputs)
        if self.learning[0].grad is not None:
            sums = [p.grad for p in self.learning if p.grad is not None]
            torch._foreach_add_(sums, self.gradients)
            return loss
        if self.sums is not self.gradients:
            torch._foreach_copy_(self.sums, self.gradients)
        for p, gradient in zip(self.learning, self.sums, strict=True):
            p.grad = gradient
        return loss


# -- updates -------------------------------------------------------------------------------------


class Update:
    """What follows the gradients of a step: `clip`, then `apply` if loss and norm are finite."""

    def __init__(
        self,
        model: SequenceModel,
        optimizers: list[Optimizer],
        config: TrainConfig,
        peers: Peers = ALONE,
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers, self.bound, self.peers = optimizers, config.clip, peers
        self.on_gpu = model.head.weight.device.type == "cuda"
        self.captures = self.on_gpu and peers.size == 1  # communication is not captured
        self._clip, self._apply = (GraphCache(call) for call in (self._clipped, self._applied))

    def clip(self) -> Tensor:
        """Sums the gradients over processes. Returns the norm of all, before they are scaled down
        to the bound (if there is one)."""
        self.peers.sum_gradients(self.parameters)
        norm: Tensor = self._clip(self._addresses(), {}) if self.captures else self._clipped({})
        return norm

    def apply(self, factor: float) -> None:
        """Updates every parameter, at `factor` times the peak learning rates."""
        for optimizer in self.optimizers:
            optimizer.at(factor, self.parameters[0].device if self.captures else None)
        if self.captures:
            self._apply(self._addresses(), {})
        else:
            self._applied({})

    def _addresses(self) -> tuple[int, ...]:
        """Addresses of the gradients: a captured graph reads the memory of its capture."""
        return tuple(0 if p.grad is None else p.grad.data_ptr() for p in self.parameters)

    def _clipped(self, _: dict[str, Any]) -> Tensor:
        gradients = [self.peers.local(p.grad) for p in self.parameters if p.grad is not None]
        if all(has_kernels(g) and g.dtype == torch.float32 for g in gradients):
            norm = optimizer_kernels.global_norm(gradients)
        else:
            norm = torch.nn.utils.get_total_norm(gradients)
        norm = self.peers.whole_norm(norm)
        # a GPU always clips: comparing the norm would wait for it, and a factor of 1 is harmless
        if self.bound and (self.on_gpu or not float(norm) <= self.bound - CLIP_MARGIN):
            factor = (self.bound / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)
        return norm

    def _applied(self, _: dict[str, Any]) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def warmup_steps(device: torch.device) -> int:
    """The number of first steps that take longer than later ones."""
    return 2 * WARMUP_CALLS + 1 if device.type == "cuda" else 1


# -- blocks --------------------------------------------------------------------------------------


def choose_run_block(
    model: SequenceModel, config: TrainConfig, as_modules: bool = False
) -> RunBlock:
    """The function that computes a block in training: as a module, compiled, or as one call of
    amx_block.c; with its activations recomputed in the backward pass if `config.recompute`.
    as_modules: never by amx_block.c, which knows no adapters either."""
    run_block: RunBlock = call_block
    if config.compile:
        run_block = compiled_block()
    elif (
        model.head.weight.device.type == "cpu"
        and amx_block.supports_config(model.config)
        and not (as_modules or config.lora)
    ):
        run_block = functools.partial(_amx_block, model.config)
    return functools.partial(_recomputed, run_block) if config.recompute else run_block


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile can build kernels for this device: a GPU, Triton and a C compiler."""
    return (
        device.type == "cuda"
        and importlib.util.find_spec("triton") is not None
        and any(shutil.which(name) for name in COMPILERS)
    )


@functools.cache
def compiled_block(backend: str = "inductor") -> RunBlock:
    """A compiled `call_block`: one for the whole process, recompiled for each new shape."""
    compiled: RunBlock = torch.compile(call_block, fullgraph=True, dynamic=False, backend=backend)
    return compiled


def _amx_block(config: ModelConfig, block: Any, x: Tensor, context: Context) -> Tensor:
    """A block of the default architecture by c/amx_block.c, or as a module if x is unsuitable."""
    if not (ops.is_native() and amx_block.supports_tensor(x)):
        return call_block(block, x, context)
    layers = (
        *(block.mixer_norm, block.mixer.qkv, block.mixer.out),
        *(block.ffn_norm, block.ffn.up, block.ffn.down),
    )
    rates = (block.mixer.dropout, block.add.rate) if block.training else (0.0, 0.0)
    weights = [layer.weight for layer in layers]  # as amx_block.WEIGHTS has them
    return amx_block.block(x, weights, config, context.rotary, context.segment_start, rates)


def _recomputed(run_block: RunBlock, block: nn.Module, x: Tensor, context: Context) -> Tensor:
    """Activation checkpointing (Chen et al. 2016); dropout drops the same numbers again."""
    from torch.utils.checkpoint import checkpoint

    out: Tensor = checkpoint(run_block, block, x, context, use_reentrant=False)
    return out
