"""Low-rank adapters: what they compute, what is trained and saved, and what PEFT reads."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tfm
from helpers import gradients, prose, same_bits, saved_weights, small_model, weights
from torch import Tensor

from tfm.core.architectures import ARCHS
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.errors import ConfigError, UsageError
from tfm.core.model.block import call_block
from tfm.core.model.lora import ALPHA, adapt, adapted, adapter_size, merged
from tfm.core.model.sequence_model import SequenceModel, on_meta
from tfm.core.runs.run import Run
from tfm.core.runs.tensors import read_tensors
from tfm.core.train.backend import choose_run_block
from tfm.core.train.optim import make_optimizers
from tfm.core.train.request import Request

RANK = 3
ENCODER = {**ARCHS["vaswani"].model, "encoder_layers": 2}
MODELS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "llama": {**ARCHS["llama"].model, "kv_heads": 1},
    "gpt2": dict(ARCHS["gpt2"].model),
    "vaswani": ENCODER,
    "cnn": dict(ARCHS["cnn"].model),
    "attention-rnn": {**ARCHS["attention-rnn"].model, "ffn": "relu"},
}


def model_named(name: str, **fields: Any) -> SequenceModel:
    return small_model(0.2, **{**MODELS[name], **fields}).eval()


def with_updates(model: SequenceModel, rank: int = RANK) -> SequenceModel:
    """The model with adapters that are not zero."""
    adapt(model, rank, seed=1)
    torch.manual_seed(2)
    for _, layer in adapted(model):
        torch.nn.init.normal_(layer.lora_b, std=0.05)
    return model


def hidden(model: SequenceModel) -> Tensor:
    ids = torch.arange(24).view(2, 12) % 23
    with torch.no_grad():
        return model(ids, source=ids[:, :5] if model.has_encoder else None)


# -- what adapters compute -------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_at_first_they_change_no_bit_and_merged_they_compute_the_same(name: str) -> None:
    model = model_named(name)
    model.requires_grad_(False)  # for which torch computes a GRU by another kernel
    before, own = hidden(model), weights(model)
    adapt(model, RANK, seed=1)
    assert torch.equal(hidden(model), before)
    assert same_bits(weights(merged(model)), own)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == adapter_size(on_meta(model.config), RANK) > 0

    for _, layer in adapted(model):
        torch.nn.init.normal_(layer.lora_b, std=0.05)
    changed = hidden(model)
    assert (changed - before).abs().max() > 0.01
    plain = merged(model)
    assert not dict(adapted(plain)) and merged(plain) is plain
    torch.testing.assert_close(hidden(plain), changed, atol=1e-5, rtol=1e-5)
    assert plain.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    matrices = {f"{layer}.weight" for layer, _ in adapted(model)}
    after = weights(plain)
    assert {n for n in own if not torch.equal(own[n], after[n])} == matrices


def test_each_matrix_of_a_fused_weight_has_its_own_update() -> None:
    """h = W x + (alpha / r) B A x (Hu et al. 2021, eq. 3), in float64, for each matrix."""
    model = with_updates(model_named("llama", width=32, heads=4, kv_heads=2))
    layer: Any = model.get_submodule("blocks.1.mixer.qkv")
    assert layer.rows == (32, 16, 16) and layer.lora_a.shape == (9, 32)
    x = torch.randn(5, 32)
    parts, top = [], 0
    for number, rows in enumerate(layer.rows):
        a = layer.lora_a[number * RANK : (number + 1) * RANK].double()
        b, w = (each[top : top + rows].double() for each in (layer.lora_b, layer.weight))
        parts.append(x.double() @ w.T + ALPHA / RANK * (x.double() @ a.T) @ b.T)
        top += rows
    torch.testing.assert_close(layer(x).double(), torch.cat(parts, -1), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_merged_weight() -> None:
    """dA = scale B^T dW and dB = scale dW A^T, of the gradient dW of the merged model."""
    model = with_updates(model_named("llama")).train()
    plain, ids = merged(model), torch.arange(12)[None]
    ours = gradients(model, lambda: model(ids).square().sum())
    theirs = gradients(plain, lambda: plain(ids).square().sum())
    assert ours.keys() == {"loss"} | {n for n, p in model.named_parameters() if p.requires_grad}
    layer: Any = model.get_submodule("blocks.0.ffn.down")
    whole, scale = theirs["blocks.0.ffn.down.weight"], ALPHA / RANK
    close = functools.partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
    close(ours["blocks.0.ffn.down.lora_a"], scale * layer.lora_b.T @ whole)
    close(ours["blocks.0.ffn.down.lora_b"], scale * whole @ layer.lora_a.T)


def test_a_frozen_head_gets_no_gradient_from_the_fused_loss() -> None:
    from tfm.core.ops import operations as ops

    def loss(x: Tensor) -> Tensor:
        targets, weight = torch.arange(12) % 23, torch.ones(12)
        return ops.linear_nll(model.head, x, targets, weight, (0, 23), None, 0.0, False)

    model, x = model_named("llama"), torch.randn(12, 16, requires_grad=True)
    loss(x).backward()  # type: ignore[no-untyped-call]
    (expected,), x.grad = [x.grad], None
    model.requires_grad_(False)
    total = loss(x)
    saved = total.grad_fn.saved_tensors  # type: ignore[union-attr]
    assert [each is None for each in saved] == [False, True]
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(x.grad, expected)  # type: ignore[arg-type]


def test_only_adapters_have_a_state_and_blocks_are_plain_modules() -> None:
    """The C call of a whole block knows no adapters; ordered ids move with their neighbours only if
    their embeddings learn."""
    config = TrainConfig(lora=RANK, average=0.9)
    model = with_updates(model_named("transformer", ordered="3-23"))
    optimizers = make_optimizers(model, config)
    assert [each.name for each in optimizers] == ["adamw", "average"]
    learning = {p for p in model.parameters() if p.requires_grad}
    for optimizer in optimizers:
        optimizer.allocate()
        assert set(optimizer.state) == learning
    large = SequenceModel(ModelConfig(width=64, heads=2, layers=1))
    assert choose_run_block(large, TrainConfig()) is not call_block
    assert choose_run_block(large, TrainConfig(lora=RANK)) is call_block


@pytest.mark.parametrize(
    "fields, rank, said",
    [
        (ARCHS["lstm"].model, 2, r"--lora 2: the blocks of this model \(lstm\) have no linear"),
        ({"kv_heads": 1}, 9, "--lora 9: a side of the matrix blocks.0.mixer.qkv is 8; use at"),
        ({"width": 4, "heads": 1}, 5, "blocks.0.mixer.qkv is 4; use at most 4"),
    ],
)
def test_a_rank_that_no_matrix_has_is_refused(fields: Any, rank: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        adapt(small_model(**fields), rank, 0)


# -- a training ------------------------------------------------------------------------------------

FINE_TUNING = ("--lora", 4, "--set", "train.batch=4", "-q")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `base`, and `tuned`, whose adapters have been trained on another text."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "old.txt").write_text(prose(6000))
    (folder / "new.txt").write_text(prose(6000, seed=1)[::-1])
    tfm = Tfm(folder)
    flags = ("--tokenizer", "byte", "--size", "nano", "--set", "train.batch=8", "-q")
    tfm("train", "--data", "old.txt", "--run", "base", "--steps", 40, *flags)
    tfm(*training("tuned", "--set", "model.dropout=0.1"))
    return folder


def training(run: str, *more: object) -> tuple[object, ...]:
    given = ("--init", "base", "--data", "new.txt", "--run", run, "--steps", 6, "--save-every", 4)
    return ("train", *given, *FINE_TUNING, *more)


def test_only_adapters_are_trained_and_saved(folder: Path) -> None:
    base, tuned = Run(folder / "base"), Run(folder / "tuned")
    config = tuned.train_config()
    assert (config.lora, config.optimizer, config.weight_decay) == (4, "adamw", 0.0)
    assert config.adam_lr == 0.0074  # for a width of 64
    own = weights(base.load_model())
    assert same_bits(read_tensors(folder / "tuned/base.safetensors"), own)
    saved = tuned.checkpoint().path
    names = set(read_tensors(saved / "model.safetensors"))
    assert {name.rpartition(".")[2] for name in names} == {"lora_a", "lora_b"}
    assert len(names) == 2 * 4 * 2  # A and B of four layers in two blocks
    state = read_tensors(saved / "optimizer.safetensors")
    assert set(state) == {f"adamw.{n}.{f}" for n in names for f in ("mean", "square", "step")}
    model = tuned.load_trained()
    assert same_bits(own, {n: p for n, p in model.named_parameters() if not p.requires_grad})
    matrices = {f"{name}.weight" for name, _ in adapted(model)}
    after = weights(tuned.load_model())
    assert {n for n in own if not torch.equal(own[n], after[n])} == matrices
    sizes = [
        path.stat().st_size
        for path in (saved / "model.safetensors", tuned.path / "base.safetensors")
    ]
    assert 5 * sizes[0] < sizes[1]


def test_it_learns(folder: Path) -> None:
    """And the scores on the way are those of the merged weights."""
    entries = Run(folder / "tuned").log()
    losses = [e["loss"] for e in entries if "loss" in e]
    assert losses[-1] < losses[0] - 0.3, losses
    final = Tfm(folder)("eval", "tuned", "--json").json()
    assert final["nll"] == pytest.approx(entries[-1]["scores"]["nll"], rel=1e-6)


def test_after_a_kill_it_ends_as_it_would_have(folder: Path) -> None:
    """At step 4, and before the first checkpoint, when the base run may be gone. A kill leaves the
    last whole checkpoint and a log that is longer."""
    tfm, whole = Tfm(folder), folder / "tuned"
    (folder / "base").rename(folder / "elsewhere")
    try:
        for kept in (1, 0):
            shutil.copytree(whole, folder / "killed")
            for later in Run(folder / "killed").checkpoints()[kept:]:
                shutil.rmtree(later.path)
            log = folder / "killed/log.jsonl"
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
            said = tfm("train", "--resume", "killed").err
            assert f"resuming from step {4 * kept} of 6" in said
            assert saved_weights(folder / "killed", 6) == saved_weights(whole, 6)
            shutil.rmtree(folder / "killed")
        tfm("rerun", "tuned", "--run", "again", "-q")
    finally:
        (folder / "elsewhere").rename(folder / "base")


def test_every_verb_takes_the_run(folder: Path) -> None:
    tfm = Tfm(folder)
    assert tfm("sample", "tuned", "-p", "the ", "--length", 8, "--greedy").text
    assert "adapters of rank 4" in tfm("info", "tuned").text
    packed = tfm("compress", "tuned", "new.txt", "-o", "packed")
    assert (
        packed
        and tfm("decompress", "tuned", "packed", "-o", "-").out == (folder / "new.txt").read_bytes()
    )
    tfm("verify", "tuned")
    tfm("train", "--init", "tuned", "--data", "new.txt", "--run", "more", "--steps", 1, "-q")
    assert not Run(folder / "more").train_config().lora


def test_a_damaged_base_is_found(folder: Path) -> None:
    shutil.copytree(folder / "tuned", folder / "broken")
    with (folder / "broken/base.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"\x01\x02\x03")
    tfm = Tfm(folder)
    for verb in ("verify", "sample", "eval"):
        said = tfm(verb, "broken", code=3, stdin=b"")
        assert "base.safetensors: damaged" in said.text + said.err


def test_other_weights_make_another_archive(folder: Path) -> None:
    """The same adapters on another base are another model."""
    from tfm.cli.compress import Fingerprint

    run = Run(folder / "tuned")
    name = Fingerprint.of(run, "last", torch.device("cpu"), "x").weights
    file = folder / "tuned/checkpoints/000006/manifest.json"
    adapters = json.loads(file.read_bytes())["files"]["model.safetensors"][1]
    assert not adapters.startswith(name)


def test_refusals(folder: Path) -> None:
    tfm = Tfm(folder)
    new = ("--data", "new.txt", "--steps", 1)
    assert "name it with --init" in tfm.error("train", *new, "--lora", 2)
    assert "name it with --init" in tfm.error("train", *new, "--set", "train.lora=2")
    assert "--lora" in tfm.error("train", *new, "--init", "base", "--lora", 0)
    said = tfm.error("train", *new, "--init", "base", "--lora", 65)
    assert "--lora 65: a side of the matrix blocks.0.mixer.qkv is 64" in said
    assert "--lora and --resume exclude" in tfm.error("train", "--resume", "tuned", "--lora", 2)
    assert "trained without --lora" in tfm.error("export", "base", "out", "--to", "peft")
    with pytest.raises(UsageError, match="--lora 2: adapts a trained model"):
        Request(sets={"train": {"lora": "2"}})
    assert not (folder / "out").exists()


# -- PEFT ------------------------------------------------------------------------------------------


def run_of(path: Path, model: SequenceModel, task: str, lora: int) -> Run:
    """A run that holds a model of byte tokens and its adapters."""
    from tfm.core.plugins import find
    from tfm.tokenizers.byte import SingleByteTokenizer

    config = {
        "task": task,
        "task_options": asdict(find("tasks", task).Options()),
        "model": asdict(model.config),
        "train": asdict(TrainConfig(lora=lora)),
        "tokenizer": {"spec": "byte", "kind": "byte"},
        "init": "hf:someone/small",
    }
    return Run.create(path, config, SingleByteTokenizer(False, text=True), {})


@pytest.mark.parametrize("name", ["transformer", "llama", "gpt2", "vaswani"])
def test_peft_computes_the_same(name: str, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    from tfm.core.exchange import hf_export, peft_export

    fields = dict(vocab_size=257, width=32, heads=4, context=40)
    model, task = model_named(name, **fields), "pairs" if name == "vaswani" else "text"
    run = run_of(tmp_path / "run", model, task, RANK)
    hf_export.export(run, model, tmp_path / "base", "float32")
    told = peft_export.export(run, with_updates(model), tmp_path / "peft", "float32")
    assert told["base_model"] == "someone/small" and not told["notes"]

    auto = "AutoModelForSeq2SeqLM" if model.has_encoder else "AutoModelForCausalLM"
    base = getattr(transformers, auto).from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    ids = torch.arange(60).view(2, 30)
    source = ids[:, :9] if model.has_encoder else None
    given = (
        dict(input_ids=source, decoder_input_ids=ids) if model.has_encoder else dict(input_ids=ids)
    )
    plain = merged(model)
    with torch.no_grad():
        expected = plain.logits(plain(ids, source=source))
        before = theirs.get_base_model()
        found = theirs(**given).logits
        with theirs.disable_adapter():
            without = before(**given).logits
    assert (without - expected).abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 if model.has_encoder else 1e-5)


def test_the_export_has_no_path_of_this_machine(folder: Path) -> None:
    """And says what is to be filled in."""
    tfm = Tfm(folder)
    done = tfm("export", "tuned", "adapters", "--to", "peft")
    assert "base_model_name_or_path in adapter_config.json is null: fill in" in done.err
    config = json.loads((folder / "adapters/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None and config["r"] == 4
    assert config["target_modules"] == [
        "down_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    tensors = read_tensors(folder / "adapters/adapter_model.safetensors")
    key = "base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight"
    layer: Any = Run(folder / "tuned").load_trained().get_submodule("blocks.1.mixer.qkv")
    assert torch.equal(tensors[key], layer.lora_a[4:8])
    for file in (folder / "adapters").iterdir():
        assert str(folder).encode() not in file.read_bytes()
