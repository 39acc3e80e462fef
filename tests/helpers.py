"""Helpers of several test files. Imports torch, so `conftest.py` and `harness/` import it late."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tfm.core.architectures import ARCHS
from tfm.core.config import ModelConfig, SampleConfig
from tfm.core.decode.batch_decoder import Decoder
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import native_library
from tfm.core.protocols import Array, Batch, Ids, Sequence
from tfm.core.runs.checkpoints import Checkpoint
from tfm.core.runs.run import Run
from tfm.core.train.budget import Plan
from tfm.core.train.events import RunLog
from tfm.core.train.fit import Replay, fit
from tfm.core.train.optim import state_tensors
from tfm.core.train.optimizer import Optimizer
from tfm.core.train.state import State

WORDS = "the quick brown fox jumps over a lazy dog while green birds sing of café and snow".split()

# tolerated root-mean-square error of logits over their standard deviation, by dtype of the weights
LOGIT_ERROR = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3, "int8": 5e-2}


# the model's fields of every architecture without an encoder, and of those that are transformers
DECODERS = {name: dict(a.model) for name, a in ARCHS.items() if not a.model.get("encoder_layers")}
TRANSFORMERS = {name: fields for name, fields in DECODERS.items() if "mixers" not in fields}


# -- data ----------------------------------------------------------------------------------------


def prose(size: int, seed: int = 0) -> str:
    """About `size` characters of random lines of words, some of them not ASCII."""
    draw = random.Random(seed)
    lines, length = list[str](), 0
    while length < size:
        lines.append(" ".join(draw.choices(WORDS, k=draw.randint(2, 9))))
        length += len(lines[-1]) + 1
    return "\n".join(lines) + "\n"


class FakeTokenizer:
    """A tokenizer whose items are arrays of ids. `legal` is its support; if that has two axes,
    items are decoded in rows of three."""

    lossless, features = True, 0

    def __init__(self, vocab_size: int = 23, legal: Any = None, axes: int = 1) -> None:
        self.vocab_size, self.legal, self.axes = vocab_size, legal, axes

    def support(self, length: int, side: object) -> Any:
        return self.legal[:length] if isinstance(self.legal, np.ndarray) else self.legal

    def positions(self, length: int, side: object) -> Any:
        return None if self.axes == 1 else np.stack(divmod(np.arange(length), 3), axis=-1)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"kind": "fake"}, {"table": np.arange(6, dtype=np.float32)}


class RandomRows:
    """A dataset of rows of 9 random ids below 11, with very different weights. Row `index` is
    fixed; with `same`, all rows are equal. All weights of the batches numbered `broken` (from 1)
    are NaN."""

    context = 8

    def __init__(self, broken: tuple[int, ...] = (), same: bool = False) -> None:
        self.broken, self.same, self.asked = broken, same, 0

    def __len__(self) -> int:
        return 1000

    def batch(self, indices: Ids) -> Batch[Array]:
        rngs = [np.random.default_rng(0 if self.same else int(index)) for index in indices]
        ids = np.stack([rng.integers(0, 11, 9) for rng in rngs])
        weight = np.stack([rng.integers(0, 2, 9) * rng.random() * 3 for rng in rngs])
        self.asked += 1
        if self.asked in self.broken:
            weight[:] = np.nan
        return Batch(ids, weight.astype(np.float32))


# -- models --------------------------------------------------------------------------------------


def random_weights(
    model: SequenceModel, std: float = 0.3, norm_std: float | None = None
) -> SequenceModel:
    """Sets all parameters to normal random numbers, none zero: the weights of norms around 1 with
    standard deviation `norm_std` (None: `std`), all others around 0 with `std`."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            torch.nn.init.normal_(parameter, 1, std if norm_std is None else norm_std)
        else:
            torch.nn.init.normal_(parameter, std=std)
    return model


