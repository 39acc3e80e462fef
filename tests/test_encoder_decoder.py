"""Models with an encoder, and beam search, against independent implementations: torch's own
Transformer, Marian of `transformers`, and the enumeration of all continuations."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeTokenizer, draw_rows, random_weights
from torch import Tensor, nn

from tfm.core.architectures import ARCHS, SIZES, model_config
from tfm.core.config import ModelConfig, SampleConfig
from tfm.core.data.datasets import collate, with_sources
from tfm.core.decode.beam import beam_search, length_penalty
from tfm.core.decode.sampling import generate
from tfm.core.decode.search import search_all
from tfm.core.errors import ConfigError, DataError
from tfm.core.model.loss import Objective, token_nll
from tfm.core.model.positions import sinusoids
from tfm.core.model.sequence_model import SequenceModel, on_meta
from tfm.core.protocols import Sequence
from tfm.core.score.likelihood import as_tensors, batch_nll, evaluate

VOCAB, BEGIN, END = 13, 12, 11
WITH_ENCODER = [name for name, arch in ARCHS.items() if arch.model.get("encoder_layers")]
TOKENIZER: Any = FakeTokenizer(VOCAB, (0, BEGIN))


def model_of(arch: str, std: float = 0.3, **fields: Any) -> SequenceModel:
    shape: dict[str, Any] = dict(
        vocab_size=VOCAB, layers=2, encoder_layers=2, width=16, heads=2, context=24, dropout=0.0
    )
    config = ModelConfig(**{**ARCHS[arch].model, **shape, **fields})
    return random_weights(SequenceModel(config), std).eval()


def pair(source: int, target: int, seed: int = 0) -> Sequence:
    draw = np.random.default_rng(seed)
    ids = [*draw.integers(0, 10, source), BEGIN, *draw.integers(0, 10, target), END]
    return Sequence(np.array(ids), source + 1)


def prompts(*lengths: int) -> list[Sequence]:
    return [
        replace(pair(n, 0, seed), ids=pair(n, 0, seed).ids[: n + 1])
        for seed, n in enumerate(lengths)
    ]


def nats(model: SequenceModel, *rows: list[Sequence]) -> Tensor:
    width = max(sum(len(s) - s.given + 1 for s in row) for row in rows)
    pieces = [[(s, s.given - 1, len(s)) for s in row] for row in rows]
    return batch_nll(model, collate(pieces, TOKENIZER, width, encoder=True))


# -- references ----------------------------------------------------------------------------------


@torch.no_grad()
def test_the_encoder_decoder_of_2017_is_torchs() -> None:
    ours = model_of("vaswani")
    theirs = nn.Transformer(16, 2, 2, 2, 64, dropout=0.0, batch_first=True).eval()
    theirs.encoder.norm = theirs.decoder.norm = None  # post-LayerNorm needs no more
    weights = ours.state_dict()
    attention = {"mixer": "self_attn", "cross": "multihead_attn"}
    copied: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        for side, blocks in (("encoder", "encoder"), ("decoder", "blocks")):
            for n in range(2):
                to, of = f"{side}.layers.{n}", f"{blocks}.{n}"
                norms = ["mixer_norm", "ffn_norm"]
                if side == "decoder":
                    norms.insert(1, "cross_norm")
                    parts = [weights[f"{of}.cross.{name}.{kind}"] for name in ("query", "kv")]
                    copied[f"{to}.multihead_attn.in_proj_{kind}"] = torch.cat(parts)
                copied[f"{to}.self_attn.in_proj_{kind}"] = weights[f"{of}.mixer.qkv.{kind}"]
                for name, theirname in attention.items():
                    if f"{of}.{name}.out.{kind}" in weights:
                        copied[f"{to}.{theirname}.out_proj.{kind}"] = weights[
                            f"{of}.{name}.out.{kind}"
                        ]
                for number, name in enumerate(norms, 1):
                    copied[f"{to}.norm{number}.{kind}"] = weights[f"{of}.{name}.{kind}"]
                copied[f"{to}.linear1.{kind}"] = weights[f"{of}.ffn.up.{kind}"]
                copied[f"{to}.linear2.{kind}"] = weights[f"{of}.ffn.down.{kind}"]
    theirs.load_state_dict(copied)
    source, target = torch.randint(0, 10, (3, 7)), torch.randint(0, 10, (3, 9))
    embedded = [
        ours.embedding(x) * 4 + sinusoids(torch.arange(x.shape[1]), 16) for x in (source, target)
    ]
    expected = theirs(*embedded, tgt_mask=nn.Transformer.generate_square_subsequent_mask(9))
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(ours(target, source=source), expected, rtol=1e-5, atol=1e-5)


def marian() -> tuple[Any, SequenceModel]:
    """A Marian model of `transformers` and ours, with the same weights."""
    transformers = pytest.importorskip("transformers")
    ours = model_of("vaswani")
    config = transformers.MarianConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64,
        decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0,
        activation_function="relu", scale_embedding=True, max_position_embeddings=24,
        pad_token_id=10, eos_token_id=END, bos_token_id=None, decoder_start_token_id=BEGIN,
        forced_eos_token_id=None,
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    weights = ours.state_dict()
    names = {
        "mixer_norm": "self_attn_layer_norm",
        "cross_norm": "encoder_attn_layer_norm",
        "ffn_norm": "final_layer_norm",
        "ffn.up": "fc1",
        "ffn.down": "fc2",
        "mixer.out": "self_attn.out_proj",
        "cross.out": "encoder_attn.out_proj",
        "cross.query": "encoder_attn.q_proj",
    }
    copied = dict(theirs.state_dict())
    for key in copied:
        if key.endswith(("embed_tokens.weight", "shared.weight", "lm_head.weight")):
            copied[key] = weights["embedding.weight"]
        elif "embed_positions" in key:  # a fixed table, which has sines first and then cosines
            copied[key] = sinusoids(torch.arange(24), 16)
    for blocks, side in (("encoder", "encoder"), ("blocks", "decoder")):
        for n, kind in itertools.product(range(2), ("weight", "bias")):
            of, to = f"{blocks}.{n}", f"model.{side}.layers.{n}"
            for name, theirname in names.items():
                if f"{of}.{name}.{kind}" in weights:
                    copied[f"{to}.{theirname}.{kind}"] = weights[f"{of}.{name}.{kind}"]
            q, k, v = weights[f"{of}.mixer.qkv.{kind}"].chunk(3)
            copied |= {
                f"{to}.self_attn.{name}_proj.{kind}": x
                for name, x in zip("qkv", (q, k, v), strict=True)
            }
            if side == "decoder":
                k, v = weights[f"{of}.cross.kv.{kind}"].chunk(2)
                copied |= {
                    f"{to}.encoder_attn.{name}_proj.{kind}": x
                    for name, x in zip("kv", (k, v), strict=True)
                }
    theirs.load_state_dict(copied)
    return theirs, ours


@torch.no_grad()
def test_the_encoder_decoder_of_2017_is_marian() -> None:
    theirs, ours = marian()
    source, target = torch.randint(0, 10, (3, 7)), torch.randint(0, 10, (3, 9))
    expected = theirs(input_ids=source, decoder_input_ids=target).logits
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(
        ours.logits(ours(target, source=source)), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("beam", [2, 4])
@torch.no_grad()
def test_beams_are_those_of_transformers(beam: int) -> None:
    """Without a length penalty, where their rule and ours are the same."""
    theirs, ours = marian()
    tokenizer: Any = FakeTokenizer(VOCAB)
    for prompt in prompts(3, 5, 8, 6):
        # their encoder reads the same ids, with the begin token at the end
        found = theirs.generate(
            input_ids=torch.from_numpy(prompt.ids)[None], num_beams=beam, length_penalty=0.0,
            max_new_tokens=6, num_return_sequences=beam, return_dict_in_generate=True,
            output_scores=True, do_sample=False, suppress_tokens=None, bad_words_ids=None,
            early_stopping="never",
        )  # fmt: skip
        config = SampleConfig(length=6, beam=beam)
        (mine,) = beam_search(ours, tokenizer, [prompt], config, END)
        for hypothesis, row, score in zip(
            mine, found.sequences.tolist(), found.sequences_scores.tolist(), strict=True
        ):
            assert list(hypothesis.ids) == row[1 : len(hypothesis.ids) + 1]
            assert hypothesis.score == pytest.approx(score, abs=1e-4)


# -- beams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["vaswani", "encoder-decoder", "lstm", "transformer", "cnn"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, -0.5])
@torch.no_grad()
def test_a_wide_beam_is_the_enumeration_of_everything(arch: str, alpha: float) -> None:
    """Of all continuations of up to three ids that end, or have three."""
    vocab, end, length = 5, 3, 3
    encoder = 2 if arch in WITH_ENCODER else 0
    model = model_of(arch, 0.5, vocab_size=vocab, encoder_layers=encoder)
    tokenizer: Any = FakeTokenizer(vocab, (0, 4))
    config = SampleConfig(length=length, beam=64, length_penalty=alpha)
    some = [Sequence(np.array([0, 1, 2, 4]), 4), Sequence(np.array([2, 4]), 2)]
    for prompt, found in zip(some, beam_search(model, tokenizer, some, config, end), strict=True):
        expected = []
        for size in range(1, length + 1):
            for ids in itertools.product(range(4), repeat=size):
                if end in ids[:-1] or (ids[-1] != end and size < length):
                    continue
                sequence = Sequence(np.array([*prompt.ids, *ids]), prompt.given)
                (score,) = evaluate(model, tokenizer, [sequence])
                expected.append((-score.nll / length_penalty(size, alpha), ids))
        expected.sort(reverse=True)
        assert len(found) == len(expected)
        assert [h.ids for h in found] == [ids for _, ids in expected]
        np.testing.assert_allclose([h.score for h in found], [s for s, _ in expected], rtol=1e-4)
        assert all(h.ended == (h.ids[-1] == end) for h in found)


@torch.no_grad()
def test_a_prompts_beams_do_not_depend_on_the_other_prompts() -> None:
    model, config = model_of("encoder-decoder"), SampleConfig(length=9, beam=3, length_penalty=0.6)
    some = prompts(3, 9, 1, 5, 7)
    together = list(beam_search(model, TOKENIZER, some, config, END))
    for prompt, found in zip(some, together, strict=True):
        (alone,) = beam_search(model, TOKENIZER, [prompt], config, END)
        assert [h.ids for h in alone] == [h.ids for h in found]
        np.testing.assert_allclose([h.score for h in alone], [h.score for h in found], rtol=1e-4)


def test_the_length_penalty_is_wus() -> None:
    assert length_penalty(1, 0.6) == 1
    assert length_penalty(7, 0.6) == pytest.approx(2**0.6)
    assert length_penalty(100, 0.0) == 1


@pytest.mark.parametrize("arch", ["vaswani", "encoder-decoder", "transformer", "gru"])
def test_a_beam_of_one_is_greedy(arch: str) -> None:
    model = model_of(arch, encoder_layers=2 if arch in WITH_ENCODER else 0)
    some = prompts(3, 9, 1, 5, 23)
    greedy = search_all(model, TOKENIZER, some, SampleConfig(greedy=True), END)
    assert greedy[4] == [] or arch in WITH_ENCODER, "no room after a source of the whole context"
    for prompt, ids in zip(some, greedy, strict=True):
        room = 24 - (0 if arch in WITH_ENCODER else len(prompt))
        (best,) = beam_search(model, TOKENIZER, [prompt], SampleConfig(length=room, beam=1), END)
        assert ids == (list(best[0].ids) if best else [])


def test_a_source_that_does_not_fit_is_refused() -> None:
    model = model_of("vaswani")
    with pytest.raises(DataError, match="31 tokens, the context 24"):
        list(beam_search(model, TOKENIZER, prompts(30), SampleConfig(beam=2), END))
    assert search_all(model, TOKENIZER, prompts(30), SampleConfig(), END) == [[]]


# -- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", WITH_ENCODER)
@torch.no_grad()
def test_the_encoder_sees_the_whole_source_and_the_decoder_no_future(arch: str) -> None:
    model = model_of(arch)
    source, target = torch.randint(0, 10, (1, 6)), torch.randint(0, 10, (1, 8))
    before, memory = model(target, source=source), model.encode(source, None)
    for t in range(6):
        other = source.clone()
        other[0, t] = (other[0, t] + 1) % 10
        moved = (model.encode(other, None) - memory).abs().amax(-1)
        assert (moved > 1e-5).all(), "every position of the source sees every other"
        moved = (model(target, source=other) - before).abs().amax(-1)
        assert (moved > 1e-6).all(), "and every position of the target sees the source"
    for t in range(8):
        other = target.clone()
        other[0, t] = (other[0, t] + 1) % 10
        after = model(other, source=source)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-6)


@pytest.mark.parametrize("arch", WITH_ENCODER)
@torch.no_grad()
def test_packed_pairs_are_as_each_alone(arch: str) -> None:
    model = model_of(arch)
    items = [pair(3, 4, 1), pair(7, 2, 2), pair(1, 5, 3)]
    packed = nats(model, items, [items[0]])
    at = 0
    for item in items:
        count = len(item) - item.given
        alone = nats(model, [item])[0]
        torch.testing.assert_close(packed[0, at : at + count], alone, rtol=1e-4, atol=1e-5)
        at += count + 1
    torch.testing.assert_close(packed[1, :5], nats(model, [items[0]])[0], rtol=1e-4, atol=1e-5)
    scores = list(evaluate(model, TOKENIZER, items))
    for score, item in zip(scores, items, strict=True):
        np.testing.assert_allclose(score.nats, nats(model, [item])[0].numpy(), rtol=1e-4)


@pytest.mark.parametrize("arch", WITH_ENCODER)
@pytest.mark.parametrize("split", [[8], [1] * 8, [3, 1, 4]], ids=str)
@torch.no_grad()
def test_steps_of_any_split_are_the_full_pass(arch: str, split: list[int]) -> None:
    model = model_of(arch)
    source, target = torch.randint(0, 10, (2, 6)), torch.randint(0, 10, (2, 8))
    state, parts = model.start(2, 24), []
    for number, new in enumerate(target.split(split, dim=1)):
        parts.append(model.step(new, state, source=source if number == 0 else None))
    full = model(target, source=source)
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", WITH_ENCODER)
@torch.no_grad()
def test_many_prompts_are_sampled_as_each_alone(arch: str) -> None:
    """Of sources of several lengths, to the last bit, whatever the other rows hold."""
    model, some = model_of(arch), prompts(3, 9, 1, 5, 7, 2)
    records = [str(number) for number in range(len(some))]
    together = draw_rows(model, some, records, 7, 3, TOKENIZER, seed=5)
    for prompt, record, found in zip(some, records, together, strict=True):
        alone = draw_rows(model, [prompt], [record], 7, 3, TOKENIZER, seed=5)[0]
        count = min(len(alone), len(found))
        assert count and found[:count] == alone[:count]
        config = SampleConfig(length=count, seed=5)
        plain = list(generate(model, TOKENIZER, prompt, config, record=record))
        assert [each.ids[0] for each in plain] == [id for id, _ in found[:count]]


@pytest.mark.parametrize("arch", WITH_ENCODER)
@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_the_parameters_of_the_transformer(arch: str, size: str) -> None:
    ours, theirs = (
        on_meta(model_config(a, size)).blocks_parameter_count() for a in (arch, "transformer")
    )
    assert 0.9 < ours / theirs < 1.1


def test_a_model_with_an_encoder_needs_sources() -> None:
    with pytest.raises(ConfigError, match="whose items have a source"):
        with_sources(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a source"):
        model_of("vaswani")(torch.zeros(1, 3, dtype=torch.int64))


def test_an_encoder_knows_the_order_of_its_source() -> None:
    for fields in (dict(positions="alibi"), dict(positions="none"), dict(window=4)):
        with pytest.raises(ConfigError, match="for a model with an encoder"):
            model_of("encoder-decoder", **fields)
    for arch in WITH_ENCODER:
        model, source = model_of(arch), torch.arange(6)[None]
        turned = model.encode(source.flip(1), None).flip(1)
        assert float((turned - model.encode(source, None)).abs().max().detach()) > 1e-3


# -- label smoothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", ["none", "all", "each"])
def test_smoothed_targets_are_torchs(ranges: str) -> None:
    """`F.cross_entropy(label_smoothing=...)` over the legal ids."""
    model = model_of("vaswani")
    batch = as_tensors(
        collate([[(pair(4, 5), 4, 11)]], TOKENIZER, 7, encoder=True), torch.device("cpu")
    )
    if ranges == "none":
        batch = replace(batch, support=None)
    if ranges == "each":
        support = torch.tensor([0, BEGIN]).expand(1, 7, 2).clone()
        support[0, 3] = torch.tensor([int(batch.ids[0, 3]), int(batch.ids[0, 3]) + 2])
        batch = replace(batch, support=support)
    loss = Objective(model, label_smoothing=0.1)(batch)
    hidden = model(
        batch.ids[:, :-1],
        batch.positions[:, :-1],
        batch.segments[:, :-1],
        batch.source,
        batch.source_segments,
    )  # type: ignore[index]
    expected = torch.zeros(())
    for t in range(6):
        low, high = (0, VOCAB) if ranges == "none" else (0, BEGIN)
        if ranges == "each":
            low, high = batch.support[0, t + 1].tolist()  # type: ignore[index, union-attr]
        logits, target = model.logits(hidden[0, t])[low:high], batch.ids[0, t + 1] - low
        expected = expected + nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    plain = Objective(model)(batch)
    torch.testing.assert_close(plain, token_nll(model, batch).sum(), rtol=1e-5, atol=1e-5)
    assert not math.isclose(float(plain.detach()), float(loss.detach()), rel_tol=1e-3)
