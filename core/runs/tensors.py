"""Named tensors as safetensors: nothing that could run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DamagedError

if TYPE_CHECKING:
    from ..model.sequence_model import SequenceModel


def read_tensors(path: Path) -> dict[str, Any]:
    """All tensors of a file, by name. DamagedError where it is none."""
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # safetensors raises its own kind
        raise DamagedError(f"{path}: not readable as tensors ({error})") from error


def load_weights(model: SequenceModel, path: Path) -> None:
    """Puts the weights of a file into the model. DamagedError where they are another's."""
    weights = read_tensors(path)
    if "place.weight" in weights:  # as older versions of tfm named it
        weights["position_embedding.weight"] = weights.pop("place.weight")
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
        if set(missing) - ({"head.weight"} if model.config.tied else set()) or unknown:
            raise ValueError(f"other tensors than the model's: {[*missing, *unknown][:3]}")
    except (ValueError, RuntimeError) as error:
        raise DamagedError(f"{path}: not the weights of this model ({error})") from error
