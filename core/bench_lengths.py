"""The time of training and of decoding against the length of the sequence.

A transformer trains on all tokens of a sequence in parallel; a recurrent network takes them one
after another. At a fixed number of tokens a step many short sequences hide that, since a recurrent
network then takes them side by side. So three times are measured at each length: of a training step
of a fixed number of tokens, of a training step of a fixed number of sequences (with one, each token
waits for the one before it), and of a decoding step after a prompt of that length.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .bench import DecodingSpeed, TrainingSpeed, measure_decoding, measure_training, new_process
from .config import ModelConfig, TrainConfig
from .errors import TfmError

if TYPE_CHECKING:
    from ctypes import CDLL

DECODED_TOKENS = 34  # after each prompt, the first two of which are not timed
LEAST_STEPS = 4  # of a training measurement: `median_seconds` with its warm-up
LONGEST_SHARE = 10  # how many times the requested time a measurement may take
LEAST_LIMIT = 60.0  # seconds that a measurement may always take
MEMORY_SHARE = 0.8  # of the free memory that a measurement may take


@dataclass(frozen=True)
class Timed:
    """What was measured at one length. training: of a fixed number of tokens a step; sequences: of
    a fixed number of sequences a step; decoding: of one draw."""

    length: int
    training: TrainingSpeed
    sequences: TrainingSpeed
    decoding: DecodingSpeed

    @property
    def seconds_per_token(self) -> float:
        """Of training, at a fixed number of tokens a step."""
        return 1 / self.training.tokens_per_second

    @property
    def sequences_seconds(self) -> float:
        """Of a training step of the fixed number of sequences."""
        return step_seconds(self.sequences)

    @property
    def decoding_seconds(self) -> float:
        """Of one token after a prompt of the length."""
        return self.decoding.draws / self.decoding.tokens_per_second

    @property
    def peak_bytes(self) -> int:
        return max(self.training.peak_bytes or 0, self.sequences.peak_bytes or 0)


def step_seconds(speed: TrainingSpeed) -> float:
    """Seconds of a training step without accumulation."""
    return speed.batch * speed.context / speed.tokens_per_second


@dataclass(frozen=True)
class LengthBench:
    """How lengths are measured. config: of training, whose batch is not used; tokens, rows: of a
    training step of either kind; seconds: of a measurement, about; bandwidth: see
    `measure_decoding`; library: for `native_calls.load`."""

    config: TrainConfig
    tokens: int
    rows: int
    device: torch.device
    seconds: float
    bandwidth: float
    library: CDLL | None = None

    def measure(self, model_of: Callable[[int], ModelConfig], length: int) -> Timed:
        """Measures one length in a new process. model_of: the model of a context. TfmError if the
        memory is not enough."""
        path = None if self.library is None else self.library._name
        with new_process(self.config.threads, self.library) as pool:
            try:
                return pool.submit(
                    _measure, replace(self, library=None), path, model_of(length),
                    model_of(length + DECODED_TOKENS),
                ).result()  # fmt: skip
            except BrokenProcessPool as error:
                raise TfmError(
                    "its process was ended, as one that takes too much memory"
                ) from error

    def reason_against(self, done: Sequence[Timed], length: int) -> str | None:
        """Why a length is not to be measured after the shorter ones: it would take too long or too
        much memory. None if it can be."""
        lengths = [timed.length for timed in done]
        few = extrapolated(lengths, [timed.sequences_seconds for timed in done], length)
        same = [step_seconds(timed.training) for timed in done[-1:]]  # of as many tokens
        seconds = LEAST_STEPS * max(few, *same, 0.0)
        limit = max(LEAST_LIMIT, LONGEST_SHARE * self.seconds)
        if seconds > limit:
            return (
                f"{LEAST_STEPS} training steps would take about {seconds:.0f} s, over {limit:g} s"
            )
        need = extrapolated(lengths, [timed.peak_bytes for timed in done], length)
        free = free_memory(self.device)
        if free is not None and need > MEMORY_SHARE * free:
            return (
                f"it would take about {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free"
            )
        return None


def _measure(
    bench: LengthBench, library: str | None, model: ModelConfig, decoder: ModelConfig
) -> Timed:
    length, config, device = model.context, bench.config, bench.device
    rows = max(1, bench.tokens // length)
    training = measure_training(model, replace(config, batch=rows), device, bench.seconds)
    same = rows == bench.rows
    few = replace(config, batch=bench.rows)
    sequences = training if same else measure_training(model, few, device, bench.seconds)
    compiled = None if library is None else ctypes.CDLL(library)
    decoding = measure_decoding(
        decoder, device, 1, DECODED_TOKENS, bench.bandwidth, compiled, prompt_tokens=length
    )
    return Timed(length, training, sequences, decoding)


def extrapolated(lengths: Sequence[int], values: Sequence[float], length: int) -> float:
    """A rough forecast at `length`: a power law through the last two lengths whose exponent is 1 to
    2, or 1 if there is one length; 0 if there is none."""
    if not lengths:
        return 0.0
    exponent = 1.0
    if len(lengths) > 1 and min(values[-2:]) > 0:
        slope = math.log(values[-1] / values[-2]) / math.log(lengths[-1] / lengths[-2])
        exponent = min(2.0, max(1.0, slope))
    return float(values[-1] * (length / lengths[-1]) ** exponent)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated; None where the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


@dataclass(frozen=True)
class Exponent:
    """seconds = scale * length ** value, over `shortest` to `longest`. low, high: the ends of the
    95 % interval of `value`; None for two lengths, through which every power law fits."""

    value: float
    low: float | None
    high: float | None
    scale: float
    shortest: int
    longest: int


def fitted_exponent(lengths: Sequence[int], seconds: Sequence[float]) -> Exponent | None:
    """The slope of log seconds on log length by least squares, with the Student interval of its
    standard error. The interval is wide where the times follow no power law, as where an overhead
    dominates short lengths. None for fewer than two lengths."""
    if len(set(lengths)) < 2:
        return None
    from scipy import stats

    x, y = ([math.log(value) for value in values] for values in (lengths, seconds))
    fit = stats.linregress(x, y)
    value, scale = float(fit.slope), math.exp(float(fit.intercept))
    low = high = None
    if len(x) > 2:
        room = float(stats.t.ppf(0.975, len(x) - 2) * fit.stderr)
        low, high = value - room, value + room
    return Exponent(value, low, high, scale, min(lengths), max(lengths))
