"""Models with quantised weights, compared with the original model."""

from ctypes import CDLL
from typing import Any

import pytest
import torch
from helpers import DECODERS, LOGIT_ERROR, TRANSFORMERS, random_tensor, small_model

from tfm.core.decode.native_model import NativeModel
from tfm.core.decode.native_slots import NativeSlots
from tfm.core.decode.quantized_linear import DTYPES, Int8Linear, decoding_dtype, with_weights_in
from tfm.core.model.layers import Linear
from tfm.core.model.sequence_model import SequenceModel


def model_of(**fields: Any) -> SequenceModel:
    """A model whose norm weights are all 1."""
    shape = dict(vocab_size=50, context=32, width=32, heads=4)
    return small_model(0.2, norm_std=0, **{**shape, **fields}).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", DECODERS)
@torch.no_grad()
def test_logits_are_near_those_of_the_model(arch: str, dtype: str) -> None:
    model = model_of(**DECODERS[arch])
    ids = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(1))
    plain = model.logits(model(ids))
    for rows in (1, 3):
        quantized = with_weights_in(model, dtype, rows)
        found = quantized.logits(quantized(ids))
        assert found.dtype == torch.float32
        error = float((found - plain).square().mean().sqrt())
        assert error <= LOGIT_ERROR[dtype] * float(plain.std())
        part = quantized.logits(quantized(ids), 7, 31)
        torch.testing.assert_close(part, found[..., 7:31], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_steps_equal_the_whole_pass(dtype: str) -> None:
    quantized = with_weights_in(model_of(), dtype)
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(2))
    state = quantized.start(2, 32)
    assert state.caches[0].keys.dtype == torch.float32
    steps = [
        quantized.step(ids[:, :5], state),
        *(quantized.step(ids[:, [t]], state) for t in range(5, 12)),
    ]
    torch.testing.assert_close(torch.cat(steps, 1), quantized(ids), rtol=2e-2, atol=2e-2)


def test_the_model_itself_is_left_alone() -> None:
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with_weights_in(model, "int8")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_narrow_model_is_decoded_as_it_is() -> None:
    assert decoding_dtype(model_of(), 1) == "float32"
    assert decoding_dtype(model_of(width=128), 1) in DTYPES


@pytest.mark.parametrize("arch", TRANSFORMERS)
@torch.no_grad()
def test_int8_is_scored_as_it_is_sampled(arch: str, library: CDLL) -> None:
    """`eval --dtype int8` computes what C decoding computes: only the weights are rounded."""
    model = model_of(**DECODERS[arch])
    ids = torch.randint(0, 50, (1, 20), generator=torch.Generator().manual_seed(1))
    quantized = with_weights_in(model, "int8")
    scored = quantized.logits(quantized(ids))[0, -1]
    _, decoded = NativeSlots(NativeModel(model, library, "int8"), 1, 32).prefill(
        ids[0].numpy(), None, 1
    )
    torch.testing.assert_close(decoded[:50], scored, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_int8_sums_in_float32() -> None:
    linear = Linear(64, (32,), bias=True)
    quantized, x = Int8Linear(linear), random_tensor(3, 5, 64).detach()
    weight = quantized.weight.double() * quantized.scale.double()[:, None]
    assert float((weight - linear.weight).abs().max()) <= float(quantized.scale.max()) / 2
    expected = (x.double() @ weight.T + linear.bias).float()
    torch.testing.assert_close(quantized(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quantized(x, 3, 7), expected[..., 3:7], rtol=1e-5, atol=1e-5)
