"""The training loss: head and cross-entropy in one, a few rows at a time.

As autograd would do it, the logits of a step exist several times over (in float32, as
probabilities, as gradients): most of the memory of a large vocabulary, and a tenth of the time of
a small model. Here a chunk's logits become its gradient where they lie, in cache, before the next
chunk's are made (as Hsu et al. 2024, Liger Kernel, do on a GPU).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import kernels
from .model import SequenceModel, masked_to_support

CHUNK = 1 << 19  # logits that are there at once


def weighted_nll(
    model: SequenceModel,
    ids: Tensor,
    weight: Tensor,
    positions: Tensor | None = None,
    segments: Tensor | None = None,
    support: tuple[int, int] | Tensor | None = None,
) -> Tensor:
    """sum(weight[:, 1:] * token_nll(...)), a scalar in float32; arguments as of `token_nll`.

    Positions of weight 0 cost no logits.
    """
    hidden = model(
        ids[:, :-1],
        None if positions is None else positions[:, :-1],
        None if segments is None else segments[:, :-1],
    )
    counted = weight[:, 1:] != 0
    every = bool(counted.all())  # to choose would be a pass of its own, and one back

    def chosen(x: Tensor) -> Tensor:
        return x.flatten(0, 1) if every else x[counted]

    low, high = support if isinstance(support, tuple) else (0, model.config.vocab_size)
    legal = chosen(support[:, 1:]) if isinstance(support, Tensor) else None
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    total: Tensor = _HeadNll.apply(  # type: ignore[no-untyped-call]
        chosen(hidden).to(dtype), model.head.weight[low:high].to(dtype),
        chosen(ids[:, 1:]) - low, chosen(weight[:, 1:]), legal, model.config.softcap,
    )  # fmt: skip
    return total


class _HeadNll(torch.autograd.Function):
    """hidden (N, D), head (V, D), targets (N,), weight (N,), legal (N, 2) or none."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weight: Tensor,
        legal: Tensor | None, softcap: float,
    ) -> Tensor:  # fmt: skip
        total = torch.zeros((), device=hidden.device)
        learns = any(ctx.needs_input_grad[:2])
        to_hidden = torch.empty_like(hidden)
        to_head = torch.zeros(head.shape, device=head.device)
        rows = max(1, CHUNK // len(head))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                at = slice(start, start + rows)
                products = hidden[at] @ head.T
                if learns and kernels.known(products):
                    allowed = None if legal is None else legal[at]
                    total += kernels.nll_(products, targets[at], weight[at], allowed, softcap)
                    torch.mm(products, head, out=to_hidden[at])
                    to_head += products.T @ hidden[at]
                    continue
                target, w = targets[at, None], weight[at, None]
                logits = products.float()
                if softcap:
                    logits.div_(softcap).tanh_().mul_(softcap)
                slope = (1 - (logits / softcap).square_()) if softcap else None
                if legal is not None:
                    logits = masked_to_support(logits, legal[at])
                highest = logits.amax(-1, keepdim=True)
                wanted = logits.gather(-1, target) - highest
                p = logits.sub_(highest).exp_()
                mass = p.sum(-1, keepdim=True)
                total += (w * (mass.log() - wanted)).sum()
                if not learns:
                    continue
                p.mul_(w / mass).scatter_add_(-1, target, -w)
                gradient = (p if slope is None else p.mul_(slope)).to(hidden.dtype)
                torch.mm(gradient, head, out=to_hidden[at])
                to_head += gradient.T @ hidden[at]
        ctx.save_for_backward(to_hidden, to_head.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_hidden, to_head = ctx.saved_tensors
        (by,) = gradients
        return to_hidden * by, to_head * by, None, None, None, None
