"""What a budget buys on this machine: size, shape of a step, number of steps.

Under `--steps` or `--tokens` the same table is used without measuring, so that everything follows
from flags and data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .config import SIZES, ModelConfig, TrainConfig
from .data import step_batch
from .evaluate import batch_nll
from .model import SequenceModel
from .optim import make_optimizers
from .protocols import Dataset
from .train import train

# size -> (context, tokens a step). Narrow models on short contexts see the most text a second.
SHAPES = {
    "nano": (64, 3072),
    "tiny": (64, 3072),
    "small": (128, 4096),
    "base": (256, 8192),
    "large": (1024, 32768),
}
TOKENS_PER_PARAMETER = 0.8  # that a size must see within the budget to be worth choosing
EVALUATION_SHARE = 0.05  # of the budget, at most, for the final score
TEARDOWN = 0.5  # seconds from the last word to the exit, saving and a sample included


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
    """Trains a throw-away model for about `seconds` and times its steps (the fastest half:
    a busy machine only ever adds)."""  # fmt: skip
    model = SequenceModel(model_config).to(device)
    times: list[float] = []
    until = time.perf_counter() + seconds
    config = replace(config, steps=1_000_000)
    for step in train(model, data, config, make_optimizers(model, config)):
        if step.index > 1:
            times.append(step.seconds)
        if len(times) >= 3 and time.perf_counter() > until:
            break
    batch = step_batch(data, 0, config.batch, 0)
    model.eval()
    batch_nll(model, batch)
    began = time.perf_counter()
    batch_nll(model, batch)
    evaluating = batch.ids.size / (time.perf_counter() - began)
    return Speed(sum(times) / len(times), evaluating)


def parameters_of(config: ModelConfig) -> int:
    """Parameters of the blocks: embedding and head learn from few tokens."""
    with torch.device("meta"):
        return SequenceModel(config).blocks_parameter_count()


def choose_size(
    measured: str, speed: Speed, seconds: float, config_of: Callable[[str], ModelConfig]
) -> str:
    """The largest size that sees enough tokens in `seconds`, judged from the speed of one.

    A wider model does more work a token, at a better rate: work is taken to grow with the
    parameters to the power 0.9.
    """
    _, tokens = SHAPES[measured]
    rate = tokens / speed.step_seconds
    base = parameters_of(config_of(measured))
    best = "nano"
    for size in SIZES:
        count = parameters_of(config_of(size))
        seen = rate * (base / count) ** 0.9 * seconds
        if seen >= TOKENS_PER_PARAMETER * count:
            best = size
    return best
