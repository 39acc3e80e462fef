"""What layers and heads contribute: the loss when one is switched off, or when only one is left.

Switched off means mean ablation (Wang et al. 2023, Interpretability in the Wild, section 3.1): what
the head gives to the output projection of its layer is replaced, at every position of every window,
by its mean over all positions of the sample. A whole layer: its output is replaced by its mean.
The means are those of the intact model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.loss import hidden_states
from ..progress import tracked
from .estimate import Estimate, Floats, ratio
from .layers import Layer, fixed_heads, fixed_output, layers_of, watched
from .position import window_loss
from .sample import Sample

Off = frozenset[tuple[str, int | None]]  # (layer, head); None: the whole layer


@dataclass(frozen=True)
class HeadLoss:
    """By how much the loss rises, in nats per token: off, without this head; alone, with this head
    and none of the others of its layer (None where it is the only one)."""

    off: Estimate
    alone: Estimate | None


@dataclass(frozen=True)
class LayerLoss:
    """off: by how much the loss rises without the layer, in nats per token."""

    off: Estimate
    heads: list[HeadLoss]


@dataclass(frozen=True)
class Ablation:
    """By how much the loss rises, in nats per token: `layers`, by name in the order of the model;
    one_head: with a single head in each layer of several, the one that is best alone in every
    second window, measured on the others (None if no layer has several); no_heads: without any
    attention head (None if there is none); best: the single head of each layer in `one_head`."""

    layers: dict[str, LayerLoss]
    one_head: Estimate | None
    no_heads: Estimate | None
    best: dict[str, int]


class Ablations:
    """The loss of a sample with parts of the model switched off, each set of parts once."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.layers = {layer.name: layer for layer in layers_of(sample.model)}
        self.means = means(sample, self.layers.values())
        self.intact, self.weight = window_loss(sample)
        self.known: dict[Off, Floats] = {frozenset(): self.intact}

    def rise(self, off: Off) -> Floats:
        """(N,) by how many weighted nats each window's loss rises."""
        if off not in self.known:
            heads: dict[str, dict[int, Tensor]] = {}
            with ExitStack() as stack:
                for name, head in off:
                    layer = self.layers[name]
                    if head is None:
                        stack.enter_context(fixed_output(layer, self.means[name, "out"]))
                    else:
                        mean = self.means[name, "heads"][layer.heads[head]]
                        heads.setdefault(name, {})[head] = mean
                for name, values in heads.items():
                    stack.enter_context(fixed_heads(self.layers[name], values))
                self.known[off], _ = window_loss(self.sample)
        return self.known[off] - self.intact

    def estimate(self, off: Off) -> Estimate:
        found = ratio(self.rise(off), self.weight)
        assert found is not None
        return found


def means(sample: Sample, layers: Collection[Layer]) -> dict[tuple[str, str], Tensor]:
    """The mean over all positions that the model reads: of each layer's output, (layer, "out"), and
    of what enters its output projection, (layer, "heads")."""
    sums: dict[tuple[str, str], Tensor] = {}
    for group in sample.groups():
        read, of_source = group.read(), group.read_source()

        def see(layer: Layer, which: str, x: Tensor) -> None:
            mask = of_source if layer.of_source else read  # noqa: B023
            at = layer.name, which
            here = torch.cat((x[mask].double().sum(0), mask.sum().double()[None]))
            sums[at] = sums[at] + here if at in sums else here

        with torch.no_grad(), watched(layers, see):
            hidden_states(sample.model, group.batch)
    dtype = sample.model.head.weight.dtype
    return {at: (total[:-1] / total[-1]).to(dtype) for at, total in sums.items()}


def ablate(sample: Sample) -> Ablation:
    """Switches off every layer and every head, and leaves every head alone."""
    runs = Ablations(sample)
    layers = list(runs.layers.values())
    every = [off for layer in layers for off in _sets_of(layer)]
    for off in tracked(every, len(every), "layers and heads"):
        runs.rise(off)
    found = {layer.name: _layer_loss(runs, layer) for layer in layers}
    several = [layer for layer in layers if len(layer.heads) > 1]
    heads: Off = frozenset((layer.name, head) for layer in layers for head in layer.numbers)
    best = {layer.name: _best_alone(runs, layer) for layer in several}
    others: Off = frozenset[tuple[str, int | None]]().union(
        *(_others(layer, best[layer.name]) for layer in several)
    )
    halves = runs.rise(others)[1::2], runs.weight[1::2]
    return Ablation(
        found,
        one_head=ratio(*halves) if several else None,
        no_heads=runs.estimate(heads) if heads else None,
        best=best,
    )


def _sets_of(layer: Layer) -> Iterator[Off]:
    yield frozenset([(layer.name, None)])
    for head in layer.numbers:
        yield frozenset([(layer.name, head)])
        yield _others(layer, head)


def _others(layer: Layer, head: int) -> Off:
    """All heads of the layer but this one."""
    return frozenset((layer.name, other) for other in layer.numbers if other != head)


def _layer_loss(runs: Ablations, layer: Layer) -> LayerLoss:
    several = len(layer.heads) > 1
    heads = [
        HeadLoss(
            runs.estimate(frozenset([(layer.name, head)])),
            runs.estimate(_others(layer, head)) if several else None,
        )
        for head in layer.numbers
    ]
    return LayerLoss(runs.estimate(frozenset([(layer.name, None)])), heads)


def _best_alone(runs: Ablations, layer: Layer) -> int:
    """The head that is best alone in every second window."""
    return min(layer.numbers, key=lambda head: runs.rise(_others(layer, head))[::2].sum())
