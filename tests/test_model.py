"""Laws of every architecture: attention is causal and stays in its segment, decoding step by step
equals the full pass, and probabilities sum to one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DECODERS, FakeTokenizer, small_model
from torch import Tensor

from tfm.core.architectures import model_config
from tfm.core.config import MIXERS, SampleConfig
from tfm.core.decode.sampling import generate
from tfm.core.model import laws
from tfm.core.model.loss import token_nll
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops.autograd_ops import MAX_UNFUSED_POSITIONS
from tfm.core.ops.device import autocast
from tfm.core.protocols import Batch, Sequence

VOCAB, T = 29, 16
WIRINGS: dict[str, dict[str, Any]] = {
    **DECODERS,
    "grouped": dict(kv_heads=2),
    "one-kv-head": dict(kv_heads=1),
    "layernorm": dict(norm="layernorm", bias=True),
    "no-norm": dict(norm="none", qk_norm=False),
    "post-no-norm": dict(norm="none", norm_position="post"),
    "post-rope": dict(norm_position="post"),
    "sinusoidal": dict(positions="sinusoidal"),
    "learned": dict(positions="learned"),
    "no-positions": dict(positions="none"),
    "relu": dict(ffn="relu"),
    "gelu": dict(ffn="gelu"),
    "swiglu": dict(ffn="swiglu", ffn_width=40),
    "two-axes": dict(axes=2),
    "three-axes-grouped": dict(axes=3, kv_heads=2),
    "softcap": dict(softcap=5.0),
    "tied": dict(tied=True),
    "sandwich": dict(norm_position="sandwich"),
    "alibi": dict(positions="alibi", kv_heads=2),
    "alibi-three-heads": dict(positions="alibi", heads=3, width=36),
    "window": dict(window=5),
    "window-alibi-grouped": dict(window=3, positions="alibi", kv_heads=2),
    **{ffn: dict(ffn=ffn) for ffn in ("glu", "bilinear", "reglu", "geglu")},
    "no-ffn": dict(ffn="none"),
    "no-residual": dict(residual=False),
    **{f"residual-{mixer}": dict(mixers=mixer) for mixer in MIXERS if mixer != "attention"},
    "hybrid": dict(mixers="attention,lstm,conv,attention-rnn", layers=4),
    "wide-kernel": dict(mixers="conv", kernel=5, layers=3),
}


def model_of(**fields: Any) -> SequenceModel:
    """A small model without zero weights, under which some laws would hold trivially."""
    shape: dict[str, Any] = dict(vocab_size=VOCAB, width=32, heads=4, context=T)
    return small_model(0.2, **{**shape, **fields}).eval()


@pytest.fixture(params=WIRINGS, ids=list(WIRINGS))
def model(request: pytest.FixtureRequest) -> SequenceModel:
    return model_of(**WIRINGS[request.param])


def some_ids(rows: int, length: int = T) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def places(axes: int, length: int) -> Tensor:
    """(1, length, axes) positions as in a picture with rows of four pixels; each axis differs."""
    steps = torch.arange(length)
    return torch.stack([steps // 4**axis % 4 for axis in reversed(range(axes))], dim=-1)[None]


# -- causality and segments ----------------------------------------------------------------------


def test_no_position_sees_the_future(model: SequenceModel) -> None:
    laws.causal(model)


def test_no_position_sees_another_segment(model: SequenceModel) -> None:
    laws.segments_stand_apart(model)


@torch.no_grad()
@pytest.mark.parametrize("name", ["transformer", "learned", "sinusoidal", "two-axes"])
def test_positions_matter(name: str) -> None:
    model = model_of(**WIRINGS[name])
    ids = some_ids(1)
    positions = places(model.config.axes, T)
    for axis in range(model.config.axes):
        moved = positions.clone()
        moved[..., axis] = T - 1 - moved[..., axis]
        assert (model(ids, moved) - model(ids, positions)).abs().max() > 1e-3


# -- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", laws.SPLITS, ids=str)
def test_steps_of_any_split_are_the_full_pass(model: SequenceModel, split: list[int]) -> None:
    laws.steps_are_the_full_pass(model, split)


def test_a_row_that_takes_nothing_keeps_its_state(model: SequenceModel) -> None:
    laws.idle_rows_keep_their_state(model)


@pytest.mark.parametrize("rows", laws.SELECTIONS, ids=str)
def test_selected_rows_go_on_from_what_they_have_read(
    model: SequenceModel, rows: list[int]
) -> None:
    laws.selected_rows_continue(model, rows)


def test_a_row_can_become_another_prompts(model: SequenceModel) -> None:
    laws.rows_can_be_assigned(model)


@pytest.mark.parametrize("context", [1, 2, 7, 8])
@pytest.mark.parametrize("name", WIRINGS)
@torch.no_grad()
def test_a_moved_window_is_read_like_a_text_of_its_own(name: str, context: int) -> None:
    """Once the context is full, the window is the given part and the last half of the context."""
    model = model_of(**{**WIRINGS[name], "context": context})
    half, given = max(1, context // 2), min(2, context)
    window = some_ids(1)[0, : max(1, context - 2)].tolist()
    given = min(given, len(window))
    prompt = Sequence(np.array(window), given=given)
    tokenizer: Any = FakeTokenizer(VOCAB)
    drawn = list(generate(model, tokenizer, prompt, SampleConfig(length=12, greedy=True)))
    assert len(drawn) == 12
    for one in drawn:
        if len(window) > context:
            window = window[: min(given, context - half)] + window[-half:]
        logprobs = model.logits(model(torch.tensor([window]))[0, -1]).log_softmax(-1)
        assert one.ids == [int(logprobs.argmax())]
        assert one.logprobs[0] == pytest.approx(float(logprobs.max()), abs=1e-5)
        window.append(one.ids[0])


# -- probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", DECODERS)
@torch.no_grad()
def test_an_untrained_model_knows_nothing(arch: str) -> None:
    torch.manual_seed(0)
    model = SequenceModel(model_config(arch, "tiny", context=64)).eval()
    ids = torch.randint(0, 256, (8, 65))
    nll = token_nll(model, Batch(ids, torch.ones(8, 65)))
    assert float(nll.mean()) == pytest.approx(math.log(256), rel=0.02)


def each_target(model: SequenceModel, at: int, targets: range, support: Any) -> Tensor:
    """(targets,) the nats of each id of `targets` at position `at`."""
    ids = some_ids(1).expand(len(targets), -1).clone()
    ids[:, at] = torch.tensor(targets)
    weight = torch.zeros(ids.shape)
    weight[:, at] = 1
    if isinstance(support, Tensor):
        support = support.expand(len(targets), -1, -1)
    return token_nll(model, Batch(ids, weight, support=support))[:, at - 1]


@torch.no_grad()
def test_probabilities_over_the_support_sum_to_one(model: SequenceModel) -> None:
    by_position = torch.tensor([[0, VOCAB]] * T)[None].clone()
    by_position[0, 4] = torch.tensor([11, 17])
    by_position[0, 5] = torch.tensor([3, 4])
    for at, support, legal in (
        (4, None, range(VOCAB)),
        (4, (0, VOCAB), range(VOCAB)),
        (4, (5, 9), range(5, 9)),
        (4, by_position, range(11, 17)),
        (5, by_position, range(3, 4)),
        (6, by_position, range(VOCAB)),
    ):
        nats = each_target(model, at, legal, support)
        assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-5)
        if isinstance(support, Tensor):
            outside = [id for id in range(VOCAB) if id not in legal]
            nats = each_target(model, at, range(VOCAB), support)
            assert torch.isinf(nats[outside]).all(), "an id outside has no probability"


@torch.no_grad()
def test_the_support_moves_the_likelihood_by_its_share_alone(model: SequenceModel) -> None:
    everywhere = each_target(model, 4, range(VOCAB), None)
    for support in ((5, 9), torch.tensor([[[5, 9]] * T])):
        share = (-everywhere[5:9]).logsumexp(0)
        inside = each_target(model, 4, range(5, 9), support)
        torch.testing.assert_close(inside, everywhere[5:9] + share, rtol=1e-5, atol=1e-5)


def test_a_position_that_does_not_count_does_not_train(model: SequenceModel) -> None:
    """Not even if its support is empty."""
    weight = torch.ones(2, T)
    weight[:, 3] = 0
    support = torch.tensor([[0, VOCAB]]).expand(2, T, 2).clone()
    support[:, 3] = 0
    nll = token_nll(model, Batch(some_ids(2), weight, support=support))
    assert (nll[:, 2] == 0).all() and (nll.isfinite()).all()
    nll.sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# -- bfloat16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [T, MAX_UNFUSED_POSITIONS + 8])  # plain products, fused kernel
@pytest.mark.parametrize("name", ["llama", "gpt2", "post-ln", "grouped"])
@torch.no_grad()
def test_bfloat16_is_float32_within_two_percent(name: str, length: int) -> None:
    """In the norm of the logits; bfloat16 keeps eight bits of each number."""
    model = model_of(**{**WIRINGS[name], "context": length})
    ids = some_ids(2, length)
    segments = torch.arange(length)[None].expand(2, -1) // (length // 2)
    for divided in (None, segments):
        full = model.logits(model(ids, None, divided))
        with autocast(ids.device, "bfloat16"):
            half = model.logits(model(ids, None, divided))
        assert 0 < float((half - full).norm() / full.norm()) < 0.02
