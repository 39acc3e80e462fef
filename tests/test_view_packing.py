"""Tensors of a page: what is stored, what is computed again, and the errors that are stated."""

from __future__ import annotations

import base64
import json
import re
import zlib
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import torch
from test_capture import VARIANTS, inputs, model_of

from tfm.core.protocols import Sequence
from tfm.core.view.look import Reading
from tfm.core.view.packing import Plan, encode, ladder, planes
from tfm.core.view.page import FOLDER, MODULES, STYLES, View, joined
from tfm.tasks.text import TextTask


class Tokens:
    """A tokenizer of `capture`'s test models: 40 ids without bytes."""

    vocab_size, axes, features, lossless, begin, ordered = 40, 1, 0, False, 0, ()

    def support(self, length: int, side: Any) -> None:
        return None

    def positions(self, length: int, side: Any) -> None:
        return None


class Ids(TextTask):
    def byte_tokenizer(self, tokenizer: Any) -> Any:
        return None

    def end_token(self, tokenizer: Any) -> None:
        return None


def view_of(name: str) -> View:
    model = model_of(name).eval()
    ids, source = inputs(model)
    whole = ids.numpy() if source is None else np.concatenate((source.numpy(), ids.numpy()[1:]))
    targets = np.append(ids.numpy()[1:], -1)
    legal = np.tile([0, 40], (len(ids), 1))
    given = 1 if source is None else len(source)
    reads = None if source is None else source.numpy()
    counted = targets >= 0
    read = Reading(Sequence(whole, given), ids.numpy(), targets, counted, reads, legal)
    facts = {"name": "a", "arch": name, "checkpoint": 1, "created": "", "item": None}
    return View(model, Ids(TextTask.Options()), Tokens(), read, facts)  # type: ignore[arg-type]


def decoded(record: dict[str, Any], blob: bytes) -> Any:
    """A stored tensor from its bytes, by another way than encode: numpy's own types."""
    shape, at = record["shape"], record["at"]
    size = int(np.prod(shape))
    if record["type"] == "i8":
        codes = np.frombuffer(blob, np.int8, size, at).astype(np.float32)
        scales = np.frombuffer(blob, np.uint8, 4 * size // shape[-1], at + size)
        scale = np.ascontiguousarray(scales.reshape(4, -1).T).view("<f4").ravel()
        values = codes.reshape(-1, shape[-1]) * scale[:, None]
        return np.where(codes.reshape(values.shape) == -128, -np.inf, values).reshape(shape)
    width = {"f16": 2, "f32": 4}[record["type"]]
    data = np.frombuffer(blob, np.uint8, width * size, at).reshape(width, -1)
    kind = {2: "<f2", 4: "<f4"}[width]
    return np.ascontiguousarray(data.T).view(kind).astype(np.float32).reshape(shape)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "plan", [Plan(), Plan(bits=16), Plan(True, bits=32), Plan(True, bits=8, weights=False)], ids=str
)
def test_stored_values_are_as_close_as_stated(name: str, plan: Plan) -> None:
    view = view_of(name)
    packed = view.pack(plan)
    blob = zlib.decompress(packed.blob, -15)
    stored = 0
    for tensor, record in packed.records.items():
        true = view.tensors.get(tensor, view.weights.get(tensor, view.last))
        true = true[:, view.top] if tensor == "logits" else true
        assert list(true.shape) == record["shape"]
        if "at" in record:
            stored += 1
            found = decoded(record, blob)
            finite = np.isfinite(true)
            assert (np.isfinite(found) == finite).all()
            assert np.abs(found[finite] - true[finite]).max(initial=0) <= record["error"] + 1e-12
        bound = {32: 3e-6, 16: 0.01, 8: 0.2}[plan.bits] * max(1.0, record["largest"])
        assert record["error"] <= bound, (tensor, record)
        if plan.bits == 32 and not plan.recompute:
            assert record["error"] == 0
    assert stored
    plain = ("rnn", "gru", "lstm")  # no norm, no sum, no attention
    recomputed = [each for each, record in packed.records.items() if "recipe" in record]
    assert bool(recomputed) is (plan.recompute and name not in plain)


def test_what_follows_from_others_is_computed_from_what_is_stored() -> None:
    """Attention, sums, norms and activations of a transformer all have recipes."""
    records = view_of("transformer").pack(Plan(recompute=True)).records
    ops = {record["recipe"]["op"] for record in records.values() if "recipe" in record}
    assert ops == {"scores", "softmax", "mix", "add", "norm", "activation"}
    assert "recipe" not in records["blocks.0.attn.hook_rot_q"]
    alibi = view_of("alibi-sandwich").pack(Plan(recompute=True)).records
    assert "recipe" not in alibi["blocks.0.attn.hook_attn_scores"], "they have a bias"


def test_a_tensor_equal_to_another_is_stored_once() -> None:
    records = view_of("transformer").pack(Plan()).records
    assert records["blocks.1.hook_resid_pre"]["same"] == "blocks.0.hook_resid_post"


