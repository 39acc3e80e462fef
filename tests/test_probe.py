"""`tfm probe`: each measure against an independent exact case, then the command."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm, Trained
from helpers import FakeTokenizer, random_weights, small_model
from scipy.stats import binomtest
from torch import Tensor, nn

from tfm.core.architectures import ARCHS
from tfm.core.capture import capture
from tfm.core.config import ModelConfig
from tfm.core.errors import ConfigError, DataError
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.probe.ablation import ablate
from tfm.core.probe.attention import attention_by_head
from tfm.core.probe.distance import (
    Answers,
    AtDistance,
    chart,
    options_at,
    training_options,
    verdict,
)
from tfm.core.probe.estimate import Estimate, half_octaves, ratio, resampled_mean, share
from tfm.core.probe.influence import influence_by_distance
from tfm.core.probe.position import bin_starts, loss_by_position
from tfm.core.probe.predictions import right_answers
from tfm.core.probe.sample import Sample, draw
from tfm.core.protocols import Sequence
from tfm.core.score.likelihood import accuracy, evaluate

V, LONG = 23, 13  # of the vocabulary; ids of an item, which fill the context of 12
PLAIN: dict[str, Any] = {"positions": "none", "ffn": "none"}


def items(count: int, length: int = LONG, given: int = 1) -> list[Sequence]:
    draw = np.random.default_rng(0)
    return [Sequence(draw.integers(0, V, length), given) for _ in range(count)]


def sample_of(model: SequenceModel, sequences: list[Sequence], count: int = 99) -> Sample:
    return draw(model.eval(), FakeTokenizer(V), sequences, count, 0)


# -- estimates -------------------------------------------------------------------------------------


def test_a_ratio_is_within_its_interval_19_times_of_20() -> None:
    """Windows of unequal weight, whose numerators grow with it; the true ratio is 2."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        under = random.integers(1, 30, 40).astype(float)
        found = ratio(2 * under + under**0.5 * random.normal(size=40), under)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 2 <= found.high
    assert 460 <= held <= 488


def test_a_ratio_of_equal_weights_is_a_mean_with_students_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = ratio(3 * values, np.full(4, 3.0))
    assert found is not None and found.value == 4 and found.low is not None
    error = values.std(ddof=1) / 2
    assert math.isclose(found.value - found.low, 3.182446305 * error)  # t of a table, 3 degrees
    assert ratio(np.zeros(3), np.zeros(3)) is None
    one = ratio(np.array([6.0, 0.0]), np.array([2.0, 0.0]))
    assert one is not None and (one.value, one.low) == (3, None), "one window has no interval"


def test_the_interval_of_a_divergence_is_never_negative() -> None:
    values = np.array([1e-6] * 30 + [1.0])
    found = resampled_mean(values, 0)
    assert found.low is not None and found.high is not None
    assert 0 < found.low < found.value < found.high
    assert resampled_mean(np.zeros(9), 0).high == 0


def test_bins_are_of_half_octaves() -> None:
    assert half_octaves(25) == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert bin_starts(64).tolist() == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert bin_starts(63).tolist()[-1] == 48 and bin_starts(1).tolist() == [1]


# -- the sample ------------------------------------------------------------------------------------


def test_a_sample_is_of_windows_that_eval_scores() -> None:
    """A long item is cut at the context; items of one id have nothing to predict."""
    model = small_model()
    long = [Sequence(np.arange(30) % V), Sequence(np.array([3]))]
    found = sample_of(model, long)
    assert found.total == len(found) == 3
    windows = {(part.start, part.end) for part in found.parts}
    assert windows == {(0, 13), (12, 25), (17, 30)}
    assert sum(map(len, found.scored())) == 29, "each id once"
    assert len(sample_of(model, items(9), count=4)) == 4
    same, other = (draw(model, FakeTokenizer(V), items(9), 4, seed).parts for seed in (0, 1))
    assert [id(p) for p in same] != [id(p) for p in other]
    with pytest.raises(DataError, match="no window"):
        sample_of(model, [Sequence(np.array([3]))])


# -- loss by position ------------------------------------------------------------------------------


