"""Which checkpoint is best and when training may end, by what is scored while it goes on.

Only a run whose final score is of other items chooses (`prepare`): a score that was chosen by is
no measure any more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import TrainConfig
from ..errors import UsageError

PLATEAU = 3  # evaluations in a row without a better one, where --patience says nothing
BOUND = re.compile(r"\s*([a-z_]+)\s*<\s*(\d+(?:\.\d*)?)\s*")


def bound_of(until: str) -> tuple[str, float] | None:
    """(metric, what it must get below) of `--until`; none for 'plateau'. UsageError."""
    if until == "plateau":
        return None
    match = BOUND.fullmatch(until)
    if not match:
        raise UsageError(f"--until {until}: must be plateau, or METRIC<NUMBER as bits_per_byte<1.6")
    return match[1], float(match[2])


def check_until(until: str, unit: str, lossless: bool) -> None:
    """UsageError where `--until` asks for what is not measured while training."""
    bound = bound_of(until) if until else None
    known = [*([f"bits_per_{unit}"] if lossless else []), "nats_per_token"]
    if bound and bound[0] not in known:
        raise UsageError(f"--until {until}: this run measures {', '.join(known)}")


@dataclass
class EarlyStopping:
    """What has been seen so far; a part of a checkpoint's state."""

    best: float | None = None  # nats per token
    best_step: int | None = None
    waited: int = 0  # evaluations since
    reached: bool = False  # what --until asks for

    def see(
        self, step: int, nats: float, measured: Mapping[str, float], config: TrainConfig
    ) -> bool:
        """Takes an evaluation; whether it is the best so far. A NaN never is."""
        better = nats < float("inf") and (self.best is None or nats < self.best)
        if better:
            self.best, self.best_step, self.waited = nats, step, 0
        else:
            self.waited += 1
        if config.until:
            bound = bound_of(config.until)
            self.reached = (
                self.waited >= _patience(config) if bound is None else measured[bound[0]] < bound[1]
            )
        return better

    def is_over(self, config: TrainConfig) -> bool:
        patience = _patience(config)
        return self.reached or bool(patience and self.waited >= patience)

    def summary(self, config: TrainConfig) -> dict[str, Any]:
        """For the final scores."""
        ended = "until" if self.reached else "patience" if self.is_over(config) else "steps"
        out = {"best_step": self.best_step, "ended_by": ended}
        return {**out, "until": config.until, "reached": self.reached} if config.until else out


def _patience(config: TrainConfig) -> int:
    return config.patience or (PLATEAU if config.until == "plateau" else 0)
