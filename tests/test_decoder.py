"""Batched decoding: each row samples the same ids as when it is alone, to the last bit."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import DECODERS, FakeTokenizer, draw_rows, random_prompt, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.config import SampleConfig
from tfm.core.decode.batch_decoder import Decoder
from tfm.core.decode.quantized_linear import with_weights_in
from tfm.core.decode.sampling import generate
from tfm.core.errors import DataError
from tfm.core.protocols import Sequence

PLAIN: Any = FakeTokenizer()


@pytest.mark.parametrize("arch", DECODERS)
def test_it_draws_what_generate_draws(arch: str) -> None:
    model = small_model(**{**DECODERS[arch], "kv_heads": 1})
    prompts = [random_prompt(n, length) for n, length in enumerate((1, 3, 9, 12, 40))]
    model.requires_grad_(False)  # so that its step is traced
    for options in ({}, {"greedy": True}, {"top_p": 0.8, "temperature": 0.7}, {"top_k": 3}):
        together = draw_rows(model, prompts, list("abcde"), **options)  # type: ignore[arg-type]
        for one, record, draw in zip(prompts, "abcde", together, strict=True):
            config = SampleConfig(length=len(draw), **options)  # type: ignore[arg-type]
            alone = list(generate(model, PLAIN, one, config, record=record))
            assert [id for id, _ in draw] == [step.ids[0] for step in alone]
            logprobs = [step.logprobs[0] for step in alone]
            np.testing.assert_allclose([p for _, p in draw], logprobs, atol=1e-4)


@pytest.mark.parametrize("length", [1, 5, 15, 16, 17, 33, 40])
def test_a_memory_as_long_as_prompt_and_draw_is_long_enough(length: int) -> None:
    model = small_model()
    for more in (1, 3, 7, 30):
        decoder = Decoder(model, PLAIN, SampleConfig(), 1, length + more)
        row = decoder.begin(random_prompt(1, length), more)
        found = [decoder.step()[row] for _ in range(more)]
        config = SampleConfig(length=more)
        alone = [step.ids[0] for step in generate(model, PLAIN, random_prompt(1, length), config)]
        assert [new[0] for new in found if new is not None] == alone


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_company_changes_not_a_bit_in_fewer_bits(dtype: str) -> None:
    model = with_weights_in(small_model(width=128, heads=4), dtype, 4)
    prompts = [random_prompt(n, 1 + 5 * n % 14) for n in range(9)]
    whole = draw_rows(model, prompts, list("abcdefghi"))
    for chosen in ([4], [8, 2], [7, 1, 0, 5, 3]):
        some = draw_rows(model, [prompts[n] for n in chosen], ["abcdefghi"[n] for n in chosen])
        for number, draw in zip(chosen, some, strict=True):
            shared = min(len(draw), len(whole[number]))
            assert draw[:shared] == whole[number][:shared]


@given(st.permutations(range(9)), st.integers(1, 9))
@settings(max_examples=8)
def test_neighbours_order_and_company_change_not_a_bit(order: list[int], count: int) -> None:
    model = small_model()
    prompts = [random_prompt(n, 1 + 5 * n % 14) for n in range(9)]
    whole = {n: each for n, each in enumerate(draw_rows(model, prompts, list("abcdefghi")))}
    chosen = order[:count]
    some = draw_rows(model, [prompts[n] for n in chosen], ["abcdefghi"[n] for n in chosen])
    for n, each in zip(chosen, some, strict=True):
        shorter = min(len(each), len(whole[n]))
        assert each[:shorter] == whole[n][:shorter] and shorter > 20


@pytest.mark.parametrize("threads", [1, 2])
def test_every_row_computes_alike(threads: int) -> None:
    """To the last bit, on any thread, with a context that is not a multiple of the alignment."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = small_model(width=128, heads=4, context=70)
        equal = draw_rows(model, [random_prompt(0, 20)] * 32, ["a"] * 32, 60, 32)
    finally:
        torch.set_num_threads(before)
    assert all(draw[:50] == equal[0][:50] for draw in equal)


def test_only_what_is_legal_at_a_place_is_drawn() -> None:
    ranges = np.array([[0, 1]] * 3 + [[4 * k % 20, 4 * k % 20 + 3] for k in range(20)] + [[5, 5]])
    tokenizer: Any = FakeTokenizer(legal=ranges)
    (one, other) = draw_rows(
        small_model(), [random_prompt(0, 3), random_prompt(1, 5)], ["a", "b"], tokenizer=tokenizer
    )
    assert len(one) == 20 and len(other) == 18, "until nothing is legal"
    for first, draw in ((3, one), (5, other)):
        for (id, _), (low, high) in zip(draw, ranges[first:], strict=False):
            assert low <= id < high


def test_items_with_positions_of_their_own() -> None:
    model, tokenizer = small_model(axes=2), FakeTokenizer(axes=2)
    known: Any = tokenizer
    prompts = [random_prompt(n, 2 + n) for n in range(3)]
    for one, draw in zip(prompts, draw_rows(model, prompts, list("abc"), 8, 4, known), strict=True):
        config = SampleConfig(length=len(draw))
        record = "abc"[len(one) - 2]
        alone = [step.ids[0] for step in generate(model, known, one, config, record=record)]
        assert [id for id, _ in draw] == alone
    with pytest.raises(DataError, match="--context"):
        draw_rows(model, prompts, list("abc"), 20, 4, known)


def test_a_given_part_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="context 12"):
        Decoder(small_model(), PLAIN, SampleConfig()).begin(Sequence(np.zeros(13, np.int64), 13), 5)


def test_draws_of_one_prompt_differ_and_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, one = small_model(), random_prompt(0)
    decoder = Decoder(model, PLAIN, SampleConfig())
    read = []
    inner = decoder._prefill
    monkeypatch.setattr(decoder, "_prefill", lambda row: read.append(1) or inner(row))
    rows = [decoder.begin(one, 9, "a", draw) for draw in range(8)]
    steps = [decoder.step() for _ in range(5)]
    assert len({str([step[row] for step in steps]) for row in rows}) > 4 and len(read) == 1
    assert not decoder.slots.logits().requires_grad
