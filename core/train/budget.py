"""What a budget buys on this machine: size, shape of a step, number of steps.

Under `--steps` or `--tokens` the same table is used without measuring, so that everything follows
from flags and data.
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

# size -> (context, tokens a step). Narrow models on short contexts see the most text a second.
SHAPES = {
    "nano": (64, 3072),
    "tiny": (64, 3072),
    "small": (128, 4096),
    "base": (256, 8192),
    "large": (1024, 32768),
}
TOKENS_PER_PARAMETER = 1.4  # that a size must see within the budget to be worth choosing
TOO_OFTEN, THEN_PER_PARAMETER = 24, 1.0  # passes that the size below would make; then so many do
TOO_LARGE = 30  # parameters for each id of training data: a size with more is not chosen
ENOUGH_STEPS, LEAST_TOKENS = 400, 768  # with fewer steps, a step is better half as large
LEARNED_BY_HEART = 17  # passes times parameters for each id, from which dropout sets in
A_DOUBLING, DROPOUT = 0.04, 0.5  # what it grows by with each doubling of that; its limit
EVALUATION_SHARE = 0.05  # of the budget, at most, for the final score
MEASURING = 0.02  # of the budget, for each size that is tried; marks on the way correct the steps
COMPILED_FROM = 90  # seconds of training on a GPU, about: it takes up to 20 and halves a step
GPU_STEP, GPU_FLOPS = 0.004, 2e14  # of a step not compiled: what calls take, and the work a second
TEARDOWN = 0.5  # seconds from the last word to the exit, saving and a sample included


@dataclass(frozen=True)
class Deadline:
    """When all must be done, by a clock in seconds."""

    end: float
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        return self.end - self.clock()


@dataclass(frozen=True)
class Speed:
    """Measured on this machine and this data: seconds a step, tokens a second in evaluation."""

    step_seconds: float
    eval_tokens_per_second: float


def shape(size: str, longest: int | None, context: int | None) -> tuple[int, int]:
    """(context, rows a step) of a size; the longest item decides where it must be seen whole."""
    usual, tokens = SHAPES[size]
    context = context or (longest - 1 if longest else usual)
    return context, max(1, round(tokens / context))


def steps_for(tokens: int, config: TrainConfig, context: int) -> int:
    return max(1, round(tokens / (config.batch * config.accumulate * context)))


def measure(
    model_config: ModelConfig,
    config: TrainConfig,
    data: Dataset,
    device: torch.device,
    seconds: float,
) -> Speed:
    """Trains a throw-away model for about `seconds`: the mean of its steps but the first."""
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
    evaluating = batch.ids.size / (time.perf_counter() - began)
    return Speed(sum(times) / len(times), evaluating)


def tokens_seen(
    measured: str, tokens: float, config_of: Callable[[str], ModelConfig]
) -> dict[str, float]:
    """How many tokens each size would see in the time in which one sees `tokens`.

    A wider model does more work a token, at a better rate: work is taken to grow with the
    parameters of blocks and head to the power 0.9. That is only a guess: what is chosen by it is
    measured too, and may be left again.
    """

    def products(size: str) -> int:
        return on_meta(config_of(size)).matmul_parameter_count()

    return {size: tokens * (products(measured) / products(size)) ** 0.9 for size in SIZES}


def choose_size(
    seen: Mapping[str, float], config_of: Callable[[str], ModelConfig], ids: float = math.inf
) -> str:
    """The largest size that sees enough tokens of `ids` of training data, and has not far more
    parameters than those can fix."""
    best = "nano"
    for size in SIZES:
        often = seen[best] > TOO_OFTEN * ids
        enough = THEN_PER_PARAMETER if often else TOKENS_PER_PARAMETER
        parameters = on_meta(config_of(size)).blocks_parameter_count()
        if seen[size] >= enough * parameters and parameters <= TOO_LARGE * ids:
            best = size
    return best


def rows_for(tokens: float, rows: int, context: int) -> int:
    """Rows a step, of a training of so many tokens: half as many while there are few steps."""
    few = 2 * LEAST_TOKENS
    while rows > 1 and tokens < ENOUGH_STEPS * rows * context and rows * context >= few:
        rows = (rows + 1) // 2
    return rows


def seconds_on_gpu(model: ModelConfig, tokens: float, rows: int) -> float:
    """What a training of so many tokens takes, roughly."""
    work = 6 * on_meta(model).matmul_parameter_count() * tokens
    return GPU_STEP * tokens / (rows * model.context) + work / GPU_FLOPS


def dropout_for(passes: float, parameters: float) -> float:
    """What is seen again and again is learned by heart without it, the sooner the more `parameters`
    there are for each id of training data."""
    doublings = math.log2(max(1.0, passes * parameters / LEARNED_BY_HEART))
    return min(DROPOUT, round(A_DOUBLING * doublings, 2))


@dataclass
class Plan:
    model: ModelConfig
    train: TrainConfig
    size: str
    tokens: int | None  # ids of training data that are prepared, none for all there are
    data: Dataset
    device: torch.device
    about: dict[str, Any]  # the plan, for the run's config


def make_plan(
    request: Request,
    prepared: Prepared,
    deadline: Deadline | None,
    cache: Path,
    note: Note,
    measure: Callable[..., Speed] = measure,
) -> Plan:
    """Size, shape and steps. deadline: the end of a budget, none where steps or tokens were asked
    for; only with one is anything measured, by `measure`."""
    device = pick_device(request.device)
    use_threads(int(_wanted(request, "train", "threads", 0)))
    longest = prepared.task.longest(prepared.train, prepared.tokenizer)
    own = prepared.task.defaults(prepared.train, prepared.tokenizer)
    sets = {section: {**own[section], **request.sets.get(section, {})} for section in own}
    request = replace(request, sets={**request.sets, **sets})
    ids = math.inf  # of training data, where the task does not say itself what they ask for
    if not own:
        held = sum(len(s) - s.given for s in prepared.heldout[prepared.final_split])
        ids = held * prepared.train.size / max(prepared.held[prepared.final_split].size, 1)

    def configs(size: str, tokens: float | None = None) -> tuple[ModelConfig, TrainConfig]:
        return make_configs(request, prepared.tokenizer, size, longest, device, tokens, ids)

    def model_of(size: str) -> ModelConfig:
        return configs(size)[0]

    def dataset(model: ModelConfig, tokens: int | None) -> Dataset:
        return prepared.task.dataset(
            prepared.train, prepared.tokenizer, model.context, tokens, request.seed, cache
        )

    size = request.size or "tiny"
    model, train = configs(size)
    if deadline is None:
        per_step = train.batch * train.accumulate * model.context
        model, train = configs(size, (request.steps or 0) * per_step or request.tokens or 0)
        steps = request.steps or steps_for(request.tokens or 0, train, model.context)
        wanted = steps * train.batch * train.accumulate * model.context
        data = dataset(model, wanted)
        model = fit_context(model, data, note)
        return Plan(model, replace(train, steps=steps), size, wanted, data, device, {})

    began = deadline.clock()
    sample = 64 * train.batch * model.context
    data = dataset(model, sample)
    encoding = (deadline.clock() - began) / sample  # seconds a token, at most
    budget = deadline.left()
    speeds: dict[tuple[object, ...], Speed] = {}
    while (shaped := (size, train.batch, model.dropout > 0, train.compile)) not in speeds:
        fitted = fit_context(model, data, lambda _: None)
        speed = measure(fitted, train, data, device, min(5.0, MEASURING * budget))
        speeds[shaped] = speed
        rate = train.batch * train.accumulate * fitted.context / speed.step_seconds
        seen = tokens_seen(size, deadline.left() * rate, model_of)
        if request.size is None and request.init is None:
            size = choose_size(seen, model_of, ids)
        model, train = configs(size, seen[size])
        data = dataset(model, sample)
    speed, model = speeds[shaped], fit_context(model, data, note)
    final = prepared.heldout[prepared.final_split]
    held = sum(map(len, final)) + prepared.task.model_metrics_tokens(final, None)
    scoring = min(held / speed.eval_tokens_per_second, EVALUATION_SHARE * budget)
    per_step = train.batch * train.accumulate * model.context
    reserve = 1.3 * scoring + TEARDOWN
    seconds = deadline.left() - reserve
    steps = max(1, int(seconds / (speed.step_seconds + encoding * per_step)))
    if prepared.train.size <= 4 * sample:  # all of it is prepared anyhow
        steps = max(1, int(seconds / speed.step_seconds))
    wanted = steps * per_step
    if not train.compile:  # what is compiled is so for the rate that it was measured with
        model = replace(model, dropout=configs(size, wanted)[0].dropout)  # as passes are known now
    data = dataset(model, wanted)
    train = replace(
        train, steps=max(1, min(steps, int((deadline.left() - reserve) / speed.step_seconds)))
    )
    about = {
        "budget_seconds": request.budget,
        "step_seconds": speed.step_seconds,
        "eval_tokens_per_second": speed.eval_tokens_per_second,
        "reserve_seconds": reserve,
        "final_part": min(1.0, 1.05 * scoring * speed.eval_tokens_per_second / max(held, 1)),
    }
    return Plan(model, train, size, wanted, data, device, about)


def _wanted(request: Request, section: str, name: str, default: object) -> Any:
    value = request.sets.get(section, {}).get(name, default)
    return parse_value(value, type(default), f"{section}.{name}")


def make_configs(
    request: Request,
    tokenizer: Tokenizer,
    size: str,
    longest: int | None,
    device: torch.device,
    tokens: float | None = None,
    ids: float = math.inf,
) -> tuple[ModelConfig, TrainConfig]:
    """Both configs for a size that sees `tokens` (where that is known) of `ids` of training data,
    the fields of `--set` over the table's."""
    sets = dict(request.sets.get("model", {}))
    for name in ("vocab_size", "axes", "ordered_from", "ordered_to"):
        if name in sets:
            raise ConfigError(f"--set model.{name}: follows from --tokenizer")
    context = request.context
    if "context" in sets:
        context = parse_value(sets.pop("context"), int, "model.context")
    if request.init is not None:
        model = request.init.model_config()
        context, rows = shape(size, None, model.context)
    else:
        context, rows = shape(size, longest, context)
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
        model = replace(model, dropout=dropout_for(tokens / ids, parameters / ids))
    model = with_fields(model, "model", sets)
    long = tokens is not None and seconds_on_gpu(model, tokens, rows) >= COMPILED_FROM
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
    """A shorter context where the training data is shorter than a window."""
    context = data.context
    if context < model.context:
        note(f"the data is short: context {context} rather than {model.context}")
        return replace(model, context=context)
    return model
