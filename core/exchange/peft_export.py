"""The adapters of a run as a folder for PEFT: `PeftModel.from_pretrained(base, folder)`, where base
is the model that the run was started from, in transformers.

Format read in peft 0.21 (src/peft/utils/save_and_load.py, tuners/lora/config.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..errors import UsageError
from ..files import to_json
from ..model.lora import ALPHA, AdaptedLinear, adapted
from ..model.sequence_model import SequenceModel
from ..runs.run import Run
from .families import Family
from .foreign import family_of
from .hf_export import write_folder

FILL_IN = (
    "base_model_name_or_path in adapter_config.json is null: fill in the name of the base model, "
    "or load the adapters with PeftModel.from_pretrained(base, folder)"
)


def export(run: Run, model: SequenceModel, out: Path, dtype: str) -> dict[str, object]:
    """Writes the folder `out`, whole or not at all. model: with its adapters; dtype: of the
    tensors. UsageError for a run without adapters, ConfigError if no class of transformers computes
    the model."""
    layers, rank = dict(adapted(model)), run.train_config().lora
    if not layers:
        raise UsageError(f"{run.title}: trained without --lora, so it has no adapters; use --to hf")
    family = family_of(model.config)
    tensors: dict[str, Tensor] = {}
    modules: dict[str, int] = {}  # name, without the path to it: the rank
    for name, layer in layers.items():
        for their, (a, b) in _pairs(family, name, layer, model.config.width).items():
            modules[their.rpartition(".")[2]] = len(a)
            for kind, x in (("A", a), ("B", b)):
                tensor = x.to(getattr(torch, dtype)).contiguous()
                tensors[f"base_model.model.{their}.lora_{kind}.weight"] = tensor
    joined = {name: each // rank for name, each in modules.items() if each != rank}
    base = _hub_name(run)
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if model.has_encoder else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": family.transposed,
        "target_modules": sorted(modules),
        "rank_pattern": {name: rank * count for name, count in joined.items()},
        "alpha_pattern": {name: ALPHA * count for name, count in joined.items()},
    }
    files = {
        "adapter_config.json": to_json(config),
        "adapter_model.safetensors": save_tensors(tensors, {"format": "pt"}),
    }
    write_folder(out, files)
    return {
        "class": family.name,
        "dtype": dtype,
        "rank": rank,
        "base_model": base,
        "files": {name: len(data) for name, data in files.items()},
        "notes": [] if base else [FILL_IN],
    }


def _pairs(
    family: Family, name: str, layer: AdaptedLinear, width: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of the modules there of one of our layers. A module that joins several of our
    matrices gets one pair of a higher rank: all A, and the B on a diagonal."""
    pairs, names = [(a.detach(), b.detach()) for a, b in layer.pairs()], family.names_of(name)
    if len(names) == 1:
        diagonal = torch.block_diag(*(b for _, b in pairs))  # type: ignore[no-untyped-call]
        pairs = [(torch.cat([a for a, _ in pairs]), diagonal)]
    if family.order is not None:  # of the dimensions of the residual stream
        order = torch.tensor(family.order(width))
        pairs = [(a, b[order]) if layer.output else (a[:, order], b) for a, b in pairs]
    return dict(zip(names, pairs, strict=True))


def _hub_name(run: Run) -> str | None:
    """The repository of the base model on the Hugging Face hub; None if it is elsewhere."""
    kind, _, name = str(run.config["init"]).partition(":")
    return name if kind == "hf" and not os.path.isabs(name) else None
