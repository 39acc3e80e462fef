"""Which parameter is moved how, and the learning rate of each step.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for the matrices inside the
blocks, AdamW (Loshchilov & Hutter 2019) for embedding, head and vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import kernels
from .config import TrainConfig
from .layers import Linear, between_knots
from .model import SequenceModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic, five times: singular values near 1


BATCHED_ROWS = 192  # in float32 some CPUs multiply wider matrices faster one at a time


def orthogonalise(matrices: Tensor) -> Iterable[Tensor]:
    """(N, rows, columns): each matrix's singular values moved to about 1; maybe in place."""
    if kernels.known(matrices):
        by_tiles = kernels.orthogonalise(matrices, NEWTON_SCHULZ)
        if by_tiles is not None:
            return by_tiles
    exact = matrices.dtype == torch.float32
    if exact and matrices.device.type == "cpu" and min(matrices.shape[1:]) >= BATCHED_ROWS:
        return map(_newton_schulz, matrices)
    return _newton_schulz(matrices)


def _newton_schulz(x: Tensor) -> Tensor:
    """(rows, columns), or a batch of such; the products are of the shorter side."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x.mT @ x if tall else x @ x.mT
        power = multiply_add(gram, gram, gram, beta=b, alpha=c)
        x = multiply_add(x, x, power, beta=a) if tall else multiply_add(x, power, x, beta=a)
    return x


class Optimizer:
    """Groups of parameters with their settings, and a state for each parameter.

    As `torch.optim.Optimizer`, whose first use imports torch's compiler (about two seconds) and
    whose state refers to parameters by number; here names are made of the order in the groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Each group: `params`, a `lr`, and what else a step needs."""
        self.param_groups = [{"peak_lr": group["lr"], **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def at(self, factor: float, device: torch.device | None = None) -> None:
        """Sets the rates of the next step to `factor` of their peaks. device: where they are kept
        in place as tensors, for a step that is recorded (none: numbers)."""
        for group in self.param_groups:
            rate = group["peak_lr"] * factor
            if device is None:
                group["lr"] = rate
            elif isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = torch.full((), rate, device=device)

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            for p in moved:
                if p not in self.state:
                    self.state[p] = self._fresh(p)
            if moved:
                self._move(moved, [p.grad for p in moved], group)

    def allocate(self) -> None:
        """The states that the first step would make."""
        for p in self._parameters():
            if p not in self.state:
                self.state[p] = self._fresh(p)

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        raise NotImplementedError

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, named 'number of the parameter.name'."""
        return {
            f"{number}.{name}": value
            for number, p in enumerate(self._parameters())
            for name, value in self.state.get(p, {}).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave. ValueError where it is not of these parameters."""
        parameters = self._parameters()
        fresh: dict[Tensor, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, name = key.split(".")
            p = parameters[int(number)]
            fresh.setdefault(p, {})[name] = value.to(p.device)
        for p, state in fresh.items():
            expected = self._fresh(p)
            if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in expected.items()}:
                raise ValueError(f"a state of {sorted(state)} for a parameter {tuple(p.shape)}")
        self.state = fresh


class AdamW(Optimizer):
    """Loshchilov & Hutter 2019, by torch's fused kernel."""

    EPS = 1e-10

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), device=parameter.device),
            "mean": torch.zeros_like(parameter),
            "square": torch.zeros_like(parameter),
        }

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        mean, square, step = (
            [self.state[p][name] for p in moved] for name in ("mean", "square", "step")
        )
        torch._foreach_add_(step, 1)
        torch._fused_adamw_(
            moved, gradients, mean, square, [], step, lr=group["lr"], beta1=group["beta1"],
            beta2=group["beta2"], weight_decay=group["weight_decay"], eps=self.EPS,
            amsgrad=False, maximize=False,
        )  # fmt: skip


class Neighbours(Optimizer):
    """Moves rows of ordered ids together with the rows near them, beside what moves each.

    As if a row were the sum of one of its own and of what lies between coarse knots
    (`between_knots`): AdamW on the knots, whose gradients are those of the rows around them. What
    is seen of one bin of a quantity is so learned of its neighbours, and the model stays a plain
    one.
    """

    def __init__(self, tables: list[Tensor], low: int, high: int, **settings: float) -> None:
        self.rows, self.near = slice(low, high), between_knots(high - low).to(tables[0])
        super().__init__([dict(params=tables, **settings)])

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        shape = self.near.shape[1], parameter.shape[1]
        zeros = [torch.zeros(shape, device=parameter.device) for _ in range(2)]
        return {
            "step": torch.zeros((), device=parameter.device), "mean": zeros[0], "square": zeros[1]
        }  # fmt: skip

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["beta1"], group["beta2"]
        for p, gradient in zip(moved, gradients, strict=True):
            state, of_knots = self.state[p], self.near.T @ gradient[self.rows]
            step = state["step"].add_(1)
            mean = state["mean"].lerp_(of_knots, 1 - beta1) / (1 - beta1**step)
            square = state["square"].lerp_(of_knots.square(), 1 - beta2) / (1 - beta2**step)
            p[self.rows] -= group["lr"] * self.near @ (mean / (square.sqrt() + AdamW.EPS))


