"""Calls of the compiled C library: its functions, structures and dtypes.

`load` takes a library of native_library.py. Without one `has_kernels` is false, and torch does its
work.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from .reference import dropout_seed, first_number

DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # as c/simd.h numbers them
ROW_PADDING = 16  # numbers after a row of workspace that a full vector may touch
MACRO_TILE = 32  # of tiles.h: sizes must be multiples of it

_TYPES = {"l": ctypes.c_int64, "i": ctypes.c_int32, "f": ctypes.c_float, "p": ctypes.c_void_p}
TRAINING_OPS = {  # argument types of training_ops.c
    "add": "lippppi",
    "add_backward": "lipppi",
    "norm": "liippfppi",
    "norm_backward": "liipppppppi",
    "relu2": "lipppi",
    "split": "pipppppi",
    "split_backward": "pippppppi",
    "softmax": "pipfpppi",
    "softmax_backward": "pippfpi",
    "nll": "liippppfppi",
    "nesterov": "llippfpi",
    "move": "llippffi",
    "squares": "lpppi",
    "shares": "",
}
AMX_BLOCK = {  # of amx_block.c, on a processor with AMX tiles
    "block": "ppppi",
    "block_backward": "pppppi",
    "orthogonalise": "iiipfffpi",
}
_library: ctypes.CDLL | None = None
_tiles = False


class Dropout(ctypes.Structure):
    _fields_ = [
        ("drop_threshold", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("keep_scale", ctypes.c_float),
        ("first", ctypes.c_int64),
    ]


class Heads(ctypes.Structure):
    """The shapes of attention, and the rotary tables."""

    _fields_ = [
        ("batch", ctypes.c_int32),
        ("length", ctypes.c_int32),
        ("query_heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_width", ctypes.c_int32),
        ("qk_norm", ctypes.c_int32),
        ("rotary_batch_stride", ctypes.c_int64),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    ]


NO_DROPOUT = Dropout(0, 0, 1.0, 0)


def library() -> ctypes.CDLL | None:
    """What `load` loaded."""
    return _library


def address(tensor: Tensor | None) -> int | None:
    """Where the tensor's memory begins; None, a null pointer in C, without one."""
    return None if tensor is None else tensor.data_ptr()


def heads_of(
    batch: int,
    length: int,
    heads: int,
    groups: int,
    width: int,
    cos: Tensor | None,
    sin: Tensor | None,
    qk_norm: bool,
    eps: float,
) -> Heads:
    """Heads that rotate by cos and sin (B or 1, 1, T, width), which must be contiguous and outlive
    the structure; None: they do not rotate."""
    stride = 0 if cos is None or len(cos) == 1 else length * width
    return Heads(
        batch, length, heads, groups, width, qk_norm, stride, address(cos), address(sin), eps
    )


def load(library: ctypes.CDLL | None, tiles: bool = True) -> None:
    """Makes this process use a library of `native_library`; None: no C code from here on. tiles:
    whether to use its code for AMX tiles, if the processor has them."""
    global _library, _tiles
    _library, _tiles = library, False
    if library is None:
        return
    _tiles = tiles and bool(library.tiles())
    for name, letters in {**TRAINING_OPS, **(AMX_BLOCK if _tiles else {})}.items():
        getattr(library, name).argtypes = [_TYPES[letter] for letter in letters]
    if _tiles:
        library.block_chunks.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        library.block_spare.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
        library.orthogonal_spare.argtypes = [ctypes.c_int32, ctypes.c_int32]
        library.block_spare.restype = library.orthogonal_spare.restype = ctypes.c_int64


def has_tiles() -> bool:
    """Whether amx_block.c can run."""
    return _tiles


def version() -> str:
    """The code that computes gradients on a CPU: 'torch', 'C' or 'C with tiles'."""
    return "torch" if _library is None else "C with tiles" if _tiles else "C"


def has_kernels(x: Tensor) -> bool:
    """Whether the library computes on tensors like x."""
    return _library is not None and x.device.type == "cpu" and x.dtype in DTYPES


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the library: tensors by address, structures by reference, the number of
    threads last."""
    passed = (
        x.data_ptr()
        if isinstance(x, Tensor)
        else ctypes.byref(x)
        if isinstance(x, ctypes.Structure)
        else x
        for x in arguments
    )
    getattr(_library, name)(*passed, torch.get_num_threads())


def dropout_of(rate: float, count: int) -> Dropout:
    """The dropout of one tensor of `count` numbers, `reference.dropped_numbers`, with a new
    seed."""
    if not rate:
        return NO_DROPOUT
    return Dropout(round(rate * (1 << 31)), dropout_seed(), 1 / (1 - rate), first_number(count))


@functools.cache
def reduction_parts() -> int:
    """The number of partial sums of a sum over rows, whatever the number of threads."""
    return int(_library.shares())  # type: ignore[union-attr]


def block_chunks(heads: Heads) -> int:
    """The number of chunks in which amx_block.c computes a batch."""
    threads = torch.get_num_threads()
    return int(_library.block_chunks(ctypes.byref(heads), threads))  # type: ignore[union-attr]


def block_workspace(heads: Heads, hidden: int) -> Tensor:
    """Memory for one call of amx_block.c."""
    threads = torch.get_num_threads()
    size = int(_library.block_spare(ctypes.byref(heads), hidden, threads))  # type: ignore[union-attr]
    return torch.empty(size, dtype=torch.uint8)


def newton_schulz_workspace(rows: int, columns: int) -> Tensor:
    """Memory for orthogonalising matrices by AMX tiles, one on each thread."""
    size = int(_library.orthogonal_spare(rows, columns))  # type: ignore[union-attr]
    return torch.empty(size * torch.get_num_threads(), dtype=torch.uint8)
