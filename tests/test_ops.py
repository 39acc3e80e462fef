"""Every operation of every backend, compared with the definitions in reference.py; and those
definitions, compared with torch's own functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import DECODERS, gradients, random_angles, random_tensor, small_model
from torch import Tensor, nn

from tfm.core.config import ModelConfig
from tfm.core.errors import UsageError
from tfm.core.model import loss
from tfm.core.model.layers import Linear
from tfm.core.model.loss import Objective, token_nll
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import cpu_kernels, linear_nll, reference
from tfm.core.ops import operations as ops
from tfm.core.ops.device import autocast
from tfm.core.protocols import Batch

FLOAT, HALF = torch.float32, torch.bfloat16
pytestmark = pytest.mark.usefixtures("kernels_in_c")


@dataclass(frozen=True)
class Case:
    """One operation on tensors of one shape. inputs(dtype): the tensors that get a gradient; call:
    the operation on them; native: whether C code computes it; tolerance: of the values, in float32
    and bfloat16; that of the gradients is three times as large."""

    name: str
    inputs: Callable[[torch.dtype], list[Tensor]]
    call: Callable[..., Tensor]
    native: bool = False
    tolerance: tuple[float, float] = (3e-6, 3e-2)


def tensors(*shapes: tuple[int, ...]) -> Callable[[torch.dtype], list[Tensor]]:
    return lambda dtype: [random_tensor(*s, seed=n, dtype=dtype) for n, s in enumerate(shapes)]


def cases() -> Iterator[Case]:
    for shape in [(1, 1), (3, 5, 16), (70, 33), (2, 40, 128), (2, 3, 4, 8)]:
        yield Case(
            f"rms_norm {shape}", tensors(shape), lambda x: ops.rms_norm(x, None, 1e-5),
            tolerance=(1e-6, 2e-2),
        )  # fmt: skip
        for out in (None, HALF):
            yield Case(
                f"rms_norm {shape} weighted, to {out}",
                lambda dtype, shape=shape: [  # type: ignore[misc]
                    random_tensor(*shape), random_tensor(shape[-1], seed=1)
                ],
                lambda x, w, out=out: ops.rms_norm(x, w, 1e-5, out),
                native=True, tolerance=(1e-2 if out else 3e-6, 1e-2),
            )  # fmt: skip
    yield Case(
        "rms_norm of a view", tensors((2, 6, 3, 8)),
        lambda x: ops.rms_norm(x.transpose(1, 2), None, 1e-6), tolerance=(1e-6, 2e-2),
    )  # fmt: skip
    for shape in [(1,), (16,), (37,), (4, 7), (5000,)]:
        yield Case(f"relu_squared {shape}", tensors(shape), ops.relu_squared, True, (1e-6, 1e-2))
        for rate in (0.0, 0.1, 0.5, 0.9):
            yield Case(
                f"add_dropout {shape} {rate}",
                lambda dtype, shape=shape: [  # type: ignore[misc]
                    random_tensor(*shape), random_tensor(*shape, seed=1, dtype=dtype)
                ],
                lambda x, y, rate=rate: ops.add_dropout(x, y, rate),
                True, (1e-6, 1e-2),
            )  # fmt: skip
    yield Case(
        "dropout of a view", tensors((4, 3, 5)), lambda x: ops.dropout(x.transpose(0, 2), 0.5)
    )
    yield Case("softcap", tensors((7, 30)), lambda x: ops.softcap(x, 2.0))
    for rows, heads in product([1, 3], [1, 4]):
        angles = random_angles(rows, 5, 4)
        yield Case(
            f"rotate {rows} {heads}", tensors((3, 5, heads, 8)),
            lambda x, angles=angles: ops.rotate(x.transpose(1, 2), *angles),
            tolerance=(1e-6, 2e-2),
        )  # fmt: skip
    for rows, eps, width, groups in product([0, 1, 3], [None, 1e-5], [6, 32, 80], [1, 4]):
        rotary = random_angles(rows, 5, width // 2) if rows else None
        yield Case(
            f"split_heads {rows} {eps} {width} {groups}",
            tensors((3, 5, (4 + 2 * groups) * width)),
            lambda x, g=groups, r=rotary, e=eps: torch.cat(ops.split_heads(x, 4, g, r, e), 1),
            native=True,
        )  # fmt: skip
    for segmented, length, groups in product([False, True], [1, 15, 16, 17, 70], [1, 2, 4]):
        at = torch.arange(length, dtype=torch.int32)
        start = torch.stack([at // size * size for size in (1, 7, 33)]) if segmented else None
        for rate in (0.0, 0.3):
            yield Case(
                f"attention {segmented} {length} {groups} {rate}",
                tensors((3, 4, length, 8), *[(3, groups, length, 8)] * 2),
                lambda q, k, v, start=start, rate=rate: ops.attention(q, k, v, start, rate=rate),
                native=True, tolerance=(5e-6, 4e-2),
            )  # fmt: skip
    for groups, length, rows in product([1, 4], [1, 3], [1, 3]):
        for name, places in {"all at 6": 6, "apart": torch.tensor([6, 0, 2])[:rows]}.items():
            yield Case(
                f"attention to a cache {groups} {length} {rows} {name}",
                tensors((rows, 4, length, 8), *[(rows, groups, 6 + length, 8)] * 2),
                lambda q, k, v, at=places: ops.attention(q, k, v, at=at),
                tolerance=(5e-6, 4e-2),
            )  # fmt: skip
    for cap, support in product([0.0, 2.0], ["all", "range", "each"]):
        yield Case(
            f"linear_nll {cap} {support}", tensors((40, 16), (37, 16)),
            lambda hidden, table, cap=cap, support=support: nll(hidden, table, cap, support),
            native=True, tolerance=(1e-5, 3e-2),
        )  # fmt: skip


def nll(hidden: Tensor, table: Tensor, cap: float, support: str) -> Tensor:
    """`linear_nll` with random targets, some of weight 0."""
    torch.manual_seed(3)
    targets, weight = torch.randint(5, 30, (40,)), torch.rand(40) * (torch.rand(40) > 0.3)
    ids, legal = (0, 37), None
    if support == "range":
        ids, targets = (5, 30), targets - 5
    if support == "each":
        legal = torch.stack((torch.randint(0, 5, (40,)), torch.randint(30, 37, (40,))), dim=-1)
    return ops.linear_nll(Table(table), hidden, targets, weight, ids, legal, cap)


class Table(nn.Module):
    """A head whose weight is a plain tensor, for which autograd returns a gradient."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight  # not a parameter: autograd passes through it

    def forward(self, x: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        return F.linear(x, self.weight[low:high])


def values_and_gradients(case: Case, dtype: torch.dtype) -> list[Tensor]:
    inputs = case.inputs(dtype)
    torch.manual_seed(0)
    out = case.call(*inputs)
    upstream = random_tensor(out.numel(), seed=9).detach().view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


CASES = {case.name: case for case in cases()}


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", CASES)
def test_a_backend_computes_what_the_reference_does(
    name: str, backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients agree, with the same numbers dropped by dropout."""
    case, called, plain_call = CASES[name], list[str](), cpu_kernels.call

    def call(function: str, *arguments: Any) -> None:
        called.append(function)
        plain_call(function, *arguments)

    monkeypatch.setattr(cpu_kernels, "call", call)
    with ops.use("reference"):
        expected = values_and_gradients(case, dtype)
    assert not called
    with ops.use(backend):
        found = values_and_gradients(case, dtype)
    assert bool(called) == (case.native and backend == "native")
    tolerance = case.tolerance[dtype == HALF]
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape
        at_most = tolerance * (3 if number else 1)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=at_most)


@pytest.mark.parametrize("name", CASES)
def test_without_gradients_values_are_the_same(name: str) -> None:
    case = CASES[name]
    inputs = case.inputs(FLOAT)
    torch.manual_seed(0)
    expected = case.call(*inputs).detach()
    torch.manual_seed(0)
    with torch.no_grad():
        found = case.call(*inputs)
    tolerance = case.tolerance[0]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# -- the reference against torch -----------------------------------------------------------------


def test_the_reference_norm_is_torchs() -> None:
    x, weight = random_tensor(3, 5, 16), random_tensor(16, seed=1)
    expected = F.rms_norm(x, (16,), weight, 1e-5)
    torch.testing.assert_close(reference.rms_norm(x, weight, 1e-5), expected, rtol=1e-6, atol=1e-6)


def test_the_reference_rotation_is_that_of_pairs() -> None:
    x, (cos, sin) = random_tensor(3, 4, 5, 8), random_angles(3, 5, 4)
    first, second, c, s = x[..., :4], x[..., 4:], cos[..., :4], sin[..., 4:]
    expected = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
    torch.testing.assert_close(reference.rotate(x, cos, sin), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("segmented", [False, True])
def test_the_reference_attention_is_torchs(groups: int, segmented: bool) -> None:
    q, k, v = (random_tensor(3, h, 16, 8, seed=h) for h in (4, groups, groups))
    start, visible = None, None
    if segmented:
        segments = torch.randint(0, 3, (3, 16)).sort(-1).values
        same = segments[:, :, None] == segments[:, None, :]
        start, visible = same.int().argmax(-1).int(), same.tril()[:, None]
    ours = reference.attention(q, k, v, start)
    theirs = F.scaled_dot_product_attention(
        q, k, v, attn_mask=visible, is_causal=not segmented, enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_attention_to_a_cache_is_the_end_of_the_whole() -> None:
    q, k, v = (random_tensor(3, 4, 16, 8, seed=n) for n in range(3))
    whole = reference.attention(q, k, v)
    at = torch.tensor([4, 0, 9])
    for row, place in enumerate(at.tolist()):
        here = slice(place, place + 5)
        one = [x[row : row + 1] for x in (q[:, :, here], k, v)]
        part = reference.attention(*one, at=at[row : row + 1])
        torch.testing.assert_close(part, whole[row : row + 1, :, here], rtol=1e-5, atol=1e-6)


def test_the_reference_loss_is_cross_entropy() -> None:
    hidden, table = random_tensor(40, 16), random_tensor(37, 16, seed=1)
    targets, weight = torch.randint(0, 37, (40,)), torch.rand(40)
    each = F.cross_entropy(hidden @ table.T, targets, reduction="none")
    with ops.use("reference"):
        found = ops.linear_nll(Table(table), hidden, targets, weight, (0, 37))
    torch.testing.assert_close(found, (weight * each).sum(), rtol=1e-6, atol=1e-5)


def test_gradients_by_finite_differences() -> None:
    x = random_tensor(2, 3, 6, dtype=torch.float64)
    weight = random_tensor(6, seed=1, dtype=torch.float64)
    cos, sin = (a.double() for a in random_angles(1, 3, 3))

    def all_of_them(x: Tensor, weight: Tensor) -> Tensor:
        return ops.rotate(ops.relu_squared(ops.rms_norm(x, weight, 1e-5))[:, None], cos, sin)

    assert torch.autograd.gradcheck(all_of_them, (x, weight), eps=1e-5, atol=1e-3)


# -- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_what_is_not_finite(backend: str) -> None:
    x = torch.tensor([1.0, float("nan"), 2.0, -float("inf")], requires_grad=True)
    with ops.use(backend):
        squared = ops.relu_squared(x)
        assert squared.isnan().tolist() == [False, True, False, False] and squared[3] == 0
        added = ops.add_dropout(x, x.to(HALF), 0.0)
        assert added.isnan().tolist() == [False, True, False, False]
        assert ops.rms_norm(x, torch.ones(4), 1e-6).isnan().all()


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_the_norm_of_nothing_is_nothing(backend: str) -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    with ops.use(backend):
        out = ops.rms_norm(x, torch.ones(4), 1e-6)
        out.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and not out.detach().any()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean native"), ops.use("nativ"):
        pass


def test_a_backend_is_chosen_only_inside() -> None:
    with ops.use("reference"):
        assert ops.is_reference()
        with ops.use("torch"):
            assert not ops.is_reference() and not ops.is_native()
        assert ops.is_reference()
    assert ops.is_native()


# -- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ops.BACKENDS)
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_rate_and_keeps_the_mean(
    rate: float, dtype: torch.dtype, backend: str
) -> None:
    torch.manual_seed(0)
    x, y = torch.zeros(400, 501), torch.ones(400, 501, dtype=dtype, requires_grad=True)
    with ops.use(backend):
        out, again = ops.add_dropout(x, y, rate), ops.add_dropout(x, y, rate)
    dropped = (out == 0).float()
    assert float(dropped.mean()) == pytest.approx(rate, abs=0.003)
    assert len(out.detach().unique()) == 2
    assert float((dropped * (again == 0)).mean()) == pytest.approx(rate**2, abs=0.005), "alike"
    neighbours = (dropped[:, 1:] * dropped[:, :-1]).mean(), (dropped[1:] * dropped[:-1]).mean()
    assert all(float(n) == pytest.approx(rate**2, abs=0.005) for n in neighbours)
    assert float(out.detach().mean()) == pytest.approx(1, abs=0.02)
    out.backward(torch.full(y.shape, 3.0))
    assert y.grad is not None
    torch.testing.assert_close(y.grad.float(), 3 * out.detach(), rtol=0.01, atol=0)


def test_dropout_follows_the_seed() -> None:
    x = torch.ones(1000)
    torch.manual_seed(1)
    one, other = ops.dropout(x, 0.3), ops.dropout(x, 0.3)
    torch.manual_seed(1)
    assert torch.equal(ops.dropout(x, 0.3), one) and not torch.equal(one, other)


def test_no_dropout_is_the_thing_itself() -> None:
    x = random_tensor(3, 4)
    assert ops.dropout(x, 0.0) is x


# -- the loss in chunks --------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 40, 100, 1 << 20])
@pytest.mark.parametrize("support", ["all", "range", "each"])
@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_chunks_add_up(
    monkeypatch: pytest.MonkeyPatch, backend: str, cap: float, support: str, chunk: int
) -> None:
    case = CASES[f"linear_nll {cap} {support}"]
    with ops.use("reference"):
        expected = values_and_gradients(case, FLOAT)
    monkeypatch.setattr(linear_nll, "CHUNK_LOGITS", chunk)
    with ops.use(backend):
        found = values_and_gradients(case, FLOAT)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def loss_setting() -> tuple[SequenceModel, Batch[Tensor]]:
    shape = dict(vocab_size=37, layers=1, width=16, heads=2, context=12, zero_init=False)
    torch.manual_seed(0)
    model = SequenceModel(ModelConfig(**shape))  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(5, 30, (4, 13))
    return model, Batch(ids, torch.rand(4, 13) * (torch.rand(4, 13) > 0.3))


def test_half_precision_is_within_its_rounding() -> None:
    """bfloat16 keeps 8 bits: gradients, also autograd's, are within 2 % of float32's in norm."""
    model, batch = loss_setting()
    exact = gradients(model, lambda: Objective(model)(batch))

    def plain() -> Tensor:
        return (token_nll(model, batch) * batch.weight[:, 1:]).sum()

    with autocast(torch.device("cpu"), "bfloat16"):
        halves = [gradients(model, each) for each in (lambda: Objective(model)(batch), plain)]
    for half in halves:
        for name, gradient in exact.items():
            assert float((half[name] - gradient).norm() / gradient.norm()) < 0.02, name


def test_a_factor_outside_is_a_factor_of_the_gradient() -> None:
    model, batch = loss_setting()
    once = gradients(model, lambda: Objective(model)(batch))
    thrice = gradients(model, lambda: 3 * Objective(model)(batch))
    for name, gradient in once.items():
        torch.testing.assert_close(thrice[name], 3 * gradient)


@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("rows", [4, 17, 64])
def test_rows_that_do_not_count_change_nothing(
    monkeypatch: pytest.MonkeyPatch, rows: int, ranges: bool
) -> None:
    """Of ids outside the support, as those of another domain."""
    model, batch = loss_setting()
    support: Any = torch.tensor([5, 30]).expand(*batch.ids.shape, 2) if ranges else (5, 30)
    batch = replace(batch, ids=batch.ids.where(batch.weight > 0, 36), support=support)
    computed = list[int]()
    plain = Objective._nll

    def counting(self: Objective, hidden: Tensor, *rest: Any) -> Tensor:
        computed.append(len(hidden))
        return plain(self, hidden, *rest)

    monkeypatch.setattr(Objective, "_nll", counting)
    monkeypatch.setattr(loss, "ROWS", 1)
    expected = gradients(model, lambda: Objective(model)(batch))
    monkeypatch.setattr(loss, "ROWS", rows)
    found = gradients(model, lambda: Objective(model)(batch))
    counted = int((batch.weight[:, 1:] != 0).sum())
    more = counted if ranges else min(-(-counted // rows) * rows, 4 * 12)
    assert computed == [counted, more] and counted < 4 * 12
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_nothing_that_counts_is_nothing_to_learn() -> None:
    model, batch = loss_setting()
    batch = replace(batch, weight=torch.zeros_like(batch.weight))
    found = gradients(model, lambda: Objective(model)(batch))
    assert float(found.pop("loss")) == 0
    assert found and all(float(g.abs().sum()) == 0 for g in found.values())


def test_without_gradients_it_is_only_the_sum() -> None:
    model, batch = loss_setting()
    with torch.no_grad():
        total = Objective(model)(batch)
    assert not total.requires_grad
    torch.testing.assert_close(total, Objective(model)(batch).detach())


# -- in whole models -----------------------------------------------------------------------------

MODELS: dict[str, dict[str, Any]] = {
    **{f"arch {name}": fields for name, fields in DECODERS.items()},
    "odd heads": dict(width=33, heads=3, positions="none"),
    "odd heads, biases": dict(width=9, heads=3, kv_heads=1, positions="alibi", qk_norm=False),
    "grouped, capped": dict(kv_heads=2, softcap=3.0),
    "tied, sinusoidal": dict(tied=True, positions="sinusoidal"),
    "no norms, biases": dict(norm="none", bias=True, qk_norm=False, positions="none"),
    "odd widths": dict(width=40, ffn_width=50),
    "post-norm": dict(norm_position="post", norm="rmsnorm"),
    "two axes": dict(axes=2),
    "dropout": dict(dropout=0.3),
}


def batch_for(name: str) -> Batch[Tensor]:
    torch.manual_seed(1)
    ids, rows = torch.randint(3, 19, (5, 41)), torch.rand(5, 41)
    batch = Batch(ids, rows * (rows > 0.3))
    if name == "two axes":
        return replace(batch, positions=torch.randint(0, 40, (5, 41, 2)))
    if name == "grouped, capped":
        segments = torch.randint(0, 2, ids.shape).cumsum(1)
        low = torch.randint(0, 3, ids.shape)
        support = torch.stack((low, torch.randint(19, 23, ids.shape)), dim=-1)
        return replace(batch, segments=segments, support=support)
    return batch


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_the_same(name: str, backend: str) -> None:
    model = small_model(**{**dict(heads=4, context=40), **MODELS[name]}).train()
    batch = batch_for(name)

    def plain() -> Tensor:
        torch.manual_seed(7)
        return (token_nll(model, batch) * batch.weight[:, 1:]).sum()

    def ours() -> Tensor:
        torch.manual_seed(7)
        return Objective(model)(batch)  # type: ignore[no-any-return]

    with ops.use("reference"):
        expected = gradients(model, plain)
        assert gradients(model, ours).keys() == expected.keys()
    with ops.use(backend):
        found = gradients(model, ours)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        size = max(1, float(value.abs().max()))
        assert float((found[key] - value).abs().max()) <= 2e-5 * size, key


@pytest.mark.parametrize("name", ["arch transformer", "grouped, capped"])
def test_in_half_precision_c_is_as_near_as_torch(name: str) -> None:
    model = small_model(**{**dict(width=64, heads=4, context=40), **MODELS[name]})
    batch = batch_for(name)

    def half() -> Tensor:
        with autocast(torch.device("cpu"), "bfloat16"):
            return Objective(model)(batch)  # type: ignore[no-any-return]

    with ops.use("torch"):
        exact, plain = gradients(model, lambda: Objective(model)(batch)), gradients(model, half)
    ours = gradients(model, half)
    for key, expected in exact.items():
        scale = float(expected.square().mean().sqrt())
        off, of_plain = (float((x[key] - expected).square().mean().sqrt()) for x in (ours, plain))
        assert off <= max(1.5 * of_plain, 1e-3 * scale), key


@pytest.mark.parametrize("arch", DECODERS)
def test_with_the_reference_every_hook_sees_what_its_module_computes(arch: str) -> None:
    """In training mode, too: a forward hook of every module fires, and one that replaces the output
    by zeros changes the loss."""
    model = small_model(**DECODERS[arch]).train()
    batch = batch_for("")
    objective = Objective(model, run_block=_fail)
    fired: dict[str, Tensor] = {}
    names = {module: name for name, module in model.named_modules()}

    def hook(module: nn.Module, _: Any, out: Any) -> None:  # recurrent layers give a tuple
        fired[names[module]] = (out[0] if isinstance(out, tuple) else out).detach()

    handles = [module.register_forward_hook(hook) for module in names if module is not model]
    with ops.use("reference"):
        plain = objective(batch).detach()
    expected = {name for name, m in model.named_modules() if not isinstance(m, nn.ModuleList)}
    assert fired.keys() == expected - {""}
    for handle in handles:
        handle.remove()
    for name in ("blocks.1.mixer.qkv", "blocks.0.ffn.down", "blocks.0.mixer", "head"):
        if name not in fired:
            continue
        handle = model.get_submodule(name).register_forward_hook(lambda *a: torch.zeros_like(a[2]))
        with ops.use("reference"):
            assert float((objective(batch).detach() - plain).abs()) > 1e-4, name
        handle.remove()
    hidden = fired.get("norm", fired["blocks.1"])[batch.weight[:, 1:] != 0]
    counted = fired["head"][: len(hidden)]  # a few of weight 0 follow
    torch.testing.assert_close(model.head(hidden).detach(), counted, rtol=1e-5, atol=1e-5)


def _fail(block: nn.Module, x: Tensor, context: Any) -> Tensor:
    raise AssertionError("the training backend's block is not to run")


def test_a_linear_of_some_outputs_is_part_of_the_whole() -> None:
    linear, x = Linear(8, (12,), bias=True), random_tensor(3, 8)
    torch.testing.assert_close(linear(x, 3, 7), linear(x)[:, 3:7])
