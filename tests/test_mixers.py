"""The mixers beside attention, and the variants of blocks, against independent implementations with
the same weights: torch's own modules, direct sums, `transformers` models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import small_model
from torch import Tensor, nn

from tfm.core.config import ModelConfig
from tfm.core.errors import ConfigError
from tfm.core.model.additive_attention import AttentionRnn
from tfm.core.model.attention import Attention
from tfm.core.model.conv import Convolution, dilation
from tfm.core.model.layers import FeedForward
from tfm.core.model.mixer import Context
from tfm.core.model.positions import alibi_slopes
from tfm.core.model.rnn import Recurrent
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import operations as ops

VOCAB, T = 23, 11


def ids(rows: int = 2, length: int = T) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def hidden(rows: int = 2, length: int = T, width: int = 8) -> Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(2))


def lively(module: nn.Module) -> Any:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.eval()


def segments_of(*lengths: int) -> Tensor:
    """(1, T) the number of the segment of each position."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


# -- recurrent layers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layer"), [("rnn", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)])
@torch.no_grad()
def test_a_recurrent_model_is_torchs_stack(kind: str, layer: type[nn.RNNBase]) -> None:
    model = small_model(
        mixers=kind, layers=3, residual=False, norm="none", ffn="none", positions="none", bias=True
    )
    theirs = layer(16, 16, num_layers=3, batch_first=True)
    ours = model.state_dict()
    theirs.load_state_dict(
        {name: ours[f"blocks.{name[-1]}.mixer.cell.{name[:-1]}0"] for name in theirs.state_dict()}
    )
    expected, _ = theirs(model.embedding(ids()))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(model(ids()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
@torch.no_grad()
def test_a_recurrent_layer_is_its_equations(kind: str) -> None:
    """One position after the other, from the docstring."""
    mixer: Recurrent = lively(Recurrent(ModelConfig(width=8, heads=1, bias=True), kind))
    w_in, w_state, b_in, b_state = (p.detach() for p in mixer.cell.parameters())
    x = hidden()
    h = c = torch.zeros(2, 8)
    for t in range(T):
        inner, own = F.linear(x[:, t], w_in, b_in), F.linear(h, w_state, b_state)
        if kind == "rnn":
            h = (inner + own).tanh()
        elif kind == "gru":
            (ri, zi, ni), (rh, zh, nh) = inner.chunk(3, 1), own.chunk(3, 1)
            r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
            h = (1 - z) * (ni + r * nh).tanh() + z * h
        else:
            i, f, g, o = (inner + own).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        torch.testing.assert_close(mixer(x, Context())[:, t], h, rtol=1e-5, atol=1e-6)


def test_a_forget_gate_starts_open() -> None:
    torch.manual_seed(0)
    config = ModelConfig(mixers="lstm", bias=True, width=16, heads=2, layers=1)
    cell = SequenceModel(config).blocks[0].mixer.cell  # type: ignore[union-attr]
    bias = cell.bias_ih_l0 + cell.bias_hh_l0  # type: ignore[union-attr, operator]
    assert bias.tolist() == [0] * 16 + [1] * 16 + [0] * 32
    for gate in cell.weight_hh_l0.chunk(4):  # type: ignore[union-attr, operator]
        torch.testing.assert_close(gate @ gate.T, torch.eye(16), rtol=0, atol=1e-5)


def test_a_state_has_one_size_however_long_the_sequence() -> None:
    model = small_model(mixers="lstm", positions="none")
    state = model.start(3, 1000)
    assert sum(s.numel() for cache in state.caches for s in cache.states) == 2 * 2 * 3 * 16


# -- convolution ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "block"), [(1, 0), (2, 0), (3, 1), (3, 2), (5, 1)])
@torch.no_grad()
def test_a_convolution_is_a_direct_sum(kernel: int, block: int) -> None:
    config = ModelConfig(width=8, heads=1, kernel=kernel, bias=True, context=40)
    mixer: Convolution = lively(Convolution(config, block))
    x, dilated = hidden(), mixer.dilation
    weight = mixer.taps.weight.detach().view(2, 8, kernel, 8)  # value and gate; outputs; taps
    expected = torch.zeros(2, T, 2, 8)
    for t in range(T):
        for tap in range(kernel):
            if t - tap * dilated >= 0:
                expected[:, t] += torch.einsum(
                    "goi,bi->bgo", weight[:, :, tap], x[:, t - tap * dilated]
                )
    expected += mixer.taps.bias.detach().view(2, 8)
    value, gate = expected.unbind(2)
    torch.testing.assert_close(
        mixer(x, Context()), mixer.out(value.tanh() * gate.sigmoid()), rtol=1e-5, atol=1e-5
    )
    theirs = F.conv1d(
        F.pad(x.mT, (mixer.reach, 0)),
        weight.flip(2).permute(0, 1, 3, 2).reshape(16, 8, kernel),
        mixer.taps.bias,
        dilation=dilated,
    )
    torch.testing.assert_close(mixer.taps(taps_of(x, mixer)), theirs.mT, rtol=1e-5, atol=1e-5)


def taps_of(x: Tensor, mixer: Convolution) -> Tensor:
    padded = F.pad(x, (0, 0, mixer.reach, 0))
    backs = [mixer.reach - tap * mixer.dilation for tap in range(mixer.kernel)]
    return torch.cat([padded[:, back : back + x.shape[1]] for back in backs], dim=-1)


def test_dilations_double_until_they_reach_over_the_context() -> None:
    config = ModelConfig(kernel=3, context=32, layers=7)
    assert [dilation(config, n) for n in range(7)] == [1, 2, 4, 8, 16, 1, 2]
    assert 1 + 2 * (1 + 2 + 4 + 8) < 32 <= 1 + 2 * (1 + 2 + 4 + 8 + 16)
    assert [dilation(ModelConfig(kernel=1), n) for n in range(3)] == [1, 1, 1]
    model = small_model(mixers="conv", layers=2, kernel=3, context=64)
    assert model.receptive_field() == 1 + 2 * (1 + 2)
    assert small_model(mixers="conv,attention", layers=2).receptive_field() is None
    assert small_model(window=4, layers=2, context=64).receptive_field() == 7


# -- attention before the Transformer --------------------------------------------------------------


@torch.no_grad()
def test_additive_attention_is_its_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer: AttentionRnn = lively(AttentionRnn(ModelConfig(width=8, heads=2, bias=True)))
    x = hidden()
    states = mixer.rnn(x, Context())
    v, expected = mixer.score.weight[0], torch.zeros(2, T, 8)
    for row in range(2):
        for t in range(T):
            scores = torch.stack(
                [
                    v @ (mixer.query(states[row, t]) + mixer.key(states[row, s])).tanh()
                    for s in range(t + 1)
                ]
            )
            looked = scores.softmax(0) @ states[row, : t + 1]
            expected[row, t] = mixer.out(torch.cat((states[row, t], looked)))
    torch.testing.assert_close(mixer(x, Context()), expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("tfm.core.model.additive_attention.MAX_SCORES", 3 * T * 8)
    torch.testing.assert_close(mixer(x, Context()), expected, rtol=1e-5, atol=1e-5)


def test_long_sequences_in_parts_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer: AttentionRnn = lively(AttentionRnn(ModelConfig(width=8, heads=2)))
    whole = torch.autograd.grad(mixer(hidden(), Context()).square().sum(), mixer.parameters())
    monkeypatch.setattr("tfm.core.model.additive_attention.MAX_SCORES", 2 * T * 4 * 3)
    parts = torch.autograd.grad(mixer(hidden(), Context()).square().sum(), mixer.parameters())
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# -- gradients -----------------------------------------------------------------------------------

MIXERS = ("attention", "rnn", "gru", "lstm", "conv", "attention-rnn")
VARIANTS: dict[str, dict[str, Any]] = {
    **{mixer: dict(mixers=mixer) for mixer in MIXERS},
    "sandwich": dict(norm_position="sandwich"),
    "alibi-window": dict(positions="alibi", window=3),
    **{ffn: dict(ffn=ffn) for ffn in ("glu", "bilinear", "reglu", "geglu", "swiglu")},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.filterwarnings("ignore:Input #0 requires gradient and is not a double")
def test_gradients_are_those_of_differences(name: str) -> None:
    """In float64, of a row with two segments."""
    shape: dict[str, Any] = dict(vocab_size=7, layers=2, width=4, heads=2, context=6)
    model = small_model(**{**shape, **VARIANTS[name]}).double()
    rows, segments = ids(2, 6) % 7, segments_of(4, 2).expand(2, -1)
    parameters = [p.requires_grad_() for p in model.parameters()]

    def loss() -> Tensor:
        return (model.head(model(rows, None, segments)) * weights).sum()

    weights = torch.randn(2, 6, 7, dtype=torch.float64)
    with ops.use("reference"):
        gradients = torch.autograd.grad(loss(), parameters)
        torch.manual_seed(3)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            direction = torch.randn_like(parameter)
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.add_(direction, alpha=step)
                    ends.append(float(loss()))
                    parameter.sub_(direction, alpha=step)
            slope = (ends[0] - ends[1]) / 2e-6
            assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-5)


# -- variants of attention and blocks --------------------------------------------------------------


@torch.no_grad()
def test_a_window_of_attention_is_a_band_of_the_scores() -> None:
    config = ModelConfig(width=8, heads=2, window=3, positions="none")
    mixer: Attention = lively(Attention(config))
    x = hidden()
    q, k, v = mixer.project(x, Context())
    at = torch.arange(T)
    seen = (at[:, None] >= at) & (at[:, None] - at < 3)
    scores = (q @ k.mT / 2).masked_fill(~seen, -math.inf)
    expected = mixer.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x, Context()), expected, rtol=1e-5, atol=1e-5)


def test_slopes_are_those_of_the_paper() -> None:
    """Press et al. 2022: 1/2, 1/4 ... 1/256 for eight heads; for others as their code has them."""
    cpu = torch.device("cpu")
    assert alibi_slopes(8, cpu).tolist() == [2.0**-n for n in range(1, 9)]
    found = alibi_slopes(12, cpu)
    assert found[:8].tolist() == [2.0**-n for n in range(1, 9)]
    torch.testing.assert_close(found[8:], torch.tensor([2.0 ** -(n + 0.5) for n in range(4)]))


@pytest.mark.parametrize(
    ("ffn", "activation"),
    [
        ("glu", torch.sigmoid),
        ("bilinear", lambda x: x),
        ("reglu", torch.relu),
        ("geglu", lambda x: F.gelu(x, approximate="tanh")),
        ("swiglu", lambda x: x * torch.sigmoid(x)),
    ],
)
@torch.no_grad()
def test_gated_feed_forwards_are_shazeers(ffn: str, activation: Any) -> None:
    """Shazeer 2020, eqs. 5 and 6: (f(x W) * x V) W2."""
    layer: FeedForward = lively(FeedForward(ModelConfig(width=8, heads=2, ffn=ffn)))
    gate, value = layer.up.weight.chunk(2)
    x = hidden()
    expected = (activation(x @ gate.T) * (x @ value.T)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_linear_biases_are_blooms() -> None:
    """ALiBi in `transformers`' BLOOM, a post-2020 decoder with LayerNorm, biases and GELU."""
    transformers = pytest.importorskip("transformers")
    heads, width = 4, 32
    torch.manual_seed(0)
    theirs = transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=VOCAB, hidden_size=width, n_layer=2, n_head=heads)
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    config = ModelConfig(
        vocab_size=VOCAB, width=width, heads=heads, layers=2, norm="layernorm", norm_eps=1e-5,
        positions="alibi", ffn="gelu", qk_norm=False, bias=True, tied=True,
    )  # fmt: skip
    ours = SequenceModel(config).eval()
    weights = {name.removeprefix("transformer."): p for name, p in theirs.state_dict().items()}
    # BLOOM normalises the embeddings, which tfm does not: the table is given normalised
    table = F.layer_norm(
        weights["word_embeddings.weight"],
        (width,),
        weights["word_embeddings_layernorm.weight"],
        weights["word_embeddings_layernorm.bias"],
    )
    names = {
        "input_layernorm": "mixer_norm",
        "self_attention.query_key_value": "mixer.qkv",
        "self_attention.dense": "mixer.out",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn.up",
        "mlp.dense_4h_to_h": "ffn.down",
    }
    copied = {"embedding.weight": table, "head.weight": table}
    for kind in ("weight", "bias"):
        copied[f"norm.{kind}"] = weights[f"ln_f.{kind}"]
        for n in range(2):
            for name, ourname in names.items():
                tensor = weights[f"h.{n}.{name}.{kind}"]
                if "query_key_value" in name:  # theirs: by head; ours: all queries, keys, values
                    by_head = tensor.view(heads, 3, width // heads, -1).transpose(0, 1)
                    tensor = by_head.reshape(tensor.shape)
                copied[f"blocks.{n}.{ourname}.{kind}"] = tensor
    ours.load_state_dict(copied)
    expected = theirs.transformer(input_ids=ids()).last_hidden_state
    torch.testing.assert_close(ours(ids()), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sandwich_norms_windows_and_geglu_are_gemma_2s() -> None:
    transformers = pytest.importorskip("transformers")
    width, heads, window = 32, 4, 5
    torch.manual_seed(0)
    theirs = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=VOCAB, hidden_size=width, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=heads, num_key_value_heads=2, head_dim=width // heads,
            query_pre_attn_scalar=width // heads, sliding_window=window, pad_token_id=None,
            attn_logit_softcapping=None, max_position_embeddings=64, attn_implementation="eager",
            layer_types=["sliding_attention"] * 2, bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = SequenceModel(
        ModelConfig(
            vocab_size=VOCAB, width=width, ffn_width=48, heads=heads, kv_heads=2, layers=2,
            norm_position="sandwich", ffn="geglu", qk_norm=False, window=window, context=64,
        )
    ).eval()  # fmt: skip
    weights = theirs.state_dict()
    names = {
        "input_layernorm": "mixer_norm",
        "post_attention_layernorm": "mixer_out_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "ffn_out_norm",
    }
    # Gemma scales embeddings by the root of the width, and norms by 1 + weight
    copied = {
        "embedding.weight": weights["embed_tokens.weight"] * math.sqrt(width),
        "head.weight": torch.zeros(VOCAB, width),
        "norm.weight": 1 + weights["norm.weight"],
    }
    for n in range(2):
        layer = {k.removeprefix(f"layers.{n}."): v for k, v in weights.items() if f"s.{n}." in k}
        for name, ourname in names.items():
            copied[f"blocks.{n}.{ourname}.weight"] = 1 + layer[f"{name}.weight"]
        fused = [layer[f"self_attn.{name}_proj.weight"] for name in "qkv"]
        gated = [layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up")]
        copied[f"blocks.{n}.mixer.qkv.weight"] = torch.cat(fused)
        copied[f"blocks.{n}.mixer.out.weight"] = layer["self_attn.o_proj.weight"]
        copied[f"blocks.{n}.ffn.up.weight"] = torch.cat(gated)
        copied[f"blocks.{n}.ffn.down.weight"] = layer["mlp.down_proj.weight"]
    ours.load_state_dict(copied)
    expected = theirs(input_ids=ids(2, 20)).last_hidden_state
    torch.testing.assert_close(ours(ids(2, 20)), expected, rtol=1e-4, atol=1e-4)


# -- lists of mixers -----------------------------------------------------------------------------


def test_a_list_of_mixers_is_one_a_block() -> None:
    model = small_model(mixers="attention,lstm,conv", layers=3)
    kinds = [type(block.mixer) for block in model.blocks]
    assert kinds == [Attention, Recurrent, Convolution]
    with pytest.raises(ConfigError, match="one name, or one for each of the 4 blocks"):
        ModelConfig(mixers="attention,lstm", layers=4)
    with pytest.raises(ConfigError, match="must be one of attention, rnn"):
        ModelConfig(mixers="attention,lstn", layers=2)
