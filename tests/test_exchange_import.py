"""`tfm export` and `tfm import`: an imported run works with every verb; files that are damaged or
hostile are one line."""

from __future__ import annotations

import json
import resource
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm, Trained
from helpers import prose, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tfm.core.architectures import ARCHS
from tfm.core.config import ModelConfig
from tfm.core.decode.native_model import supports
from tfm.core.errors import TfmError
from tfm.core.exchange import hf_import
from tfm.core.exchange.foreign import to_hf
from tfm.core.exchange.imported import import_run
from tfm.core.laws import check_tokenizer
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import amx_block
from tfm.core.runs.run import Run
from tfm.tokenizers.bpe import BpeTokenizer
from tfm.tokenizers.pretrained import PretrainedTokenizer

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = ["", "plain", "the quick\n\n  brown café\t<|endoftext|>", "e\u0301 日本語 🎉"]


def foreign_tokenizer(**parts: Any) -> dict[str, Any]:
    """A tokenizer.json as of GPT-2 or Qwen: 300 byte-level tokens, then special ones."""
    spec: dict[str, Any] = json.loads(BpeTokenizer.fit([prose(9000)], 300).inner.to_str())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    spec["added_tokens"] = [
        {"id": 300 + n, "content": name, "special": True, **flags}
        for n, name in enumerate(("<|endoftext|>", "<|im_start|>"))
    ]
    return {**spec, **parts}


def foreign() -> PretrainedTokenizer:
    return PretrainedTokenizer(json.dumps(foreign_tokenizer()), 300, 300, 320)