class Muon(Optimizer):
    """Momentum, then the nearest orthogonal matrix; all matrices of one shape in one product.

    `torch.optim.Muon` does the same a matrix at a time; on a small model on a CPU most of its
    time is the overhead of calls (benchmarks/optimizers.py). A fused weight is cut into the
    matrices it consists of (`Linear.rows`), and an update has the scale sqrt(max(1, rows/cols)).
    """

    def __init__(
        self, layers: Iterable[Linear], lr: float, momentum: float, weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        """dtype: of the products; bfloat16 is enough for a direction, where it is faster."""
        self.dtype = dtype
        layers = list(layers)
        self.rows: dict[Tensor, tuple[int, ...]] = {layer.weight: layer.rows for layer in layers}
        super().__init__(
            [dict(params=list(self.rows), lr=lr, momentum=momentum, weight_decay=weight_decay)]
        )

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(parameter)}

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        # every matrix as (weight, gradient, momentum), beside the others of its shape
        by_shape: dict[tuple[int, int], list[tuple[Tensor, ...]]] = defaultdict(list)
        for p, gradient in zip(moved, gradients, strict=True):
            rows = list(self.rows[p])
            whole = p, gradient, self.state[p]["momentum"]
            for parts in zip(*(torch.split(each, rows) for each in whole), strict=True):
                by_shape[parts[0].shape[0], parts[0].shape[1]].append(parts)
        for shape, matrices in by_shape.items():
            weights, given, means = (list(each) for each in zip(*matrices, strict=True))
            updates = weights[0].new_empty((len(matrices), *shape), dtype=self.dtype)
            nesterov(given, means, momentum, updates)
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            moved_by(weights, orthogonalise(updates), 1 - lr * decay, -lr * scale)


def nesterov(gradients: list[Tensor], means: list[Tensor], momentum: float, out: Tensor) -> None:
    """The running means take up the gradients; out (N, ...) gets the gradients as far on towards
    their means."""
    if kernels.known(out) and kernels.known(gradients[0]):
        kernels.nesterov(gradients, means, momentum, list(out))
        return
    torch._foreach_lerp_(means, gradients, 1 - momentum)
    torch._foreach_copy_(list(out), torch._foreach_lerp(gradients, means, momentum))


def moved_by(
    weights: list[Tensor], updates: Iterable[Tensor], keep: float | Tensor, by: float | Tensor
) -> None:
    """keep * weight + by * update, in place."""
    if isinstance(updates, Tensor) and not kernels.known(updates):
        updates = updates.to(weights[0].dtype)  # of two kinds they would be added one at a time
    updates = list(updates)
    if kernels.known(updates[0]) and kernels.known(weights[0]):
        kernels.move(weights, updates, float(keep), float(by))
        return
    torch._foreach_mul_(weights, keep)
    torch._foreach_add_(weights, torch._foreach_mul(updates, by))


class Average(Optimizer):
    """Moves nothing: keeps a running mean of the weights, behind what moves them.

    The decay grows with the steps, min(decay, (1 + n) / (10 + n)), so that where training began
    is soon forgotten. What is saved for use are the means (`in_use`), so the state that goes on
    disk are the weights themselves.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        super().__init__([dict(params=list(parameters), lr=0.0, decay=decay)])

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        step = torch.zeros((), device=parameter.device)
        return {"step": step, "mean": parameter.detach().clone()}

    def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for p in moved:
            state = self.state[p]
            n = state["step"].add_(1)
            state["mean"].lerp_(p, 1 - ((1 + n) / (10 + n)).clamp(max=group["decay"]))

    @torch.no_grad()
    def swap(self) -> None:
        """Means for weights, or back."""
        for p, state in self.state.items():
            p.data, state["mean"] = state["mean"], p.data

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{'weight' if name == 'mean' else name}": p if name == "mean" else value
            for number, p in enumerate(self._parameters())
            for name, value in self.state.get(p, {}).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the parameters' values for the means."""
        super().load({key.replace("weight", "mean"): value for key, value in tensors.items()})
        self.swap()


@contextmanager
def in_use(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Inside, the model has the weights that are scored, saved and drawn from: their means, where
    training keeps such."""
    averages = [each for each in optimizers if isinstance(each, Average)]
    for each in averages:
        each.swap()
    try:
        yield
    finally:
        for each in averages:
            each.swap()


def make_optimizers(model: SequenceModel, config: TrainConfig) -> list[Optimizer]:
    """The optimizers that between them move every parameter once a step."""
    matrices = [m for m in model.blocks.modules() if isinstance(m, Linear)]
    if config.optimizer == "adamw":
        matrices = []
    taken = {id(layer.weight) for layer in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    shared = dict(lr=config.adam_lr, beta1=config.beta1, beta2=config.beta2)
    adamw = AdamW(
        dict(params=[p for p in rest if (p.ndim >= 2) == wide], weight_decay=decay, **shared)
        for wide, decay in ((True, config.weight_decay), (False, 0.0))
    )
    optimizers: list[Optimizer] = [adamw]
    shape = model.config
    if shape.ordered_to > shape.ordered_from:
        tables = [model.embedding.weight] + ([] if shape.tied else [model.head.weight])
        low, high = shape.ordered_from, shape.ordered_to
        optimizers.append(Neighbours(tables, low, high, **shared))
    if matrices:
        dtype = getattr(torch, config.dtype)
        optimizers.append(Muon(matrices, config.lr, config.momentum, config.weight_decay, dtype))
    if config.average:  # last: of what the others moved
        optimizers.append(Average(model.parameters(), config.average))
    return optimizers


def lr_factor(step: int, config: TrainConfig) -> float:
    """The fraction of the peak rate at `step` (from 0): linear warm-up, then flat, then linear
    decay that would reach zero at `config.steps`."""
    up = (step + 1) / (config.warmup * config.steps + 1)
    down = (config.steps - step) / (max(config.decay, 1e-9) * config.steps)
    return min(1.0, up, down)
