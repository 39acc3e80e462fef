"""Muon against its definition by singular values and against torch's own; who moves what; rates."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tfm.core.architectures import ARCHS, model_config
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.errors import ConfigError
from tfm.core.model.layers import Linear, knot_weights
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.train.adamw import AdamW, Neighbours
from tfm.core.train.muon import Muon, orthogonalise
from tfm.core.train.optim import load_state_tensors, lr_factor, make_optimizers, state_tensors

SHAPES = [(1, 1), (4, 4), (24, 24), (8, 40), (40, 8), (64, 256), (800, 200)]


def quintic(singular: np.ndarray) -> np.ndarray:
    """Jordan 2024: five times 3.4445 s - 4.775 s^3 + 2.0315 s^5."""
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return singular


def by_singular_values(matrix: np.ndarray) -> np.ndarray:
    """What five Newton-Schulz steps do, seen in the basis where they are numbers."""
    u, singular, v = np.linalg.svd(matrix, full_matrices=False)
    moved: np.ndarray = (u * quintic(singular / (np.linalg.norm(matrix) + 1e-7))) @ v
    return moved


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orthogonalise_is_the_quintic_of_each_singular_value(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 100.0])[:, None, None]
    moved = torch.stack([*orthogonalise(matrices)])
    for each, before in zip(moved.numpy(), matrices.double().numpy(), strict=True):
        np.testing.assert_allclose(each, by_singular_values(before), atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("condition", [1, 10, 50])
def test_singular_values_are_moved_near_one(condition: float, dtype: torch.dtype) -> None:
    """The band that the quintic is known for, 0.7 to 1.2; a little more where bfloat16 rounds."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(16, 16)).Q for _ in range(2))
    matrix = u @ torch.diag(torch.logspace(0, -float(np.log10(condition)), 16)) @ v
    singular = torch.linalg.svdvals([*orthogonalise(matrix[None].to(dtype))][0].float())
    slack = 0.05 if dtype == torch.bfloat16 else 0.01
    assert 0.68 - slack < float(singular.min()) <= float(singular.max()) < 1.21 + slack


def test_nothing_to_move_is_not_moved() -> None:
    for shape in ((2, 4, 6), (2, 6, 4)):
        assert all((each == 0).all() for each in orthogonalise(torch.zeros(*shape)))


# -- Muon ----------------------------------------------------------------------------------------


def layer(inputs: int, *rows: int, seed: int = 0) -> Linear:
    torch.manual_seed(seed)
    return Linear(inputs, rows, bias=False)


def rows_of(*layers: Linear) -> dict[Tensor, tuple[int, ...]]:
    return {each.weight: each.rows for each in layers}


def move(muon: Muon, layers: list[Linear], steps: int = 3) -> list[Tensor]:
    """Steps whose gradients depend on the shape and the number of the step alone."""
    for step in range(steps):
        for each in layers:
            torch.manual_seed(step)
            each.weight.grad = torch.randn(each.weight.shape)
        muon.step()
    return [each.weight.detach().clone() for each in layers]


@pytest.mark.parametrize("shape", [(6, 6), (5, 12), (12, 5)], ids=str)
def test_muon_is_momentum_then_the_quintic(shape: tuple[int, int]) -> None:
    lr, momentum, decay = 0.1, 0.9, 0.2
    one = layer(shape[1], shape[0])
    w, buffer = one.weight.detach().double().numpy(), np.zeros(shape)
    (moved,) = move(Muon(rows_of(one), lr, momentum, decay), [one])
    for step in range(3):
        torch.manual_seed(step)
        gradient = torch.randn(shape).double().numpy()
        buffer = momentum * buffer + (1 - momentum) * gradient
        nesterov = momentum * buffer + (1 - momentum) * gradient
        scale = max(1, shape[0] / shape[1]) ** 0.5
        w = w * (1 - lr * decay) - lr * scale * by_singular_values(nesterov)
    np.testing.assert_allclose(moved.numpy(), w, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)], ids=str)
def test_muon_is_torch_muon(shape: tuple[int, int]) -> None:
    ours, theirs = layer(shape[1], shape[0]), layer(shape[1], shape[0])
    before = ours.weight.detach().clone()
    reference = torch.optim.Muon([theirs.weight], lr=0.1, momentum=0.9, weight_decay=0.2)
    (mine,) = move(Muon(rows_of(ours), 0.1, 0.9, 0.2, torch.bfloat16), [ours])
    (other,) = move(reference, [theirs])  # type: ignore[arg-type]
    difference = (mine - other).norm() / (other - before).norm()
    assert float(difference) < 0.06, "both round to bfloat16, at different places"