def foreign_folder(folder: Path, **fields: Any) -> Path:
    """A model as of Qwen 3: weighted norms, heads wider than width / heads, padded vocabulary."""
    config = ModelConfig(
        **{
            **dict(vocab_size=320, layers=2, width=32, heads=4, kv_heads=2, head_dim=12),
            **dict(ffn="swiglu", qk_norm_weights=True, context=96, tied=True),
            **fields,
        }
    )
    model = random_weights(SequenceModel(config), 0.15)
    values, tensors = to_hf(model)
    folder.mkdir()
    ids = {"bos_token_id": 300, "eos_token_id": [300, 301]}
    (folder / "config.json").write_text(json.dumps({**values, **ids}))
    (folder / "tokenizer.json").write_text(json.dumps(foreign_tokenizer()))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a foreign model, the run `own` imported from it, and a text."""
    root = tmp_path_factory.mktemp("imports")
    foreign_folder(root / "qwen")
    (root / "notes.txt").write_text(prose(6000), encoding="utf-8")
    done = Tfm(root)("import", "hf:qwen", "--run", "own")
    assert done.text == "own\n"
    assert "imported hf:qwen: Qwen3ForCausalLM, 2 layers of width 32" in done.err
    return root


# -- verbs ---------------------------------------------------------------------------------------


def test_an_imported_run_scores_and_samples(folder: Path) -> None:
    tfm = Tfm(folder)
    assert "keeps no held-out items; give --data" in tfm.error("eval", "own")
    scores = tfm("eval", "own", "--data", "notes.txt", "--json").json()
    assert 0 < scores["bits_per_byte"] < 99 and scores["step"] == 0
    (line,) = tfm("score", "own", "--json", stdin=b"the quick brown fox\n").lines()
    assert line["nll"] > 0
    drawn = ("sample", "own", "-p", "the quick", "--greedy", "--length", 12, "--json", "-q")
    model, ids = Run(folder / "own").load_model(), [300, *foreign().tokens("the quick").tolist()]
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    assert tfm(*drawn).json()["tokens"] == ids[-12:]
    (folder / "odd.bin").write_bytes(b"caf\xc3\xa9 \xff the")
    tfm("compress", "own", "odd.bin", "-q")
    assert tfm("decompress", "own", "odd.bin.tfm", "--out", "-").out == b"caf\xc3\xa9 \xff the"
    ids = tfm("tokenize", "own", stdin="café the\n".encode()).out
    assert tfm("detokenize", "own", stdin=ids).text == "café the\n"
    tfm("view", "own", "-p", "the quick", "-o", "view.html", "-q")
    tfm("verify", "own")


def test_an_imported_run_says_where_it_comes_from(folder: Path) -> None:
    told = Tfm(folder)("info", "own").text
    assert "none: imported from hf:qwen" in told and "imported, step 0" in told
    assert "muon" not in told
    for file in (folder / "own").rglob("*.json"):
        assert str(folder) not in file.read_text()
    said = Tfm(folder).error("train", "--resume", "own")
    assert "imported, so it has no training data" in said and "--init own" in said


def test_training_starts_from_a_foreign_model(folder: Path) -> None:
    tfm = Tfm(folder)
    start = ("train", "--init", "hf:qwen", "--data", "notes.txt", "--steps", 2, "-q", "--json")
    direct = tfm(*start, "--context", 32, "--run", "tuned").json()
    tuned = Run(folder / "tuned")
    assert tuned.model_config().context == 32 and tuned.model_config().qk_norm_weights
    tfm("import", "hf:qwen", "--context", 32, "--run", "short", "-q")
    via_run = tfm(*(*start[:2], "short", *start[3:]), "--run", "tuned-2").json()
    assert direct["bits_per_byte"] == via_run["bits_per_byte"]
    tfm("train", "--init", "tuned", *start[3:], "--run", "twice")
    for run in ("tuned", "tuned-2", "twice"):  # small changes, in small steps
        how, model = Run(folder / run).train_config(), Run(folder / run).model_config()
        assert (how.optimizer, how.adam_lr, model.dropout) == ("adamw", 3e-5, 0.0)
        assert how.batch == 4096 // 32
    assert "--size and --init exclude each other" in tfm.error(*start, "--size", "nano")
    # without a checkpoint, resuming reads the model again
    shutil.rmtree(folder / "tuned" / "checkpoints")
    (folder / "tuned" / "checkpoints").mkdir()
    (folder / "tuned" / "log.jsonl").write_text("")
    again = tfm("train", "--resume", "tuned", "--json", "-q").json()
    assert again["bits_per_byte"] == direct["bits_per_byte"]
    tfm(*start, "--context", 32, "--each", "line", "--run", "lines")
    ended = Run(folder / "lines").tokenizer()
    assert ended.ends and (ended.begin, ended.end, ended.vocab_size) == (300, 300, 320)
    tfm("export", "tuned", "--to", "hf", "tuned-hf", "-q")
    config = json.loads((folder / "tuned-hf" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"] and config["bos_token_id"] == 300


def test_an_export_is_whole_or_not_there(folder: Path, trained: Trained) -> None:
    tfm = Tfm(folder)
    told = tfm("export", trained.path, "--to", "hf", "out", "--json").json()
    assert told["class"] == "ApertusForCausalLM" and told["path"] == "out"
    again = ("export", trained.path, "--to", "hf")
    assert "out: already exists" in tfm.error(*again, "out")
    assert "no folder nowhere" in tfm.error(*again, "nowhere/out")
    assert "--to hff: no such format; did you mean hf" in tfm.error(*again[:3], "hff", "new")
    assert "--dtype int4: --to hf writes float32, bfloat16" in tfm.error(
        *again, "new", "--dtype", "int4"
    )
    model = Run(trained.path).load_model()
    from tfm.core.exchange import hf_export

    with file_size_limit(100_000), pytest.raises(TfmError, match="cannot be written"):
        hf_export.export(Run(trained.path), model, folder / "large", "float32")
    assert not [path for path in folder.iterdir() if "large" in path.name or ".new" in path.name]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("fields", [{"head_dim": 16}, {"qk_norm_weights": True}], ids=str)
def test_kernels_leave_to_torch_what_they_do_not_know(fields: dict[str, Any]) -> None:
    shape: dict[str, Any] = dict(width=128, heads=4, layers=1, context=32)
    assert supports(SequenceModel(ModelConfig(**shape)))
    assert amx_block.supports_config(ModelConfig(**shape))
    for known in (fields, {**fields, "kv_heads": 2}):
        assert not supports(SequenceModel(ModelConfig(**shape, **known)))
        assert not amx_block.supports_config(ModelConfig(**shape, **known))
    assert not amx_block.supports_config(ModelConfig(**shape, qkv_bias=True))


# -- tokenizers ----------------------------------------------------------------------------------


def pretrained(spec: dict[str, Any], begin: int = 300, size: int = 320) -> PretrainedTokenizer:
    return PretrainedTokenizer(json.dumps(spec), begin, begin, size)


def test_laws_of_an_imported_tokenizer() -> None:
    """Normalising to NFC is left out; the spelling of a special token is plain text."""
    made = pretrained(foreign_tokenizer(normalizer={"type": "NFC"}))
    assert made.lossless and made.vocab_size == 320
    check_tokenizer(made, TEXTS)
    assert made.decode_bytes(made.encode(TEXTS[2]).ids) == TEXTS[2].encode()
    qwen = [
        {
            "type": "Split",
            "pattern": {"Regex": QWEN_WORDS},
            "behavior": "Isolated",
            "invert": False,
        },
        {
            "type": "ByteLevel",
            **dict.fromkeys(("add_prefix_space", "trim_offsets", "use_regex"), False),
        },
    ]
    words = {"type": "Sequence", "pretokenizers": qwen}
    check_tokenizer(pretrained(foreign_tokenizer(pre_tokenizer=words)), TEXTS)

    fewer = made.without(np.arange(made.merge_count) % 2 == 0)
    assert (fewer.begin, fewer.vocab_size) == (300, 320) and fewer.decode(
        fewer.tokens("the"), {}
    ) == "the"


def test_a_tokenizer_in_the_manner_of_sentencepiece_is_lossy() -> None:
    """As of Llama 2: spaces are ▁, one is put first, and other characters become bytes."""
    import tokenizers

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{n:02X}>": 3 + n for n in range(256)}
    for piece in ("▁", *"theqk", "th", "the", "▁the"):
        vocab[piece] = len(vocab)
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    steps = tokenizers.normalizers
    inner.normalizer = steps.Sequence([steps.Prepend("▁"), steps.Replace(" ", "▁")])
    parts = tokenizers.decoders
    strip = parts.Strip(" ", 1, 0)
    inner.decoder = parts.Sequence(
        [parts.Replace("▁", " "), parts.ByteFallback(), parts.Fuse(), strip]
    )
    inner.add_special_tokens(["<s>", "</s>"])
    made = PretrainedTokenizer(inner.to_str(), 1, 2, len(vocab))
    assert not made.lossless
    for text in ("the the", "quäk 日", "  the"):
        assert made.tokens(text).tolist() == inner.encode(text, add_special_tokens=False).ids
        assert made.decode(made.encode(text).ids, {}) == text


@pytest.mark.parametrize("begin, size", [(330, 320), (300, 290)])
def test_ids_beyond_those_of_the_model_are_damage(begin: int, size: int) -> None:
    with pytest.raises(TfmError, match="are not those of a model with"):
        pretrained(foreign_tokenizer(), begin, size)


# -- files that are no model -----------------------------------------------------------------------


def refused(folder: Path) -> str:
    """The one line that says why a folder cannot be imported."""
    with pytest.raises(TfmError) as error:
        hf_import.read(f"hf:{folder}")
    assert error.value.exit_code in (2, 3)
    assert len(" ".join(str(error.value).split())) < 1000
    return str(error.value)


@pytest.fixture(scope="module")
def model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "qwen").iterdir()}


def written(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_or_cut_is_named(
    name: str, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = written(tmp_path, model_files)
    (folder / name).write_bytes(model_files[name][:-9])
    assert name in refused(folder)
    (folder / name).write_bytes(b"[" * 100_000)
    assert name in refused(folder)
    (folder / name).unlink()
    assert f"has no {name}" in refused(folder)


@pytest.mark.parametrize(
    "model", [None, {}, {"type": "BPE"}, {"type": "BPE", "vocab": {}, "merges": []}, {"type": 3}]
)
def test_a_tokenizer_that_is_none_leaves_no_run(
    model: Any, model_files: dict[str, bytes], tfm: Tfm
) -> None:
    tokenizer = json.dumps({**foreign_tokenizer(), "model": model, "added_tokens": []})
    (tfm.folder / "it").mkdir()
    written(tfm.folder / "it", {**model_files, "tokenizer.json": tokenizer.encode()})
    said = tfm.error("import", "hf:it", "--run", "bad", code=3)
    assert "hf:it: its tokenizer: not a tokenizer.json" in said
    assert [path.name for path in tfm.folder.iterdir()] == ["it"]


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 3),
        ("vocab_size", 10**12),
        ("vocab_size", 321),
        ("hidden_size", 1 << 40),
        ("hidden_size", -1),
        ("intermediate_size", 1 << 30),
        ("head_dim", 3.5),
        ("num_attention_heads", True),
        ("rms_norm_eps", "1e-6"),
        ("rms_norm_eps", 1e999),
        ("rope_parameters", [1]),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}),
        ("hidden_act", {}),
        ("model_type", None),
        ("eos_token_id", "</s>"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(
    key: str, value: Any, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    config = json.loads(model_files["config.json"])
    config[key] = value
    if key == "eos_token_id":
        config["bos_token_id"] = value
    files = {**model_files, "config.json": json.dumps(config).encode()}
    refused(written(tmp_path, files))


@pytest.mark.parametrize(
    "keys, window",
    [
        ({}, 4),
        ({"layer_types": 7}, 4),
        ({"layer_types": ["full_attention"] * 2}, 0),
        ({"max_window_layers": 2}, 0),
        ({"use_sliding_window": False}, 0),
        ({"sliding_window": None}, 0),
    ],
    ids=str,
)
def test_the_window_is_that_of_all_layers(
    keys: dict[str, Any], window: int, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    config = json.loads(model_files["config.json"])
    config |= {"use_sliding_window": True, "sliding_window": 4, **keys}
    files = {**model_files, "config.json": json.dumps(config).encode()}
    assert hf_import.read(f"hf:{written(tmp_path, files)}").config.window == window


def test_learned_positions_are_cut_to_the_context(tmp_path: Path) -> None:
    fields = {**ARCHS["gpt2"].model, "kv_heads": 0, "head_dim": 0, "qk_norm_weights": False}
    folder = foreign_folder(tmp_path / "gpt2", **fields)
    whole, cut = (
        import_run(f"hf:{folder}", tmp_path / f"run-{context}", context) for context in (None, 16)
    )
    assert (whole.model_config().context, cut.model_config().context) == (96, 16)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(whole.load_model()(ids), cut.load_model()(ids))
    with pytest.raises(TfmError, match="--context 97: this model has positions for 96 tokens"):
        import_run(f"hf:{folder}", tmp_path / "run-97", 97)


@pytest.mark.parametrize(
    "shards", [7, {"a": "../secret.safetensors"}, {"a": "/etc/passwd"}, {"a": 3}, {"a": "x.bin"}]
)
def test_an_index_names_files_of_its_folder_only(
    shards: Any, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path.parent / "secret.safetensors").write_bytes(model_files["model.safetensors"])
    index = {hf_import.INDEX: json.dumps({"weight_map": shards}).encode()}
    assert "weight_map" in refused(written(tmp_path, {**model_files, **index}))


def test_weights_that_are_not_finite_or_not_numbers_are_named(
    model_files: dict[str, bytes], tmp_path: Path
) -> None:
    from safetensors.torch import load

    tensors = load(model_files["model.safetensors"])
    name = "model.layers.1.mlp.up_proj.weight"
    folder = written(tmp_path, model_files)
    for value, said in ((torch.nan, "not finite"), (None, "stored as int8"), ((), "is missing")):
        own = dict(tensors)
        if value == ():
            del own[name]
        else:
            own[name] = tensors[name].to(torch.int8) if value is None else tensors[name] * value
        save_file(own, folder / "model.safetensors")
        assert said in refused(folder)
    save_file({**tensors, "model.layers.0.mlp.router": torch.ones(2)}, folder / "model.safetensors")
    assert "does not know its tensors model.layers.0.mlp.router" in refused(folder)


@given(
    length=st.integers(0, 2**64 - 1) | st.integers(0, 200),
    header=st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["model.norm.weight", "__metadata__", "x"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "F4", "", 7]),
                "shape": st.lists(st.integers(-1, 2**63), max_size=3),
                "data_offsets": st.lists(st.integers(-1, 2**64), max_size=3),
            }
        ),
    ).map(lambda table: json.dumps(table).encode()),
    honest=st.booleans(),
)
@settings(max_examples=60)
def test_no_header_of_tensors_does_harm(
    length: int,
    header: bytes,
    honest: bool,
    model_files: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Sizes are checked against the file's: no memory is taken for what a header claims."""
    folder = written(tmp_path_factory.mktemp("header"), model_files)
    start = struct.pack("<Q", len(header) if honest else length)
    (folder / "model.safetensors").write_bytes(start + header + bytes(64))
    refused(folder)
    shutil.rmtree(folder)


