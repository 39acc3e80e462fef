"""Muon: momentum, orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops import optimizer_kernels
from ..ops.native_calls import has_kernels
from .optimizer import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic; in STEPS: singular values near 1
STEPS = 5
MAX_BATCHED_SIDE = 192  # some CPUs multiply larger float32 matrices faster one at a time


def orthogonalise(matrices: Tensor) -> Iterable[Tensor]:
    """Moves the singular values of matrices (N, rows, columns) to about 1, maybe in place."""
    if has_kernels(matrices):
        by_tiles = optimizer_kernels.orthogonalise(matrices, NEWTON_SCHULZ)
        if by_tiles is not None:
            return by_tiles
    exact = matrices.dtype == torch.float32
    if exact and matrices.device.type == "cpu" and min(matrices.shape[1:]) >= MAX_BATCHED_SIDE:
        return map(newton_schulz, matrices)
    return newton_schulz(matrices)


def newton_schulz(x: Tensor) -> Tensor:
    """The iteration on (rows, columns) or a batch of them: x becomes (a + b g + c g^2) x, with g
    the product of x with itself, of the shorter side."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.dtype != torch.bfloat16 and max(x.shape[-2:]) >= 2 * min(x.shape[-2:]):
        polynomial = _polynomial_of(x.mT @ x if tall else x @ x.mT)
        return x @ polynomial if tall else polynomial @ x
    for _ in range(STEPS):
        gram = x.mT @ x if tall else x @ x.mT
        power = multiply_add(gram, gram, gram, beta=b, alpha=c)
        x = multiply_add(x, x, power, beta=a) if tall else multiply_add(x, power, x, beta=a)
    return x


def _polynomial_of(gram: Tensor) -> Tensor:
    """What all steps together multiply x by, from its g alone: g becomes (a + b g + c g^2)^2 g,
    and all these matrices commute. Of a long matrix that is half of the work. bfloat16 is too
    coarse for it: the eigenvalues of g are the squares of the singular values."""
    a, b, c = NEWTON_SCHULZ
    multiply_add = torch.addmm if gram.ndim == 2 else torch.baddbmm
    whole: Tensor | None = None
    for step in range(STEPS):
        factor = multiply_add(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = factor if whole is None else whole @ factor
        if step < STEPS - 1:
            gram = factor @ (factor @ gram)
    assert whole is not None
    return whole


class Muon(Optimizer):
    """Momentum, then the nearest orthogonal matrix; matrices of one shape share a product.

    `torch.optim.Muon` does the same one matrix at a time; for a small model on a CPU most of its
    time is call overhead (benchmarks/optimizers.py). A weight that holds several matrices is split
    into them (`Linear.rows`). An update is scaled by sqrt(max(1, rows / columns)).
    """

    name = "muon"

    def __init__(
        self,
        rows: Mapping[Tensor, tuple[int, ...]],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """rows: the weights, each with the rows of the matrices that it holds. dtype: of the
        products; bfloat16 is precise enough for a direction."""
        self.dtype, self.rows = dtype, dict(rows)
        super().__init__(
            [dict(params=list(self.rows), lr=lr, momentum=momentum, weight_decay=weight_decay)]
        )

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(parameter)}

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        # shape -> (weight, gradient, momentum) of every matrix of that shape: this process's rows
        # of it; and the number of rows that each process has
        by_shape: dict[tuple[int, int], list[tuple[Tensor, ...]]] = defaultdict(list)
        held: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
        for p, gradient in zip(moved, gradients, strict=True):
            by_rank = self.peers.rows_held(p, self.rows[p])
            tensors = self.peers.local(p), gradient, self.state[p]["momentum"]
            parts = (torch.split(each, by_rank[self.peers.rank]) for each in tensors)
            for rows, counts, part in zip(
                self.rows[p], zip(*by_rank, strict=True), zip(*parts, strict=True), strict=True
            ):
                by_shape[rows, p.shape[1]].append(part)
                held[rows, p.shape[1]].append(counts)
        for shape, matrices in by_shape.items():
            weights, grads, means = (list(each) for each in zip(*matrices, strict=True))
            updates: Iterable[Tensor]
            if self.peers.shards:
                torch._foreach_lerp_(means, grads, 1 - momentum)
                directions = torch._foreach_lerp(grads, means, momentum)
                mixed = [each.to(self.dtype) for each in directions]
                updates = self.peers.divide_parts(orthogonalise, mixed, held[shape])
            else:
                stack = weights[0].new_empty((len(matrices), *shape), dtype=self.dtype)
                nesterov(grads, means, momentum, stack)
                updates = self.peers.divide(orthogonalise, stack)
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            apply_updates(weights, updates, 1 - lr * decay, -lr * scale)


def nesterov(gradients: list[Tensor], means: list[Tensor], momentum: float, out: Tensor) -> None:
    """Nesterov momentum: mean = lerp(mean, gradient, 1 - momentum), and out (N, ...) =
    lerp(gradient, mean, momentum)."""
    if has_kernels(out) and has_kernels(gradients[0]):
        optimizer_kernels.nesterov(gradients, means, momentum, list(out))
        return
    torch._foreach_lerp_(means, gradients, 1 - momentum)
    torch._foreach_copy_(list(out), torch._foreach_lerp(gradients, means, momentum))


def apply_updates(
    weights: list[Tensor], updates: Iterable[Tensor], keep: float | Tensor, by: float | Tensor
) -> None:
    """weight = keep * weight + by * update, in place."""
    if isinstance(updates, Tensor) and not has_kernels(updates):
        updates = updates.to(weights[0].dtype)  # foreach adds mixed dtypes one at a time
    updates = list(updates)
    alike = len({update.shape for update in updates}) == 1  # not so for parts of matrices
    if has_kernels(updates[0]) and has_kernels(weights[0]) and alike:
        optimizer_kernels.update_weights(weights, updates, float(keep), float(by))
        return
    torch._foreach_mul_(weights, keep)
    torch._foreach_add_(weights, torch._foreach_mul(updates, by))
