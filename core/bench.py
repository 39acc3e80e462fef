"""What this machine makes of a model: training and decoding beside the limits of the hardware.

Model FLOPs a token, forward and backward, as Chowdhery et al. 2022 (PaLM, appendix B):
6 N + 12 L D T, N the parameters in matrix products (the embedding looks up), L layers, D the
width, T the context. Utilisation is that over what a large matrix product in the same dtype
reaches. A decoded token reads every weight once: its limit is the memory's bandwidth.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .config import ModelConfig, SampleConfig, TrainConfig
from .decode.batch_decoder import Decoder, for_decoding
from .model.layers import Linear
from .model.sequence_model import SequenceModel
from .ops import native_calls
from .ops.device import use_threads
from .protocols import Batch, Ids, Sequence
from .train.loop import train
from .train.optim import make_optimizers

if TYPE_CHECKING:
    from ctypes import CDLL

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the peak
PROMPT = 16  # ids that decoding goes on from
READ_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}  # far more than a cache holds


class RandomRows:
    """Rows of random ids: what they cost does not depend on what they say."""

    def __init__(self, vocab_size: int, context: int) -> None:
        self.vocab_size, self.context = vocab_size, context

    def __len__(self) -> int:
        return 1 << 20

    def batch(self, indices: Ids) -> Batch:
        rng = np.random.default_rng(int(indices[0]))
        ids = rng.integers(0, self.vocab_size, (len(indices), self.context + 1))
        return Batch(ids, np.ones(ids.shape, np.float32))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def median_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Of one call: the median over about `seconds`, three calls at least, one before that."""
    call()
    wait(device)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of a large square product."""
    side = SIDE.get(device.type, 4096)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, device, seconds)


def bandwidth(device: torch.device, seconds: float = 0.3) -> float:
    """Bytes a second that a sum reads from memory."""
    size = READ_BYTES.get(device.type, 1 << 30)
    x = torch.ones(size // 4, device=device)
    return size / median_seconds(x.sum, device, seconds)


@dataclass(frozen=True)
class Training:
    """tokens_per_second; flops_per_token; peak_bytes: anonymous memory above what was there
    before (none where the system does not say)."""

    context: int
    batch: int
    tokens_per_second: float
    flops_per_token: float
    peak_bytes: int | None


def training(
    model_config: ModelConfig, config: TrainConfig, device: torch.device, seconds: float
) -> Training:
    """Steps on random ids for about `seconds`."""
    before = _reset_peak(device)
    model = SequenceModel(model_config).to(device)
    data = RandomRows(model_config.vocab_size, model_config.context)
    steps = train(model, data, config, make_optimizers(model, config))
    second = median_seconds(lambda: next(steps), device, seconds)
    after = _peak(device)
    return Training(
        model_config.context,
        config.batch,
        config.batch * config.accumulate * model_config.context / second,
        model.flops_per_token(),
        None if after is None or before is None else after - before,
    )


def training_apart(
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    seconds: float,
    library: CDLL | None = None,
) -> Training:
    """`training` in a process of its own: memory that one before it freed and kept would hide
    some of what this one takes. library: as `native_calls.load` has it."""
    path = None if library is None else library._name
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), _begin, (config.threads, path)
    ) as one:
        return one.submit(training, model_config, config, device, seconds).result()


def _begin(threads: int, library: str | None) -> None:
    use_threads(threads)
    native_calls.load(None if library is None else ctypes.CDLL(library))


@dataclass(frozen=True)
class Decoding:
    """Of all draws together; limit: tokens a second if nothing but the weights' bytes counted."""

    draws: int
    dtype: str
    tokens_per_second: float
    first_token_seconds: float
    limit: float


def decoding(
    model_config: ModelConfig,
    device: torch.device,
    draws: int,
    tokens: int,
    read: float,
    library: CDLL | None = None,
) -> Decoding:
    """What `sample` does. read: bytes a second that memory gives; library: as `Decoder` has it."""
    plain = SequenceModel(model_config).to(device).eval()
    model, dtype = for_decoding(plain, draws, None, library)
    tokenizer: Any = _Plain(model_config.vocab_size)
    prompt = Sequence(np.arange(PROMPT) % model_config.vocab_size)

    def begun() -> Decoder:
        decoder = Decoder(model, tokenizer, SampleConfig(), draws, PROMPT + tokens)
        for draw in range(draws):
            decoder.begin(prompt, tokens, draw=draw)
        decoder.step()
        return decoder

    begun().step()
    began = time.perf_counter()
    decoder = begun()
    first = time.perf_counter() - began
    decoder.step()  # the first that reads: it is written down for all others
    began = time.perf_counter()
    for _ in range(tokens - 2):
        decoder.step()
    rate = draws * (tokens - 2) / (time.perf_counter() - began)
    matrices = sum(m.weight.numel() for m in plain.modules() if isinstance(m, Linear))
    bytes_each = {"float32": 4, "int8": 1}.get(dtype, 2)
    return Decoding(draws, dtype, rate, first, draws * read / (matrices * bytes_each))


@dataclass(frozen=True)
class _Plain:
    """As much of a tokenizer as drawing asks for."""

    vocab_size: int
    axes: int = 1
    lossless: bool = True

    def support(self, length: int, side: object) -> None:
        return None

    def positions(self, length: int, side: object) -> None:
        return None


# -- memory --------------------------------------------------------------------------------------


def _reset_peak(device: torch.device) -> int | None:
    """Bytes in use, from which on the peak counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(name + ":")]
    return int(found[0]) * 1024 if found else None