def test_the_last_positions_keep_the_weights_of_earlier_ones() -> None:
    view = view_of("transformer")
    plan = Plan(True, False, 16, last=4)
    records = view.pack(plan).records
    assert records["blocks.0.attn.hook_pattern"]["shape"] == [4, 4, 4]
    assert records["blocks.0.attn.hook_pattern_earlier"]["shape"] == [4, 4]
    assert records["blocks.0.hook_resid_pre"]["shape"] == [4, 32]
    kept = view._last("a.hook_pattern", view.tensors["blocks.0.attn.hook_pattern"], 4)
    sums = kept["a.hook_pattern"].sum(-1) + kept["a.hook_pattern_earlier"]
    np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_each_step_of_the_ladder_is_smaller() -> None:
    view = view_of("transformer")
    plans = list(ladder(view.config, 16))
    assert len(plans) == len(set(plans)) >= 8
    sizes = [len(view.pack(plan).blob) for plan in plans]
    assert all(after <= before for before, after in zip(sizes, sizes[1:], strict=False))
    said = [view.given_up(plan) for plan in plans]
    assert all(len(after) >= len(before) for before, after in zip(said, said[1:], strict=False))


def test_rounding_is_to_nearest() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(5, 300)).astype(np.float32)
    values[1, 3] = -np.inf
    kind, data, found = encode(values, 8)
    assert kind == "i8" and len(data) == 5 * 300 + 5 * 4
    assert found[1, 3] == -np.inf
    finite = np.isfinite(values)
    largest = np.abs(np.where(finite, values, 0)).max(1, keepdims=True)
    bound = np.broadcast_to(largest / 254 + 1e-7, values.shape)[finite]
    assert (np.abs(found[finite] - values[finite]) <= bound).all()
    assert encode(np.array([[1e6]], np.float32), 16)[0] == "f32", "too large for 16 bits"
    assert planes(np.array([0x0102, 0x0304], np.uint16)) == b"\x02\x04\x01\x03"


# -- the file --------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_allows_nothing_else() -> None:
    """Its policy has the hashes of its script and style, and its data cannot end their element."""
    view = view_of("transformer")
    view.data["labels"]["3"] = "</script><script>alert(1)</script>"
    page = view.page(Plan()).decode()
    assert page.count("</script>") == 3
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src 'none'")
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert text is not None
        digest = base64.b64encode(sha256(text[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(r"(?:src|href)\s*=", page.partition("<script type")[0])
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert data is not None
    found = json.loads(data[1])
    assert found["format"] == 1 and found["labels"]["3"].startswith("</script>")
    assert set(found) == {
        *("format", "run", "domain", "architecture", "input", "labels", "boxes", "walk"),
        *("lens", "last_logits", "flow", "tensors", "first", "source_first", "left_out"),
    }


def test_every_module_is_in_the_page() -> None:
    """Modules become one script, so their top-level names are unique and imports come first."""
    assert sorted(FOLDER.glob("*.js")) == sorted(FOLDER / f"{name}.js" for name in MODULES)
    assert sorted(FOLDER.glob("*.css")) == sorted(FOLDER / f"{name}.css" for name in STYLES)
    script = joined()
    assert not re.search(r"^\s*(?:import|export)\b", script, re.M)
    declared = r"^(?:async )?(?:function\*?|class|const|let|var) (?:\{[^}]*\}|(\w+))"
    names = [found[1] for found in re.finditer(declared, script, re.M)]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    for name in MODULES:
        text = (FOLDER / f"{name}.js").read_text()
        for used, other in re.findall(r'import \{([^}]*)\} from "\./(\w+)\.js";', text):
            for each in filter(None, map(str.strip, used.split(","))):
                exported = rf"^export (?:async )?(?:function|class|const) {each}\b"
                source = (FOLDER / f"{other}.js").read_text()
                assert re.search(exported, source, re.M), f"{name}.js imports {each} of {other}.js"
                assert MODULES.index(other) < MODULES.index(name)


def test_the_lens_of_the_last_block_is_the_model() -> None:
    view = view_of("transformer")
    logits = torch.from_numpy(view.tensors["logits"])
    p = logits.softmax(-1)
    top = p.topk(5, dim=-1)
    assert view.lens["top"][-1] == top.indices.tolist()
    np.testing.assert_allclose(view.lens["p"][-1], top.values.numpy(), rtol=1e-4)
    nll = -logits.log_softmax(-1)[torch.arange(11), torch.from_numpy(view.read.targets[:-1].copy())]
    np.testing.assert_allclose(view.lens["nll"][-1][:-1], nll.numpy(), rtol=1e-4)
    assert view.lens["nll"][-1][-1] is None and view.lens["rank"][0][-1] is None
    entropy = -(p * p.log()).sum(-1)
    np.testing.assert_allclose(view.lens["entropy"][-1], entropy.numpy(), rtol=1e-4)
    assert len(view.lens["levels"]) == 3


def test_parts_of_the_model_sum_to_its_parameters() -> None:
    from tfm.core.view.page import parts

    for name in VARIANTS:
        model = model_of(name)
        assert sum(p["parameters"] for p in parts(model)) == model.parameter_count(), name
