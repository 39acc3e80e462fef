"""The tensors of `capture` are those that the model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import DECODERS
from torch import Tensor

from tfm.core.architectures import ARCHS
from tfm.core.capture import capture
from tfm.core.config import ModelConfig
from tfm.core.model.sequence_model import SequenceModel

T, S, V = 12, 7, 40
VARIANTS: dict[str, dict[str, object]] = {
    **DECODERS,
    "grouped": dict(kv_heads=2, window=5),
    "alibi-sandwich": dict(positions="alibi", norm_position="sandwich", ffn="geglu"),
    "hybrid": dict(mixers="attention,lstm,conv", layers=3, positions="learned"),
    "encoder-decoder": {**ARCHS["encoder-decoder"].model, "encoder_layers": 2},
    "vaswani": {**ARCHS["vaswani"].model, "encoder_layers": 2},
}


def model_of(name: str) -> SequenceModel:
    torch.manual_seed(0)
    fields = dict(vocab_size=V, layers=2, heads=4, width=32, context=16) | VARIANTS[name]
    model = SequenceModel(ModelConfig(**{**fields, "zero_init": False}))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():  # no tensor is zero, no norm the identity
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def inputs(model: SequenceModel) -> tuple[Tensor, Tensor | None]:
    torch.manual_seed(1)
    source = torch.randint(0, V, (S,)) if model.has_encoder else None
    return torch.randint(0, V, (T,)), source


@pytest.mark.parametrize("name", VARIANTS)
def test_captured_logits_are_those_of_the_usual_path(name: str) -> None:
    model = model_of(name).train()
    ids, source = inputs(model)
    found = capture(model, ids, source=source)
    assert model.training, "left as it was"
    model.eval()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert not any(hooks), "no hook stays"
    with torch.no_grad():
        hidden = model(ids[None], source=None if source is None else source[None])
        torch.testing.assert_close(found["logits"], model.logits(hidden)[0], atol=1e-5, rtol=1e-5)
    assert all(value.isfinite().all() for key, value in found.items() if "scores" not in key)


@pytest.mark.parametrize("name", VARIANTS)
def test_parts_add_up_to_what_layers_write(name: str) -> None:
    """Each layer's output from its parts by its last matrix, each stream from layers and stream."""
    model = model_of(name)
    ids, source = inputs(model)
    found = capture(model, ids, source=source)

    def same(name: str, value: Tensor, out_norm: Any = None) -> None:
        value = value if out_norm is None else out_norm(value)
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)

    stacks: list[tuple[str, Any]] = [("blocks", model.blocks), ("encoder", model.encoder)]
    for stem, blocks in stacks:
        for number, block in enumerate(blocks):
            at = f"{stem}.{number}"
            stream = found[f"{at}.hook_resid_pre"]
            if number:
                same(f"{stem}.{number - 1}.hook_resid_post", stream)
            mixer = next(k for k in ("attn", "rnn", "conv") if f"{at}.hook_{k}_out" in found)
            if mixer == "rnn":
                mixed = found[f"{at}.rnn.hook_state"]
            elif mixer == "conv":
                mixed = block.mixer.out(found[f"{at}.conv.hook_post"])
            elif f"{at}.attn.hook_state" in found:
                both = (found[f"{at}.attn.hook_state"], found[f"{at}.attn.hook_z"])
                mixed = block.mixer.out(torch.cat(both, dim=-1))
            else:
                mixed = block.mixer.out(found[f"{at}.attn.hook_z"].flatten(1))
            same(f"{at}.hook_{mixer}_out", mixed, block.mixer_out_norm)
            if block.ffn is not None:
                fed = block.ffn.down(found[f"{at}.mlp.hook_post"])
                same(f"{at}.hook_mlp_out", fed, block.ffn_out_norm)
            if block.cross is not None:
                z = found[f"{at}.cross_attn.hook_z"]
                assert z.shape == (T, 4, 8)
                assert found[f"{at}.cross_attn.hook_pattern"].shape == (4, T, S)
                same(f"{at}.hook_cross_attn_out", block.cross.out(z.flatten(1)))
            if block.pre and model.config.residual:
                sums = ((mixer, "mid"), ("cross_attn", "mid_cross"), ("mlp", "post"))
                for layer, key in sums:
                    if f"{at}.hook_{layer}_out" in found:
                        stream = stream + found[f"{at}.hook_{layer}_out"]
                        same(f"{at}.hook_resid_{key}", stream)
                same(f"{at}.hook_resid_post", stream)


def test_patterns_are_causal_and_sum_to_one() -> None:
    for name, reach in (("transformer", T), ("grouped", 5)):
        model = model_of(name)
        found = capture(model, inputs(model)[0])
        pattern = found["blocks.1.attn.hook_pattern"]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(4, T))
        back = torch.arange(T)[:, None] - torch.arange(T)
        assert (pattern[:, (back < 0) | (back >= reach)] == 0).all()
        assert (pattern[:, (back >= 0) & (back < reach)] > 0).all()


def test_names_are_those_of_transformer_lens() -> None:
    model = model_of("llama")
    found = capture(model, inputs(model)[0])
    within = ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z")
    block = ["ln1.hook_normalized", *(f"attn.hook_{x}" for x in within), "hook_attn_out"]
    block += ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"]
    block += ["ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"]
    names = {f"blocks.{n}.{each}" for n in (0, 1) for each in [*block, "hook_mlp_out"]}
    assert names <= set(found)
    assert list(found)[0] == "hook_embed" and list(found)[-1] == "logits"
    assert found["blocks.0.attn.hook_q"].shape == (T, 4, 8)
    assert found["blocks.0.attn.hook_attn_scores"].shape == (4, T, T)
