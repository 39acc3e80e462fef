"""A run as an ONNX graph, for onnxruntime and what builds on it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import tfm_version
from ..errors import ConfigError
from ..model.attention import Attention
from ..model.positions import alibi_slopes
from ..model.sequence_model import DecodingState, SequenceModel
from ..ops import operations as ops
from ..runs.run import Run
from .hf_export import write_folder

MAX_BYTES = (1 << 31) - (1 << 24)  # of weights in one file: protobuf ends at 2 GiB
EXAMPLE = (2, 3, 4)  # rows, new positions and cached ones of the pass that is traced


def export(run: Run, model: SequenceModel, out: Path, dtype: str) -> dict[str, object]:
    """Writes the folder `out`, whole or not at all: `model.onnx`, and `tokenizer.json` where the
    items are text. ConfigError for a model that the graph cannot compute: one with an encoder, with
    other mixers than attention, with positions of several axes or features beside the ids, or with
    more than 2 GB of weights."""
    check(model)
    graph = graph_of(model)
    for name, value in _about(run, model).items():
        graph.metadata_props.add(key=name, value=value)
    files = {"model.onnx": graph.SerializeToString()}
    text = run.tokenizer().tokenizer_json()
    if text is not None:
        files["tokenizer.json"] = json.dumps(text, ensure_ascii=False).encode()
    write_folder(out, files)
    return {
        "class": "decoder with a KV cache",
        "dtype": dtype,
        "opset": max(each.version for each in graph.opset_import if not each.domain),
        "files": {name: len(data) for name, data in files.items()},
    }


def check(model: SequenceModel) -> None:
    """ConfigError says what of this model the graph cannot carry."""
    config = model.config
    attends = all(isinstance(block.get_submodule("mixer"), Attention) for block in model.blocks)
    size = 4 * model.parameter_count()
    problem = None
    if model.has_encoder:
        problem = "it has an encoder; --to hf can carry some of those"
    elif not attends:
        problem = f"its mixers are {config.mixers}, not attention alone"
    elif config.axes > 1 or config.features:
        problem = "its ids have coordinates or features, which the graph does not take"
    elif size > MAX_BYTES:
        problem = f"its weights are {size / 1e9:.1f} GB, and one file holds 2; --to hf writes it"
    if problem:
        raise ConfigError(f"--to onnx: not this model: {problem}")


def graph_of(model: SequenceModel) -> Any:
    """The onnx.ModelProto of a model, without metadata.

    Inputs: `ids` (B, T) int64, and for each block N `past_keys_N` and `past_values_N`
    (B, groups, S, w) of the S positions before. Outputs: `logits` (B, T, V), and `keys_N` and
    `values_N` (B, groups, S + T, w). B, T and S are free, S also 0.
    """
    blocks = range(model.config.layers)
    pasts = [f"past_{part}_{n}" for n in blocks for part in ("keys", "values")]
    rows, new, seen = EXAMPLE
    shape = rows, model.config.groups, seen, model.config.head_width
    example = torch.zeros((rows, new), dtype=torch.int64), [torch.zeros(shape) for _ in pasts]
    free = {name: torch.export.Dim(name, min=0) for name in ("batch", "length", "past")}
    past_axes = {0: free["batch"], 2: free["past"]}
    axes = {0: free["batch"], 1: free["length"]}, [past_axes for _ in pasts]
    module = Step(model).eval()
    if model.config.positions == "alibi":  # a constant, which tracing must not make
        alibi_slopes(model.config.heads, torch.device("cpu"))
    with ops.use("reference"), torch.no_grad(), _silence():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            verbose=False,
            input_names=["ids", *pasts],
            output_names=["logits", *(past.removeprefix("past_") for past in pasts)],
            dynamic_shapes=axes,
        )
    assert program is not None
    graph = program.model_proto
    graph.graph.name = "tfm"
    for part in _with_metadata(graph):  # has stack traces, with paths of this machine
        part.ClearField("doc_string")
        del part.metadata_props[:]
    return graph


class Step(nn.Module):
    """`SequenceModel.step` as a function of tensors."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        seen, length = past[0].shape[2], ids.shape[1]
        caches = [Growing(*each) for each in zip(past[::2], past[1::2], strict=True)]
        state = DecodingState(caches, seen + length, seen)
        positions = (seen + torch.arange(length))[None, :, None]  # (1, T, 1)
        hidden = self.model.step(ids, state, positions)
        new = (tensor for cache in caches for tensor in (cache.keys, cache.values))
        return self.model.logits(hidden), *new


@dataclass
class Growing:
    """A KV cache whose tensors (B, groups, positions so far, w) grow, in place of `KeyValues`."""

    keys: Tensor
    values: Tensor
    prefix: None = None

    def append(self, k: Tensor, v: Tensor, at: int | Tensor, lengths: Tensor | None = None) -> None:
        self.keys = torch.cat((self.keys, k), dim=2)
        self.values = torch.cat((self.values, v), dim=2)

    def read(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


@contextmanager
def _silence() -> Iterator[None]:
    """Without what torch.onnx says about itself."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _with_metadata(graph: Any) -> Iterator[Any]:
    """Every part of an onnx.ModelProto that can have metadata and a text."""
    yield graph
    for each in (graph.graph, *graph.functions):
        yield from (each, *each.node, *each.value_info)
    yield from (*graph.graph.input, *graph.graph.output, *graph.graph.initializer)


def _about(run: Run, model: SequenceModel) -> dict[str, str]:
    config = run.config
    return {
        "tfm": tfm_version(),
        "task": str(config["task"]),
        "tokenizer": str(config["tokenizer"]["kind"]),
        "begin": str(run.tokenizer().begin),
        "vocabulary": str(model.config.vocab_size),
        "context": str(model.config.context),
    }
