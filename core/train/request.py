"""What the flags of `tfm train` ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..runs.run import Run

Note = Callable[[str], None]  # takes a sentence for people; nothing below prints
DEFAULT_BUDGET = 120.0  # seconds, where nothing says how long


@dataclass(frozen=True)
class Request:
    """What the flags of `train` say."""

    task: str | None = None
    task_options: Mapping[str, object] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    column: str | None = None
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    holdout: float | None = None
    tokenizer: str | None = None
    arch: str = "transformer"
    size: str | None = None
    context: int | None = None
    budget: float | None = None
    steps: int | None = None
    tokens: int | None = None
    seed: int = 0
    device: str = "auto"
    init: Run | None = None
    sets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
