"""The compiled C library of this machine, and the folder that caches it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from .folders import cache_folder

if TYPE_CHECKING:
    from ctypes import CDLL


def compiler() -> str:
    """The command of the C compiler that builds core/ops/c."""
    return os.environ.get("CC") or "cc"


def compile_in_background() -> None:
    """Builds the C library in a thread, to overlap with the import of torch."""
    from ..core.ops.native_library import build

    threading.Thread(target=build, args=(cache_folder(), compiler())).start()


def compiled() -> CDLL | None:
    """The library built from core/ops/c; None without a C compiler."""
    from ..core.ops.native_library import library

    return library(cache_folder(), compiler())


def use_kernels() -> None:
    """Makes training in this process use the C kernels of core/ops/c."""
    from ..core.ops import native_calls

    native_calls.load(compiled())
