"""Which parameter is moved how, and the learning rate of each step.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for the matrices inside the
blocks, AdamW (Loshchilov & Hutter 2019) for embedding, head and vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .layers import Linear
from .model import SequenceModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic, five times: singular values near 1


BATCHED_ROWS = 192  # on a CPU, wider matrices multiply faster one at a time than in a batch


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(N, rows, columns) with rows <= columns: each matrix's singular values moved to about 1."""
    if matrices.device.type == "cpu" and matrices.shape[1] >= BATCHED_ROWS:
        return torch.stack([_newton_schulz(matrix.to(dtype)) for matrix in matrices])
    return _newton_schulz(matrices.to(dtype))


def _newton_schulz(x: Tensor) -> Tensor:
    """(rows, columns), or a batch of such."""
    a, b, c = NEWTON_SCHULZ
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix; all matrices of one shape in one product.

    `torch.optim.Muon` does the same a matrix at a time; on a small model on a CPU most of its
    time is the overhead of calls (benchmarks/optimizers.py). A fused weight is cut into the
    matrices it consists of (`Linear.rows`), and an update has the scale sqrt(max(1, rows/cols)).
    """

    def __init__(
        self, layers: Iterable[Linear], lr: float, momentum: float, weight_decay: float
    ) -> None:
        layers = list(layers)
        self.rows = {id(layer.weight): layer.rows for layer in layers}
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__([layer.weight for layer in layers], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            self._step_group(group["params"], group["lr"], group["momentum"], group["weight_decay"])

    def _step_group(
        self, parameters: list[nn.Parameter], lr: float, momentum: float, decay: float
    ) -> None:
        parameters = [p for p in parameters if p.grad is not None]
        if not parameters:
            return
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, buffers, momentum)  # Nesterov

        # every matrix as (weight, update, scale), lying wide, beside the others of its shape
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
        for p, update in zip(parameters, updates, strict=True):
            rows = self.rows[id(p)]
            for w, u in zip(
                torch.split(p, list(rows)), torch.split(update, list(rows)), strict=True
            ):
                scale = max(1.0, w.shape[0] / w.shape[1]) ** 0.5
                if w.shape[0] > w.shape[1]:
                    w, u = w.mT, u.mT
                by_shape[w.shape[0], w.shape[1]].append((w, u, scale))
        # bfloat16 is enough for a direction, but only some CPUs multiply it fast
        fast = parameters[0].is_cuda or torch.cpu._is_avx512_bf16_supported()
        dtype = torch.bfloat16 if fast else torch.float32
        for matrices in by_shape.values():
            moved = orthogonalise(torch.stack([u for _, u, _ in matrices]), dtype)
            for (w, _, scale), u in zip(matrices, moved.to(matrices[0][0].dtype), strict=True):
                w.mul_(1 - lr * decay).add_(u, alpha=-lr * scale)


def make_optimizers(model: SequenceModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers that between them move every parameter once a step."""
    matrices = [m for m in model.blocks.modules() if isinstance(m, Linear)]
    if config.optimizer == "adamw":
        matrices = []
    taken = {id(layer.weight) for layer in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.adam_lr, betas=(config.beta1, config.beta2), eps=1e-10, fused=True,
        )
    ]  # fmt: skip
    if matrices:
        optimizers.append(Muon(matrices, config.lr, config.momentum, config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def lr_factor(step: int, config: TrainConfig) -> float:
    """The fraction of the peak rate at `step` (from 0): linear warm-up, then flat, then linear
    decay that would reach zero at `config.steps`."""
    up = (step + 1) / (config.warmup * config.steps + 1)
    down = (config.steps - step) / (max(config.decay, 1e-9) * config.steps)
    return min(1.0, up, down)
