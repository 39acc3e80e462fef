"""Benchmarks: the speed of training and decoding, and the limits of the hardware.

Model FLOPs per token, forward and backward, after Chowdhery et al. 2022 (PaLM, appendix B):
6 N + 12 L D T, with N the parameters in matrix products (without the embedding, a lookup), L
layers, width D and context T. Utilisation is model FLOP/s over the FLOP/s of a large matrix product
in the same dtype. Decoding reads every weight once a token, so memory bandwidth limits it.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
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
from .ops.processes import Processes
from .protocols import Array, Batch, Ids, Sequence
from .train.loop import train
from .train.optim import make_optimizers

if TYPE_CHECKING:
    from ctypes import CDLL

MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices of the peak FLOP/s
PROMPT_TOKENS = 16
READ_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}  # far more than the processor's caches hold


class RandomRows:
    """A dataset of random ids: the time of a step does not depend on the ids."""

    def __init__(self, vocab_size: int, context: int) -> None:
        self.vocab_size, self.context = vocab_size, context

    def __len__(self) -> int:
        return 1 << 20

    def batch(self, indices: Ids) -> Batch[Array]:
        rng = np.random.default_rng(int(indices[0]))
        ids = rng.integers(0, self.vocab_size, (len(indices), self.context + 1))
        return Batch(ids, np.ones(ids.shape, np.float32))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def median_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median time of a call, over about `seconds` and at least 3 calls, after a warm-up."""
    call()
    synchronise(device)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of the product of two large square matrices, over about `seconds`; of smaller ones
    where a product would take over four times that, as in a dtype that the processor does not
    have."""

    def product_seconds(size: int, seconds: float) -> float:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return median_seconds(lambda: a @ b, device, seconds)

    size = MATRIX_SIZE.get(device.type, 4096)
    while size > 512 and 8**3 * product_seconds(size // 8, 0) > 4 * seconds:
        size //= 2
    return 2 * size**3 / product_seconds(size, seconds)


def memory_bandwidth(device: torch.device, seconds: float = 0.3) -> float:
    """Bytes per second that a sum over a large tensor reads from memory."""
    size = READ_BYTES.get(device.type, 1 << 30)
    x = torch.ones(size // 4, device=device)
    return size / median_seconds(x.sum, device, seconds)


@dataclass(frozen=True)
class TrainingSpeed:
    """flops_per_token: see `SequenceModel.flops_per_token`; peak_bytes: the peak of memory in use,
    less what was in use before (None where the system does not report it)."""

    context: int
    batch: int
    tokens_per_second: float
    flops_per_token: float
    peak_bytes: int | None


def measure_training(
    model_config: ModelConfig, config: TrainConfig, device: torch.device, seconds: float
) -> TrainingSpeed:
    """Trains on random ids for about `seconds`."""
    before = _reset_peak_memory(device)
    model = SequenceModel(model_config).to(device)
    data = RandomRows(model_config.vocab_size, model_config.context)
    steps = train(model, data, config, make_optimizers(model, config))
    step_seconds = median_seconds(lambda: next(steps), device, seconds)
    peak = _peak_memory(device)
    return TrainingSpeed(
        model_config.context,
        config.batch,
        config.batch * config.accumulate * model_config.context / step_seconds,
        model.flops_per_token(),
        None if peak is None or before is None else peak - before,
    )


def measure_training_in_process(
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    seconds: float,
    library: CDLL | None = None,
) -> TrainingSpeed:
    """`measure_training` in a new process. In one process, memory that an earlier measurement freed
    and the allocator kept would lower the peak of a later one. library: for `native_calls.load`."""
    with new_process(config.threads, library) as pool:
        return pool.submit(measure_training, model_config, config, device, seconds).result()


def new_process(threads: int, library: CDLL | None) -> Processes:
    """One new process, with so many CPU threads. library: for `native_calls.load` in it."""
    path = None if library is None else library._name
    return Processes(1, "tfm.core.bench_lengths", _initialise_process, threads, path)


def _initialise_process(threads: int, library: str | None) -> None:
    use_threads(threads)
    native_calls.load(None if library is None else ctypes.CDLL(library))


@dataclass(frozen=True)
class DecodingSpeed:
    """tokens_per_second: of all draws together; limit: tokens per second at which reading the
    weights alone takes all of the memory bandwidth."""

    draws: int
    dtype: str
    tokens_per_second: float
    first_token_seconds: float
    limit: float


def measure_decoding(
    model_config: ModelConfig,
    device: torch.device,
    draws: int,
    tokens: int,
    bandwidth: float,
    library: CDLL | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
) -> DecodingSpeed:
    """Samples `tokens` ids in `draws` rows at once, as `tfm sample` does, after a prompt of
    `prompt_tokens`. bandwidth: of memory, in bytes per second; library: for `for_decoding`."""
    plain = SequenceModel(model_config).to(device).eval()
    model, dtype = for_decoding(plain, draws, None, library)
    tokenizer: Any = _AnyIdTokenizer(model_config.vocab_size)
    prompt = Sequence(np.arange(prompt_tokens) % model_config.vocab_size)

    def started_decoder() -> Decoder:
        decoder = Decoder(model, tokenizer, SampleConfig(), draws, prompt_tokens + tokens)
        for draw in range(draws):
            decoder.begin(prompt, tokens, draw=draw)
        decoder.step()
        return decoder

    started_decoder().step()
    start = time.perf_counter()
    decoder = started_decoder()
    first_token_seconds = time.perf_counter() - start
    decoder.step()  # the first step that feeds ids sets things up, so it is not timed
    start = time.perf_counter()
    for _ in range(tokens - 2):
        decoder.step()
    rate = draws * (tokens - 2) / (time.perf_counter() - start)
    weights = sum(m.weight.numel() for m in plain.modules() if isinstance(m, Linear))
    weight_bytes = weights * {"float32": 4, "int8": 1}.get(dtype, 2)
    return DecodingSpeed(draws, dtype, rate, first_token_seconds, draws * bandwidth / weight_bytes)


@dataclass(frozen=True)
class _AnyIdTokenizer:
    """A tokenizer for `Decoder` alone, under which all ids are legal."""

    vocab_size: int
    axes: int = 1
    features: int = 0
    lossless: bool = True

    def support(self, length: int, side: object) -> None:
        return None

    def positions(self, length: int, side: object) -> None:
        return None


# -- memory --------------------------------------------------------------------------------------


def _reset_peak_memory(device: torch.device) -> int | None:
    """Restarts the measurement of peak memory; returns the bytes in use, None where unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _process_memory("VmRSS")


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _process_memory("VmHWM")


def _process_memory(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(sizes[0]) * 1024 if sizes else None
