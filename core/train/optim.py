"""Assigns parameters to optimisers, names their states, and schedules the learning rate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import TrainConfig
from ..errors import ConfigError
from ..model.layers import Linear
from ..model.sequence_model import SequenceModel
from .adamw import AdamW, NeighbourAdamW
from .average import Average
from .muon import Muon
from .optimizer import Optimizer


def make_optimizers(model: SequenceModel, config: TrainConfig) -> list[Optimizer]:
    """The optimisers of a model, in the order in which a step applies them: AdamW, neighbour AdamW
    for ordered ids, Muon for the blocks' matrices, the average of the weights."""
    matrices = [m for m in model.blocks.modules() if isinstance(m, Linear)]
    if config.optimizer == "adamw":
        matrices = []
    by_muon = {id(layer.weight) for layer in matrices}
    rest = [p for p in model.parameters() if id(p) not in by_muon]
    shared = dict(lr=config.adam_lr, beta1=config.beta1, beta2=config.beta2)
    adamw = AdamW(
        dict(params=[p for p in rest if (p.ndim >= 2) == matrix], weight_decay=decay, **shared)
        for matrix, decay in ((True, config.weight_decay), (False, 0.0))
    )
    optimizers: list[Optimizer] = [adamw]
    shape = model.config
    if shape.ordered_to > shape.ordered_from:
        tables = [model.embedding.weight] + ([] if shape.tied else [model.head.weight])
        low, high = shape.ordered_from, shape.ordered_to
        optimizers.append(NeighbourAdamW(tables, low, high, **shared))
    if matrices:
        dtype = getattr(torch, config.dtype)
        optimizers.append(Muon(matrices, config.lr, config.momentum, config.weight_decay, dtype))
    if config.average:  # last, since it averages the weights that the others have moved
        optimizers.append(Average(model.parameters(), config.average))
    return optimizers


def state_tensors(model: SequenceModel, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the optimisers' states by 'optimiser.parameter.field', such as
    'muon.blocks.0.ffn.up.weight.momentum'."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {
        f"{optimizer.name}.{names[parameter]}.{field}": value.detach()
        for optimizer in optimizers
        for parameter, state in optimizer.state_to_save().items()
        for field, value in state.items()
    }


def load_state_tensors(
    model: SequenceModel, optimizers: list[Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Loads the states that `state_tensors` returned. ValueError if they belong to other
    parameters, ConfigError if they are named by number, as before format 2."""
    if any(key.partition(".")[0].isdecimal() for key in tensors):
        raise ConfigError(
            "its optimiser state was saved by an older tfm; start a new run from its weights with "
            "--init"
        )
    parameters = dict(model.named_parameters())
    states: dict[str, dict[Tensor, dict[str, Tensor]]] = {each.name: {} for each in optimizers}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        parameter, _, field = rest.rpartition(".")
        if name not in states or parameter not in parameters:
            raise ValueError(f"{key}: no such optimiser or parameter")
        states[name].setdefault(parameters[parameter], {})[field] = tensor
    for optimizer in optimizers:
        optimizer.load(states[optimizer.name])


def lr_factor(step: int, config: TrainConfig) -> float:
    """The learning rate at `step` (from 0) as a fraction of its peak: linear warm-up, constant,
    then linear decay that would reach zero at `config.steps`."""
    up = (step + 1) / (config.warmup * config.steps + 1)
    down = (config.steps - step) / (max(config.decay, 1e-9) * config.steps)
    return min(1.0, up, down)
