"""The plan of a training: size and number of steps for a time budget, by measuring this machine.

With `--steps` or `--tokens` nothing is measured, and the rules of sizing.py alone decide.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import ModelConfig, TrainConfig, parse_value
from ..cores import Usage, allowed_cores
from ..data.datasets import step_batch
from ..model.lora import adapt
from ..model.sequence_model import SequenceModel
from ..ops.device import pick_device, use_threads
from ..protocols import Dataset
from ..score.likelihood import batch_nll
from .backend import warmup_steps
from .loop import train
from .optim import make_optimizers
from .prepare import Prepared, training_data
from .request import Deadline, Note, Request
from .sizing import choose_size, fit_context, make_configs, steps_for, tokens_seen

MEASURING_SHARE = 0.02  # of the budget, for measuring one size; `fit` corrects the steps later
MAX_MEASURING_SECONDS = 5.0
MEASURED_STEPS = 3
SLOW = 3.0  # times the time for measuring, after which one step must do
HARDLY_SECONDS = 0.05  # for measuring, in a budget of two seconds after all preparation
EVALUATION_SHARE = 0.05  # of the budget, at most, for the final score
EVALUATIONS = 8  # in a run, roughly, if train.eval_every is 0
PROGRESS_TOKENS = 16384  # scored at each evaluation while training, about
PROGRESS_SHARE = 0.1  # of the time for training, at most, for evaluations on the way
TEARDOWN_SECONDS = 0.2  # from the final score to the exit: saving, printing a sample
SHORT_SECONDS = 10.0  # a budget for which measuring a large size would cost too much
FEW_STEPS = 10  # of a training that the budget was too short for
SAMPLE_BATCHES = 64  # batches of training data that are prepared for measuring


@dataclass(frozen=True)
class Speed:
    """Speed as measured on this machine and this data."""

    step_seconds: float
    eval_tokens_per_second: float
    target_share: float = 1.0  # of the positions of training rows that have a target


@dataclass
class Plan:
    model: ModelConfig
    train: TrainConfig
    size: str
    tokens: int | None  # of training data that must be prepared; None for all
    data: Dataset
    device: torch.device
    about: dict[str, Any]  # what was measured, and final_part, for the run's config


def measure(
    model_config: ModelConfig,
    config: TrainConfig,
    data: Dataset,
    device: torch.device,
    seconds: float,
) -> Speed:
    """Trains a new model for about `seconds`, and returns its mean speed after the warm-up: of at
    least MEASURED_STEPS steps, or of one if there is hardly any time or steps are slow."""
    enough = MEASURED_STEPS if seconds >= HARDLY_SECONDS else 1
    model = SequenceModel(model_config)
    adapt(model, config.lora, config.seed)
    model.to(device)
    times: list[float] = []
    until = time.perf_counter() + seconds
    at_last = until + (SLOW - 1) * seconds
    config = replace(config, steps=1_000_000)
    for step in train(model, data, config, make_optimizers(model, config)):
        if step.index > warmup_steps(device):
            times.append(step.seconds)
        now = time.perf_counter()
        if len(times) >= enough and now > until or times and now > at_last:
            break
    batch = step_batch(data, 0, config.batch, 0)
    model.eval()
    batch_nll(model, batch).sum().item()
    began = time.perf_counter()
    batch_nll(model, batch).sum().item()
    tokens_per_second = batch.ids.size / (time.perf_counter() - began)
    target_share = float((batch.weight[:, 1:] != 0).mean())
    return Speed(sum(times) / len(times), tokens_per_second, target_share)


def by_free_cores(measure: Callable[..., Speed], note: Note) -> Callable[..., Speed]:
    """`measure`, which measures once more with fewer threads if other processes use some of the
    cores, and leaves the faster number of threads set: threads wait for the slowest of them."""

    def measured(*args: Any) -> Speed:
        usage, threads = Usage(), torch.get_num_threads()
        speed = measure(*args)
        others = usage.by_others()
        fewer = max(1, round(allowed_cores() - others))
        if fewer >= threads:
            return speed
        use_threads(fewer)
        with_fewer = measure(*args)
        ratio = speed.step_seconds / with_fewer.step_seconds
        if ratio < 1:
            use_threads(threads)
            return speed
        note(
            f"other processes use {others:.1f} of {allowed_cores()} cores: train.threads={fewer} "
            f"is {ratio:.1f} times as fast as {threads}"
        )
        return with_fewer

    return measured


def make_plan(
    request: Request,
    prepared: Prepared,
    deadline: Deadline | None,
    cache: Path,
    note: Note,
    measure: Callable[..., Speed] = measure,
) -> Plan:
    """The plan for a request. deadline: the end of the time budget; None if the request has a
    number of steps or tokens, and then `measure` is not called."""
    device = pick_device(request.device)
    threads = parse_value(request.sets.get("train", {}).get("threads", 0), int, "train.threads")
    use_threads(threads)
    if not threads and request.nproc == 1 and device.type == "cpu":
        measure = by_free_cores(measure, note)
    planner = Planner(request, prepared, device, cache)
    size = request.size or "tiny"
    if deadline is not None and request.size is None and deadline.left() < SHORT_SECONDS:
        size = "nano"
    if deadline is None:
        return planner.by_steps(size, note)
    return planner.by_budget(size, deadline, note, measure)


class Planner:
    """Everything that stays the same while sizes are tried."""

    def __init__(
        self, request: Request, prepared: Prepared, device: torch.device, cache: Path
    ) -> None:
        task, tokenizer = prepared.task, prepared.tokenizer
        self.defaults = task.defaults(prepared.train, tokenizer)
        self.request, self.prepared, self.device, self.cache = request, prepared, device, cache
        self.longest = task.longest(prepared.train, tokenizer)
        self.training_tokens = math.inf  # not needed if the task has its own defaults
        if not self.defaults:  # estimated from the held-out items, which are tokenized already
            final = prepared.final_split
            tokens = sum(len(s) - s.given for s in prepared.heldout[final])
            self.training_tokens = tokens * prepared.train.size / max(prepared.held[final].size, 1)

    def configs(self, size: str, tokens: float | None = None) -> tuple[ModelConfig, TrainConfig]:
        return make_configs(
            self.request,
            self.prepared.tokenizer,
            size,
            self.longest,
            self.device,
            tokens,
            self.training_tokens,
            self.defaults,
        )

    def model_of(self, size: str) -> ModelConfig:
        return self.configs(size)[0]

    def dataset(self, model: ModelConfig, tokens: int) -> Dataset:
        prepared = self.prepared
        return training_data(
            prepared.task,
            prepared.train,
            prepared.tokenizer,
            model,
            tokens,
            self.request.seed,
            self.cache,
        )

    def by_steps(self, size: str, note: Note) -> Plan:
        """A plan of the requested number of steps or tokens."""
        request = self.request
        model, train = self.configs(size)
        asked = (request.steps or 0) * _step_tokens(model, train) or request.tokens or 0
        model, train = self.configs(size, asked)
        steps = request.steps or steps_for(request.tokens or 0, train, model.context)
        tokens = steps * _step_tokens(model, train)
        data = self.dataset(model, tokens)
        model = fit_context(model, data, note)
        train = replace(train, steps=steps)
        part = request.final_part
        about = {"final_part": part} if part < 1 else {}
        return Plan(model, train, size, tokens, data, self.device, about)

    def by_budget(
        self, size: str, deadline: Deadline, note: Note, measure: Callable[..., Speed]
    ) -> Plan:
        """A plan of as many steps as there is time for at the measured speed."""
        model, train = self.configs(size)
        began = deadline.clock()
        sample = SAMPLE_BATCHES * train.batch * model.context  # tokens
        data = self.dataset(model, sample)
        seconds_per_token = (deadline.clock() - began) / sample  # an upper bound, of preparing data
        budget = deadline.left()

        # measure a size and choose a size by its speed, until the chosen one has been measured
        speeds: dict[tuple[object, ...], Speed] = {}
        while (kind := (size, train.batch, model.dropout > 0, train.compile)) not in speeds:
            fitted = fit_context(model, data, lambda _: None)
            seconds = min(MAX_MEASURING_SECONDS, MEASURING_SHARE * budget)
            rows = -(-train.batch // self.request.nproc)  # of one process
            measured = replace(train, batch=rows)
            speed = speeds[kind] = measure(fitted, measured, data, self.device, seconds)
            tokens_per_second = _step_tokens(fitted, train) / speed.step_seconds
            seen = tokens_seen(size, deadline.left() * tokens_per_second, self.model_of)
            if self.request.size is None and self.request.init is None:
                targets = {name: speed.target_share * tokens for name, tokens in seen.items()}
                size = choose_size(targets, self.model_of, self.training_tokens)
            model, train = self.configs(size, seen[size])
            data = self.dataset(model, sample)
        speed, model = speeds[kind], fit_context(model, data, note)

        # reserve time for the final score; if all held-out items take too long, score a part
        final = self.prepared.heldout[self.prepared.final_split]
        held = sum(map(len, final)) + self.prepared.task.model_metrics_tokens(final, None)
        scoring = min(held / speed.eval_tokens_per_second, EVALUATION_SHARE * budget)
        reserve = 1.3 * scoring + TEARDOWN_SECONDS
        final_part = min(1.0, 1.05 * scoring * speed.eval_tokens_per_second / max(held, 1))

        # the rest is for steps and for preparing their data
        step_tokens = _step_tokens(model, train)
        preparing = seconds_per_token * step_tokens
        if self.prepared.train.size <= 4 * sample:  # small data is prepared as a whole, already
            preparing = 0.0
        steps = max(1, int((deadline.left() - reserve) / (speed.step_seconds + preparing)))
        tokens = steps * step_tokens
        if not train.compile:  # another dropout rate would compile the model again
            model = replace(model, dropout=self.configs(size, tokens)[0].dropout)
        data = self.dataset(model, tokens)
        fitting = int((deadline.left() - reserve) / speed.step_seconds)
        train = replace(train, steps=max(1, min(steps, fitting)))
        if not (train.eval_every or train.patience or train.until):
            scored = min(PROGRESS_TOKENS, sum(map(len, final)))
            every = _eval_every(train.steps, speed, scored)
            train = replace(train, eval_every=every)
        whole = self.request.budget or 0.0
        if train.steps < FEW_STEPS and whole:
            spent = whole - max(0.0, deadline.left())
            note(
                f"preparing the data took {spent:.1f} s of the budget of {whole:g} s: "
                f"hardly any time to train (steps: {train.steps}); raise --budget"
            )
        about = {
            "budget_seconds": self.request.budget,
            "step_seconds": speed.step_seconds,
            "eval_tokens_per_second": speed.eval_tokens_per_second,
            "reserve_seconds": reserve,
            "final_part": final_part,
        }
        return Plan(model, train, size, tokens, data, self.device, about)


def _eval_every(steps: int, speed: Speed, tokens: int) -> int:
    """The steps between evaluations of so many tokens: 0, for the usual number of them, unless that
    would take more than PROGRESS_SHARE of the training."""
    seconds = max(1, tokens) / speed.eval_tokens_per_second
    affordable = int(PROGRESS_SHARE * steps * speed.step_seconds / seconds)
    return 0 if affordable >= EVALUATIONS else -(-steps // (affordable + 1))


def _step_tokens(model: ModelConfig, train: TrainConfig) -> int:
    return train.batch * train.accumulate * model.context
