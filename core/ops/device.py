"""Devices, dtypes and CPU threads: the choice of each, and its defaults."""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from ..config import ModelConfig
from ..cores import allowed_cores
from ..errors import UsageError
from . import amx_block
from .native_calls import has_tiles

MAX_THREADS = 64
MIN_BFLOAT16_SPEEDUP = 1.3  # over float32 on a CPU; less is not worth the rounding
# of mallopt (malloc.h): M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes
MALLOC_OPTIONS = {-1: (1 << 31) - 1, -2: 64 << 20, -3: 1 << 30}


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto`: CUDA, else MPS, else the CPU. UsageError where this machine
    does not have it."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _mps()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.split(":")[0]
    if kind not in available:
        raise UsageError(f"--device {name}: no such device; known: auto, {', '.join(available)}")
    if not available[kind]:
        raise UsageError(f"--device {name}: this machine has none; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error


def _mps() -> bool:
    return torch.backends.mps.is_available()


@functools.cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are clearly faster than in float32 on this device.

    A CPU is measured, in some 20 ms once per process: of two processors with the same bfloat16
    instructions, one takes a third of the time of float32 and the other nearly twice that.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpu = torch.cpu
    if device.type != "cpu" or not (
        cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    ):
        return False
    best_seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(5):
        for dtype, best in best_seconds.items():
            a, b = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
            start = time.perf_counter()
            torch.mm(a, b)
            best_seconds[dtype] = min(best, time.perf_counter() - start)
    return best_seconds[torch.float32] > MIN_BFLOAT16_SPEEDUP * best_seconds[torch.bfloat16]


def default_dtype(device: torch.device, model: ModelConfig) -> str:
    """bfloat16 where it makes training faster, else float32. On a CPU a narrow model gains nothing
    unless amx_block.c computes its blocks: overhead dominates its step."""
    by_tiles = has_tiles() and amx_block.supports_config(model)
    wide_enough = device.type != "cpu" or model.width >= 96 or by_tiles
    return "bfloat16" if wide_enough and has_fast_bfloat16(device) else "float32"


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def use_threads(threads: int) -> int:
    """Sets torch's CPU threads (0: all that this process may use), and returns their number."""
    if not threads:
        threads = min(torch.get_num_threads(), allowed_cores())
    threads = min(threads, MAX_THREADS)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


@functools.cache
def keep_freed_memory() -> None:
    """Makes glibc keep freed memory. Every training step allocates the same tensors, and getting
    their pages from the kernel each time takes 5 to 10 % of a small model's step."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a C library other than glibc
        return
    for name, value in MALLOC_OPTIONS.items():
        mallopt(name, value)
