"""On a GPU: CUDA graphs and compiled blocks, compared with plain calls and with a CPU."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeTokenizer, gradients

from tfm.core.architectures import ARCHS, model_config
from tfm.core.config import SampleConfig, TrainConfig
from tfm.core.decode.batch_decoder import Decoder, for_decoding
from tfm.core.decode.sampling import generate
from tfm.core.model.lora import adapt
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops.cuda_graphs import WARMUP_CALLS
from tfm.core.protocols import Array, Batch, Ids, Sequence
from tfm.core.score.likelihood import as_tensors, batch_nll
from tfm.core.train.backend import make_micro_step
from tfm.core.train.loop import Step, train
from tfm.core.train.optim import make_optimizers

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
VOCAB, CONTEXT, ROWS = 300, 48, 6


def model_of(arch: str = "transformer", **fields: Any) -> SequenceModel:
    """A model with random matrices. `helpers.random_weights` randomises norms and biases too."""
    torch.manual_seed(0)
    config = model_config(arch, "tiny", vocab_size=VOCAB, context=CONTEXT, **fields)
    model = SequenceModel(config).train()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


class Rows:
    """Random ids; unless `kind` is plain, half of them have weight 0."""

    def __init__(self, kind: str = "plain") -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1000

    def batch(self, indices: Ids) -> Batch[Array]:
        rng = np.random.default_rng(int(indices[0]))
        shape = (len(indices), CONTEXT + 1)
        ids, weight = rng.integers(0, VOCAB, shape), np.ones(shape, np.float32)
        if self.kind == "plain":
            return Batch(ids, weight)
        weight[rng.random(shape) < 0.5] = 0
        if self.kind == "range":  # ids of weight 0 are outside the range
            return Batch(np.where(weight > 0, 100 + ids % 50, ids), weight, support=(100, 150))
        segments = np.broadcast_to(np.arange(CONTEXT + 1) // 20, shape).copy()
        support = np.broadcast_to(np.array([0, VOCAB]), (*shape, 2)).copy()
        support[weight == 0] = 7, 7  # an empty range where the weight is 0
        return Batch(ids, weight, segments=segments, support=support)


def trained(
    device: torch.device,
    config: TrainConfig,
    kind: str = "plain",
    arch: str = "transformer",
    **fields: Any,
) -> tuple[SequenceModel, list[Step]]:
    model = model_of(arch, **fields)
    adapt(model, config.lora, seed=0)
    model.to(device)
    return model, list(train(model, Rows(kind), config, make_optimizers(model, config)))


def arguments(kind: str, number: int, device: torch.device) -> Batch[torch.Tensor]:
    return as_tensors(Rows(kind).batch(np.arange(ROWS) + ROWS * number), device)


@pytest.mark.parametrize("kind", ["plain", "range", "packed"])
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_recorded_pass_is_the_pass(arch: str, kind: str, dtype: str) -> None:
    """Gradients of a CUDA graph are bit-identical to those of plain calls, and in float32 within
    1e-5 of the CPU's."""
    exact, model = model_of(arch), model_of(arch).to(GPU)
    config = TrainConfig(dtype=dtype)
    on_cpu, once = make_micro_step(exact, config), make_micro_step(model, config)
    for number in range(WARMUP_CALLS + 3):
        batch = arguments(kind, number, GPU)
        found = gradients(model, partial(once, batch))
        if number < WARMUP_CALLS + 1:
            continue  # only the last two replay a captured graph
        by_calls = gradients(model, partial(make_micro_step(model, config), batch))
        assert all(torch.equal(found[name], value) for name, value in by_calls.items())
        if dtype == "float32":
            expected = gradients(exact, partial(on_cpu, arguments(kind, number, CPU)))
            for name, value in expected.items():
                assert float((found[name] - value).norm()) <= 1e-5 * float(value.norm()) + 1e-6


