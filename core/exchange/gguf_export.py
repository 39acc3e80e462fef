"""A run as a GGUF file for llama.cpp, with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import ConfigError
from ..model.sequence_model import SequenceModel
from ..protocols import ByteTokenizer
from ..runs.run import Run
from .foreign import to_hf
from .gguf_file import write_gguf
from .gguf_models import FREQUENCIES, GgufArch, arch_of, divisors, interleave
from .gguf_tokenizer import tokenizer_metadata

# GGMLQuantizationType of matrices, and general.file_type
TYPES = {
    "float32": ("F32", 0),
    "float16": ("F16", 1),
    "bfloat16": ("BF16", 32),
    "q8_0": ("Q8_0", 7),
}
BLOCK = 32  # numbers of a row that share a scale in q8_0
QUANTIZATION = 2  # the version of the layout of quantised blocks
IN_FLOAT32 = ("position_embd.weight", FREQUENCIES)  # beside all that has one dimension
MAX_FLOAT16 = 65504.0


def export(run: Run, model: SequenceModel, out: Path, dtype: str) -> dict[str, object]:
    """Writes the file `out`, whole or not at all. dtype: of the matrices; vectors stay in float32.
    ConfigError if llama.cpp does not compute the model, or has no such tokenizer."""
    arch = arch_of(model.config)
    values, tensors = to_hf(model)
    tokenizer, task = run.tokenizer(), run.task()
    parts = tokenizer.tokenizer_json()
    if parts is None or task.pairs:
        raise ConfigError(
            f"--to gguf: llama.cpp continues a text, and this run's task is {run.config['task']}; "
            "--to hf writes any"
        )
    support = tokenizer.support(1, {})
    legal = support[1] if isinstance(support, tuple) else tokenizer.vocab_size
    metadata = {
        "general.architecture": arch.name,
        "general.type": "model",
        "general.name": f"{run.config['arch']}-{run.config['size']}",
        "general.file_type": TYPES[dtype][1],
        "general.quantization_version": QUANTIZATION,
        **_model_metadata(arch, values, model),
        **tokenizer_metadata(
            parts,
            tokenizer.vocab_size,
            tokenizer.begin,
            cast(ByteTokenizer, tokenizer).end,  # of a text without an end token, the begin token
            [tokenizer.begin] if tokenizer.begin >= legal else [],
        ),
    }
    size = write_gguf(out, metadata, _tensors(arch, values, tensors, model, dtype))
    return {"class": arch.name, "dtype": dtype, "files": {out.name: size}}


def _model_metadata(
    arch: GgufArch, values: Mapping[str, Any], model: SequenceModel
) -> dict[str, Any]:
    config = model.config
    # keys of config.json that are no attribute of the class have the value that they would have
    all_values = {"head_dim": config.head_width, "rope_theta": config.rope_theta, **values}
    found: dict[str, Any] = {"vocab_size": config.vocab_size}
    found |= {key: all_values[theirs] for key, theirs in arch.keys.items()}
    if "rope.freq_base" in arch.keys:
        found["rope.dimension_count"] = config.head_width
        found["attention.value_length"] = config.head_width
    kind, numbers = config.rope_scale
    if kind == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": numbers[0]}
    return {f"{arch.name}.{key}": value for key, value in found.items()}


def _tensors(
    arch: GgufArch,
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: SequenceModel,
    dtype: str,
) -> Iterator[tuple[str, Tensor, Any]]:
    from gguf import GGMLQuantizationType

    if model.config.rope_scale[0] == "llama3":
        yield FREQUENCIES, divisors(model.config), GGMLQuantizationType.F32
    for theirs, tensor in tensors.items():
        name, x = arch.renamed(theirs), tensor
        if heads := arch.heads_of(theirs, values):
            x = interleave(x, heads)
        if arch.turned(theirs, x.ndim):
            x = x.T
        kind = "F32" if x.ndim == 1 or name in IN_FLOAT32 else TYPES[dtype][0]
        if kind == "Q8_0" and x.shape[-1] % BLOCK:  # as the converter of llama.cpp does
            kind = "F16"
        if kind == "F16" and bool((x.abs() > MAX_FLOAT16).any()):
            raise ConfigError(f"--dtype {dtype}: {name} has numbers beyond float16's; use float32")
        yield name, x.contiguous(), GGMLQuantizationType[kind]
