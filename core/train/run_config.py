"""The content of config.json for a new run."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..config import tfm_version
from ..ops.native_calls import version as kernels_version
from ..plugins import name_of
from .budget import Plan
from .prepare import Prepared
from .request import Request


def describe_config(
    request: Request, prepared: Prepared, plan: Plan, argv: list[str], origins: dict[str, str]
) -> dict[str, Any]:
    """Every setting and its origin, a hash of the data, the versions of Python and libraries."""
    import numpy

    return {
        "tfm": tfm_version(),
        "task": prepared.task.name,
        "task_options": asdict(prepared.task.options),
        "arch": request.arch,
        "size": plan.size,
        "model": asdict(plan.model),
        "train": asdict(plan.train),
        "plan": plan.about,
        "data": {
            "paths": [
                p if p == "-" or p.startswith("hf:") else str(Path(p).absolute())
                for p in request.data
            ],
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
        "init": str(request.init.path.absolute()) if request.init else None,
        "device": plan.device.type,
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
