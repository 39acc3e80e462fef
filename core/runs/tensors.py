"""Reads named tensors from safetensors files, which cannot contain code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DamagedError

if TYPE_CHECKING:
    from ..model.sequence_model import SequenceModel


def read_tensors(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file by name. DamagedError."""
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # safetensors raises its own kind
        raise DamagedError(f"{path}: not readable as tensors ({error})") from error


def load_weights(model: SequenceModel, path: Path) -> None:
    """Loads the weights of a file into the model. DamagedError if names or shapes differ."""
    weights = read_tensors(path)
    if "place.weight" in weights:  # its name before format 2
        weights["position_embedding.weight"] = weights.pop("place.weight")
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
        if set(missing) - ({"head.weight"} if model.config.tied else set()) or unknown:
            raise ValueError(f"missing or unknown tensors: {[*missing, *unknown][:3]}")
    except (ValueError, RuntimeError) as error:
        raise DamagedError(f"{path}: not the weights of this model ({error})") from error
