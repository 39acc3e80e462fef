"""Models with weights in fewer bits, beside the model they were made of."""

from typing import Any

import pytest
import torch
from helpers import LOGIT_ERROR, small_model

from tfm.core.config import ARCHS
from tfm.core.decode.quantized_linear import DTYPES, decoding_dtype, with_weights_in
from tfm.core.decode.traced import traced
from tfm.core.model.sequence_model import SequenceModel


def model_of(**fields: Any) -> SequenceModel:
    """A model whose norms scale nothing."""
    shape = dict(vocab_size=50, context=32, width=32, heads=4)
    return small_model(0.2, norm_std=0, **{**shape, **fields}).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", ARCHS)
@torch.no_grad()
def test_logits_are_near_those_of_the_model(arch: str, dtype: str) -> None:
    model = model_of(**ARCHS[arch])
    ids = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(1))
    plain = model.logits(model(ids))
    for rows in (1, 3):
        packed = with_weights_in(model, dtype, rows)
        found = packed.logits(packed(ids))
        assert found.dtype == torch.float32
        error = float((found - plain).square().mean().sqrt())
        assert error <= LOGIT_ERROR[dtype] * float(plain.std())
        part = packed.logits(packed(ids), 7, 31)
        torch.testing.assert_close(part, found[..., 7:31], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_steps_equal_the_whole_pass(dtype: str) -> None:
    packed = with_weights_in(model_of(), dtype)
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(2))
    state = packed.start(2, 32)
    assert state.memories[0].keys.dtype == torch.float32
    steps = [
        packed.step(ids[:, :5], state),
        *(packed.step(ids[:, [t]], state) for t in range(5, 12)),
    ]
    torch.testing.assert_close(torch.cat(steps, 1), packed(ids), rtol=2e-2, atol=2e-2)


def test_the_model_itself_is_left_alone() -> None:
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with_weights_in(model, "int8")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_narrow_model_is_decoded_as_it_is() -> None:
    assert decoding_dtype(model_of(), 1) == "float32"
    assert decoding_dtype(model_of(width=128), 1) in DTYPES


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("arch", ARCHS)
@torch.no_grad()
def test_a_traced_step_is_the_step_to_the_last_bit(arch: str, rows: int) -> None:
    model = with_weights_in(model_of(**ARCHS[arch]), "float32")
    plain, repeated = (model.start(rows, 32) for _ in range(2))
    at = torch.zeros(rows, dtype=torch.int64)
    ids = torch.randint(0, 50, (9, rows, 1), generator=torch.Generator().manual_seed(3))
    step = traced(model, repeated, ids[0], at)  # which makes the step once
    model.step_rows(ids[0], plain, at)
    assert isinstance(step, torch.jit.ScriptModule), "torch wrote it down"
    for number, each in enumerate(ids):
        at = torch.arange(rows) * 2 + number
        assert torch.equal(step(each, at), model.step_rows(each, plain, at))


def test_a_model_that_trains_is_not_traced() -> None:
    model = model_of()
    ids, at = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    assert not isinstance(traced(model, model.start(1, 32), ids, at), torch.jit.ScriptModule)
