"""The rules of the planner: size, batch, context and dropout as functions of tokens and data.

They measure nothing (but for whether bfloat16 is fast here), so with `--steps` or `--tokens` the
plan depends on flags and data alone. The constants come from benchmarks/sweep.py
(docs/performance.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from ..architectures import SIZES, architecture, model_config
from ..config import ModelConfig, TrainConfig, parse_fields, parse_value, with_fields
from ..errors import ConfigError
from ..model.lora import adapter_size
from ..model.sequence_model import on_meta
from ..ops.device import default_dtype
from ..protocols import Dataset, Tokenizer
from .backend import can_compile
from .request import Note, Request

# size -> (context, tokens per step). Short contexts let narrow models see more text per second.
SHAPES = {
    "nano": (64, 3072),
    "tiny": (64, 3072),
    "small": (128, 4096),
    "base": (256, 8192),
    "large": (1024, 32768),
}
# A size is chosen if it trains on at least this many targets per parameter of its blocks. The
# second ratio is enough if the next smaller size would train for more than MAX_EPOCHS epochs.
MIN_TOKENS_PER_PARAMETER, MIN_TOKENS_PER_PARAMETER_WHEN_REPEATING = 1.4, 1.0
MAX_EPOCHS = 24
MAX_PARAMETERS_PER_TOKEN = 30  # of training data, which larger models memorise
MIN_STEPS, MIN_STEP_TOKENS = 400, 768  # batches are halved to reach 400 steps, to 768 tokens
# Dropout is above 0 if epochs * parameters per training token exceeds the onset. Each doubling of
# the product adds DROPOUT_PER_DOUBLING.
DROPOUT_ONSET, DROPOUT_PER_DOUBLING, MAX_DROPOUT = 17, 0.04, 0.5
# of a model of another program, which long training has made: small changes, in small steps
TUNING_SETTINGS = {"optimizer": "adamw", "adam_lr": 3e-5, "weight_decay": 0.01}
TUNING_TOKENS = 4096  # per step
COMPILE_MIN_SECONDS = 90  # of training on a GPU: compiling takes up to 20 and halves a step
GPU_STEP_SECONDS, GPU_FLOPS = 0.004, 2e14  # rough: launching the kernels of a step; FLOP/s


def shape(size: str, longest: int | None, context: int | None) -> tuple[int, int]:
    """(context, rows per step) of a size. longest: ids of the longest item that must fit."""
    usual, tokens = SHAPES[size]
    context = context or (longest - 1 if longest else usual)
    return context, max(1, round(tokens / context))


def steps_for(tokens: int, config: TrainConfig, context: int) -> int:
    return max(1, round(tokens / (config.batch * config.accumulate * context)))


def tokens_seen(
    measured: str, tokens: float, config_of: Callable[[str], ModelConfig]
) -> dict[str, float]:
    """The tokens that each size can train on while the size `measured` trains on `tokens`.

    The estimate: time per token grows with the parameters in matrix products to the power 0.9,
    since wider models use the hardware better. A size that is chosen by it is measured afterwards.
    """

    def products(size: str) -> int:
        return on_meta(config_of(size)).matmul_parameter_count()

    return {size: tokens * (products(measured) / products(size)) ** 0.9 for size in SIZES}


def choose_size(
    seen: Mapping[str, float],
    config_of: Callable[[str], ModelConfig],
    training_tokens: float = math.inf,
) -> str:
    """The largest size that trains on enough tokens and is not too large for its training data.
    seen: tokens that are targets, by size."""
    best = "nano"
    for size in SIZES:
        enough = MIN_TOKENS_PER_PARAMETER
        if seen[best] > MAX_EPOCHS * training_tokens:
            enough = MIN_TOKENS_PER_PARAMETER_WHEN_REPEATING
        parameters = on_meta(config_of(size)).blocks_parameter_count()
        fits = parameters <= MAX_PARAMETERS_PER_TOKEN * training_tokens
        if seen[size] >= enough * parameters and fits:
            best = size
    return best


def rows_for(tokens: float, rows: int, context: int) -> int:
    """Rows per step for a training on so many tokens: halved while there are too few steps."""
    while (
        rows > 1 and tokens < MIN_STEPS * rows * context and rows * context >= 2 * MIN_STEP_TOKENS
    ):
        rows = (rows + 1) // 2
    return rows


def dropout_for(epochs: float, parameters: float) -> float:
    """The dropout rate. parameters: that are trained, per token of training data."""
    doublings = math.log2(max(1.0, epochs * parameters / DROPOUT_ONSET))
    return min(MAX_DROPOUT, round(DROPOUT_PER_DOUBLING * doublings, 2))


def trained_parameters(model: ModelConfig, rank: int) -> int:
    """The parameters that training changes: of the blocks, or of their adapters. ConfigError as in
    `adapter_size`."""
    shapes = on_meta(model)
    return adapter_size(shapes, rank) if rank else shapes.blocks_parameter_count()


def adapter_settings(width: int) -> dict[str, object]:
    """The fields of TrainConfig that differ in a training of adapters. The learning rate falls with
    the width, and is ten times that of a training of all weights, as measured for Llama models by
    Schulman & Thinking Machines 2025, LoRA Without Regret (tinker_cookbook, hyperparam_utils)."""
    rate = 10 * 5e-5 * (2000 / width) ** 0.781
    return {"optimizer": "adamw", "adam_lr": float(f"{rate:.2g}"), "weight_decay": 0.0}


def seconds_on_gpu(model: ModelConfig, tokens: float, rows: int) -> float:
    """A rough estimate of the seconds of a training on `tokens` tokens without torch.compile."""
    work = 6 * on_meta(model).matmul_parameter_count() * tokens
    return GPU_STEP_SECONDS * tokens / (rows * model.context) + work / GPU_FLOPS


def _of_tokens(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """The fields of a model that follow from its tokens."""
    return {
        "vocab_size": tokenizer.vocab_size,
        "axes": tokenizer.axes,
        "features": tokenizer.features,
        "context": context,
        "ordered": ",".join(f"{low}-{high}" for low, high in tokenizer.ordered),
    }


def make_configs(
    request: Request,
    tokenizer: Tokenizer,
    size: str,
    longest: int | None,
    device: torch.device,
    tokens: float | None = None,
    training_tokens: float = math.inf,
    defaults: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> tuple[ModelConfig, TrainConfig]:
    """The configs of a size. A field is that of `--set`, else that of the architecture, else that
    of the task, else by these rules.

    longest: as in `shape`; tokens: how many the training sees, None if unknown; training_tokens:
    how many the training data has; defaults: `Task.defaults`.
    """
    arch, rank = architecture(request.arch), request.lora
    sets = dict(request.sets.get("model", {}))
    for name in ("vocab_size", "axes", "features", "ordered"):
        if name in sets:
            raise ConfigError(f"--set model.{name}: follows from --tokenizer")
    context = request.context
    if "context" in sets:
        context = parse_value(sets.pop("context"), int, "model.context")
    asked = parse_fields(ModelConfig, "model", sets)
    ours: dict[str, Any] = dict(defaults.get("model", {}))
    usual = ours.pop("context", None)
    given: dict[str, Any] = {**ours, **arch.model, **asked}  # fields that a rule leaves alone
    if request.init is not None:
        model = request.init.model_config()
        if tokenizer.vocab_size != model.vocab_size:  # more domains than the run has
            context = max(model.context, (longest or 0) - 1)
            model = replace(model, **_of_tokens(tokenizer, context))
        context, rows = shape(size, None, model.context)
        if request.init.pretrained:
            rows = max(1, TUNING_TOKENS // context)
        if (
            "dropout" in arch.model or request.init.pretrained
        ):  # rather than a rule's, that of the run
            given["dropout"] = asked.get("dropout", model.dropout)
        model = replace(model, **{"dropout": given.get("dropout", model.dropout), **asked})
    else:
        context, rows = shape(size, longest, context or usual)
        model = model_config(request.arch, size, **{**_of_tokens(tokenizer, context), **given})
        if tokens is not None and request.steps is None:
            rows = rows_for(tokens, rows, context)
    if tokens is not None and "dropout" not in given:
        parameters = trained_parameters(model, rank)
        rate = dropout_for(tokens / training_tokens, parameters / training_tokens)
        model = replace(model, dropout=rate)
    long = tokens is not None and seconds_on_gpu(model, tokens, rows) >= COMPILE_MIN_SECONDS
    alike = set(model.mixers.split(",")) == {"attention"}  # all blocks share a compiled one
    compiles = can_compile(device) and alike
    by_rule = TrainConfig(
        batch=rows,
        seed=request.seed,
        dtype=default_dtype(device, model),
        threads=torch.get_num_threads(),
        compile=long and compiles,
    )
    usual_train = {**defaults.get("train", {}), **arch.train}
    if request.init is not None and request.init.pretrained:
        usual_train |= TUNING_SETTINGS
    if rank:
        usual_train |= adapter_settings(model.width)
    fields = {**usual_train, **request.sets.get("train", {})}
    train = with_fields(by_rule, "train", fields)
    if train.compile and not compiles:
        raise ConfigError(
            "--set train.compile: needs a GPU, Triton, a C compiler and attention in every block; "
            "remove it"
        )
    return model, replace(train, threads=torch.get_num_threads())


def fit_context(model: ModelConfig, data: Dataset, note: Note) -> ModelConfig:
    """The model with the context of the training data, if that is shorter."""
    if data.context < model.context:
        note(f"the data is short: context {data.context} rather than {model.context}")
        return replace(model, context=data.context)
    return model