def test_the_loss_of_a_position_is_what_eval_says_of_it() -> None:
    model = small_model()
    some = [*items(7), *items(3, length=6), *items(2, length=9, given=4)]
    found = loss_by_position(sample_of(model, some))
    nats: dict[int, list[float]] = {}
    for score in evaluate(model, FakeTokenizer(V), some):  # type: ignore[arg-type]
        for at, value in enumerate(score.nats, score.sequence.given):
            nats.setdefault(at, []).append(value)
    assert [(p.first, p.last) for p in found][-2:] == [(6, 7), (8, 12)]
    for each in found:
        own = [value for at in range(each.first, each.last + 1) for value in nats[at]]
        assert each.tokens == len(own)
        assert math.isclose(each.loss.value, float(np.mean(own)), rel_tol=1e-5)


def test_a_model_that_knows_nothing_loses_the_same_everywhere() -> None:
    model = small_model()
    nn.init.zeros_(model.head.weight)
    for each in loss_by_position(sample_of(model, items(5))):
        assert each.loss.low is not None and each.loss.high is not None
        assert each.loss.low == pytest.approx(math.log(V)) == each.loss.high


# -- influence by distance -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        (7, dict(mixers="conv", kernel=3, **PLAIN)),  # dilations 1 and 2
        (5, dict(window=3)),
        (6, dict(mixers="attention,conv", window=2, kernel=3)),  # dilation 2
    ],
    ids=["conv", "window", "hybrid"],
)
def test_nothing_beyond_the_receptive_field_has_an_influence(
    field: int, shape: dict[str, Any]
) -> None:
    model = small_model(**shape).eval()
    assert model.receptive_field() == field
    found = influence_by_distance(sample_of(model, items(60)), 0)
    for each in found.by_distance:
        if each.distance > field:
            assert each.kl.value == each.kl.high == 0, each
        else:
            assert each.kl.low is not None and each.kl.low > found.floor, each
    assert 0 < found.floor < 1e-9
    assert found.farthest() == max(d for d in half_octaves(12) if d <= field)


def test_the_influence_of_the_last_token_is_its_divergence() -> None:
    """A model that reads the last token alone: logits = head(norm(embedding)). Of two windows, each
    one's token becomes that of the other."""
    config = ModelConfig(vocab_size=V, layers=1, width=16, heads=2, context=12, **PLAIN)
    model = random_weights(SequenceModel(config))
    nn.init.zeros_(model.blocks[0].mixer.out.weight)  # type: ignore[union-attr, arg-type]
    one, other = np.full(LONG, 3), np.full(LONG, 8)
    found = influence_by_distance(sample_of(model, [Sequence(one), Sequence(other)]), 0)
    table = model.embedding.weight.detach().double().numpy()
    norm = np.sqrt((table**2).mean(1, keepdims=True) + config.norm_eps)
    assert model.norm is not None
    weight = model.norm.weight.detach().numpy()  # type: ignore[union-attr, operator]
    logits = table / norm * weight @ model.head.weight.detach().double().numpy().T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    both = [(p[a] * np.log(p[a] / p[b])).sum() for a, b in ((3, 8), (8, 3))]
    last, *others = found.by_distance
    assert last.distance == 1 and last.windows == 2
    assert last.kl.value == pytest.approx(np.mean(both), rel=1e-5)
    assert others and all(each.kl.value == 0 for each in others)
    assert found.farthest() == found.farthest(0.01) == 1


def test_a_token_that_all_windows_share_is_not_replaced() -> None:
    ids = np.stack([each.ids for each in items(20)])
    ids[:, 0] = 0
    found = influence_by_distance(sample_of(small_model(), [Sequence(row) for row in ids]), 0)
    assert all(each.distance < 12 for each in found.by_distance)


# -- attention -------------------------------------------------------------------------------------


