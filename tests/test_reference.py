"""The wirings `llama` and `gpt2` against the implementations that others use: random weights of a
`transformers` model, copied over, give the same logits and the same continuation."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeTokenizer
from torch import Tensor

from tfm.core.architectures import ARCHS
from tfm.core.config import ModelConfig, SampleConfig
from tfm.core.decode.sampling import generate
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence

transformers = pytest.importorskip("transformers")

VOCAB, WIDTH, HIDDEN, LAYERS, HEADS, CONTEXT = 53, 32, 48, 3, 4, 40
SHAPE: dict[str, int] = dict(
    vocab_size=VOCAB, width=WIDTH, ffn_width=HIDDEN, layers=LAYERS, heads=HEADS, context=CONTEXT
)


def llama(kv_heads: int, theta: float) -> Any:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            intermediate_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=kv_heads,
            rms_norm_eps=1e-5,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            pad_token_id=None,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def from_llama(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their names to ours: queries, keys, values in one product; the gate before the value."""
    ours = {
        "embedding.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "head.weight": theirs["lm_head.weight"],
    }
    for n in range(LAYERS):
        layer = {k[len(f"model.layers.{n}.") :]: v for k, v in theirs.items() if f".{n}." in k}
        fused = [layer[f"self_attn.{name}_proj.weight"] for name in "qkv"]
        gated = [layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up")]
        ours |= {
            f"blocks.{n}.mixer_norm.weight": layer["input_layernorm.weight"],
            f"blocks.{n}.mixer.qkv.weight": torch.cat(fused),
            f"blocks.{n}.mixer.out.weight": layer["self_attn.o_proj.weight"],
            f"blocks.{n}.ffn_norm.weight": layer["post_attention_layernorm.weight"],
            f"blocks.{n}.ffn.up.weight": torch.cat(gated),
            f"blocks.{n}.ffn.down.weight": layer["mlp.down_proj.weight"],
        }
    return ours


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB,
            n_embd=WIDTH,
            n_inner=HIDDEN,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=CONTEXT,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def from_gpt2(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their names to ours; their Conv1D keeps (inputs, outputs), a linear layer the reverse."""
    names = {
        "ln_1": "mixer_norm",
        "attn.c_attn": "mixer.qkv",
        "attn.c_proj": "mixer.out",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn.up",
        "mlp.c_proj": "ffn.down",
    }
    ours = {
        "embedding.weight": theirs["transformer.wte.weight"],
        "head.weight": theirs["transformer.wte.weight"],
        "position_embedding.weight": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
    }
    for n in range(LAYERS):
        for name, ourname in names.items():
            weight = theirs[f"transformer.h.{n}.{name}.weight"]
            ours[f"blocks.{n}.{ourname}.weight"] = weight.T if weight.ndim == 2 else weight
            ours[f"blocks.{n}.{ourname}.bias"] = theirs[f"transformer.h.{n}.{name}.bias"]
    return ours


def pair(name: str) -> tuple[Any, SequenceModel]:
    """Their model and ours, with equal weights, large enough that all of them matter."""
    torch.manual_seed(0)
    if name == "gpt2":
        theirs, config = gpt2(), ModelConfig(**{**ARCHS["gpt2"].model, **SHAPE})
    else:
        kv_heads = {"llama": HEADS, "llama-grouped": 2, "llama-theta": 1}[name]
        theta = 500.0 if name == "llama-theta" else 10000.0
        theirs = llama(kv_heads, theta)
        other: dict[str, Any] = dict(kv_heads=kv_heads, rope_theta=theta)
        config = ModelConfig(**{**ARCHS["llama"].model, **SHAPE, **other})
    for key, parameter in theirs.named_parameters():
        norm = "norm.weight" in key or "ln_" in key and "weight" in key
        torch.nn.init.normal_(parameter, mean=float(norm), std=0.2)
    ours = SequenceModel(config)
    copied = (from_gpt2 if name == "gpt2" else from_llama)(theirs.state_dict())
    ours.load_state_dict(copied, strict=True)
    return theirs.eval(), ours.eval()


NAMES = ("llama", "llama-grouped", "llama-theta", "gpt2")


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_same_logits(name: str) -> None:
    theirs, ours = pair(name)
    ids = torch.randint(0, VOCAB, (3, CONTEXT))
    logits = theirs(input_ids=ids).logits
    assert float(logits.std()) > 0.5, "weights that do nothing would agree with anything"
    torch.testing.assert_close(ours.logits(ours(ids)), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_continuation(name: str) -> None:
    theirs, ours = pair(name)
    tokenizer: Any = FakeTokenizer(VOCAB)
    config = SampleConfig(length=CONTEXT - 6, greedy=True)
    seen = set()
    for first in range(4):
        prompt = np.arange(first, first + 6)
        expected = theirs.generate(
            torch.from_numpy(prompt)[None], max_new_tokens=config.length, do_sample=False
        )[0, len(prompt) :].tolist()
        drawn = list(generate(ours, tokenizer, Sequence(prompt), config))
        assert [one.ids[0] for one in drawn] == expected
        seen |= set(expected)
    assert len(seen) > 4, "a model that repeats one id would agree too easily"