def small_model(std: float = 0.3, norm_std: float | None = None, **fields: Any) -> SequenceModel:
    """A model of 23 ids and context 12, changed by `fields`, with `random_weights`."""
    shape: dict[str, Any] = dict(vocab_size=23, layers=2, width=16, heads=2, context=12)
    return random_weights(SequenceModel(ModelConfig(**{**shape, **fields})), std, norm_std)


def weights(model: SequenceModel) -> dict[str, Tensor]:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether both have the same names and bitwise equal tensors."""
    return all(torch.equal(one[name], other[name]) for name in one | other)


# -- gradients -----------------------------------------------------------------------------------


def gradients(model: SequenceModel, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The gradients of all parameters by name after one backward pass, plus "loss", on the CPU.
    `loss` can run the backward pass itself and return a detached loss."""
    model.zero_grad()
    total = loss()
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: x.detach().clone().cpu() for name, x in {"loss": total, **found}.items()}


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal random numbers that require a gradient."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).requires_grad_()


def random_angles(rows: int, length: int, half: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `rotate`, (rows, 1, length, 2 * half) each."""
    angle = random_tensor(rows, 1, length, half, seed=3).detach()
    return torch.cat((angle.cos(), angle.cos()), -1), torch.cat((-angle.sin(), angle.sin()), -1)


def assert_agree(ours: Tensor, plain: Tensor, *inputs: Tensor, tolerance: float = 1e-6) -> None:
    """Asserts that `ours` and `plain` have the same values and gradients of `inputs`."""
    upstream = random_tensor(*plain.shape, seed=9).detach().to(plain.dtype)
    assert ours.dtype == plain.dtype
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(ours, inputs, upstream)
    for a, b in zip(found, torch.autograd.grad(plain, inputs, upstream), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=tolerance, atol=3 * tolerance)


# -- decoding ------------------------------------------------------------------------------------


def random_prompt(seed: int, length: int = 3) -> Sequence:
    """Random ids below 23."""
    return Sequence(np.random.default_rng(seed).integers(0, 23, length))


def draw_rows(
    model: SequenceModel,
    prompts: list[Sequence],
    records: list[str],
    length: int = 30,
    rows: int = 4,
    tokenizer: Any = None,
    **options: Any,
) -> list[list[tuple[int, float]]]:
    """The (id, logprob) pairs sampled for each prompt. A prompt starts as soon as a row is free;
    samples end at different times."""
    decoder = Decoder(model, tokenizer or FakeTokenizer(), SampleConfig(**options), rows)
    waiting = list(enumerate(zip(prompts, records, strict=True)))
    out: list[list[tuple[int, float]]] = [[] for _ in prompts]
    who: dict[int, int] = {}
    while waiting or who:
        while waiting and decoder.free:
            number, (one, record) = waiting.pop(0)
            who[decoder.begin(one, length, record)] = number
        for row, new in decoder.step().items():
            if new is not None:
                out[who[row]].append(new)
            if new is None or len(out[who[row]]) == length - 3 * (who[row] % 3):
                del who[row]
                decoder.end(row)
    return out


# -- the C library, runs and scripts -------------------------------------------------------------


def c_library(cache: Path) -> CDLL | None:
    """The library of core/ops/c, compiled into `cache`; None where there is no C compiler."""
    return native_library.library(cache, os.environ.get("CC") or "cc")


def save_checkpoint(
    run: Run,
    step: int,
    model: SequenceModel,
    optimizers: list[Optimizer] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Saves a checkpoint of the current weights and optimiser states."""
    tensors = dict(model.named_parameters())
    return run.save(step, tensors, state_tensors(model, optimizers or []), state or {})


def train_run(run: Run, task: Any, plan: Plan, state: State, end: int | None = None) -> None:
    """Trains to the end of the plan, or up to step `end` without a final score; writes the log."""
    log = RunLog(run)
    for event in fit(run, task, plan, state, replay=Replay(end=end)):
        log.take(event)


def saved_weights(run: Path, step: int) -> bytes:
    """The bytes of the file with the weights of a checkpoint."""
    return (run / f"checkpoints/{step:06d}/model.safetensors").read_bytes()


def log_without_times(run: Path) -> list[dict[str, Any]]:
    """The log of a run without the fields that differ between two equal runs."""
    entries = Run(run).log()
    for entry in entries:
        entry.pop("seconds", None)
        for name in ("run", "tokens_per_second"):
            entry.get("scores", {}).pop(name, None)
    return entries


def shell_blocks(page: Path) -> list[str]:
    """The `sh` code blocks of a Markdown page."""
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def put_tfm_on_path(folder: Path, **others: str) -> None:
    """Writes executable scripts to `folder`/bin: `tfm`, which runs this tfm (in forks of a process
    that has imported torch, where there is fork), and others by name."""
    (folder / "bin").mkdir()
    tfm = f"{sys.executable} -m tfm"
    if hasattr(os, "fork"):
        from conftest import SERVER

        tfm = " ".join(SERVER.client())
    for name, command in {"tfm": f'exec {tfm} "$@"', **others}.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / "bin" / name).chmod(0o755)


