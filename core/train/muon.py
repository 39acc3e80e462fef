"""Muon: momentum, orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..model.layers import Linear
from ..ops import optimizer_kernels
from ..ops.native_calls import has_kernels
from .optimizer import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan's quintic, applied five times
MIN_UNBATCHED_SIZE = 192  # in float32 some CPUs multiply larger matrices faster one at a time


def orthogonalise(matrices: Tensor) -> Iterable[Tensor]:
    """Moves the singular values of each matrix of (N, rows, columns) to about 1. May overwrite
    `matrices`."""
    if has_kernels(matrices):
        by_tiles = optimizer_kernels.orthogonalise(matrices, NEWTON_SCHULZ)
        if by_tiles is not None:
            return by_tiles
    float32_on_cpu = matrices.dtype == torch.float32 and matrices.device.type == "cpu"
    if float32_on_cpu and min(matrices.shape[1:]) >= MIN_UNBATCHED_SIZE:
        return map(newton_schulz, matrices)
    return newton_schulz(matrices)


def newton_schulz(x: Tensor) -> Tensor:
    """Newton-Schulz iteration on (rows, columns) or (N, rows, columns). The Gram matrix is taken
    over the shorter side."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x.mT @ x if tall else x @ x.mT
        power = multiply_add(gram, gram, gram, beta=b, alpha=c)
        x = multiply_add(x, x, power, beta=a) if tall else multiply_add(x, power, x, beta=a)
    return x


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised, scaled by sqrt(max(1, rows / columns)).

    Matrices of one shape are updated in one batch. `torch.optim.Muon` updates them one at a time;
    for a small model on a CPU most of its time is call overhead (benchmarks/optimizers.py). A
    fused weight is split into the matrices it consists of (`Linear.rows`).
    """

    name = "muon"

    def __init__(
        self,
        layers: Iterable[Linear],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: of the matrix products; bfloat16 is accurate enough for the direction."""
        self.dtype = dtype
        layers = list(layers)
        self.rows: dict[Tensor, tuple[int, ...]] = {layer.weight: layer.rows for layer in layers}
        super().__init__(
            [dict(params=list(self.rows), lr=lr, momentum=momentum, weight_decay=weight_decay)]
        )

    def _initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(parameter)}

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        # shape -> (weight, gradient, momentum) of each matrix of that shape
        by_shape: dict[tuple[int, int], list[tuple[Tensor, ...]]] = defaultdict(list)
        for p, gradient in zip(parameters, gradients, strict=True):
            rows = list(self.rows[p])
            fused = p, gradient, self.state[p]["momentum"]
            for parts in zip(*(torch.split(each, rows) for each in fused), strict=True):
                by_shape[parts[0].shape[0], parts[0].shape[1]].append(parts)
        for shape, matrices in by_shape.items():
            weights, split_gradients, means = (list(each) for each in zip(*matrices, strict=True))
            updates = weights[0].new_empty((len(matrices), *shape), dtype=self.dtype)
            nesterov(split_gradients, means, momentum, updates)
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            scale_and_add(weights, orthogonalise(updates), 1 - lr * decay, -lr * scale)


def nesterov(gradients: list[Tensor], means: list[Tensor], momentum: float, out: Tensor) -> None:
    """Updates the running means in place, then writes the Nesterov direction to out (N, ...):
    gradients interpolated towards their means by `momentum`."""
    if has_kernels(out) and has_kernels(gradients[0]):
        optimizer_kernels.nesterov(gradients, means, momentum, list(out))
        return
    torch._foreach_lerp_(means, gradients, 1 - momentum)
    torch._foreach_copy_(list(out), torch._foreach_lerp(gradients, means, momentum))


def scale_and_add(
    weights: list[Tensor], updates: Iterable[Tensor], keep: float | Tensor, by: float | Tensor
) -> None:
    """weight = keep * weight + by * update, in place."""
    if isinstance(updates, Tensor) and not has_kernels(updates):
        updates = updates.to(weights[0].dtype)  # foreach operations are slow on mixed dtypes
    updates = list(updates)
    if has_kernels(updates[0]) and has_kernels(weights[0]):
        optimizer_kernels.move(weights, updates, float(keep), float(by))
        return
    torch._foreach_mul_(weights, keep)
    torch._foreach_add_(weights, torch._foreach_mul(updates, by))
