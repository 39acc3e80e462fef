"""Helpers of the benchmark scripts: running tfm, naming the machine, printing tables."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"


def tfm(*args: object, folder: Path) -> str:
    """The standard output of a tfm command, run in `folder`."""
    command = [sys.executable, "-m", "tfm", *map(str, args)]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.strip()


def tfm_json(*args: object, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tfm(*args, "--json", folder=folder))
    return found


def workspace() -> Path:
    return Path(tempfile.mkdtemp(prefix="tfm-bench-"))


def heading() -> None:
    """The command, machine and date, which every published figure needs."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    script = Path(sys.argv[0]).name
    print(f"python benchmarks/{script} {' '.join(sys.argv[1:])}".rstrip())
    print(
        f"{date.today()}, {cpu}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}\n"
    )


def use_kernels() -> Any:
    """Makes training in this process use the C kernels, as `tfm train` does."""
    from tfm.core.ops import native_calls, native_library

    library = native_library.library(Path(tempfile.mkdtemp(prefix="tfm-bench-")))
    native_calls.load(library)
    return library


def nanogpt(clone: Path, layers: int, heads: int, width: int, vocab: int, context: int) -> Any:
    """The model of karpathy/nanoGPT, from a checkout."""
    name = "nanogpt_model"
    spec = importlib.util.spec_from_file_location(name, clone / "model.py")
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.GPT(
        module.GPTConfig(
            block_size=context,
            vocab_size=vocab,
            n_layer=layers,
            n_head=heads,
            n_embd=width,
            dropout=0.0,
            bias=False,
        )
    )


def table(rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table; the first row is its heading."""
    print("| " + " | ".join(map(str, rows[0])) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def interleaved(
    contenders: dict[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[float, float, float]]:
    """(median, minimum, maximum) seconds of each call, run in turn so that drift affects all."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {n: (statistics.median(t), min(t), max(t)) for n, t in times.items()}
