"""What a budget buys: laws of the planner. Nothing here is timed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm.core.config import SIZES, ModelConfig, TrainConfig, model_config
from tfm.core.plan import SHAPES, Speed, choose_size, shape, steps_for


def config_of(size: str) -> ModelConfig:
    return model_config("transformer", size, vocab_size=300)


@given(st.floats(0.01, 1.0), st.floats(1, 1e5), st.floats(1, 1e5))
def test_more_time_never_buys_a_smaller_model(step: float, a: float, b: float) -> None:
    order = list(SIZES)
    sizes = [choose_size("tiny", Speed(step, 1.0), t, config_of) for t in sorted((a, b))]
    assert order.index(sizes[0]) <= order.index(sizes[1])


@given(st.floats(0.001, 1.0), st.floats(1.0, 10.0), st.floats(1, 1e5))
def test_a_faster_machine_never_trains_a_smaller_model(
    step: float, faster: float, seconds: float
) -> None:
    order = list(SIZES)
    slow = choose_size("tiny", Speed(step, 1.0), seconds, config_of)
    fast = choose_size("tiny", Speed(step / faster, 1.0), seconds, config_of)
    assert order.index(slow) <= order.index(fast)


def test_any_time_buys_something() -> None:
    assert choose_size("tiny", Speed(1e6, 1.0), 1e-3, config_of) == "nano"
    assert choose_size("tiny", Speed(1e-6, 1.0), 1e9, config_of) == "large"


@pytest.mark.parametrize("size", SIZES)
def test_a_shape_fills_its_tokens_a_step(size: str) -> None:
    context, rows = shape(size, None, None)
    assert (context, context * rows) == SHAPES[size]
    assert shape(size, 100, None)[0] == 99, "an item of 100 ids is seen with a context of 99"
    assert shape(size, 100, 7)[0] == 7, "--context decides"
    assert shape(size, None, 10**6)[1] == 1, "a row at least"


def test_tokens_become_whole_steps() -> None:
    config = TrainConfig(batch=8, accumulate=2)
    assert steps_for(16 * 64 * 5, config, 64) == 5
    assert steps_for(1, config, 64) == 1
    assert steps_for(16 * 64 * 5, replace(config, accumulate=1), 64) == 10