def expected(weights: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """(distance, entropy, weight on the first token) of weights (T, T), in plain loops."""
    far = spread = first = 0.0
    for query, row in enumerate(weights):
        far += sum(w * abs(query - key) for key, w in enumerate(row))
        spread += -sum(w * math.log(w) for w in row if w > 0)
        first += row[0]
    return far / len(weights), spread / len(weights), first / len(weights)


@pytest.mark.parametrize("kind", ["even", "window", "alibi"])
def test_attention_of_a_known_pattern(kind: str) -> None:
    """Queries of zero see all alike: 1 / n; with ALiBi exp(-slope * distance), the slopes of two
    heads being 2^-4 and 2^-8."""
    shape = {"even": {}, "window": {"window": 3}, "alibi": {"positions": "alibi"}}[kind]
    model = small_model(**shape)
    for block in model.blocks:
        nn.init.zeros_(block.mixer.qkv.weight)  # type: ignore[union-attr, arg-type]
    found = attention_by_head(sample_of(model, items(3)))
    assert list(found) == ["blocks.0.attn", "blocks.1.attn"]
    back = np.arange(12)[:, None] - np.arange(12)
    seen = (back >= 0) & (back < (3 if kind == "window" else 12))
    for layer in found.values():
        for head, own in enumerate([*layer.heads, layer.even]):
            slope = (2**-4, 2**-8, 0)[head] if kind == "alibi" else 0
            weights = np.exp(-slope * back) * seen
            known = expected(weights / weights.sum(1, keepdims=True))
            assert own.distance is not None
            measured = own.distance.value, own.entropy.value, own.first.value
            assert measured == pytest.approx(known, rel=1e-4)
    if kind == "even":
        mean = np.mean([t / 2 for t in range(12)])
        assert found["blocks.0.attn"].even.distance.value == pytest.approx(mean)  # type: ignore[union-attr]


def test_models_without_attention_have_none() -> None:
    for mixer in ("lstm", "conv"):
        assert attention_by_head(sample_of(small_model(mixers=mixer, **PLAIN), items(2))) == {}


# -- ablation --------------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "transformer": {},
    "gpt2": dict(ARCHS["gpt2"].model),
    "post-ln": dict(ARCHS["post-ln"].model),
    "grouped": dict(heads=4, kv_heads=2, norm_position="sandwich"),
    "lstm": dict(ARCHS["lstm"].model),
    "conv": dict(ARCHS["cnn"].model),
    "attention-rnn": dict(ARCHS["attention-rnn"].model),
    "hybrid": dict(mixers="attention,gru"),
    "encoder-decoder": {**ARCHS["encoder-decoder"].model, "encoder_layers": 2},
}


class Constant(nn.Module):
    """A layer that writes the same value everywhere."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, context: object) -> Tensor:
        return self.value.expand_as(x)


def total_loss(model: SequenceModel, sequences: list[Sequence]) -> float:
    scores = list(evaluate(model, FakeTokenizer(V), sequences))  # type: ignore[arg-type]
    return sum(score.nll for score in scores) / sum(score.tokens for score in scores)


def written(model: SequenceModel, sequences: list[Sequence]) -> list[dict[str, Tensor]]:
    """The tensors within the model for each item, one after the other."""
    found = []
    for sequence in sequences:
        ids = torch.from_numpy(sequence.ids)
        if not model.has_encoder:
            found.append(capture(model, ids[:-1]))
            continue
        source, rest = ids[: sequence.given], ids[sequence.given - 1 : -1]
        found.append(capture(model, rest, source=source))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_ablation_is_what_editing_the_weights_gives(shape: str) -> None:
    """A second implementation: the columns of a head leave the output projection, whose bias takes
    up what they make of the head's mean; a layer is replaced by a constant module."""
    model = small_model(**SHAPES[shape]).eval()
    sequences = [*items(4, given=3), *items(2, length=8, given=3)]
    found = ablate(sample_of(model, sequences))
    within, intact = written(model, sequences), total_loss(model, sequences)
    for name, layer in found.layers.items():
        stem, number, kind = name.split(".")
        member = "cross" if kind == "cross_attn" else "mixer"

        def changed(edit: Any, at: Any = (stem, int(number), member)) -> float:
            own = copy.deepcopy(model)
            block = (own.encoder if at[0] == "encoder" else own.blocks)[at[1]]
            edit(block, getattr(block, at[2]))
            return total_loss(own, sequences) - intact

        def off(block: Any, mixer: Any, member: str = member, key: str = name) -> None:
            outputs = torch.cat([output_of(block, tensors, key) for tensors in within])
            setattr(block, member, Constant(outputs.mean(0)))

        def output_of(block: Any, tensors: dict[str, Tensor], key: str) -> Tensor:
            """Before an output norm, which a layer's own output has passed in `capture`."""
            mixer = block.cross if key.endswith("cross_attn") else block.mixer
            if block.pre and block.mixer_out_norm is not None:
                return mixer.out(tensors[f"{key}.hook_z"].flatten(1))  # type: ignore[no-any-return]
            before, _, last = key.rpartition(".")
            return tensors[f"{before}.hook_{last}_out"]

        assert layer.off.value == pytest.approx(changed(off), abs=2e-5)
        assert abs(layer.off.value) > 1e-3, "the layer contributes"

        def without(heads: list[int], key: str = name) -> Any:
            def edit(block: Any, mixer: Any) -> None:
                z = torch.cat([tensors[f"{key}.hook_z"].flatten(1) for tensors in within]).mean(0)
                width = len(z) if mixer.out.in_features == 2 * len(z) else len(z) // mixer.heads
                first = mixer.out.in_features - len(z)
                with torch.no_grad():
                    bias = torch.zeros(mixer.out.out_features)
                    if mixer.out.bias is not None:
                        bias += mixer.out.bias
                    for head in heads:
                        own = slice(first + head * width, first + (head + 1) * width)
                        bias += mixer.out.weight[:, own] @ z[head * width : (head + 1) * width]
                        mixer.out.weight[:, own] = 0
                    mixer.out.bias = nn.Parameter(bias)

            return edit

        count = len(layer.heads)
        for head, own in enumerate(layer.heads):
            assert own.off.value == pytest.approx(changed(without([head])), abs=2e-5)
            if own.alone is None:
                assert count == 1
                continue
            others = [other for other in range(count) if other != head]
            assert own.alone.value == pytest.approx(changed(without(others)), abs=2e-5)


