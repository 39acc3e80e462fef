"""The head's matrix product and the cross-entropy fused, a chunk of rows at a time.

With autograd the logits of a step exist several times (in float32, as probabilities, as gradients):
most of the memory for a large vocabulary, and a tenth of the time of a small model. Here a chunk's
gradient overwrites its logits, in cache, before the next chunk's logits are computed (as Hsu et al.
2024, Liger Kernel, do on a GPU).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .reference import masked_to_support, product_dtype, softcap

# (logits (N, V), targets, weight, support, cap) -> the loss, and the gradient of the logits
NllAndGradient = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]]
CHUNK_LOGITS = 1 << 19  # of a chunk on a CPU: as many as fit its cache
GPU_BYTES_PER_LOGIT = 64  # of all GPU memory, for a logit of a chunk: mostly one chunk for all rows


def chunked_linear_nll(
    rest: NllAndGradient,
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    ids: tuple[int, int],
    support: Tensor | None,
    cap: float,
) -> Tensor:
    """As `operations.linear_nll`; `rest` computes the loss and the gradient from the logits."""
    dtype = product_dtype(hidden)
    table: Tensor = head.weight[ids[0] : ids[1]]  # type: ignore[index]
    total: Tensor = _LinearNll.apply(  # type: ignore[no-untyped-call]
        hidden.to(dtype), table.to(dtype), targets, weight, support, cap, rest
    )
    return total


def nll_and_gradient(
    products: Tensor, targets: Tensor, weight: Tensor, support: Tensor | None, cap: float
) -> tuple[Tensor, Tensor]:
    """The loss and the gradient of `products`, the logits before the softcap, in plain torch."""
    logits = softcap(products.float(), cap)
    slope = 1 - (logits / cap).square() if cap else None
    if support is not None:
        logits = masked_to_support(logits, support)
    logits = logits - logits.amax(-1, keepdim=True)
    p = logits.exp()
    mass, weight = p.sum(-1, keepdim=True), weight[:, None]
    loss = (weight * (mass.log() - logits.gather(-1, targets[:, None]))).sum()
    at_target = torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]
    gradient = p * (weight / mass) - weight * at_target
    if slope is not None:
        gradient = gradient * slope
    return loss, gradient.to(products.dtype)


def chunk_rows(rows: int, vocab_size: int, device: torch.device) -> int:
    """Rows of a chunk. On a GPU all chunks have one size if possible, so that one is compiled."""
    if device.type != "cuda":
        return max(1, CHUNK_LOGITS // vocab_size)
    room = torch.cuda.get_device_properties(device).total_memory // GPU_BYTES_PER_LOGIT
    least = -(-rows * vocab_size // room)
    chunks = next((n for n in range(least, 2 * least) if rows % n == 0), least)
    return -(-rows // chunks)


class _LinearNll(torch.autograd.Function):
    """hidden (N, D), table (V, D), targets (N,), weight (N,), support (N, 2) or None."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        targets: Tensor,
        weight: Tensor,
        support: Tensor | None,
        cap: float,
        rest: NllAndGradient,
    ) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        needs_hidden, needs_table = ctx.needs_input_grad[:2]
        hidden_gradient = torch.empty_like(hidden)
        rows = chunk_rows(len(hidden), len(table), hidden.device)
        table_gradient = None  # of a single chunk in its dtype, of several summed in float32
        if needs_table and (rows < len(hidden) or not len(hidden)):
            table_gradient = torch.zeros(table.shape, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                chunk = slice(start, start + rows)
                legal = None if support is None else support[chunk]
                products = hidden[chunk] @ table.T
                loss, gradient = rest(products, targets[chunk], weight[chunk], legal, cap)
                total += loss
                if needs_hidden:
                    torch.mm(gradient, table, out=hidden_gradient[chunk])
                if needs_table:  # not of a frozen one
                    part = gradient.T @ hidden[chunk]
                    table_gradient = part if table_gradient is None else table_gradient.add_(part)
        if table_gradient is not None:
            table_gradient = table_gradient.to(table.dtype)
        ctx.save_for_backward(hidden_gradient, table_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hidden_gradient, table_gradient = ctx.saved_tensors
        (upstream,) = gradients
        if table_gradient is not None:
            table_gradient = table_gradient * upstream
        return hidden_gradient * upstream, table_gradient, None, None, None, None, None
