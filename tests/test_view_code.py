"""The pseudo code of `tfm view` computes what the model computes, and the walk follows it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tfm.core.architectures import ARCHS
from tfm.core.capture import capture
from tfm.core.config import GATED_FFNS, ModelConfig
from tfm.core.model.positions import alibi_slopes, rotary_angles, sinusoids
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.view.code import Line, pseudo_code, walk

T, S = 12, 7
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: dict(arch.model) for name, arch in ARCHS.items()},
    **{ffn: dict(ffn=ffn) for ffn in (*GATED_FFNS, "gelu", "none")},
    "alibi": dict(positions="alibi", bias=True),
    "window": dict(window=5),
    "grouped": dict(kv_heads=2, positions="alibi", window=5, qk_norm=False),
    "as imported": dict(
        kv_heads=2, head_dim=12, qk_norm_weights=True, qkv_bias=True, rope_scaling="linear:2"
    ),
    "one head": dict(heads=1, kv_heads=1, norm="layernorm", bias=True),
    "layernorm without bias": dict(norm="layernorm", positions="none"),
    "sandwich": dict(norm_position="sandwich", norm="layernorm", bias=True),
    "post without ffn": dict(norm_position="post", ffn="none"),
    "no norm": dict(norm="none"),
    "no norm, post": dict(norm="none", norm_position="post"),
    "no norm, sandwich": dict(norm="none", norm_position="sandwich", ffn="none"),
    "no residual": dict(residual=False),
    "no residual, post": dict(residual=False, norm_position="post", mixers="gru"),
    "sandwiched lstm": dict(mixers="lstm", norm_position="sandwich", residual=False),
    "softcap": dict(softcap=30.0, tied=True, positions="learned"),
    "hybrid": dict(mixers="attention,lstm,conv", layers=3, positions="sinusoidal"),
    "groups": dict(mixers="gru,gru,attention-rnn,attention,attention,rnn", layers=6),
    "dilations start again": dict(mixers="conv", layers=6, kernel=2, context=16),
    "features": dict(features=3, positions="learned"),
    "features, sinusoids": dict(features=1, positions="sinusoidal"),
    "one tap": dict(mixers="conv", kernel=1),
    "encoder, sandwich": dict(encoder_layers=1, norm_position="sandwich", ffn="none", kv_heads=2),
    "encoder without norm": dict(encoder_layers=1, norm="none", positions="learned", bias=True),
    "encoder, post, lstm": dict(encoder_layers=2, norm_position="post", ffn="none", mixers="lstm"),
}


def features_of(model: SequenceModel) -> Tensor | None:
    if model.features is None:
        return None
    return torch.linspace(-1, 1, T * model.config.features).view(T, -1).sin()


def passes_of(name: str) -> tuple[SequenceModel, Tensor, Tensor | None, dict[str, Tensor]]:
    """A model, its ids and source, and the tensors of its pass."""
    torch.manual_seed(0)
    fields = {**dict(vocab_size=40, layers=2, heads=4, width=32, context=16), **VARIANTS[name]}
    if "encoder_layers" in fields:
        fields["encoder_layers"] = max(fields["encoder_layers"], 2)
    model = SequenceModel(ModelConfig(**{**fields, "zero_init": False}))
    with torch.no_grad():
        for parameter in model.parameters():  # no tensor is zero, no norm the identity
            parameter += 0.05 * torch.randn_like(parameter)
    source = torch.randint(0, 40, (S,)) if model.has_encoder else None
    ids = torch.randint(0, 40, (T,))
    return model, ids, source, capture(model, ids, source=source, features=features_of(model))


@pytest.mark.parametrize("name", VARIANTS)
def test_each_tensor_has_a_line_and_a_step(name: str) -> None:
    model, _, source, found = passes_of(name)
    seen = 0 if source is None else S
    lines, steps = pseudo_code(model.config, T, seen), walk(model.config, T, seen)
    made = []
    for line in lines:
        first, last = line.blocks or (0, 0)
        for block, tensor in itertools.product(range(first, last + 1), line.tensors):
            assert ("{n}" in tensor) == (line.blocks is not None)
            made.append(tensor.format(n=block))
            shape = [int(size) for size in line.shape.split(" x ")]
            assert shape == list(found[made[-1]].shape), line
    assert len(made) == len(set(made)) and set(made) == set(found)
    shown = [tensor for step in steps for tensor in step.tensors]
    assert len(shown) == len(set(shown)) and set(shown) == set(found)
    for step in steps:
        line = lines[step.line]
        assert step.tensors == tuple(tensor.format(n=step.block) for tensor in line.tensors)
        assert (step.block is None) == (line.blocks is None)
        said = f"{step.title}. {step.caption}"  # no field is left open or empty
        assert step.title and step.caption.endswith(".") and not re.search(r"[{}]|  | [.,]", said)
        assert 1 <= len(re.findall(r"[.](?= [A-Z]|$)", step.caption)) <= 4, step.caption
    for before, after in itertools.pairwise(steps):
        if before.block == after.block:
            assert before.line < after.line


@pytest.mark.parametrize("name", VARIANTS)
def test_pseudo_code_computes_the_tensors(name: str) -> None:
    """Executes the lines as Python with the weights of the model, and compares every tensor."""
    model, ids, source, found = passes_of(name)
    lines = pseudo_code(model.config, T, 0 if source is None else S)
    compared = []

    def check(
        tensors: tuple[str, ...], block: int | None, value: Tensor | dict[int, Tensor]
    ) -> None:
        if isinstance(value, dict):
            value = torch.stack([value[t] for t in range(len(value) - (-1 in value))])
        for tensor in tensors:
            full = tensor.format(n=block)
            torch.testing.assert_close(value, found[full], atol=1e-4, rtol=1e-4, msg=full)
            compared.append(full)

    scope = functions(model.config) | weights_outside(model)
    scope |= dict(check=check, ids=ids, source=source, features=features_of(model))
    scope["load"] = lambda stem, block: scope.update(weights_of(model, stem, block))
    with torch.no_grad():
        exec(python(lines), scope)
    assert sorted(compared) == sorted(found)


def python(lines: list[Line]) -> str:
    """The pseudo code as Python that checks the tensors of each line."""
    source: list[str] = []
    pending: list[str] = []  # checks after a loop over positions
    for line in [*lines, Line("pass")]:
        text = re.sub(r"√(\d+)", r"\1 ** 0.5", line.text).replace("²", " ** 2")
        text = re.sub(r"\[(\d+) ... (\d+)\]", lambda m: f"[{m[1]}:{int(m[2]) + 1}]", text)
        text = re.sub(r"\[0\]$", "[0:1]", text) if "embedding" in text else text
        text = re.sub(r"in (\d+) ... (\d+)", lambda m: f"in range({m[1]}, {int(m[2]) + 1})", text)
        text = re.sub(r"in (\d+)(?=[:)])", lambda m: f"in range({m[1]}, {int(m[1]) + 1})", text)
        for sign, word in (("·", "@"), ("≤", "<="), ("-∞", "-inf")):
            text = text.replace(sign, word)
        text = re.sub(r"Σ_s (.*)", r"total(\1 for s in range(pattern.shape[2]))", text)
        text = text.replace("] = 0  #", "] = zeros  #")
        indent = re.match(" *", text)[0]  # type: ignore[index]
        if len(indent) < 4:
            source += pending
            pending = []
        made = text.strip().split(" = ")[0]
        check = f"check({line.tensors}, block, {made.partition('[')[0]})"
        table = re.fullmatch(r" {2}(\w+)\[([^-]+)\] = (.*?)(  #.*)?", text)
        if text.startswith("for block"):
            stem = line.tensors[0].partition(".")[0]
            stream = "m" if stem == "encoder" else "x"
            source += [
                text,
                f"  load('{stem}', block)",
                f"  check({line.tensors}, block, {stream})",
            ]
            continue
        if table:
            names = [name if name.isalpha() else "_" for name in table[2].split(", ")]
            value = f"lambda {', '.join(names)}: {table[3]}"
            text = f"  {table[1]} = table({value}, {len(names)}, '{line.shape}')"
            text = text.replace("x[t", "rows(x)[t").replace("y[t", "rows(y)[t")
        source.append(text)
        if "  h[-1]" in text:
            source[-1:] = ["  h, c, r, z, n, i, f, g, o = ({} for _ in range(9))", text]
        if "[t] =" in text:
            pending.append(f"  {check}")
            pending += ["  h = stack(h)"] * made.startswith("h[")
        elif line.tensors:
            source.append(f"{indent}{check.replace(', block', ', None') if not indent else check}")
    return "\n".join(source)


def functions(config: ModelConfig) -> dict[str, Any]:
    def rope(x: Tensor) -> Tensor:
        cos, sin = rotary_angles(torch.arange(len(x))[:, None], config)
        swapped = torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)
        return x * cos[:, None] + swapped * sin[:, None]

    def layer_norm(x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / ((x**2).mean(-1, keepdim=True) + config.norm_eps) ** 0.5

    def table(value: Callable[..., Any], indices: int, shape: str) -> Tensor:
        sizes = [int(size) for size in shape.split(" x ")]
        places = itertools.product(*(range(size) for size in sizes[:indices]))
        return torch.stack([torch.as_tensor(value(*place)) for place in places]).reshape(sizes)

    def concat(*parts: Any) -> Tensor:
        return torch.cat(parts if len(parts) > 1 else list(parts[0]), dim=-1)

    class rows:  # zeros before position 0
        def __init__(self, x: Tensor) -> None:
            self.x = x

        def __getitem__(self, t: int) -> Tensor:
            return self.x[t] if t >= 0 else torch.zeros_like(self.x[0])

    return dict(
        rope=rope,
        rms_norm=lambda x: x / ((x**2).mean(-1, keepdim=True) + config.norm_eps) ** 0.5,
        layer_norm=layer_norm,
        softmax=lambda x: x.softmax(-1),
        tanh=torch.tanh,
        σ=torch.sigmoid,
        relu=F.relu,
        silu=F.silu,
        gelu=lambda x: x / 2 * (1 + ((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)).tanh()),
        concat=concat,
        table=table,
        rows=rows,
        stack=lambda h: torch.stack([h[t] for t in range(len(h) - 1)]),
        total=sum,
        inf=torch.inf,
        zeros=torch.zeros(config.width),
        slope=alibi_slopes(config.heads, torch.device("cpu")),
        sinusoids=sinusoids(torch.arange(config.context), config.width),
    )


def weights_outside(model: SequenceModel) -> dict[str, Any]:
    found = norms(final=model.norm, memory=model.encoder_norm)
    found |= dict(embedding=model.embedding.weight, W_head=model.head.weight.T)
    if model.position_embedding is not None:
        found["position_embedding"] = model.position_embedding.weight
    if model.features is not None:
        found["W_features"] = model.features.weight.T
    return found


def norms(**modules: Any) -> dict[str, Any]:
    found = {}
    for name, module in modules.items():
        for sign, kind in (("γ", "weight"), ("β", "bias")):
            if getattr(module, kind, None) is not None:
                found[f"{sign}_{name}"] = getattr(module, kind)
    return found


def weights_of(model: SequenceModel, stem: str, number: int) -> dict[str, Any]:
    """The weights of a block by their names in the pseudo code."""
    block: Any = (model.encoder if stem == "encoder" else model.blocks)[number]
    found = norms(**{"1": block.mixer_norm, "cross": block.cross_norm, "2": block.ffn_norm})
    out = block.mixer_out_norm
    found |= norms(attn=out, rnn=out, conv=out, cross_attn=block.cross_out_norm)
    found |= norms(mlp=block.ffn_out_norm)

    def add(names: str, weight: Tensor, bias: Tensor | None, sizes: Any = None) -> None:
        parts = names.split()
        sizes = sizes or [len(weight) // len(parts)] * len(parts)
        for name, part in zip(parts, weight.split(sizes), strict=True):
            found[f"W_{name}"] = part.T
        if bias is not None:
            found.update({f"b_{n}": b for n, b in zip(parts, bias.split(sizes), strict=True)})

    def linear(names: str, layer: Any) -> None:
        add(names, layer.weight, layer.bias, layer.rows)

    mixer = block.mixer
    if hasattr(mixer, "qkv"):
        linear("q k v", mixer.qkv)
        found |= norms(q=mixer.q_norm, k=mixer.k_norm)
    if hasattr(mixer, "taps"):
        linear("value gate", mixer.taps)
    if hasattr(mixer, "out"):
        linear("o", mixer.out)
    if hasattr(mixer, "score"):
        linear("q", mixer.query)
        linear("k", mixer.key)
        found["u"] = mixer.score.weight[0]
    recurrent = getattr(mixer, "rnn", mixer)
    if hasattr(recurrent, "cell"):
        gates = {1: "h", 3: "rzn", 4: "ifgo"}[recurrent.gates]
        for letter, kind in (("i", "ih"), ("h", "hh")):
            weight = getattr(recurrent.cell, f"weight_{kind}_l0")
            bias = getattr(recurrent.cell, f"bias_{kind}_l0", None)
            add(" ".join(letter + gate for gate in gates), weight, bias)
    if block.cross is not None:
        linear("cross_q", block.cross.query)
        linear("cross_k cross_v", block.cross.kv)
        linear("cross_o", block.cross.out)
    if block.ffn is not None:
        linear("gate value" if block.ffn.gated else "up", block.ffn.up)
        linear("down", block.ffn.down)
    return found


def test_blocks_with_equal_mixers_share_a_loop() -> None:
    config = ModelConfig(mixers="conv,conv,lstm,attention,attention,attention", layers=6, width=32)
    loops = [line for line in pseudo_code(config, T) if line.text.startswith("for block")]
    assert [line.text[13:-1] for line in loops] == ["0 ... 1", "2", "3 ... 5"]
    assert [line.blocks for line in loops] == [(0, 1), (2, 2), (3, 5)]


def test_captions_have_the_numbers_of_the_model() -> None:
    config = ModelConfig(layers=3, heads=4, kv_heads=2, width=128, window=8, qk_norm=False)
    said = {step.title: step.caption for step in walk(config, 64)}
    assert said["Block 2: attention scores"] == (
        "Each of 4 heads compares every query with every key: a score is q · k / √32. "
        "A position sees the last 8 up to itself; all other scores are -∞."
    )
    assert "2 x 32 numbers, a key for every 2 heads" in said["Block 0: keys"]
    dilated = walk(ModelConfig(mixers="conv", layers=4, width=32), 64)
    apart = [re.findall(r"(\d+) apart", step.caption) for step in dilated]
    assert sum(apart, []) == ["1", "2", "4", "8"]