@pytest.mark.filterwarnings("ignore")  # from torch's compiler
@pytest.mark.parametrize("arch", ["transformer", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_blocks_are_the_blocks(arch: str, dtype: str) -> None:
    """In float32 within 1e-5; in bfloat16 with at most 1.5 times the error of plain calls."""
    model = model_of(arch).to(GPU)
    batch = arguments("packed", 0, GPU)
    exact, plain, fused = (
        gradients(model, partial(make_micro_step(model, config), batch))
        for config in (
            TrainConfig(),
            TrainConfig(dtype=dtype),
            TrainConfig(dtype=dtype, compile=True),
        )
    )
    for name, value in exact.items():
        off = float((fused[name] - value).norm())
        assert off <= 1.5 * float((plain[name] - value).norm()) + 1e-5 * float(value.norm()) + 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate": 2},
        {"optimizer": "adamw"},
        {"average": 0.9},
        {"recompute": True},
        {"clip": 0.0},
        {"lora": 4},
    ],
    ids=str,
)
def test_a_run_is_the_one_on_a_cpu(settings: dict[str, Any]) -> None:
    """In float32; steps are captured as CUDA graphs from the fourth on."""
    config = replace(TrainConfig(steps=14, batch=ROWS), **settings)
    _, expected = trained(CPU, config)
    _, found = trained(GPU, config)
    for a, b in zip(expected, found, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=2e-4) and a.tokens == b.tokens
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=5e-3)


@pytest.mark.filterwarnings("ignore")  # from torch's compiler
@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_learns_as_well(compiled: bool) -> None:
    exact = TrainConfig(steps=60, batch=ROWS)
    _, expected = trained(CPU, exact)
    _, found = trained(GPU, replace(exact, dtype="bfloat16", compile=compiled))
    for part in (slice(0, 20), slice(20, 40), slice(40, 60)):
        means = [sum(step.loss for step in steps[part]) / 20 for steps in (expected, found)]
        assert means[1] == pytest.approx(means[0], abs=0.01)


def test_dropout_is_another_in_every_recorded_pass_and_the_same_again() -> None:
    config = TrainConfig(steps=12, batch=ROWS, lr=1e-12, adam_lr=1e-12, dtype="bfloat16")

    class Same(Rows):
        def batch(self, indices: Ids) -> Batch[Array]:
            return super().batch(np.zeros_like(indices))

    def losses() -> list[float]:
        model = model_of(dropout=0.3).to(GPU)
        return [s.loss for s in train(model, Same(), config, make_optimizers(model, config))]

    once = losses()
    assert len(set(once)) == 12 and losses() == once


def test_a_step_that_is_not_finite_moves_nothing() -> None:
    class Broken(Rows):
        broken = False

        def batch(self, indices: Ids) -> Batch[Array]:
            found = super().batch(indices)
            if self.broken:
                found.weight[:] = np.nan
            return found

    config = TrainConfig(steps=20, batch=ROWS)
    model, data = model_of().to(GPU), Broken()
    for step in train(model, data, config, make_optimizers(model, config)):
        assert step.skipped == int(step.index == 12)
        if step.index == 11:
            data.broken = True
            before = model.head.weight.clone()
        if step.index == 12:
            data.broken = False
            assert torch.equal(before, model.head.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("arch", ["transformer", "gpt2"])
def test_drawing_by_recorded_steps_is_the_plain_loop(arch: str, dtype: str) -> None:
    model = model_of(arch).to(GPU).eval()
    tokenizer: Any = FakeTokenizer(VOCAB)
    ready, _ = for_decoding(model, 3, dtype)
    prompt = Sequence(np.arange(5))

    def drawn(draws: list[int]) -> list[list[Any]]:
        decoder = Decoder(ready, tokenizer, SampleConfig(), 3)
        rows = [decoder.begin(prompt, 30, draw=draw) for draw in draws]
        steps = [decoder.step() for _ in range(30)]
        return [[step[row] for step in steps] for row in rows]

    together = drawn([0, 1, 2])
    assert drawn([2])[0] == together[2], "whatever is drawn beside it"
    assert isinstance(ready, SequenceModel)
    plain = list(generate(ready, tokenizer, prompt, SampleConfig(length=30), 3))
    for draw in range(3):
        for (_, logprob), each in zip(together[draw][:1], plain, strict=False):
            assert logprob == pytest.approx(each.logprobs[draw], abs=0.02)
    if dtype == "float32":
        assert [[id for id, _ in row] for row in together] == [
            [each.ids[draw] for each in plain] for draw in range(3)
        ]


def test_scores_are_those_of_a_cpu() -> None:
    model, batch = model_of().eval(), Rows("packed").batch(np.arange(ROWS))
    batch = replace(batch, support=None)
    expected = batch_nll(model, batch)
    found = batch_nll(model.to(GPU), batch)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
