"""Plans a training: model size, context, batch rows, dropout and number of steps.

`--budget` measures training speed on this machine and plans for it. `--steps` and `--tokens` use
the same table of shapes without measuring, so the plan depends on flags and data only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import SIZES, ModelConfig, TrainConfig, model_config, parse_value, with_fields
from ..data.datasets import step_batch
from ..errors import ConfigError
from ..model.sequence_model import SequenceModel, on_meta
from ..ops.device import default_dtype, pick_device, use_threads
from ..protocols import Dataset, Tokenizer
from ..score.likelihood import batch_nll
from .backend import can_compile, warmup_steps
from .loop import train
from .optim import make_optimizers
from .prepare import Prepared
from .request import Note, Request

# size -> (context, tokens per step). Narrow models on short contexts read the most text per second.
SHAPES = {
    "nano": (64, 3072),
    "tiny": (64, 3072),
    "small": (128, 4096),
    "base": (256, 8192),
    "large": (1024, 32768),
}
# A size is chosen if the budget lets it see so many tokens per parameter; the second number holds
# if the next smaller size would make more than MAX_PASSES over the training data.
MIN_TOKENS_PER_PARAMETER, MIN_REPEATED_TOKENS_PER_PARAMETER = 1.4, 1.0
MAX_PASSES = 24
MAX_PARAMETERS_PER_TOKEN = 30  # per token of training data; larger sizes are never chosen
MIN_STEPS, MIN_STEP_TOKENS = 400, 768  # with fewer steps, batches are halved, to no less than this
DROPOUT_FROM = 17  # passes times parameters per token of training data, where overfitting begins
DROPOUT_PER_DOUBLING, MAX_DROPOUT = 0.04, 0.5  # the rate grows with each doubling of DROPOUT_FROM
MAX_SCORING_FRACTION = 0.05  # of the budget, for the final score
MEASURE_FRACTION = 0.02  # of the budget, per measured size; replanning during training corrects it
MIN_COMPILE_SECONDS = 90  # of GPU training: torch.compile takes up to 20 s and halves a step
GPU_STEP_SECONDS, GPU_FLOPS = 0.004, 2e14  # of a step without torch.compile: launch overhead, rate
TEARDOWN_SECONDS = 0.5  # from the final score to the exit, with saving and a sample


@dataclass(frozen=True)
class Deadline:
    """The time at which training, scoring and saving must be done; `clock` counts seconds."""

    end: float
    clock: Callable[[], float] = time.monotonic

    def seconds_left(self) -> float:
        return self.end - self.clock()


@dataclass(frozen=True)
class Speed:
    """Speed measured on this machine and data: training step, and tokens scored per second."""

    step_seconds: float
    eval_tokens_per_second: float


@dataclass
class Plan:
    model: ModelConfig
    train: TrainConfig
    size: str
    tokens: int | None  # training tokens to prepare; None for all
    data: Dataset
    device: torch.device
    estimates: dict[str, Any]  # measured speeds and reserved seconds, for config.json; may be empty


# -- sizes and shapes ----------------------------------------------------------------------------


def context_and_rows(size: str, longest: int | None, context: int | None) -> tuple[int, int]:
    """(context, batch rows) of a size. `longest`: ids of the longest item, where the context must
    cover whole items; `context`: the value of --context."""
    usual, tokens = SHAPES[size]
    context = context or (longest - 1 if longest else usual)
    return context, max(1, round(tokens / context))


def step_tokens(config: TrainConfig, context: int) -> int:
    """Tokens per optimiser step, over all micro-batches."""
    return config.batch * config.accumulate * context


def steps_for(tokens: int, config: TrainConfig, context: int) -> int:
    return max(1, round(tokens / step_tokens(config, context)))


def tokens_seen(
    measured: str, tokens: float, config_of: Callable[[str], ModelConfig]
) -> dict[str, float]:
    """Estimates how many tokens each size would see in the time in which `measured` sees `tokens`.

    Time per token is assumed to grow with (parameters of blocks and head) ** 0.9, since wider
    matrix products are more efficient. `make_plan` measures the chosen size and chooses again.
    """

    def products(size: str) -> int:
        return on_meta(config_of(size)).product_parameter_count()

    return {size: tokens * (products(measured) / products(size)) ** 0.9 for size in SIZES}


def choose_size(
    seen: Mapping[str, float],
    config_of: Callable[[str], ModelConfig],
    train_tokens: float = math.inf,
) -> str:
    """The largest size that sees enough tokens per parameter and is not too large for the data.

    seen: tokens that each size would see within the budget; train_tokens: of the training data.
    """
    best, max_parameters = "nano", MAX_PARAMETERS_PER_TOKEN * train_tokens
    for size in SIZES:
        repeated = seen[best] > MAX_PASSES * train_tokens
        enough = MIN_REPEATED_TOKENS_PER_PARAMETER if repeated else MIN_TOKENS_PER_PARAMETER
        parameters = on_meta(config_of(size)).blocks_parameter_count()
        if seen[size] >= enough * parameters and parameters <= max_parameters:
            best = size
    return best


def rows_for(tokens: float, rows: int, context: int) -> int:
    """Batch rows for a training of `tokens`: `rows`, halved while there are under MIN_STEPS."""
    while (
        rows > 1 and tokens < MIN_STEPS * rows * context and rows * context >= 2 * MIN_STEP_TOKENS
    ):
        rows = (rows + 1) // 2
    return rows


def seconds_on_gpu(model: ModelConfig, tokens: float, rows: int) -> float:
    """A rough estimate of the training time of `tokens` on a GPU, without torch.compile."""
    work = 6 * on_meta(model).product_parameter_count() * tokens
    return GPU_STEP_SECONDS * tokens / (rows * model.context) + work / GPU_FLOPS


def dropout_for(passes: float, parameters_per_token: float) -> float:
    """The dropout rate for so many passes over the training data. Repetition causes overfitting,
    the sooner the more parameters there are per token of training data."""
    exposure = passes * parameters_per_token / DROPOUT_FROM
    return min(MAX_DROPOUT, round(DROPOUT_PER_DOUBLING * math.log2(max(1.0, exposure)), 2))


# -- the plan ------------------------------------------------------------------------------------


def measure(
    model_config: ModelConfig,
    config: TrainConfig,
    data: Dataset,
    device: torch.device,
    seconds: float,
) -> Speed:
    """Trains a throw-away model for about `seconds`; averages its steps after the warm-up ones."""
    model = SequenceModel(model_config).to(device)
    times: list[float] = []
    until = time.perf_counter() + seconds
    config = replace(config, steps=1_000_000)
    for step in train(model, data, config, make_optimizers(model, config)):
        if step.index > warmup_steps(device):
            times.append(step.seconds)
        if len(times) >= 3 and time.perf_counter() > until:
            break
    batch = step_batch(data, 0, config.batch, 0)
    model.eval()
    batch_nll(model, batch).sum().item()
    began = time.perf_counter()
    batch_nll(model, batch).sum().item()
    eval_tokens_per_second = batch.ids.size / (time.perf_counter() - began)
    return Speed(sum(times) / len(times), eval_tokens_per_second)


def make_plan(
    request: Request,
    prepared: Prepared,
    deadline: Deadline | None,
    cache: Path,
    note: Note,
    measure: Callable[..., Speed] = measure,
) -> Plan:
    """Chooses size, shape and steps. deadline: the end of the budget, None under --steps and
    --tokens; `measure` is called only where there is a deadline."""
    device = pick_device(request.device)
    use_threads(int(_setting(request, "train", "threads", 0)))
    task_defaults = prepared.task.defaults(prepared.train, prepared.tokenizer)
    sets = {name: {**task_defaults[name], **request.sets.get(name, {})} for name in task_defaults}
    request = replace(request, sets={**request.sets, **sets})
    longest = prepared.task.longest(prepared.train, prepared.tokenizer)
    # a task with defaults sets dropout and size itself: they do not depend on the amount of data
    train_tokens = math.inf if task_defaults else _train_tokens(prepared)
    planner = _Planner(request, prepared, device, cache, note, longest, train_tokens)
    return planner.for_steps() if deadline is None else planner.for_budget(deadline, measure)


def _train_tokens(prepared: Prepared) -> float:
    """Tokens of the training data, estimated by the held-out tokens per unit."""
    split = prepared.final_split
    heldout = sum(len(s) - s.given for s in prepared.heldout[split])
    return heldout * prepared.train.size / max(prepared.heldout_items[split].size, 1)


@dataclass
class _Planner:
    request: Request
    prepared: Prepared
    device: torch.device
    cache: Path
    note: Note
    longest: int | None
    train_tokens: float

    def configs(self, size: str, tokens: float | None = None) -> tuple[ModelConfig, TrainConfig]:
        """Both configs of a size, for a training of `tokens` where that is known."""
        arguments = self.request, self.prepared.tokenizer, size, self.longest, self.device
        return make_configs(*arguments, tokens, self.train_tokens)

    def model(self, size: str) -> ModelConfig:
        return self.configs(size)[0]

    def dataset(self, model: ModelConfig, tokens: int) -> Dataset:
        """The training data with at least `tokens` tokenized."""
        prepared, seed = self.prepared, self.request.seed
        return prepared.task.dataset(
            prepared.train, prepared.tokenizer, model.context, tokens, seed, self.cache
        )

    def for_steps(self) -> Plan:
        """The plan for --steps or --tokens."""
        request, size = self.request, self.request.size or "tiny"
        model, train = self.configs(size)
        tokens = (request.steps or 0) * step_tokens(train, model.context) or request.tokens or 0
        model, train = self.configs(size, tokens)
        steps = request.steps or steps_for(request.tokens or 0, train, model.context)
        tokens = steps * step_tokens(train, model.context)
        data = self.dataset(model, tokens)
        model = fit_context(model, data, self.note)
        return Plan(model, replace(train, steps=steps), size, tokens, data, self.device, {})

    def for_budget(self, deadline: Deadline, measure: Callable[..., Speed]) -> Plan:
        """The plan that fills the time to the deadline: as many steps as fit beside the score."""
        size = self.request.size or "tiny"
        model, train = self.configs(size)
        began = deadline.clock()
        sample = 64 * train.batch * model.context  # tokens that measuring needs
        data = self.dataset(model, sample)
        tokenize_seconds = (deadline.clock() - began) / sample  # per token, at most
        budget = deadline.seconds_left()
        speeds: dict[tuple[object, ...], Speed] = {}
        while (tried := (size, train.batch, model.dropout > 0, train.compile)) not in speeds:
            fitted = fit_context(model, data, lambda _: None)
            seconds = min(5.0, MEASURE_FRACTION * budget)
            speed = speeds[tried] = measure(fitted, train, data, self.device, seconds)
            rate = step_tokens(train, fitted.context) / speed.step_seconds
            seen = tokens_seen(size, deadline.seconds_left() * rate, self.model)
            if self.request.size is None and self.request.init is None:
                size = choose_size(seen, self.model, self.train_tokens)
            model, train = self.configs(size, seen[size])
            data = self.dataset(model, sample)
        speed, model = speeds[tried], fit_context(model, data, self.note)

        final = self.prepared.heldout[self.prepared.final_split]
        score_tokens = sum(map(len, final)) + self.prepared.task.model_metrics_tokens(final, None)
        scoring = min(score_tokens / speed.eval_tokens_per_second, MAX_SCORING_FRACTION * budget)
        reserve = 1.3 * scoring + TEARDOWN_SECONDS
        seconds = deadline.seconds_left() - reserve
        per_step = step_tokens(train, model.context)
        steps = max(1, int(seconds / (speed.step_seconds + tokenize_seconds * per_step)))
        if self.prepared.train.size <= 4 * sample:  # all of it is tokenized in any case
            steps = max(1, int(seconds / speed.step_seconds))
        tokens = steps * per_step
        if not train.compile:  # another dropout rate would compile the blocks again
            model = replace(model, dropout=self.configs(size, tokens)[0].dropout)
        data = self.dataset(model, tokens)
        seconds = deadline.seconds_left() - reserve
        train = replace(train, steps=max(1, min(steps, int(seconds / speed.step_seconds))))
        estimates = {
            "budget_seconds": self.request.budget,
            "step_seconds": speed.step_seconds,
            "eval_tokens_per_second": speed.eval_tokens_per_second,
            "reserve_seconds": reserve,
            "final_part": min(
                1.0, 1.05 * scoring * speed.eval_tokens_per_second / max(score_tokens, 1)
            ),
        }
        return Plan(model, train, size, tokens, data, self.device, estimates)


def _setting(request: Request, section: str, name: str, default: object) -> Any:
    value = request.sets.get(section, {}).get(name, default)
    return parse_value(value, type(default), f"{section}.{name}")


def make_configs(
    request: Request,
    tokenizer: Tokenizer,
    size: str,
    longest: int | None,
    device: torch.device,
    tokens: float | None = None,
    train_tokens: float = math.inf,
) -> tuple[ModelConfig, TrainConfig]:
    """Both configs of a size; the fields of `--set` override the table.

    tokens: that training sees, where that is known; train_tokens: of the training data.
    """
    sets = dict(request.sets.get("model", {}))
    for name in ("vocab_size", "axes", "ordered_from", "ordered_to"):
        if name in sets:
            raise ConfigError(f"--set model.{name}: follows from --tokenizer")
    context = request.context
    if "context" in sets:
        context = parse_value(sets.pop("context"), int, "model.context")
    if request.init is not None:
        model = request.init.model_config()
        context, rows = context_and_rows(size, None, model.context)
    else:
        context, rows = context_and_rows(size, longest, context)
        low, high = tokenizer.ordered
        model = model_config(
            request.arch,
            size,
            vocab_size=tokenizer.vocab_size,
            axes=tokenizer.axes,
            context=context,
            ordered_from=low,
            ordered_to=high,
        )
        if tokens is not None and request.steps is None:
            rows = rows_for(tokens, rows, context)
    if tokens is not None:
        parameters = on_meta(model).blocks_parameter_count()
        model = replace(
            model, dropout=dropout_for(tokens / train_tokens, parameters / train_tokens)
        )
    model = with_fields(model, "model", sets)
    long = tokens is not None and seconds_on_gpu(model, tokens, rows) >= MIN_COMPILE_SECONDS
    train = TrainConfig(
        batch=rows,
        seed=request.seed,
        dtype=default_dtype(device, model),
        threads=torch.get_num_threads(),
        compile=long and can_compile(device),
    )
    train = with_fields(train, "train", request.sets.get("train", {}))
    if train.compile and not can_compile(device):
        raise ConfigError(
            "--set train.compile: only on a GPU, with Triton and a C compiler; leave it away"
        )
    return model, replace(train, threads=torch.get_num_threads())


def fit_context(model: ModelConfig, data: Dataset, note: Note) -> ModelConfig:
    """Shortens the context of the model where the training data is shorter than a window."""
    context = data.context
    if context < model.context:
        note(f"the data is short: context {context} rather than {model.context}")
        return replace(model, context=context)
    return model
