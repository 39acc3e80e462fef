"""What to do where memory is not enough: find the batch that fits."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import replace

import torch

from ..config import TrainConfig

WORDS = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "out of memory",
    "could not create a primitive",
    "could not create a memory",  # as oneDNN says it
)


def is_out_of_memory(error: BaseException) -> bool:
    """Of Python, of the C++ library, of torch's allocators on a CPU or a GPU, of oneDNN."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in WORDS)


def release() -> None:
    """Gives back what nothing holds any more, to the system too."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halved(config: TrainConfig) -> TrainConfig | None:
    """The same rows a step in passes of half as many, or of fewer still where the rows are odd in
    number; none where a pass is of one row."""
    rows = config.batch * config.accumulate
    for batch in range(config.batch // 2, 0, -1):
        if rows % batch == 0:
            return replace(config, batch=batch, accumulate=rows // batch)
    return None
