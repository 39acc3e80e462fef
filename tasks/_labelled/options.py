"""Fields of the options of a task, each a flag."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(help: str, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


def inherited(help: str, default: Any = None, **more: Any) -> Any:
    """An option that --init takes from the run: its tokenizer depends on it."""
    return option(help, default, inherited=True, **more)
