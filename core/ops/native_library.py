"""The C library: the code in c/, compiled by the machine's C compiler on first use and cached in a
folder. Without a compiler there is no library, and torch does its work.

This file does not import torch, so that compiling and importing torch can run at the same time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

C_FOLDER = Path(__file__).parent / "c"
SOURCES = tuple(C_FOLDER / name for name in ("decode_step.c", "training_ops.c", "amx_block.c"))
HEADERS = tuple(C_FOLDER / name for name in ("simd.h", "tiles.h", "training_ops.h"))
FLAGS = ("-O2", "-march=native", "-ffp-contract=fast", "-fopenmp-simd", "-fPIC", "-shared")
OPENMP_FLAGS = ("-fopenmp",)  # Apple's compiler has no OpenMP: the library then uses one thread
COMPILER_TIMEOUT_SECONDS = 60  # compiling takes about one
RETRY_SECONDS = 86_400  # after which a compiler that failed is run again

_lock = threading.Lock()
_built: dict[tuple[Path, str], Path | None] = {}


def library(cache: Path, compiler: str = "cc") -> ctypes.CDLL | None:
    """The compiled library, loaded; None where `build` returns None or the file cannot be loaded.
    Import torch first, so that both use the same OpenMP runtime."""
    path = build(cache, compiler)
    try:
        return None if path is None else ctypes.CDLL(str(path))
    except OSError:
        return None


def build(cache: Path, compiler: str = "cc") -> Path | None:
    """The library's file in `cache`, compiled by `compiler` (a command and its arguments) where it
    is missing or damaged. None if there is no such command, it fails or `cache` is read-only."""
    with _lock:
        if (cache, compiler) not in _built:
            try:
                _built[cache, compiler] = _build(cache / "native", compiler.split())
            except (OSError, subprocess.SubprocessError):
                _built[cache, compiler] = None
        return _built[cache, compiler]


def _build(folder: Path, command: list[str]) -> Path | None:
    if not command or shutil.which(command[0]) is None:
        return None
    version = _run([*command, "--version"]).stdout
    sources = [source.read_bytes() for source in (*SOURCES, *HEADERS)]
    inputs = (*sources, *FLAGS, *OPENMP_FLAGS, *command, version, *_processor())
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / f"step-{key}.failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
        return None
    for path in sorted(folder.glob(f"step-{key}-*.so")):
        if path.name == _name(key, path.read_bytes()):
            return path
        path.unlink()  # damaged: loading it could crash the process
    try:
        return _compile(folder, key, command)
    except subprocess.CalledProcessError as error:
        if error.returncode > 0:  # the compiler failed; below 0 a signal ended it
            failed.write_bytes(error.stderr)
        return None


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=COMPILER_TIMEOUT_SECONDS)


def _name(key: str, content: bytes) -> str:
    return f"step-{key}-{hashlib.sha256(content).hexdigest()}.so"


def _compile(folder: Path, key: str, command: list[str]) -> Path:
    """Writes the library atomically. CalledProcessError where the compiler fails."""
    with tempfile.TemporaryDirectory(prefix=".step-", dir=folder) as temporary:
        compiled = Path(temporary) / "step.so"
        for flags in ((*FLAGS, *OPENMP_FLAGS), FLAGS):
            done = _run([*command, *flags, "-o", str(compiled), *map(str, SOURCES), "-lm"])
            if done.returncode == 0:
                break
        done.check_returncode()
        path = folder / _name(key, compiled.read_bytes())
        os.replace(compiled, path)
    return path


def _processor() -> tuple[str, ...]:
    """The processor, on which -march=native depends: machines may share a cache folder."""
    return (sys.platform, platform.machine(), platform.processor(), *sorted(set(_cpuinfo())))


def _cpuinfo() -> Iterator[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith(("model name", "flags", "Features", "CPU part")):
            yield line
