"""Exchange with transformers: the same logits and ids on both sides, with no code of ours there."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import prose, same_bits, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.architectures import ARCHS
from tfm.core.config import TrainConfig
from tfm.core.errors import ConfigError
from tfm.core.exchange import hf_export, hf_import
from tfm.core.exchange.families import FAMILIES
from tfm.core.exchange.foreign import llama_like, to_hf
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.runs.run import Run
from tfm.tokenizers.bpe import BpeTokenizer
from tfm.tokenizers.byte import SingleByteTokenizer
from tfm.tokenizers.char import CharTokenizer

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

IDS = 61
LLAMA: dict[str, Any] = dict(
    vocab_size=IDS,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=48,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
GPT2: dict[str, Any] = dict(
    vocab_size=IDS, n_embd=32, n_layer=2, n_head=4, n_positions=48, bos_token_id=1, eos_token_id=2
)
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 5000.0}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
# of each class in the table: the config's name and what differs in it
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama-3.1": ("LlamaForCausalLM", {**LLAMA, "head_dim": 16, "rope_parameters": LLAMA3_ROPE}),
    "llama-linear": (
        "LlamaForCausalLM",
        {**LLAMA, "rope_parameters": LINEAR_ROPE, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "llama-biases": (
        "LlamaForCausalLM",
        {**LLAMA, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 5, "head_dim": 12}),
    "qwen2": ("Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2ForCausalLM", {**LLAMA, **WINDOW}),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 16}),
    "apertus": (
        "ApertusForCausalLM",
        {**LLAMA, "hidden_act": "relu2", "rope_parameters": PLAIN_ROPE},
    ),
    "arcee": ("ArceeForCausalLM", LLAMA),
    "starcoder2": ("Starcoder2ForCausalLM", LLAMA),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2-untied": ("GPT2LMHeadModel", {**GPT2, "n_inner": 40, "tie_word_embeddings": False}),
}


def random_ids(count: int = IDS, rows: int = 2, length: int = 40) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, count, (rows, length), generator=draw)


@functools.cache
def their_model(name: str) -> Any:
    """A model of transformers with random weights, none of them zero or one."""
    kind, fields = MODELS[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    model = cls(cls.config_class(**fields)).eval()
    for parameter_name, parameter in model.named_parameters():
        norm = parameter.ndim == 1 and parameter_name.endswith("weight")
        torch.nn.init.normal_(parameter, 1.0 if norm else 0.0, 0.2)
    return model


def logits(model: SequenceModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(ids))


def tokenizer_json() -> dict[str, Any]:
    """Of 61 ids: single bytes for ASCII letters only, after four special tokens."""
    spec: dict[str, Any] = json.loads(BpeTokenizer.fit([prose(2000)], 256).inner.to_str())
    letters = [c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.Ġ"][: IDS - 4]
    spec["model"] |= {"vocab": {c: id for id, c in enumerate(letters, 4)}, "merges": []}
    return spec


def save(name: str, folder: Path, **how: Any) -> Path:
    their_model(name).save_pretrained(folder, **how)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_transformers_has_the_same_logits_here_and_back(
    name: str, tmp_path: Path
) -> None:
    """Read from its files; then written again, whose config and tensors transformers takes."""
    theirs, ids = their_model(name), random_ids()
    found = hf_import.read(f"hf:{save(name, tmp_path / 'it')}")
    assert found.about == {"source": "hf:it", "class": MODELS[name][0], "dtype": "F32"}
    model = SequenceModel(found.config).eval()
    model.load_state_dict(found.weights, strict=not found.config.tied)
    with torch.no_grad():
        expected = theirs(ids).logits
    torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=1e-5)

    config, tensors = to_hf(model)
    assert config["architectures"] == [MODELS[name][0]]
    cls = getattr(transformers, MODELS[name][0])
    again = cls(cls.config_class.from_dict(config)).eval()
    missing, unknown = again.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unknown
    again.tie_weights()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, expected, rtol=0, atol=1e-5)
    assert llama_like(config, tensors)[0] == found.config
    assert same_bits(llama_like(config, tensors)[1], found.weights)


def test_steps_of_a_model_with_weighted_norms_are_the_full_pass() -> None:
    """Whose heads are wider than width / heads: the KV cache and forks of prompts."""
    from tfm.core.model.laws import check_mixer

    fields = dict(head_dim=12, qk_norm_weights=True, kv_heads=2, qkv_bias=True)
    check_mixer("attention", **fields, rope_scaling="llama3:8,1,4,16")


def test_shards_and_files_of_a_model_without_a_head(tmp_path: Path) -> None:
    """Several files with an index; names without their prefix, as of GPT-2 on the hub; bfloat16."""
    whole = hf_import.read(f"hf:{save('gpt2', tmp_path / 'one')}")
    sharded = save("gpt2", tmp_path / "many", max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert same_bits(hf_import.read(f"hf:{sharded}").weights, whole.weights)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "one" / "model.safetensors"
    short = {n.removeprefix("transformer."): t.bfloat16() for n, t in load_file(path).items()}
    save_file(short | {"h.0.attn.bias": torch.ones(1, 1, 4, 4)}, path)
    found = hf_import.read(f"hf:{tmp_path / 'one'}")
    assert found.about["dtype"] == "BF16"
    assert same_bits(found.weights, {n: w.bfloat16().float() for n, w in whole.weights.items()})


# -- runs as folders of transformers ---------------------------------------------------------------


TOKENIZERS: dict[str, Callable[[bool], Any]] = {
    "byte": lambda ends: SingleByteTokenizer(ends, text=True),
    "char": lambda ends: CharTokenizer.fit([prose(2000)], ends),
    "bpe": lambda ends: BpeTokenizer.fit([prose(4000)], 300, ends),
}


def run_of(
    path: Path, model: SequenceModel, tokenizer: str, made: Any, task: str = "text", **options: Any
) -> Run:
    """A run that holds a model and a tokenizer."""
    from tfm.core.plugins import find

    config = {
        "task": task,
        "task_options": asdict(find("tasks", task).Options(**options)),
        "model": asdict(model.config),
        "train": asdict(TrainConfig()),
        "tokenizer": {"spec": tokenizer, "kind": tokenizer},
    }
    run = Run.create(path, config, made, {})
    run.save(0, dict(model.named_parameters()), {}, {})
    return run


def loaded(folder: Path, seq2seq: bool = False) -> tuple[Any, Any]:
    """The model and the tokenizer that transformers finds in a folder, without code of ours."""
    auto = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("unexpected_keys", "mismatched_keys"))
    assert all("embed_positions" in key for key in report["missing_keys"])
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("arch", ["transformer", "llama", "gpt2"])
def test_an_exported_run_loads_and_samples(arch: str, tied: bool, tmp_path: Path) -> None:
    kind = {"transformer": "bpe", "llama": "char", "gpt2": "byte"}[arch]
    tokenizer = TOKENIZERS[kind](tied)
    fields = {**ARCHS[arch].model, "vocab_size": tokenizer.vocab_size, "tied": tied}
    model = small_model(0.2, width=32, heads=4, context=64, **fields).eval()
    run = run_of(tmp_path / "run", model, kind, tokenizer)
    told = hf_export.export(run, model, tmp_path / "out", "float32")
    files: dict[str, int] = told["files"]  # type: ignore[assignment]
    assert files == {p.name: p.stat().st_size for p in (tmp_path / "out").iterdir()}
    assert not [p for p in tmp_path.rglob("*") if ".new" in p.name]
    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()

    theirs, text = loaded(tmp_path / "out")
    assert type(theirs).__name__ == told["class"]
    ids = random_ids(tokenizer.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, logits(model, ids), rtol=0, atol=1e-5)
    torch.manual_seed(0)
    drawn = theirs.generate(max_new_tokens=30, do_sample=True, num_return_sequences=100)
    assert bool((drawn[:, 0] == tokenizer.begin).all()) and drawn.shape[1] > 20
    for row in drawn[:, 1:].tolist():  # what is after the end token is padding
        text_ids = row[: row.index(tokenizer.end)] if tied and tokenizer.end in row else row
        assert tokenizer.begin not in text_ids
    assert text.bos_token_id == tokenizer.begin
    assert text.eos_token_id == (tokenizer.end if tied else None)

    back = hf_import.read(f"hf:{tmp_path / 'out'}")
    assert back.config.width == 32 and back.config.tied is tied
    assert same_bits(back.weights, dict(model.named_parameters()))
    again = SequenceModel(back.config).eval()
    again.load_state_dict(back.weights, strict=False)
    assert torch.equal(logits(again, ids), logits(model, ids))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_of_an_export(dtype: str, tmp_path: Path) -> None:
    model = small_model(**ARCHS["llama"].model, vocab_size=257)
    run = run_of(tmp_path / "run", model, "byte", TOKENIZERS["byte"](False))
    hf_export.export(run, model, tmp_path / "out", dtype)
    assert loaded(tmp_path / "out")[0].dtype == getattr(torch, dtype)


def test_a_tokenizer_of_items_that_are_no_text_goes_along(tmp_path: Path) -> None:
    """Under a name that AutoTokenizer does not look for."""
    from tfm.core.plugins import find
    from tfm.tokenizers.integers import IntegerTokenizer

    tokenizer = IntegerTokenizer(20, ends=True)
    model = small_model(vocab_size=tokenizer.vocab_size)
    run = run_of(tmp_path / "run", model, "integers", tokenizer, task="recall")
    told = hf_export.export(run, model, tmp_path / "out", "float32")
    assert told["tokenizer"] == "tfm_tokenizer.json"
    assert "tokenizer.json" not in told["files"]  # type: ignore[operator]
    own = json.loads((tmp_path / "out" / "tfm_tokenizer.json").read_text())
    made = find("tokenizers", own["kind"]).from_state(own["state"], {})
    assert made.encode("3 1 4").ids.tolist() == tokenizer.encode("3 1 4").ids.tolist()


@pytest.fixture(scope="module")
def text_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Any]]:
    """Ours, the one that transformers makes of its export, and the one that we make of that."""
    from tfm.tokenizers.pretrained import PretrainedTokenizer

    root, found = tmp_path_factory.mktemp("tokenizers"), {}
    for kind, make in TOKENIZERS.items():
        made = make(False)
        model = small_model(**ARCHS["llama"].model, vocab_size=made.vocab_size)
        hf_export.export(
            run_of(root / kind, model, kind, made), model, root / f"to-{kind}", "float32"
        )
        theirs = transformers.AutoTokenizer.from_pretrained(root / f"to-{kind}")
        _, state = hf_import.read(f"hf:{root / f'to-{kind}'}").tokenizer
        found[kind] = made, theirs, PretrainedTokenizer.from_state(state, {})
    return found


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text() | st.sampled_from(["<|begin|>", " <0x41>", "\r\n\t ﬁnal café", "日本 🎉"]))
@settings(max_examples=40)
def test_texts_have_the_same_ids_in_transformers(
    kind: str, text: str, text_tokenizers: dict[str, tuple[Any, Any, Any]]
) -> None:
    ours, theirs, back = text_tokenizers[kind]
    ids = theirs(text)["input_ids"]
    assert ids == ours.encode(text).ids.tolist() == back.encode(text).ids.tolist()
    assert theirs.decode(ids[1:]) == text
    assert back.lossless and back.decode(ours.encode(text).ids, {}) == text


def test_a_model_with_an_encoder_is_marians(tmp_path: Path) -> None:
    """Sines and cosines that stand apart there, and interleaved here; source, begin, target."""
    tokenizer = TOKENIZERS["char"](True)
    fields = {**ARCHS["vaswani"].model, "encoder_layers": 2, "vocab_size": tokenizer.vocab_size}
    model = small_model(0.2, width=32, heads=4, context=40, **fields).eval()
    run = run_of(tmp_path / "run", model, "char", tokenizer, task="pairs")
    told = hf_export.export(run, model, tmp_path / "out", "float32")
    assert told["class"] == "MarianMTModel"
    theirs, text = loaded(tmp_path / "out", seq2seq=True)
    source = torch.tensor([text("the quick brown fox")["input_ids"]])
    assert source[0, -1] == tokenizer.begin
    target = random_ids(tokenizer.vocab_size, rows=1, length=30)
    with torch.no_grad():
        expected = model.logits(model(target, source=source))
        found = theirs(input_ids=source, decoder_input_ids=target).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    drawn = theirs.generate(source, max_new_tokens=9, num_beams=1, do_sample=False)[0].tolist()
    assert drawn[0] == tokenizer.begin


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"norm_position": "post"}, "norm_position=post"),
        ({"norm_position": "sandwich"}, "norm_position=sandwich"),
        ({"mixers": "attention,lstm"}, "mixers=attention,lstm"),
        ({"features": 2}, "features=2"),
        ({"axes": 2}, "axes=2"),
        ({"softcap": 30.0}, "softcap=30.0"),
        ({"positions": "alibi"}, "positions=alibi"),
        ({"residual": False}, "residual=False"),
        ({"norm": "none"}, "norm=none"),
        ({"window": 4}, "window=4"),
        ({**ARCHS["gpt2"].model, "bias": False}, "bias=False"),
        ({**ARCHS["vaswani"].model, "encoder_layers": 2, "tied": False}, "tied=False"),
        ({"encoder_layers": 2}, "encoder_layers=2"),
        (dict(ARCHS["lstm"].model), "mixers=lstm"),
    ],
    ids=str,
)
def test_what_no_class_computes_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match="no class of transformers computes this model") as error:
        to_hf(small_model(**fields))
    assert said in str(error.value)


def test_every_class_of_the_table_is_tried() -> None:
    assert {kind for kind, _ in MODELS.values()} == {f.name for f in FAMILIES} - {"MarianMTModel"}


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("llama", {"model_type": "gemma3"}, "model_type 'gemma3'; tfm reads llama, mistral"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'; tfm computes silu"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "type 'yarn'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("llama", {"quantization_config": {"bits": 4}}, "a quantised model"),
        ("llama", {"bos_token_id": None, "eos_token_id": None}, "neither bos_token_id nor"),
        ("llama", {"num_attention_heads": 3}, "model.kv_heads: must be a divisor"),
        ("qwen2", {**WINDOW, "max_window_layers": 1}, "a sliding window in some layers"),
        ("qwen3", {"attention_bias": True}, "attention_bias True; tfm computes False only"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
    ids=str,
)
def test_what_tfm_does_not_compute_is_named(
    name: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    from tfm.core.errors import TfmError

    folder = save(name, tmp_path / "it")
    values = json.loads((folder / "config.json").read_text())
    if name == "qwen2":
        values.pop("layer_types")
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(TfmError) as error:
        hf_import.read(f"hf:{folder}")
    assert said in str(error.value) and error.value.exit_code in (2, 3)


def test_configs_of_transformers_4_are_read(tmp_path: Path) -> None:
    """The base of rotary positions and their scaling beside each other; keys that are missing."""
    folder = save("llama-3.1", tmp_path / "it")
    expected = hf_import.read(f"hf:{folder}").config
    values = json.loads((folder / "config.json").read_text())
    rope = values.pop("rope_parameters")
    values |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "mlp_bias": None}
    (folder / "config.json").write_text(json.dumps(values))
    assert hf_import.read(f"hf:{folder}").config == expected
    assert expected.rope_scaling == "llama3:8,1,4,64" and expected.rope_theta == 5000
