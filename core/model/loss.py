"""The training loss: head and cross-entropy in one, a few rows at a time.

As autograd would do it, the logits of a step exist several times over (in float32, as
probabilities, as gradients): most of the memory of a large vocabulary, and a tenth of the time of
a small model. Here a chunk's logits become its gradient where they lie, in cache, before the next
chunk's are made (as Hsu et al. 2024, Liger Kernel, do on a GPU).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops import cpu_kernels
from .sequence_model import SequenceModel, masked_to_support

CHUNK = 1 << 19  # logits that are there at once: as many as fit a cache
GPU_PART = 64  # on a GPU one for so many bytes of its memory: mostly all that a pass has


def weighted_nll(
    model: SequenceModel,
    ids: Tensor,
    weight: Tensor,
    positions: Tensor | None = None,
    segments: Tensor | None = None,
    support: tuple[int, int] | Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """sum(weight[:, 1:] * token_nll(...)), a scalar in float32; arguments as of `token_nll`.

    Positions of weight 0 cost no logits on a CPU. compiled: by torch.compile what follows them.
    """
    hidden = model(
        ids[:, :-1],
        None if positions is None else positions[:, :-1],
        None if segments is None else segments[:, :-1],
    )
    low, high = support if isinstance(support, tuple) else (0, model.config.vocab_size)
    legal = support[:, 1:] if isinstance(support, Tensor) else None
    targets, counted = ids[:, 1:] - low, weight[:, 1:] != 0
    device = hidden.device.type
    every = True
    if device == "cpu":
        every = bool(counted.all())  # to choose would be a pass of its own, and one back
    else:  # nothing that depends on what is counted: a GPU repeats the same calls
        targets = torch.where(counted, targets, 0)
        if legal is not None:
            first, end = legal.unbind(-1)
            first, end = torch.where(counted, first, 0), torch.where(counted, end, high)
            legal = torch.stack((first, end), dim=-1)

    def chosen(x: Tensor) -> Tensor:
        return x.flatten(0, 1) if every else x[counted]

    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    total: Tensor = _HeadNll.apply(  # type: ignore[no-untyped-call]
        chosen(hidden).to(dtype),
        model.head.weight[low:high].to(dtype),
        chosen(targets),
        chosen(weight[:, 1:]),
        None if legal is None else chosen(legal),
        model.config.softcap,
        compiled,
    )
    return total


def slopes(
    products: Tensor, targets: Tensor, weight: Tensor, legal: Tensor | None, softcap: float
) -> tuple[Tensor, Tensor]:
    """What `cpu_kernels.nll_` works out of logits (N, V): the loss, and the logits' gradient."""
    logits = products.float()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    slope = 1 - (logits / softcap).square() if softcap else None
    if legal is not None:
        logits = masked_to_support(logits, legal)
    logits = logits - logits.amax(-1, keepdim=True)
    p = logits.exp()
    mass, weight = p.sum(-1, keepdim=True), weight[:, None]
    loss = (weight * (mass.log() - logits.gather(-1, targets[:, None]))).sum()
    at_target = torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]
    gradient = p * (weight / mass) - weight * at_target
    if slope is not None:
        gradient = gradient * slope
    return loss, gradient.to(products.dtype)


@functools.cache
def _compiled_slopes() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(slopes, fullgraph=True, dynamic=False)


def _rows(rows: int, vocab_size: int, device: torch.device) -> int:
    """Rows of a chunk; on a GPU all chunks are alike where they can be, so that one is compiled."""
    if device.type != "cuda":
        return max(1, CHUNK // vocab_size)
    room = torch.cuda.get_device_properties(device).total_memory // GPU_PART
    least = -(-rows * vocab_size // room)
    chunks = next((n for n in range(least, 2 * least) if rows % n == 0), least)
    return -(-rows // chunks)


class _HeadNll(torch.autograd.Function):
    """hidden (N, D), head (V, D), targets (N,), weight (N,), legal (N, 2) or none."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weight: Tensor,
        legal: Tensor | None,
        softcap: float,
        compiled: bool,
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        learns = any(ctx.needs_input_grad[:2])
        to_hidden = torch.empty_like(hidden)
        rows = _rows(len(hidden), len(head), hidden.device)
        to_head = None  # of one chunk; of several their sum in float32
        if rows < len(hidden) or not len(hidden):
            to_head = torch.zeros(head.shape, device=hidden.device)
        rest = _compiled_slopes() if compiled else slopes
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                at = slice(start, start + rows)
                products, w = hidden[at] @ head.T, weight[at]
                allowed = None if legal is None else legal[at]
                if learns and cpu_kernels.known(products):
                    total += cpu_kernels.nll_(products, targets[at], w, allowed, softcap)
                    gradient = products
                else:
                    loss, gradient = rest(products, targets[at], w, allowed, softcap)
                    total += loss
                if learns:
                    torch.mm(gradient, head, out=to_hidden[at])
                    part = gradient.T @ hidden[at]
                    to_head = part if to_head is None else to_head.add_(part)
        if to_head is not None:
            ctx.save_for_backward(to_hidden, to_head.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_hidden, to_head = ctx.saved_tensors
        (by,) = gradients
        return to_hidden * by, to_head * by, None, None, None, None, None
