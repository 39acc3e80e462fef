"""Which parameter is moved by which optimiser, and the learning rate of each step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import TrainConfig
from ..errors import ConfigError
from ..model.layers import Linear
from ..model.rnn import Recurrent
from ..model.sequence_model import SequenceModel
from .adamw import AdamW, Neighbours
from .average import Average
from .muon import Muon
from .optimizer import Optimizer
from .peers import ALONE, Peers


def make_optimizers(
    model: SequenceModel, config: TrainConfig, peers: Peers = ALONE
) -> list[Optimizer]:
    """The optimizers that between them move every parameter that is not frozen once a step."""
    matrices = block_matrices(model) if config.optimizer == "muon" else {}
    trained = [p for p in model.parameters() if p.requires_grad]
    rest = [p for p in trained if p not in matrices]
    shared = dict(lr=config.adam_lr, beta1=config.beta1, beta2=config.beta2)
    adamw = AdamW(
        dict(params=[p for p in rest if (p.ndim >= 2) == wide], weight_decay=decay, **shared)
        for wide, decay in ((True, config.weight_decay), (False, 0.0))
    )
    optimizers: list[Optimizer] = [adamw]
    shape = model.config
    tables = [model.embedding.weight] + ([] if shape.tied else [model.head.weight])
    if shape.ordered_ranges and tables[0].requires_grad:
        optimizers.append(Neighbours(tables, shape.ordered_ranges, **shared))
    if matrices:
        dtype = getattr(torch, config.dtype)
        optimizers.append(Muon(matrices, config.lr, config.momentum, config.weight_decay, dtype))
    if config.average:  # last: of what the others moved
        optimizers.append(Average(trained, config.average))
    for optimizer in optimizers:
        optimizer.peers = peers
    return optimizers


def block_matrices(model: SequenceModel) -> dict[Tensor, tuple[int, ...]]:
    """The weight matrices of all blocks that are not frozen, each with the rows of the matrices
    that it fuses."""
    found: dict[Tensor, tuple[int, ...]] = {}
    for block in (*model.encoder, *model.blocks):
        for module in block.modules():
            if isinstance(module, Linear):
                found[module.weight] = module.rows
            elif isinstance(module, Recurrent):
                found[module.cell.weight_ih_l0] = found[module.cell.weight_hh_l0] = module.rows
    return {matrix: rows for matrix, rows in found.items() if matrix.requires_grad}


def state_tensors(model: SequenceModel, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the optimisers' states, named 'optimiser.parameter.field', such as
    'muon.blocks.0.ffn.up.weight.momentum'. Of several processes the leading one has them all, the
    others none, and all must call this."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        peers = optimizer.peers
        for parameter, state in optimizer.saved().items():
            for field, value in state.items():
                value = value.detach()
                if optimizer.is_divided(value):
                    value = peers.whole(parameter, value)
                    value = value.cpu() if peers.shards else value  # no device has room for all
                if peers.leads:
                    found[f"{optimizer.name}.{names[parameter]}.{field}"] = value
    return found


def load_state_tensors(
    model: SequenceModel, optimizers: list[Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Restores states that `state_tensors` named. ValueError if they are of other parameters,
    ConfigError if they are named by number, as older versions of tfm did."""
    if any(key.partition(".")[0].isdecimal() for key in tensors):
        raise ConfigError(
            "its optimiser state was saved by an older tfm; continue from its weights with --init"
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
    """The fraction of the peak rate at `step` (from 0): linear warm-up, then flat, then linear
    decay that would reach zero at `config.steps`; or, after the warm-up, decay with the inverse
    square root of the step (Vaswani et al. 2017, eq. 3)."""
    up = (step + 1) / (config.warmup * config.steps + 1)
    if config.schedule == "inverse-sqrt":
        return float(min(up, up**-0.5))
    down = (config.steps - step) / (max(config.decay, 1e-9) * config.steps)
    return min(1.0, up, down)