def test_fused_rows_are_matrices_of_their_own() -> None:
    fused = layer(12, 12, 4, 20)
    apart = [layer(12, rows) for rows in fused.rows]
    with torch.no_grad():
        for part, weight in zip(apart, fused.weight.split(list(fused.rows)), strict=True):
            part.weight.copy_(weight)
    whole, parts = Muon(rows_of(fused), 0.1, 0.9, 0.1), Muon(rows_of(*apart), 0.1, 0.9, 0.1)
    for step in range(3):
        torch.manual_seed(step)
        fused.weight.grad = torch.randn(fused.weight.shape)
        for part, gradient in zip(apart, fused.weight.grad.split(list(fused.rows)), strict=True):
            part.weight.grad = gradient.clone()
        whole.step()
        parts.step()
    together = torch.cat([part.weight for part in apart])
    torch.testing.assert_close(fused.weight, together, rtol=0, atol=1e-5)
    single = layer(12, 36)
    assert not torch.allclose(
        move(Muon(rows_of(single), 0.1, 0.9, 0.1), [single])[0], together, atol=1e-2
    )


def test_layers_do_not_feel_each_other() -> None:
    shapes = [(6, 6), (6, 6), (12, 6), (6, 12)]
    together = [layer(columns, rows, seed=n) for n, (rows, columns) in enumerate(shapes)]
    moved = move(Muon(rows_of(*together), 0.1, 0.9, 0.1), together)
    for n, (rows, columns) in enumerate(shapes):
        alone = layer(columns, rows, seed=n)
        (expected,) = move(Muon(rows_of(alone), 0.1, 0.9, 0.1), [alone])
        torch.testing.assert_close(moved[n], expected, rtol=0, atol=1e-5)


# -- AdamW ---------------------------------------------------------------------------------------


def test_adamw_is_torch_adamw() -> None:
    ours, theirs = layer(7, 5), layer(7, 5)
    settings = dict(lr=0.1, weight_decay=0.2)
    mine = AdamW([dict(params=[ours.weight], beta1=0.8, beta2=0.9, **settings)])
    other = torch.optim.AdamW([theirs.weight], betas=(0.8, 0.9), eps=AdamW.EPS, **settings)
    for step in range(5):
        for each, optimizer in ((ours, mine), (theirs, other)):
            torch.manual_seed(step)
            each.weight.grad = torch.randn(5, 7)
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-6)


SHAPE = ModelConfig(vocab_size=9, layers=1, heads=2, width=8, context=4)


