"""Out of memory: recognising it, freeing memory, and smaller micro-batches."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import replace

import torch

from ..config import TrainConfig

OOM_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "out of memory",
    "could not create a primitive",
    "could not create a memory",  # oneDNN, as the line above
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the C++ library, torch's CPU or GPU allocator or oneDNN ran out of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(m in str(error).lower() for m in OOM_MESSAGES)


def release_memory() -> None:
    """Frees unreferenced objects and returns freed memory to the system and the GPU driver."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halve_micro_batch(config: TrainConfig) -> TrainConfig | None:
    """The config with the same rows per step in micro-batches of half the size, or the next smaller
    size that divides the rows evenly. None where a micro-batch is one row already."""
    rows = config.batch * config.accumulate
    for batch in range(config.batch // 2, 0, -1):
        if rows % batch == 0:
            return replace(config, batch=batch, accumulate=rows // batch)
    return None
