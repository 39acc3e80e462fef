"""The content of config.json for a new run."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..config import tfm_version
from ..data.scratch import STANDARD_INPUT, is_stream, streamed
from ..ops.native_calls import version as kernels_version
from ..plugins import name_of
from .budget import Plan
from .prepare import Prepared
from .request import Request


def stream_copies(paths: tuple[str, ...]) -> dict[str, str]:
    """The streams among `paths` (`-` for standard input), each with the name of its copy in the
    run: no other copy of their data exists."""
    streams = {
        _lasting(path): "".join(streamed(path).suffixes) for path in paths if is_stream(path)
    }
    pipes = [path for path in streams if path != "-"]
    names = {path: f"pipe-{number}{streams[path]}" for number, path in enumerate(pipes, 1)}
    return names | ({"-": f"stdin{streams['-']}"} if "-" in streams else {})


def _lasting(path: str) -> str:
    """A path that does not depend on the working folder; `-` for every name of standard input."""
    if path.startswith("hf:"):
        return path
    return "-" if path in STANDARD_INPUT else str(Path(path).absolute())


def describe_config(
    request: Request, prepared: Prepared, plan: Plan, argv: list[str], origins: dict[str, str]
) -> dict[str, Any]:
    """Every setting and its origin, a hash of the data, the versions of Python and libraries."""
    import numpy

    return {
        "tfm": tfm_version(),
        "task": prepared.task.name,
        "task_options": asdict(prepared.task.options),
        "parts": prepared.task.members(prepared.train, prepared.tokenizer),
        "arch": request.arch,
        "size": plan.size,
        "model": asdict(plan.model),
        "train": asdict(plan.train),
        "plan": plan.about,
        "data": {
            "paths": [_lasting(path) for path in request.data],
            "streams": stream_copies(request.data),
            "default": not request.data,
            "about": prepared.source.describe(),
            "column": request.column,
            "valid": list(request.valid),
            "test": list(request.test),
            "holdout": request.holdout,
            "fingerprint": prepared.train.fingerprint,
            "tokens": plan.tokens,
            "read": prepared.description.record if prepared.description else None,
        },
        "tokenizer": {
            "spec": prepared.tokenizer_spec,
            "kind": name_of("tokenizers", type(prepared.tokenizer)),
        },
        "final_split": prepared.final_split,
        "floor": prepared.floor,
        "quick_floor": prepared.quick_floor,
        "init": request.init.address if request.init else None,
        "pretrained": request.init.pretrained if request.init else None,
        "device": plan.device.type,
        "processes": request.nproc,
        "shard": request.shard,
        "origins": origins,
        "argv": argv,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "kernels": kernels_version(),
            "platform": sys.platform,
        },
    }
