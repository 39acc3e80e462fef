"""A step follows from the weights, the optimiser's state and its number, so training can stop and
go on anywhere; a step without a finite gradient is no step."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeTokenizer, RandomRows, same_bits, save_checkpoint, weights
from torch import Tensor

from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.data.datasets import step_batch
from tfm.core.errors import DivergedError
from tfm.core.model.loss import token_nll
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.runs.run import Run
from tfm.core.runs.tensors import read_tensors
from tfm.core.score.likelihood import as_tensors
from tfm.core.train.backend import choose_run_block
from tfm.core.train.loop import MAX_SKIPPED_STEPS, Step, train
from tfm.core.train.optim import load_state_tensors, lr_factor, make_optimizers, state_tensors

SHAPE = ModelConfig(vocab_size=11, layers=2, width=16, heads=2, context=8, zero_init=False)
CONFIG = TrainConfig(steps=6, batch=4, warmup=0.2)


def fresh(config: TrainConfig = CONFIG, **shape: Any) -> tuple[SequenceModel, list[Any]]:
    torch.manual_seed(0)
    model = SequenceModel(replace(SHAPE, **shape))
    return model, make_optimizers(model, config)


def trained(
    config: TrainConfig = CONFIG, data: RandomRows | None = None, **shape: Any
) -> tuple[SequenceModel, list[Step]]:
    model, optimizers = fresh(config, **shape)
    return model, list(train(model, data or RandomRows(), config, optimizers))


# -- a step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_it_learns(optimizer: str) -> None:
    config = TrainConfig(steps=60, batch=4, optimizer=optimizer, adam_lr=0.01)
    _, steps = trained(config, RandomRows(same=True))
    assert steps[0].loss == pytest.approx(np.log(11), rel=0.05)
    assert steps[-1].loss < 0.1


def test_a_step_says_what_it_did() -> None:
    model, optimizers = fresh()
    data = RandomRows()
    batch = as_tensors(step_batch(data, 0, CONFIG.batch, CONFIG.seed), torch.device("cpu"))
    weight = batch.weight[:, 1:]
    loss = (token_nll(model, batch) * weight).sum() / weight.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    steps = list(train(model, data, CONFIG, optimizers))
    assert [step.index for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0].loss == pytest.approx(loss.item(), rel=1e-5)
    assert steps[0].gradient_norm == pytest.approx(gradients.norm().item(), rel=1e-4)
    assert steps[0].tokens == int((weight > 0).sum())
    assert [step.lr for step in steps] == [CONFIG.lr * lr_factor(k, CONFIG) for k in range(6)]
    for group in (group for each in optimizers for group in each.param_groups):
        assert group["lr"] == group["peak_lr"] * lr_factor(5, CONFIG)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulated_passes_are_one_pass(optimizer: str) -> None:
    """Exactly the weighted mean over all rows, however unevenly the passes weigh."""
    config = replace(CONFIG, optimizer=optimizer)
    one, once = trained(replace(config, batch=12))
    for accumulate in (2, 3):
        other, several = trained(replace(config, batch=12 // accumulate, accumulate=accumulate))
        for a, b in zip(once, several, strict=True):
            assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.tokens == b.tokens
        for name, weight in weights(one).items():
            torch.testing.assert_close(other.get_parameter(name), weight, rtol=0, atol=2e-5)


def test_dropout_is_another_in_every_pass_and_step() -> None:
    still = replace(CONFIG, lr=1e-12, adam_lr=1e-12)
    _, plain = trained(still, RandomRows(same=True))
    assert len({round(step.loss, 5) for step in plain}) == 1
    _, dropped = trained(still, RandomRows(same=True), dropout=0.3)
    assert len({round(step.loss, 5) for step in dropped}) == 6
    _, two = trained(replace(still, accumulate=2), RandomRows(same=True), dropout=0.3)
    assert two[0].loss != pytest.approx(dropped[0].loss, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputing_changes_no_bit(dtype: str) -> None:
    config = replace(CONFIG, dtype=dtype)
    kept, steps = trained(config, dropout=0.3)
    again, same_steps = trained(replace(config, recompute=True), dropout=0.3)
    assert same_bits(weights(again), weights(kept))
    assert [step.loss for step in steps] == [step.loss for step in same_steps]


def test_recomputing_keeps_less() -> None:
    """What is saved for the backward pass, counted in bytes."""

    def kept(recompute: bool) -> int:
        model, _ = fresh(CONFIG)
        run_block = choose_run_block(model, replace(CONFIG, recompute=recompute))
        held = 0

        def hold(x: Tensor) -> Tensor:
            nonlocal held
            held += x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
            model(torch.zeros(4, 8, dtype=torch.long), run_block=run_block)
        return held

    assert kept(True) < kept(False) / 3


# -- again, and going on -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_equal_trainings_give_equal_bits(optimizer: str, dtype: str) -> None:
    config = replace(CONFIG, optimizer=optimizer, dtype=dtype)
    one, two = (weights(trained(config, dropout=0.2)[0]) for _ in range(2))
    assert same_bits(one, two)
    assert not same_bits(one, weights(trained(replace(config, seed=1), dropout=0.2)[0]))


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_stopping_and_going_on_changes_no_bit(
    tmp_path: Path, optimizer: str, dtype: str, stop: int
) -> None:
    config = replace(CONFIG, optimizer=optimizer, dtype=dtype, accumulate=2)
    whole, all_steps = trained(config, dropout=0.3, tied=True)

    model, optimizers = fresh(config, dropout=0.3, tied=True)
    described = {"model": asdict(model.config), "train": asdict(config)}
    run = Run.create(tmp_path / "run", described, FakeTokenizer(11), {})
    steps = train(model, RandomRows(), config, optimizers)
    first = [next(steps) for _ in range(stop)]
    saved = save_checkpoint(run, stop, model, optimizers)
    torch.manual_seed(99)  # what is random elsewhere does not matter

    again = Run(tmp_path / "run").load_model()
    optimizers = make_optimizers(again, config)
    load_state_tensors(again, optimizers, read_tensors(saved.path / "optimizer.safetensors"))
    rest = list(train(again, RandomRows(), config, optimizers, start=stop))
    assert [step.loss for step in first + rest] == [step.loss for step in all_steps]
    assert same_bits(weights(again), weights(whole))


# -- steps that are none -------------------------------------------------------------------------


def test_a_step_without_a_finite_loss_is_left_out() -> None:
    model, optimizers = fresh()
    steps = train(model, RandomRows(broken=(2, 3)), CONFIG, optimizers)
    next(steps)
    before, state = weights(model), str(state_tensors(model, optimizers))
    assert [next(steps).skipped for _ in range(2)] == [1, 2]
    assert same_bits(weights(model), before)
    assert str(state_tensors(model, optimizers)) == state
    assert next(steps).skipped == 0
    assert not same_bits(weights(model), before)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_step_without_a_finite_gradient_is_left_out() -> None:
    model, optimizers = fresh()
    model.embedding.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = weights(model)
    step = next(train(model, RandomRows(), CONFIG, optimizers))
    assert np.isfinite(step.loss) and not np.isfinite(step.gradient_norm) and step.skipped == 1
    assert step.record()["gradient_norm"] is None
    assert same_bits(weights(model), before)


def test_many_in_a_row_are_divergence() -> None:
    config = replace(CONFIG, steps=50)
    model, optimizers = fresh(config)
    with torch.no_grad():
        model.embedding.weight[3] = torch.nan
    seen = []
    with pytest.raises(DivergedError, match=f"{MAX_SKIPPED_STEPS} steps .*--set train.lr"):
        for step in train(model, RandomRows(), config, optimizers, skipped=2):
            seen.append(step)
    assert [step.skipped for step in seen] == list(range(3, MAX_SKIPPED_STEPS))


def test_now_and_then_is_none() -> None:
    broken = tuple(step for step in range(1, 41) if step % MAX_SKIPPED_STEPS)
    _, steps = trained(replace(CONFIG, steps=40), RandomRows(broken=broken))
    assert max(step.skipped for step in steps) == MAX_SKIPPED_STEPS - 1
