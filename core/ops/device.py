"""Where the numbers are worked out, and in which precision."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from ..config import ModelConfig
from ..errors import UsageError
from . import amx_block
from .native_calls import has_tiles

MEASURED_THREADS_MAX = 64
MALLOC = {-1: (1 << 31) - 1, -2: 64 << 20, -3: 1 << 30}  # malloc.h: trim, top pad, mmap thresholds


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: CUDA, then MPS, then the CPU. UsageError where the one asked for is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _mps()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    kind = name.split(":")[0]
    if kind not in there:
        raise UsageError(f"--device {name}: no such device; known: auto, {', '.join(there)}")
    if not there[kind]:
        raise UsageError(f"--device {name}: this machine has none; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error


def _mps() -> bool:
    return torch.backends.mps.is_available()


FASTER = 1.3  # times, that bfloat16 must be for it to be worth rounding


@functools.cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are clearly faster here than in float32.

    A CPU is asked by multiplying, some 20 ms once a process: with the same instructions for it,
    one kind of processor takes a third of float32's time and another nearly twice that.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpu = torch.cpu
    if device.type != "cpu" or not (
        cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    ):
        return False
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(5):
        for dtype, least in best.items():
            a, b = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
            began = time.perf_counter()
            torch.mm(a, b)
            best[dtype] = min(least, time.perf_counter() - began)
    return best[torch.float32] > FASTER * best[torch.bfloat16]


def default_dtype(device: torch.device, model: ModelConfig) -> str:
    """bfloat16 where the device gains from it; on a CPU a narrow model's step is all overhead, but
    for blocks by tiles."""
    wide_enough = (
        device.type != "cpu" or model.width >= 96 or (has_tiles() and amx_block.knows(model))
    )
    return "bfloat16" if wide_enough and has_fast_bfloat16(device) else "float32"


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def use_threads(threads: int) -> int:
    """Sets the CPU threads (0: as many as this process may use), and says how many."""
    if not threads:
        threads = torch.get_num_threads()
        if hasattr(os, "sched_getaffinity"):
            threads = min(threads, len(os.sched_getaffinity(0)))
    threads = min(threads, MEASURED_THREADS_MAX)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


@functools.cache
def keep_freed_memory() -> None:
    """Has glibc keep what is freed: a training step allocates the same tensors again and again,
    and taking their pages anew costs 5 to 10 % of a small model's step."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for name, value in MALLOC.items():
        mallopt(name, value)
