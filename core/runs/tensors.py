"""Reading named tensors from safetensors files, which cannot contain code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DamagedError

if TYPE_CHECKING:
    from ..model.sequence_model import SequenceModel


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, by name. DamagedError if it is not one."""
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # safetensors raises its own exception types
        raise DamagedError(f"{path}: not readable as tensors ({error})") from error


def load_weights(model: SequenceModel, path: Path) -> None:
    """Loads the weights that are not frozen into the model. DamagedError if their names or shapes
    do not fit it."""
    weights = read_tensors(path)
    if "place.weight" in weights:  # as older versions of tfm named it
        weights["position_embedding.weight"] = weights.pop("place.weight")
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
        # a tied head is the embedding, and no parameter of its own
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        if (lacks := sorted(trained & set(missing))) or unknown:
            raise ValueError(f"other tensors than the model's: {[*lacks, *unknown][:3]}")
    except (ValueError, RuntimeError) as error:
        raise DamagedError(f"{path}: not the weights of this model ({error})") from error
