"""`Request`: the settings of `tfm train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..config import parse_value
from ..errors import UsageError
from ..runs.run import Run

Note = Callable[[str], None]  # takes a message for the user; the core does not print
DEFAULT_BUDGET = 120.0  # seconds


@dataclass(frozen=True)
class Request:
    """The flags of `tfm train`, under the same names. sets: of `--set`, by section and field.
    final_part: of the held-out items that the final score is of; a budget decides it by itself."""

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
    nproc: int = 1
    shard: bool = False
    init: Run | None = None
    sets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    final_part: float = 1.0

    def __post_init__(self) -> None:
        """UsageError for adapters of a model that has learned nothing."""
        if self.lora and self.init is None:
            raise UsageError(
                f"--lora {self.lora}: adapts a trained model; name it with --init, or leave --lora "
                "out"
            )

    @property
    def lora(self) -> int:
        """The rank of adapters, see `TrainConfig.lora`. ConfigError if it is not a number."""
        rank: int = parse_value(self.sets.get("train", {}).get("lora", 0), int, "train.lora")
        return rank


@dataclass(frozen=True)
class Deadline:
    """The time by which the command must end. end: as read from `clock`, in seconds."""

    end: float
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        """The seconds that are left."""
        return self.end - self.clock()
