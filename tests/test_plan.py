"""What a budget buys: laws of the planner. Nothing here is timed."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tfm.core.architectures import ARCHS, SIZES, model_config
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.model.sequence_model import SequenceModel, on_meta
from tfm.core.train.request import Request
from tfm.core.train.sizing import MAX_PARAMETERS_PER_TOKEN as MOST
from tfm.core.train.sizing import (
    MIN_STEP_TOKENS,
    MIN_STEPS,
    SHAPES,
    choose_size,
    dropout_for,
    make_configs,
    rows_for,
    shape,
    steps_for,
    tokens_seen,
)
from tfm.tokenizers.byte import SingleByteTokenizer


def config_of(size: str) -> ModelConfig:
    return model_config("transformer", size, vocab_size=300)


def parameters(size: str) -> int:
    return on_meta(config_of(size)).blocks_parameter_count()


def chosen(step: float, seconds: float, ids: float = math.inf) -> str:
    seen = tokens_seen("tiny", seconds / step * SHAPES["tiny"][1], config_of)
    return choose_size(seen, config_of, ids)


@given(st.floats(0.01, 1.0), st.floats(1, 1e5), st.floats(1, 1e5), st.floats(1e3, 1e12))
def test_more_time_never_buys_a_smaller_model(step: float, a: float, b: float, ids: float) -> None:
    order = list(SIZES)
    sizes = [chosen(step, t, ids) for t in sorted((a, b))]
    assert order.index(sizes[0]) <= order.index(sizes[1])


@given(st.floats(0.01, 1.0), st.floats(1, 1e5), st.floats(1e3, 1e9), st.floats(1, 100))
def test_less_data_never_buys_a_smaller_model(
    step: float, seconds: float, ids: float, more: float
) -> None:
    """What is seen again and again is better learned by a larger model that sees it less, while
    that is not far too large for it."""
    order = list(SIZES)
    largest = max(i for i, size in enumerate(SIZES) if not i or parameters(size) <= MOST * ids)
    fewer, most = (order.index(chosen(step, seconds, each)) for each in (ids, ids * more))
    assert fewer >= min(most, largest)


@given(st.floats(0.001, 1.0), st.floats(1.0, 10.0), st.floats(1, 1e5))
def test_a_faster_machine_never_trains_a_smaller_model(
    step: float, faster: float, seconds: float
) -> None:
    order = list(SIZES)
    assert order.index(chosen(step, seconds)) <= order.index(chosen(step / faster, seconds))


def test_any_time_buys_something() -> None:
    assert chosen(1e6, 1e-3) == "nano"
    assert chosen(1e-6, 1e9) == "large"


@given(st.floats(1, 1e9), st.sampled_from([48, 32, 16, 1]), st.sampled_from([64, 256, 1024, 4096]))
@example(819200.0, 48, 1024)  # through three rows to two, not to one
@example(1.0, 1, 4096)  # one row is the least there is
def test_a_step_shrinks_only_where_steps_are_few(tokens: float, rows: int, context: int) -> None:
    found = rows_for(tokens, rows, context)
    assert 1 <= found <= rows
    if tokens >= MIN_STEPS * rows * context:
        assert found == rows
    if found < rows:
        assert found * context >= MIN_STEP_TOKENS and tokens < 2 * MIN_STEPS * found * context


def test_dropout_comes_with_passes_and_with_parameters() -> None:
    rates = [dropout_for(passes, 5) for passes in (0.0, 2, 50, 1000, 10**9)]
    assert rates == sorted(rates) and rates[0] == rates[1] == 0 < rates[2] < rates[3] < rates[4]
    assert dropout_for(math.inf, 5) == 0.5, "no more than that"
    assert dropout_for(30, 40) == dropout_for(40, 30) > dropout_for(30, 20)
    assert dropout_for(0.0, 0.0) == 0, "of data without an end"


@pytest.mark.parametrize(
    "size, passes, best", [("nano", 240, 0.2), ("tiny", 120, 0.3), ("tiny", 360, 0.4)]
)
def test_dropout_is_about_what_was_best(size: str, passes: float, best: float) -> None:
    """Of a text of 60,000 characters, 25,000 ids (benchmarks/sweep.py --only often)."""
    assert dropout_for(passes, parameters(size) / 25_000) == pytest.approx(best, abs=0.03)


def test_a_size_far_beyond_its_data_is_not_chosen() -> None:
    enough, small, tiny = dict.fromkeys(SIZES, 1e9), parameters("small"), parameters("tiny")
    assert choose_size(enough, config_of, small / (MOST - 1)) == "small"
    assert choose_size(enough, config_of, small / (MOST + 1)) == "tiny"
    assert choose_size(enough, config_of, tiny / (MOST + 1)) == "nano"
    assert choose_size(enough, config_of, 1) == "nano", "the least there is"


@pytest.mark.parametrize("size", SIZES)
def test_a_shape_fills_its_tokens_a_step(size: str) -> None:
    context, rows = shape(size, None, None)
    assert (context, context * rows) == SHAPES[size]
    assert shape(size, 100, None)[0] == 99, "an item of 100 ids is seen with a context of 99"
    assert shape(size, 100, 7)[0] == 7, "--context decides"
    assert shape(size, None, 10**6)[1] == 1, "a row at least"


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("ffn", ["relu2", "swiglu"])
@pytest.mark.parametrize("norm", ["none", "rmsnorm", "layernorm"])
@pytest.mark.parametrize("bias", [False, True])
def test_parameters_are_counted_as_there_are(arch: str, ffn: str, norm: str, bias: bool) -> None:
    config = model_config(arch, "nano", vocab_size=9, context=8)
    config = replace(config, ffn=ffn, norm=norm, bias=bias, kv_heads=1)
    model, counted = SequenceModel(config), on_meta(config)
    assert counted.parameter_count() == model.parameter_count()
    assert counted.blocks_parameter_count() == model.blocks_parameter_count()
    assert counted.matmul_parameter_count() == model.matmul_parameter_count()
    assert counted.flops_per_token() == model.flops_per_token()


def test_counting_parameters_imports_no_compiler() -> None:
    """Filling a tensor on the meta device would: a second or two of every budget."""
    code = (
        "import sys; from tfm.core.architectures import model_config;"
        "from tfm.core.model.sequence_model import on_meta;"
        "on_meta(model_config('gpt2', 'large', vocab_size=9)).parameter_count();"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


DEFAULTS = {"model": {"positions": "alibi", "dropout": 0.25}, "train": {"lr": 0.5, "momentum": 0.5}}


@pytest.mark.parametrize(
    ("arch", "flags", "positions", "lr", "dropout"),
    [
        ("transformer", {}, "alibi", 0.5, 0.25),  # of the task
        ("lstm", {}, "none", ARCHS["lstm"].train["lr"], 0.25),  # of the architecture
        ("vaswani", {}, "sinusoidal", 0.5, 0.1),
        ("lstm", {"positions": "learned", "lr": 0.3}, "learned", 0.3, 0.25),  # of --set
    ],
)
def test_a_field_is_that_of_set_of_the_architecture_or_of_the_task(
    arch: str, flags: dict[str, object], positions: str, lr: float, dropout: float
) -> None:
    sets: dict[str, dict[str, object]] = {"model": {}, "train": {}}
    for name, value in flags.items():
        sets["train" if name == "lr" else "model"][name] = value
    asked, cpu = Request(arch=arch, sets=sets), torch.device("cpu")
    model, train = make_configs(
        asked, SingleByteTokenizer(), "nano", None, cpu, 1e6, 1e4, defaults=DEFAULTS
    )
    assert (model.positions, train.lr, model.dropout) == (positions, lr, dropout)
    assert train.momentum == 0.5


def test_tokens_become_whole_steps() -> None:
    config = TrainConfig(batch=8, accumulate=2)
    assert steps_for(16 * 64 * 5, config, 64) == 5
    assert steps_for(1, config, 64) == 1
    assert steps_for(16 * 64 * 5, replace(config, accumulate=1), 64) == 10
