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
from ..runs.tensors import StoredTensor
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
    'muon.blocks.0.ffn.up.weight.momentum': this process's rows of those that are divided, and all
    others in the leading process only."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.saved().items():
            for field, value in state.items():
                if optimizer.peers.leads or optimizer.is_divided(value.shape):
                    found[f"{optimizer.name}.{names[parameter]}.{field}"] = value.detach()
    return found


def parameter_of(key: str) -> str:
    """The parameter that `state_tensors` names in 'optimiser.parameter.field'."""
    return key.partition(".")[2].rpartition(".")[0]


def load_state_tensors(
    model: SequenceModel,
    optimizers: list[Optimizer],
    tensors: Mapping[str, Tensor] | Mapping[str, StoredTensor],
) -> None:
    """Restores states that `state_tensors` named, of which each process takes its rows. tensors:
    whole ones. ValueError if they are of other parameters, ConfigError if they are named by number,
    as older versions of tfm did."""
    if any(key.partition(".")[0].isdecimal() for key in tensors):
        raise ConfigError(
            "its optimiser state was saved by an older tfm; continue from its weights with --init"
        )
    parameters = dict(model.named_parameters())
    by_name = {each.name: each for each in optimizers}
    states: dict[str, dict[Tensor, dict[str, Tensor]]] = {name: {} for name in by_name}
    for key, tensor in tensors.items():
        name, field = key.partition(".")[0], key.rpartition(".")[2]
        parameter = parameters.get(parameter_of(key))
        if name not in states or parameter is None:
            raise ValueError(f"{key}: no such optimiser or parameter")
        if not by_name[name].is_divided(tensor.shape):
            own = tensor[...]
        elif tensor.shape[0] == parameter.shape[0]:
            own = tensor[by_name[name].peers.rows_of(parameter)]
        else:
            raise ValueError(f"{key}: {tensor.shape[0]} rows of {parameter.shape[0]}")
        states[name].setdefault(parameter, {})[field] = own
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
