"""The plan of a study: the configs of its contestants, their speed, and the tokens that a budget
buys."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from ctypes import CDLL
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..bench import TrainingSpeed, measure_training
from ..config import ModelConfig, TrainConfig
from ..train.budget import Planner
from ..train.prepare import Prepared
from ..train.request import Request
from .contestant import Contestant
from .executors import LocalProcesses
from .worker import Worker

MEASURING_SECONDS = 1.0  # of the speed of one contestant
MEASURING_LR = 1e-6
SLACK = 1.1  # of the time that training takes in several processes, over that of one alone
RUN_SECONDS = 1.0  # of a run beside its steps and its score
SCORING_SPEED = 3.0  # tokens scored in the time of one that is trained on, about
SCORING_SHARE = 0.2  # of the time of all runs, at most, for their scores
MIN_STEPS = 20  # of a run, however small the budget
MAX_OVERRUN = 1.3  # times the time that is left, from which on it is said


class Shapes:
    """The configs of contestants on the data of one request. prepared: of `request`; cache: a
    folder for what later trainings can reuse."""

    def __init__(
        self, request: Request, prepared: Prepared, device: torch.device, cache: Path
    ) -> None:
        self.request, self.prepared, self.device, self.cache = request, prepared, device, cache
        self._planner = Planner(request, prepared, device, cache)
        final = prepared.heldout[prepared.final_split]
        self.heldout_tokens = sum(map(len, final))
        self.scored_tokens = self.heldout_tokens + prepared.task.model_metrics_tokens(final, None)

    def configs(
        self, contestant: Contestant, tokens: float | None = None
    ) -> tuple[ModelConfig, TrainConfig]:
        """What `tfm train` would use for a training on `tokens` tokens, as far as it depends on
        their number (None: on many)."""
        planner = copy.copy(self._planner)
        planner.request = contestant.request(self.request)
        return planner.configs(self.request.size or "nano", tokens)

    def model(self, contestant: Contestant) -> ModelConfig:
        return self.configs(contestant)[0]

    def settled(self, contestant: Contestant, tokens: float) -> Contestant:
        """The contestant with the batch, the dtype and the learning rates of a training on `tokens`
        tokens as fields of its own, so that they are those of its shorter trainings too."""
        _, train = self.configs(contestant, tokens)
        names = ("batch", "dtype", "lr", "adam_lr")
        return contestant.with_sets(train={name: getattr(train, name) for name in names})


@dataclass(frozen=True)
class Speed:
    """Of training one contestant, in a process of its own with nothing else running. step_tokens:
    of an optimiser step; peak_bytes: of memory, None where the system does not tell."""

    tokens_per_second: float
    peak_bytes: int | None
    parameters: int
    flops_per_token: float
    step_tokens: int

    def record(self) -> dict[str, Any]:
        return asdict(self)


def measured_speed(
    shapes: Shapes,
    contestant: Contestant,
    tokens: float | None,
    threads: int,
    library: CDLL | None,
    seconds: float = MEASURING_SECONDS,
) -> Speed:
    """The speed of a contestant, by training it on random ids for about `seconds`. tokens: see
    `Shapes.configs`; library: the C library, see `native_calls.load`."""
    from ..model.sequence_model import on_meta

    model, train = shapes.configs(contestant, tokens)
    # the time of a step does not depend on the rates, and at these no contestant diverges
    lr = MEASURING_LR
    train = replace(train, threads=threads, steps=1_000_000, seed=0, lr=lr, adam_lr=lr)
    worker = Worker(threads, shapes.cache, None if library is None else str(library._name))
    processes = LocalProcesses(1, worker)
    try:
        call = processes.submit(measure_training, model, train, shapes.device, seconds)
        found: TrainingSpeed = call.result()
    finally:
        processes.close()
    return Speed(
        found.tokens_per_second,
        found.peak_bytes,
        on_meta(model).parameter_count(),
        found.flops_per_token,
        train.batch * train.accumulate * model.context,
    )


@dataclass(frozen=True)
class Load:
    """What one contestant has to train: `share` times the tokens of a run, in `runs` runs, at this
    speed."""

    share: float
    runs: int
    tokens_per_second: float
    step_tokens: int


def tokens_within(
    seconds: float, loads: Sequence[Load], processes: int, scored_tokens: int
) -> tuple[int, float]:
    """The tokens of a run with which all loads take about `seconds` on so many processes; at least
    MIN_STEPS steps, rounded down to two digits. And the part of the held-out items, of which a
    score passes `scored_tokens` through the model, for whose scores there is time."""
    left = seconds * processes / SLACK - RUN_SECONDS * sum(load.runs for load in loads)
    whole = sum(
        load.runs * scored_tokens / (SCORING_SPEED * load.tokens_per_second) for load in loads
    )
    scoring = min(whole, SCORING_SHARE * max(0.0, left))
    seconds_per_token = sum(load.share / load.tokens_per_second for load in loads)
    tokens = (left - scoring) / seconds_per_token
    least = MIN_STEPS * max(load.step_tokens for load in loads)
    return int(max(least, _two_digits(tokens))), scoring / whole if whole else 1.0


def overrun(expected: Mapping[str, Sequence[float]], seconds: float, processes: int) -> str | None:
    """What to say where the runs take much longer than the time that is left for them. expected: by
    contestant, the seconds that each of its runs trains."""
    each = [one for runs in expected.values() for one in runs]
    needed = (SLACK * sum(each) + RUN_SECONDS * len(each)) / processes
    if needed <= MAX_OVERRUN * max(seconds, 1.0):
        return None
    return (
        f"warning: the budget is too short for {len(each)} runs of at least {MIN_STEPS} steps: "
        f"they take about {needed:,.0f} s; give a longer --budget, or fewer --seeds or contestants"
    )


def _two_digits(number: float) -> int:
    if number < 10:
        return max(0, int(number))
    unit = 10.0 ** (int(math.log10(number)) - 1)
    return int(number // unit * unit)


def equal_time_tokens(tokens: int, speed: float, reference: float, near: float) -> int | None:
    """The tokens that a contestant trains on in the time in which the reference trains on `tokens`.
    speed, reference: tokens per second; None if their speeds differ by less than the part `near`,
    so that the run of equal tokens answers."""
    if abs(speed / reference - 1) < near:
        return None
    return max(1, round(tokens * speed / reference))
