"""The C code in c/ as a library: compiled by the machine's C compiler when it is first asked for,
and kept in a cache folder. Where that cannot be, there is none, and torch does the work.

This file imports no torch, so that a compiler can work while torch is being imported.
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

C = Path(__file__).parent / "c"
SOURCES = tuple(C / name for name in ("decode_step.c", "training_ops.c", "amx_block.c"))
HEADERS = tuple(C / name for name in ("simd.h", "training_ops.h"))
FLAGS = ("-O2", "-march=native", "-ffp-contract=fast", "-fopenmp-simd", "-fPIC", "-shared")
PARALLEL = ("-fopenmp",)  # tried first; Apple's compiler has none, and one thread is what is left
PATIENCE = 60  # seconds that a compiler gets; it takes about one
AGAIN = 86_400  # seconds after which a compiler that failed is asked again

_lock = threading.Lock()
_built: dict[tuple[Path, str], Path | None] = {}


def library(cache: Path, compiler: str = "cc") -> ctypes.CDLL | None:
    """What was compiled; none where `build` gives none or the system cannot load it. Torch must
    have been imported, so that both share one OpenMP."""
    path = build(cache, compiler)
    try:
        return None if path is None else ctypes.CDLL(str(path))
    except OSError:
        return None


def build(cache: Path, compiler: str = "cc") -> Path | None:
    """The library's file in `cache`, made by `compiler` (a command and its arguments) where it is
    not there whole. None where there is no such command, it fails, or `cache` cannot be written."""
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
    said = subprocess.run([*command, "--version"], capture_output=True, timeout=PATIENCE).stdout
    sources = [source.read_bytes() for source in (*SOURCES, *HEADERS)]
    about = (*sources, *FLAGS, *PARALLEL, *command, said, *_processor())
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / f"step-{key}.failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < AGAIN:
        return None
    for path in sorted(folder.glob(f"step-{key}-*.so")):
        if path.name == _name(key, path.read_bytes()):
            return path
        path.unlink()  # damaged: to load it might crash
    try:
        return _compile(folder, key, command)
    except subprocess.CalledProcessError as error:
        if error.returncode > 0:  # not a signal
            failed.write_bytes(error.stderr)
        return None


def _name(key: str, content: bytes) -> str:
    return f"step-{key}-{hashlib.sha256(content).hexdigest()}.so"


def _compile(folder: Path, key: str, command: list[str]) -> Path:
    """Writes the library, whole or not at all. CalledProcessError where the compiler fails."""
    with tempfile.TemporaryDirectory(prefix=".step-", dir=folder) as fresh:
        made = Path(fresh) / "step.so"
        for flags in ((*FLAGS, *PARALLEL), FLAGS):
            done = subprocess.run(
                [*command, *flags, "-o", str(made), *map(str, SOURCES), "-lm"],
                capture_output=True,
                timeout=PATIENCE,
            )
            if done.returncode == 0:
                break
        done.check_returncode()
        kept = folder / _name(key, made.read_bytes())
        os.replace(made, kept)
    return kept


def _processor() -> tuple[str, ...]:
    """What -march=native depends on: a cache folder may be shared by several machines."""
    return (sys.platform, platform.machine(), platform.processor(), *sorted(set(_cpuinfo())))


def _cpuinfo() -> Iterator[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith(("model name", "flags", "Features", "CPU part")):
            yield line