def test_one_head_a_layer_is_the_best_alone() -> None:
    """With two heads, that which is not switched off; scored on the other half of the windows."""
    model = small_model(layers=1)
    found = ablate(sample_of(model, items(40)))
    (layer,) = found.layers.values()
    best = found.best["blocks.0.attn"]
    assert found.one_head is not None and found.no_heads is not None
    alone = layer.heads[best].alone
    assert alone is not None and alone.low is not None and alone.high is not None
    assert alone.low < found.one_head.value < alone.high
    assert found.no_heads.value == pytest.approx(layer.off.value, abs=1e-6)
    without = ablate(sample_of(small_model(mixers="lstm", **PLAIN), items(2)))
    assert without.one_head is None and without.no_heads is None and without.best == {}


# -- accuracy by distance --------------------------------------------------------------------------


def test_right_answers_are_those_of_the_accuracy() -> None:
    """By item they add up to `likelihood.accuracy`; an end token does not count."""
    model = small_model(std=1.0)
    some = [*items(30, given=3), *items(20, length=8, given=2)]
    sample = sample_of(model, some)
    right, count, constant = right_answers(sample)
    known = accuracy(model, FakeTokenizer(V), some)  # type: ignore[arg-type]
    assert right.sum() / count.sum() == pytest.approx(known) and right.sum() > 0
    assert sorted(count) == [6] * 20 + [10] * 30
    targets = np.concatenate([each.ids[each.given :] for each in some])
    assert constant == pytest.approx(np.bincount(targets).max() / len(targets))
    _, without, _ = right_answers(sample, end=5)
    assert without.sum() == (targets != 5).sum()


def test_the_interval_of_a_share_stays_between_0_and_1() -> None:
    """If all are right, as of binomial tests."""
    ones, fours = np.ones(50), np.full(50, 4.0)
    known = binomtest(50, 50).proportion_ci(method="exact")
    for found, ends in (
        (share(fours, fours), (known.low, known.high)),
        (share(0 * ones, ones), (1 - known.high, 1 - known.low)),
    ):
        assert found is not None and (found.low, found.high) == pytest.approx(ends)
    nearly = share(np.append(np.ones(49), 0.9), ones)
    assert nearly is not None and nearly.high == 1.0


def test_the_lengths_of_recall_are_those_of_zoology() -> None:
    """64 tokens with 4 pairs, 128 with 8, 256 with 16 (Arora et al. 2023, figure 2)."""
    for length, pairs in ((64, 4), (128, 8), (256, 16)):
        assert options_at("recall", length) == {
            "length": length,
            "pairs": pairs,
            "min_length": length,
        }
    assert options_at("copy", 64) == {"min_length": 64, "max_length": 64}
    for task, length in (("text", 64), ("recall", 63), ("recall", 2)):
        with pytest.raises(ConfigError):
            options_at(task, length)
    mixed = {"length": 256, "pairs": 16, "min_length": 64}
    assert training_options("recall", [128, 64, 256]) == mixed


