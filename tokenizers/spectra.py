"""Audio as short-time spectra: a few ids every 10 ms, from a codebook with residual stages.

Each step of the clip is the logarithm of the magnitudes of one window of a short-time Fourier
transform, quantised as patches of pictures are (tokenizers/_codebook.py). Phases are not encoded:
decoding estimates them from the overlap of the windows (Griffin & Lim 1984, in the fast form of
Perraudin et al. 2013). So the sound is another waveform with nearly the same spectra.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import ConfigError
from ..core.protocols import Ids
from ._clips import FIRST_ID, ClipTokenizer, Samples
from ._codebook import Codebook, learn_codebooks, nearest_code

CODES, STAGES = 256, 3
HOP_MS, WINDOW_HOPS = 10.0, 3.2  # a window of 32 ms every 10 ms, as is usual for speech
FLOOR = 3e-4  # added to magnitudes (1: a full-scale tone), so that their logarithm is finite
ITERATIONS, MOMENTUM = 60, 0.99  # of Griffin & Lim


class SpectraTokenizer(ClipTokenizer):
    """`hop`: samples from one step to the next; `codebooks`: an array (codes, frequencies) a
    stage, and one id a stage and step."""

    def __init__(
        self,
        rate: int,
        hop: int,
        codebooks: tuple[Codebook, ...],
        longest: int = 0,
        labels: tuple[str, ...] = (),
        label_position: str = "none",
    ) -> None:
        super().__init__(rate, tuple(map(len, codebooks)), longest, labels, label_position)
        self.hop, self.codebooks = hop, codebooks

    def ids_of(self, samples: Samples) -> Ids:
        residual = log_spectra(samples, self.hop)
        stages, first = [], FIRST_ID
        for book in self.codebooks:
            found = nearest_code(residual, book)
            residual = residual - book[found]
            stages.append(found + first)
            first += len(book)
        return np.stack(stages, axis=1).reshape(-1)

    def log_spectra_of(self, ids: Ids) -> npt.NDArray[np.float32]:
        """(steps, frequencies) the log spectra that ids of the sound encode."""
        stages = ids.reshape(-1, len(self.codebooks))
        total = np.zeros((len(stages), self.codebooks[0].shape[1]), np.float32)
        first = FIRST_ID
        for stage, book in zip(stages.T, self.codebooks, strict=True):
            total += book[stage - first]
            first += len(book)
        return total

    def samples_of(self, ids: Ids) -> Samples:
        return with_phases(self.log_spectra_of(ids), self.hop)

    def count(self, samples: int) -> int:
        return -(-samples // self.hop) * len(self.codebooks)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        about = super().state()[0] | {"hop": self.hop, "stages": len(self.codebooks)}
        return about, {f"codebook{n}": book for n, book in enumerate(self.codebooks)}

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> SpectraTokenizer:
        books = tuple(arrays[f"codebook{n}"] for n in range(state["stages"]))
        own = {name: value for name, value in state.items() if name != "stages"}
        return cls(codebooks=books, **{**own, "labels": tuple(state["labels"])})

    @classmethod
    def fit(
        cls, spectra: npt.NDArray[np.float32], codes: int, stages: int, **about: Any
    ) -> SpectraTokenizer:
        """Learns at most `codes` codes a stage from log spectra (N, frequencies)."""
        return cls(codebooks=learn_codebooks(spectra, codes, stages), **about)


# -- spectra -------------------------------------------------------------------------------------


def window_of(hop: int) -> npt.NDArray[np.float64]:
    """A Hann window of an even number of samples."""
    size = 2 * max(1, round(hop * WINDOW_HOPS / 2))
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def log_spectra(samples: Samples, hop: int) -> npt.NDArray[np.float32]:
    """(steps, frequencies) of samples (T,), one step for each started hop."""
    window = window_of(hop)
    magnitudes = np.abs(_transform(samples.astype(np.float64), hop, window))
    logarithms: npt.NDArray[np.float32] = np.log(magnitudes * 4 / len(window) + FLOOR).astype("f4")
    return logarithms


def with_phases(spectra: npt.NDArray[np.float32], hop: int) -> Samples:
    """Samples (steps * hop,) whose log spectra are near `spectra`. Deterministic."""
    window = window_of(hop)
    wide = np.maximum(np.exp(spectra.astype(np.float64)) - FLOOR, 0) * len(window) / 4
    length = len(spectra) * hop
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(wide.shape))
    before = np.zeros_like(wide)
    for _ in range(ITERATIONS if length else 0):
        found = _transform(_inverse(wide * phases, hop, window, length), hop, window)
        moved = found + MOMENTUM * (found - before)
        phases, before = moved / np.maximum(np.abs(moved), 1e-12), found
    samples: Samples = np.clip(_inverse(wide * phases, hop, window, length), -1, 1).astype("f4")
    return samples


def _transform(samples: Any, hop: int, window: npt.NDArray[np.float64]) -> Any:
    """The short-time Fourier transform (steps, frequencies); a window is centred on its hop."""
    steps, before = -(-len(samples) // hop), (len(window) - hop) // 2
    padded = np.pad(samples, (before, steps * hop + len(window) - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::hop][:steps]
    return np.fft.rfft(frames * window)


def _inverse(spectrum: Any, hop: int, window: npt.NDArray[np.float64], length: int) -> Any:
    """The samples (length,) whose transform is nearest to `spectrum`, by least squares."""
    frames = np.fft.irfft(spectrum, len(window)) * window
    before = (len(window) - hop) // 2
    total, weight = np.zeros((2, before + length + len(window)))
    for step, frame in enumerate(frames):
        at = slice(step * hop, step * hop + len(window))
        total[at] += frame
        weight[at] += window**2
    return (total / np.maximum(weight, 1e-3))[before : before + length]


def parse(spec: str) -> int:
    """The codes a stage of a `--tokenizer` value, spectra or spectra:N. ConfigError otherwise."""
    _, colon, argument = spec.partition(":")
    codes = int(argument) if argument.isdecimal() else CODES
    if (colon and not argument.isdecimal()) or not 2 <= codes <= 4096:
        raise ConfigError(f"--tokenizer {spec}: known: spectra, spectra:N (2 to 4096 codes)")
    return codes


Tokenizer = SpectraTokenizer