@given(data=st.data())
@settings(max_examples=40)
def test_no_config_does_harm(
    data: st.DataObject, model_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any value of any key: the model is read, or refused in one line."""
    config = json.loads(model_files["config.json"])
    value = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    values = value | st.lists(value, max_size=2) | st.dictionaries(st.text(max_size=3), value)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(values)
    folder = written(tmp_path_factory.mktemp("config"), model_files)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        hf_import.read(f"hf:{folder}")
    except TfmError as error:
        assert error.exit_code in (2, 3)
    shutil.rmtree(folder)


def test_a_model_of_the_hub_is_read_from_its_copy_here(folder: Path) -> None:
    place = folder / "hub" / "models--some--kept"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    shutil.copytree(folder / "qwen", place / "snapshots" / "abc")
    cache = {"HF_HUB_CACHE": str(folder / "hub")}
    Tfm(folder)("import", "hf:some/kept", "--run", "kept", env=cache)
    assert Run(folder / "kept").config["imported"]["source"] == "hf:some/kept"


def test_a_name_that_is_not_there_is_one_line(tfm: Tfm) -> None:
    said = tfm.error("import", "hf:some/model", "--run", "x")
    assert "hf:some/model: no such folder, and not on this machine" in said
    assert "not a name of the Hugging Face hub" in tfm.error("import", "hf:a/b/c", "--run", "x")
    (tfm.folder / "f.txt").touch()
    assert "hf:f.txt: a file; name the folder" in tfm.error("import", "hf:f.txt", "--run", "x")
    assert "no model that can be imported" in tfm.error("import", "runs/x", "--run", "x")
    assert not (tfm.folder / "x").exists()