@pytest.mark.parametrize(
    "broken",
    [
        {"adamw.no.weight.mean": torch.zeros(2)},
        {"sgd.embedding.weight.mean": torch.zeros(9, 8)},
        {"adamw.embedding.weight.mean": torch.zeros(9, 8)},  # without its square and step
        {"adamw.blocks.0.ffn.up.weight.mean": torch.zeros(32, 8)},  # which muon moves
        {"adamw": torch.zeros(1)},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_a_state_of_other_parameters_is_refused(broken: dict[str, Tensor]) -> None:
    model = SequenceModel(SHAPE)
    optimizers = make_optimizers(model, TrainConfig())
    with pytest.raises(ValueError):
        load_state_tensors(model, optimizers, broken)
    assert not state_tensors(model, optimizers)


def test_states_are_named_by_optimiser_and_parameter() -> None:
    model = SequenceModel(SHAPE)
    optimizers = make_optimizers(model, TrainConfig(average=0.9))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for each in optimizers:
        each.step()
    named = state_tensors(model, optimizers)
    assert {"adamw.embedding.weight.mean", "muon.blocks.0.ffn.up.weight.momentum"} <= set(named)
    assert {key.partition(".")[0] for key in named} == {"adamw", "muon", "average"}
    again = make_optimizers(model, TrainConfig(average=0.9))
    load_state_tensors(model, again, {key: value.clone() for key, value in named.items()})
    assert set(state_tensors(model, again)) == set(named)


def test_states_named_by_number_are_refused_as_older() -> None:
    model = SequenceModel(SHAPE)
    optimizers = make_optimizers(model, TrainConfig())
    with pytest.raises(ConfigError, match="older tfm.*--init"):
        load_state_tensors(model, optimizers, {"0.1.mean": torch.ones(1)})


# -- ordered ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "knots"), [(0, 0), (31, 0), (32, 16), (127, 16), (128, 80), (1023, 336)]
)
def test_knots_are_fewer_than_rows_and_share_them_out(count: int, knots: int) -> None:
    near = knot_weights(count)
    assert near.shape == (count, knots)
    if knots:
        each = torch.stack(
            [part.sum(1) for part in near.split([16, 64, 256][: near.shape[1] // 60 + 1], 1)]
        )
        torch.testing.assert_close(each, torch.ones_like(each))
        assert bool((near >= 0).all()) and bool((near.sum(0) > 0).all())


@pytest.mark.parametrize("ranges", [[(3, 43)], [(3, 43), (50, 84)]], ids=["one", "two"])
def test_neighbours_are_moved_as_adamw_moves_the_knots_between_them(
    ranges: list[tuple[int, int]],
) -> None:
    """The same as torch's AdamW on knots c where the table is w + near @ c."""
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(90, 6))
    near = torch.zeros(90, 0)
    for low, high in ranges:
        weights = knot_weights(high - low)
        near = torch.cat((near, F.pad(weights, (0, 0, low, 90 - high))), dim=1)
    own, knots = ours.detach().clone(), torch.nn.Parameter(torch.zeros(near.shape[1], 6))
    mine = Neighbours([ours], ranges, lr=0.1, beta1=0.8, beta2=0.9)
    other = torch.optim.AdamW([knots], lr=0.1, betas=(0.8, 0.9), eps=AdamW.EPS, weight_decay=0.0)
    target = torch.randn(90, 6)

    def table() -> Tensor:
        return own + near @ knots

    for _ in range(5):
        ours.grad = ours.detach() - target
        mine.step()
        knots.grad = None
        ((table() - target).square().sum() / 2).backward()
        other.step()
    torch.testing.assert_close(ours.detach(), table().detach(), rtol=1e-5, atol=1e-5)
    outside = near.sum(1) == 0
    assert torch.equal(ours[outside], own[outside]) and not outside.all()


@pytest.mark.parametrize("tied", [False, True])
def test_ordered_ids_begin_alike_and_move_together(tied: bool) -> None:
    config = model_config("transformer", "nano", vocab_size=200, ordered="10-200", tied=tied)
    torch.manual_seed(0)
    model = SequenceModel(config)
    for table in {model.embedding.weight, model.head.weight}:
        unit = F.normalize(table.detach(), dim=1)
        near, far = (
            (unit[10:190] * unit[11:191]).sum(1).mean(),
            (unit[10:100] * unit[100:190]).sum(1).mean(),
        )
        assert float(near) > 0.4 > 0.1 > abs(float(far))
        assert abs(float((unit[0:9] * unit[1:10]).sum(1).mean())) < 0.2
    *_, neighbours, muon = make_optimizers(model, TrainConfig())
    assert isinstance(neighbours, Neighbours) and isinstance(muon, Muon)
    assert len(neighbours.param_groups[0]["params"]) == (1 if tied else 2)


# -- who moves what ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_has_one_optimizer(arch: str, optimizer: str) -> None:
    model = SequenceModel(model_config(arch, "nano"))
    optimizers = make_optimizers(model, TrainConfig(optimizer=optimizer))
    groups = [group for each in optimizers for group in each.param_groups]
    moved = [id(p) for group in groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in model.parameters())
    muon = {
        id(p)
        for each in optimizers
        if isinstance(each, Muon)
        for group in each.param_groups
        for p in group["params"]
    }
    blocks = (*model.encoder, *model.blocks)
    matrices = {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}
    assert muon == (matrices if optimizer == "muon" else set())
    for group in groups:
        kinds = {p.ndim >= 2 for p in group["params"]}
        assert kinds <= {group["weight_decay"] > 0}, "vectors do not decay"


# -- rates ---------------------------------------------------------------------------------------

SHARES = st.floats(0, 1)


@given(steps=st.integers(1, 3000), warmup=SHARES, decay=SHARES, data=st.data())
def test_the_rate_is_a_fraction_of_its_peak(
    steps: int, warmup: float, decay: float, data: st.DataObject
) -> None:
    config = TrainConfig(steps=steps, warmup=warmup, decay=decay)
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < lr_factor(step, config) <= 1


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    config = TrainConfig(steps=1000, warmup=0.1, decay=0.3)
    rates = np.array([lr_factor(step, config) for step in range(1000)])
    assert rates[0] == pytest.approx(1 / 101) and rates[49] == pytest.approx(50 / 101)
    assert (rates[100:701] == 1).all()
    assert rates[850] == pytest.approx(0.5) and rates[999] == pytest.approx(1 / 300)
    assert (np.diff(rates[:101]) > 0).all() and (np.diff(rates[701:]) < 0).all()
    assert lr_factor(1000, config) == 0
    flat = TrainConfig(steps=50, warmup=0, decay=0)
    assert {lr_factor(step, flat) for step in range(50)} == {1.0}
