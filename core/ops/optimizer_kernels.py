"""What the optimisers have the C library do: momentum, moves of weights, norms, orthogonalisation.
The plain forms are in train/muon.py and torch.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from .native_calls import (
    DTYPES,
    MACRO_TILE,
    call,
    has_tiles,
    newton_schulz_workspace,
    reduction_parts,
)


def nesterov(
    gradients: list[Tensor], means: list[Tensor], momentum: float, outs: list[Tensor]
) -> None:
    """`muon.nesterov` of matrices of one size."""
    gradients = [each.contiguous() for each in gradients]
    count, size, dtype = len(outs), outs[0].numel(), DTYPES[outs[0].dtype]
    call(
        "nesterov",
        count,
        size,
        dtype,
        _addresses(gradients),
        _addresses(means),
        momentum,
        _addresses(outs),
    )


def move(weights: list[Tensor], updates: list[Tensor], keep: float, by: float) -> None:
    """`muon.scale_and_add` of matrices of one size."""
    updates = [each.contiguous() for each in updates]
    count, size, dtype = len(weights), weights[0].numel(), DTYPES[updates[0].dtype]
    call("move", count, size, dtype, _addresses(weights), _addresses(updates), keep, by)


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm of all of them as one vector, () in float32."""
    tensors = [each.contiguous() for each in tensors]
    sums = torch.empty(len(tensors), reduction_parts(), dtype=torch.float64)
    counts = (ctypes.c_int64 * len(tensors))(*(each.numel() for each in tensors))
    call("squares", len(tensors), _addresses(tensors), counts, sums)
    return sums.sum().sqrt().float()


def _addresses(tensors: list[Tensor]) -> Any:
    """The addresses of all tensors, as C takes an array of pointers."""
    return (ctypes.c_void_p * len(tensors))(*(each.data_ptr() for each in tensors))


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float]) -> Tensor | None:
    """`muon.newton_schulz` of matrices (N, rows, columns) in bfloat16, in place; none where AMX
    tiles are missing or do not fit the sizes."""
    count, rows, columns = matrices.shape
    fits = rows % MACRO_TILE == columns % MACRO_TILE == 0
    if not (has_tiles() and matrices.dtype == torch.bfloat16 and fits):
        return None
    workspace = newton_schulz_workspace(rows, columns)
    call("orthogonalise", count, rows, columns, matrices, *coefficients, workspace)
    return matrices
