"""`tfm export --to onnx`: onnxruntime computes the logits of the run, in one pass or in several."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm, Trained
from helpers import small_model

from tfm.core.architectures import ARCHS
from tfm.core.config import ModelConfig
from tfm.core.errors import ConfigError
from tfm.core.exchange import onnx_export
from tfm.core.model.positions import alibi_slopes
from tfm.core.model.sequence_model import SequenceModel, on_meta
from tfm.core.runs.run import Run

TOLERANCE = 1e-4
SPLITS = ([9], [1] * 9, [4, 1, 4])  # the lengths of the passes over 9 ids


def computed(graph: bytes, model: SequenceModel, ids: Any, lengths: list[int]) -> Any:
    """The logits (B, T, V) of onnxruntime, in passes of these lengths from an empty cache."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(graph)
    shape = len(ids), model.config.groups, 0, model.config.head_width
    past = {each.name: np.zeros(shape, np.float32) for each in session.get_inputs()[1:]}
    found, at = [], 0
    for length in lengths:
        logits, *new = session.run(None, {"ids": ids[:, at : at + length], **past})
        names = [each.name for each in session.get_outputs()[1:]]
        assert [f"past_{name}" for name in names] == list(past)
        past, at = dict(zip(past, new, strict=True)), at + length
        assert all(each.shape[2] == at for each in new)
        found.append(logits)
    return np.concatenate(found, axis=1)


@torch.no_grad()
def check_equal(graph: bytes, model: SequenceModel) -> None:
    for rows in (1, 3):
        ids = torch.randint(0, model.config.vocab_size, (rows, sum(SPLITS[0])))
        expected = model.logits(model(ids)).numpy()
        for lengths in SPLITS:
            found = computed(graph, model, ids.numpy(), lengths)
            np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {**ARCHS["gpt2"].model, "softcap": 9.0},
        {**ARCHS["post-ln"].model, "positions": "alibi", "window": 4, "kv_heads": 1},
    ],
    ids=["gpt2", "post-ln"],
)
def test_architectures(fields: dict[str, Any]) -> None:
    pytest.importorskip("onnxscript")
    model = small_model(**fields, layers=1).eval()
    check_equal(onnx_export.graph_of(model).SerializeToString(), model)
    assert type(alibi_slopes(2, torch.device("cpu"))) is torch.Tensor  # nothing of the tracing


def test_a_run(tfm: Tfm, trained: Trained) -> None:
    """The verb writes a folder; the file has the run's facts and nothing of this machine."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    out = tfm.folder / "exported"
    done = tfm("export", trained.path, out, "--to", "onnx")
    assert done.text == f"{out}\n" and "torchvision" not in done.err
    data = (out / "model.onnx").read_bytes()
    graph = onnx.load_from_string(data)
    onnx.checker.check_model(graph)
    about = {each.key: each.value for each in graph.metadata_props}
    run = Run(trained.path)
    model = run.load_model().eval()
    assert about["tokenizer"] == "char" and about["task"] == "text" and about["tfm"]
    assert int(about["vocabulary"]) == model.config.vocab_size
    assert (int(about["context"]), int(about["begin"])) == (
        model.config.context,
        run.tokenizer().begin,
    )
    assert {path.name for path in out.iterdir()} <= {"model.onnx", "tokenizer.json"}
    for path in (Path(__file__).parent.parent, Path.home(), tfm.folder, Path(sys.prefix)):
        assert str(path).encode() not in data
    assert not re.search(rb"\.py\b|File \"|site-packages", data)
    check_equal(data, model)
    assert "already exists" in tfm.error("export", trained.path, out, "--to", "onnx")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(encoder_layers=1), "an encoder"),
        ({**ARCHS["lstm"].model}, "its mixers are lstm"),
        (dict(mixers="attention,conv"), "its mixers are attention,conv"),
        (dict(axes=2), "coordinates or features"),
        (dict(features=3), "coordinates or features"),
        (dict(width=8192, heads=64, layers=12), "38.7 GB, and one file holds 2"),
    ],
)
def test_what_the_graph_cannot_carry(fields: dict[str, Any], said: str) -> None:
    model = on_meta(ModelConfig(**{**dict(vocab_size=23, layers=2), **fields}))
    with pytest.raises(ConfigError, match="--to onnx: not this model") as error:
        onnx_export.check(model)
    assert said in str(error.value)
