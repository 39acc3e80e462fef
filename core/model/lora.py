"""Low-rank adapters (LoRA, Hu et al. 2021) on the matrices of all blocks.

A matrix W gets the update (ALPHA / rank) B A, with A (rank, inputs) and B (outputs, rank). Training
changes A and B only. B starts at zero, so that the first step computes what the model did. Where a
weight fuses several matrices, as queries, keys and values, each one has its own pair.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .layers import Linear
from .sequence_model import SequenceModel, with_weights

# As Hu et al. have for GPT-2. With a constant one the first updates, and the best learning rate,
# hardly depend on the rank (Schulman & Thinking Machines 2025, LoRA Without Regret).
ALPHA = 32
STACKS = ("blocks.", "encoder.")  # whose matrices get adapters


class AdaptedLinear(Linear):
    """A linear layer with adapters of its matrices. Weight and bias are those of the layer that it
    replaces, frozen. lora_a: the A of each matrix, one below the other; lora_b: the B of each."""

    def __init__(self, layer: Linear, rank: int, generator: torch.Generator) -> None:
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.rows, bias=False, output=layer.output)
        self.weight, self.bias = layer.weight, layer.bias
        self.rank, self.scale = rank, ALPHA / rank
        like = layer.weight.detach()
        self.lora_a = nn.Parameter(like.new_empty(len(self.rows) * rank, self.in_features))
        self.lora_b = nn.Parameter(like.new_zeros(self.out_features, rank))
        bound = self.in_features**-0.5
        nn.init.uniform_(self.lora_a, -bound, bound, generator=generator)

    def forward(self, x: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        narrow = torch.split(F.linear(x, self.lora_a) * self.scale, self.rank, dim=-1)
        update = [F.linear(y, b) for y, (_, b) in zip(narrow, self.pairs(), strict=True)]
        return super().forward(x, low, high) + torch.cat(update, dim=-1)[..., low:high]

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """A and B of each matrix."""
        a, b = torch.split(self.lora_a, self.rank), torch.split(self.lora_b, list(self.rows))
        return list(zip(a, b, strict=True))

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight with its update."""
        return self.weight + self.scale * torch.cat([b @ a for a, b in self.pairs()])


def adapt(model: SequenceModel, rank: int, seed: int) -> None:
    """Freezes all weights of a model on the CPU, and puts adapters on the matrices of its blocks,
    with random values by the seed. Rank 0: leaves it as it is. ConfigError as in `matrices`."""
    if not rank:
        return
    layers, generator = matrices(model, rank), torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, AdaptedLinear(layer, rank, generator))


def matrices(model: SequenceModel, rank: int) -> dict[str, Linear]:
    """The layers that get adapters, by name. ConfigError if there are none, or the rank exceeds
    what a matrix has."""
    found = {
        name: layer
        for name, layer in model.named_modules()
        # a weight with one output is a vector, which has no lower rank
        if isinstance(layer, Linear) and name.startswith(STACKS) and layer.out_features > 1
    }
    if not found:
        raise ConfigError(
            f"--lora {rank}: the blocks of this model ({model.config.mixers}) have no linear layer "
            "to adapt; train all weights, without --lora"
        )
    for name, layer in found.items():
        if rank > (side := min(layer.in_features, *layer.rows)):
            raise ConfigError(
                f"--lora {rank}: a side of the matrix {name} is {side}; use at most {side}"
            )
    return found


def adapter_size(model: SequenceModel, rank: int) -> int:
    """The number of parameters of the adapters. ConfigError as in `matrices`."""
    layers = matrices(model, rank).values()
    return sum(rank * (len(x.rows) * x.in_features + x.out_features) for x in layers)


def adapted(model: SequenceModel) -> Iterator[tuple[str, AdaptedLinear]]:
    """The layers with adapters, by name."""
    for name, layer in model.named_modules():
        if isinstance(layer, AdaptedLinear):
            yield name, layer


def merged(model: SequenceModel) -> SequenceModel:
    """A model without adapters that computes the same: it shares all other weights. The model
    itself if it has none."""
    layers = dict(adapted(model))
    if not layers:
        return model
    weights = {name: p.detach() for name, p in model.named_parameters()}
    weights |= {f"{name}.weight": layer.merged() for name, layer in layers.items()}
    return with_weights(model.config, weights).train(model.training)
