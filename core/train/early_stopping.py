"""Early stopping: which checkpoint is best, and whether training may end.

A score that a checkpoint was selected by is biased. So the items that select are never those of the
final score (`prepare`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import TrainConfig
from ..errors import UsageError

PLATEAU_EVALUATIONS = 3  # the patience of --until plateau, without --patience
BOUND = re.compile(r"\s*([a-z_]+)\s*([<>])\s*(\d+(?:\.\d*)?)\s*")


@dataclass(frozen=True)
class Bound:
    """The goal that a metric is below a value, or above it."""

    metric: str
    value: float
    above: bool

    def is_reached(self, measured: float) -> bool:
        return measured > self.value if self.above else measured < self.value


def bound_of(until: str) -> Bound | None:
    """The goal of `--until`; None for 'plateau'. UsageError if it is neither."""
    if until == "plateau":
        return None
    match = BOUND.fullmatch(until)
    if not match:
        raise UsageError(
            f"--until {until}: must be plateau, or METRIC<NUMBER as bits_per_byte<1.6 (METRIC> for "
            "one of which more is better)"
        )
    return Bound(match[1], float(match[3]), match[2] == ">")


def check_until(until: str, unit: str, lossless: bool, measures: Mapping[str, bool]) -> None:
    """UsageError if `--until` names a metric that is not measured while training, or asks for a
    worse value. measures: those of the task, and whether more is better."""
    bound = bound_of(until) if until else None
    known = {**({f"bits_per_{unit}": False} if lossless else {}), "nats_per_token": False}
    known |= measures
    if bound and bound.metric not in known:
        raise UsageError(f"--until {until}: this run measures {', '.join(known)}")
    if bound and known[bound.metric] != bound.above:
        better, sign = ("more", ">") if known[bound.metric] else ("less", "<")
        raise UsageError(f"--until {until}: {better} is better, write {bound.metric}{sign}NUMBER")


@dataclass
class EarlyStopping:
    """The evaluations so far; saved with a checkpoint."""

    best: float | None = None  # nats per token
    best_step: int | None = None
    waited: int = 0  # evaluations since the best one
    reached: bool = False  # whether the goal of --until is reached

    def see(
        self, step: int, nats: float, measured: Mapping[str, float], config: TrainConfig
    ) -> bool:
        """Records an evaluation. Returns whether it is the best so far; NaN never is."""
        better = nats < float("inf") and (self.best is None or nats < self.best)
        if better:
            self.best, self.best_step, self.waited = nats, step, 0
        else:
            self.waited += 1
        if config.until:
            bound = bound_of(config.until)
            self.reached = (
                self.waited >= _patience(config)
                if bound is None
                else bound.is_reached(measured[bound.metric])
            )
        return better

    def is_over(self, config: TrainConfig) -> bool:
        patience = _patience(config)
        return self.reached or bool(patience and self.waited >= patience)

    def summary(self, config: TrainConfig) -> dict[str, Any]:
        """The fields that early stopping adds to the final scores."""
        ended = "until" if self.reached else "patience" if self.is_over(config) else "steps"
        out = {"best_step": self.best_step, "ended_by": ended}
        return {**out, "until": config.until, "reached": self.reached} if config.until else out


def _patience(config: TrainConfig) -> int:
    return config.patience or (PLATEAU_EVALUATIONS if config.until == "plateau" else 0)