def run_shell_block(block: str, folder: Path, env: Mapping[str, str]) -> str:
    """The stdout of a block that bash runs in `folder`, with `put_tfm_on_path`, up to its first
    failure. Fails if there is one, or an error on stderr."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        env={**os.environ, **env, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    return done.stdout


def run_harness(script: str, *args: object) -> Any:
    """The report that a script of tests/harness/ prints with --json."""
    from conftest import SERVER

    path = Path(__file__).parent / "harness" / script
    command = ["--json", *map(str, args)]
    code, out, err = SERVER(command, Path.cwd(), dict(os.environ), None, script=path, timeout=300)
    assert code == 0, err.decode()
    return json.loads(out)


# -- a run of every domain -------------------------------------------------------------------------

SMALL_RUN = ("--size", "nano", "--set", "train.batch=2", "--steps", 2)
# task: (options of train, prompt, form)
DOMAINS: dict[str, tuple[tuple[object, ...], str | None, str]] = {
    "text": (("--data", "text.txt", "--tokenizer", "bpe:300"), "the fox", "text"),
    "byte": (("--data", "text.txt"), "the fox", "text"),
    "image": (("--data", "pictures.npy", "--valid", "held.npy"), "one.png", "picture"),
    "series": (("--data", "series.csv", "--history", 16, "--horizon", 4), "series.csv", "series"),
    "audio": (("--data", "clips", "--tokenizer", "mulaw:32"), "clips/0.wav", "series"),
    "pairs": (("--data", "pairs.tsv", "--arch", "encoder-decoder"), "the fox", "text"),
    "sort": (("--max-length", 3), "cab", "text"),
    "recall": (("--length", 16, "--pairs", 2, "--vocabulary", 32), "3 17 5 20 3", "ids"),
}


def write_domains(root: Path) -> None:
    """Data of every domain in DOMAINS."""
    import numpy as np
    from PIL import Image

    lines = sorted(set(prose(3000).splitlines()))
    (root / "text.txt").write_text(prose(6000))
    (root / "pairs.tsv").write_text("".join(f"{x}\t{x[::-1]}\n" for x in lines))
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 255, (40, 4, 6), np.uint8)
    np.save(root / "pictures.npy", pixels)
    np.save(root / "held.npy", pixels[:3])
    Image.fromarray(pixels[0]).save(root / "one.png")
    walk = draw.normal(size=200).cumsum() + 50
    rows = [f"2020-01-01 {n // 60 % 24:02d}:{n % 60:02d},{x:.3f}" for n, x in enumerate(walk)]
    (root / "clips").mkdir()
    for number in range(40):
        waves = 0.3 * np.sin(np.arange(40) * (0.2 + 0.1 * number)) + draw.normal(size=40) * 0.02
        with wave.open(str(root / "clips" / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 1000, 0, "NONE", ""))
            file.writeframes((waves * 32768).astype("<i2").tobytes())
    (root / "series.csv").write_text("time,value\n" + "\n".join(rows) + "\n")
