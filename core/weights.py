"""Weights and optimiser states as safetensors: named tensors, nothing that could run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DamagedError

if TYPE_CHECKING:
    from .model import SequenceModel
    from .optim import Optimizer


def optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Any]:
    """Every tensor of the optimisers' states under 'optimizer.parameter.name'."""
    return {
        f"{number}.{name}": value.detach().contiguous()
        for number, optimizer in enumerate(optimizers)
        for name, value in optimizer.tensors().items()
    }


def load_optimizers(optimizers: list[Optimizer], path: Path) -> None:
    """Puts back what `optimizer_tensors` named."""
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(path))
        states: list[dict[str, Any]] = [{} for _ in optimizers]
        for key, tensor in tensors.items():
            which, _, name = key.partition(".")
            states[int(which)][name] = tensor
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load(state)
    except Exception as error:  # safetensors raises its own kind
        raise DamagedError(f"{path}: not the optimiser of this run ({error})") from error


def load_weights(model: SequenceModel, path: Path) -> None:
    from safetensors.torch import load_file

    try:
        weights = load_file(str(path))
        missing, unknown = model.load_state_dict(weights, strict=False)
        if set(missing) - ({"head.weight"} if model.config.tied else set()) or unknown:
            raise ValueError(f"other tensors than the model's: {[*missing, *unknown][:3]}")
    except Exception as error:  # safetensors raises its own kind
        raise DamagedError(f"{path}: not the weights of this model ({error})") from error