def test_the_verdict_says_who_is_above_the_floor() -> None:
    def at(*accuracies: Estimate | None) -> AtDistance:
        names = ("transformer", "lstm")
        answers = [Answers(n, a, [], {}) for n, a in zip(names, accuracies, strict=True)]
        return AtDistance(64, {}, 9, {"guess": 0.25, "constant": 0.01}, answers)

    high, low, middle = Estimate(0.9, 0.8, 1.0), Estimate(0.2, 0.1, 0.3), Estimate(0.7, 0.6, 0.85)
    said = "Above the floor there: transformer. transformer is better than all others."
    assert verdict([at(high, low)]).endswith(said)
    assert "transformer is not better than lstm." in verdict([at(high, middle)])
    assert verdict([at(low, low)]).endswith("None is above the floor there.")
    assert "lstm diverged" in verdict([at(high, None)])
    drawn = chart("recall", [at(high, None)])
    assert drawn.names == ["transformer", "floor"]


def test_architectures_are_compared_at_each_distance(tfm: Tfm) -> None:
    """The study goes on where it was, and says the same again."""
    flags = ("--tokens", "1k", "--set", "model.layers=1", "--lr", 1, "--jobs", 2, "--study", "s")
    asked = ("--task", "induction", "--arch", "transformer,cnn", "--distance", "4,6")
    record = tfm("probe", *asked, *flags, "--json", "--plot", "a.svg").json()
    near, at = record["distances"]
    assert record["trained_on"] == {"min_length": 4, "max_length": 6}
    assert [each["distance"] for each in (near, at)] == [4, 6]
    assert (at["min_length"], at["max_length"], at["items"] > 100) == (6, 6, True)
    assert [each["arch"] for each in at["architectures"]] == ["transformer", "cnn"]
    sizes = [each["parameters"] for each in at["architectures"]]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02
    for each in at["architectures"]:
        assert 0 <= each["accuracy"]["low"] <= each["accuracy"]["value"] <= 1
    assert 0.03 < at["floor"]["constant"] < 0.15, "one of 26 letters"
    assert (tfm.folder / "a.svg").exists()
    (run,) = (tfm.folder / "s" / each for each in at["architectures"][0]["runs"])
    assert tfm("eval", run, "--json").json()["task"] == "induction"
    again = tfm("probe", "--resume", "s")
    assert "accuracy on at most" in again.text
    assert record["verdict"] in " ".join(again.text.split())


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_tables_and_json(tfm: Tfm, trained: Trained) -> None:
    probe = ("probe", trained.path, "--items", 8)
    printed = tfm(*probe, "--plot", "found.svg")
    assert "even attention" in printed.text and "noise floor" in printed.text
    assert "found.svg" in printed.err
    svg = (tfm.folder / "found.svg").read_text()
    assert svg.startswith("<?xml") and "Many heads are better than one" in svg
    found = tfm(*probe, "--json", "-q")
    assert found.err == ""
    record = found.json()
    assert record["schema"] == 1 and record["windows"] == 8 and record["unit"] == "nats per token"
    assert [layer["layer"] for layer in record["layers"]] == ["blocks.0.attn", "blocks.1.attn"]
    assert record["positions"][0]["first"] == 1 and record["influence"]["distances"]
    assert tfm(*probe, "--json", "-q").text == found.text, "the same again"
    assert tfm(*probe, "--json", "--seed", 1).json()["loss"] != record["loss"]


def test_the_loss_of_all_windows_is_that_of_eval(tfm: Tfm, trained: Trained) -> None:
    record = tfm("probe", trained.path, "--items", 10_000, "--json").json()
    assert record["windows"] == record["windows_held_out"]
    nats = trained.scores["nll"] / trained.scores["tokens"]
    assert record["loss"]["value"] == pytest.approx(nats, rel=1e-5)


def test_a_wrong_flag_is_found_before_the_work(tfm: Tfm, trained: Trained) -> None:
    assert "--plot x.gif: must end in" in tfm.error("probe", trained.path, "--plot", "x.gif")
    assert "--split" in tfm.error("probe", trained.path, "--split", "test")
    assert "nothing" in tfm.error("probe", "nothing")
    assert "--task text: without a RUN one of" in tfm.error("probe", "--task", "text")
    assert "--arch" in tfm.error("probe", "--task", "recall", "--arch", "transformr")
    assert "--distance x" in tfm.error("probe", "--task", "recall", "--distance", "x")
    assert "--items: not with --task" in tfm.error("probe", "--task", "recall", "--items", 3)
    assert "--arch: not for a RUN" in tfm.error("probe", trained.path, "--arch", "lstm")
    assert not (tfm.folder / "studies").exists()
