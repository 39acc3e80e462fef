"""Optimiser steps in C: Nesterov momentum, weight updates, gradient norms and orthogonalisation.
train/muon.py and torch have the plain forms.
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
    """As `muon.nesterov`, for matrices of one size."""
    gradients = [gradient.contiguous() for gradient in gradients]
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


def update_weights(weights: list[Tensor], updates: list[Tensor], keep: float, by: float) -> None:
    """keep * weight + by * update in place, for matrices of one size."""
    updates = [update.contiguous() for update in updates]
    count, size, dtype = len(weights), weights[0].numel(), DTYPES[updates[0].dtype]
    call("move", count, size, dtype, _addresses(weights), _addresses(updates), keep, by)


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors taken as one vector, () in float32."""
    tensors = [tensor.contiguous() for tensor in tensors]
    sums = torch.empty(len(tensors), reduction_parts(), dtype=torch.float64)
    counts = (ctypes.c_int64 * len(tensors))(*(tensor.numel() for tensor in tensors))
    call("squares", len(tensors), _addresses(tensors), counts, sums)
    return sums.sum().sqrt().float()


def _addresses(tensors: list[Tensor]) -> Any:
    """A C array of pointers to the tensors' memory."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float]) -> Tensor | None:
    """As `muon.newton_schulz`, in place, for matrices (N, rows, columns) in bfloat16. None without
    AMX tiles, or where the sizes are not multiples of MACRO_TILE."""
    count, rows, columns = matrices.shape
    fits = rows % MACRO_TILE == columns % MACRO_TILE == 0
    if not (has_tiles() and matrices.dtype == torch.bfloat16 and fits):
        return None
    workspace = newton_schulz_workspace(rows, columns)
    call("orthogonalise", count, rows, columns, matrices, *coefficients, workspace)
    return matrices
