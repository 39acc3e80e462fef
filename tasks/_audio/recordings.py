"""Reads one sound file: through soundfile (libsndfile), as one channel of floats."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError, UsageError
from ...tokenizers._clips import Samples

SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".mp3",
    ".opus",
    ".oga",
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
)
INSTALL = "needs the package soundfile: pip install 'tfm-toolkit[audio]'"
FULL = 32768  # of samples of 16 bits
MIN_RATE, MAX_RATE = 100, 1_000_000  # samples a second of a file
FULL_SCALE = 0.999  # samples beyond are at the limit of the format
CLIPPED_RUN, CLIPPED_SHARE = 3, 1e-3  # at full scale: samples in a row, and a share of all
UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # of the data of a WAV that was written to a pipe


@dataclass(frozen=True)
class Heard:
    """What a file is. silent: whether all samples are equal; clipped: whether waves are cut off at
    full scale; loud: whether floats beyond 1 were scaled down."""

    rate: int
    channels: int
    silent: bool
    clipped: bool
    loud: bool


@dataclass(frozen=True, eq=False)
class Recording:
    """samples (T,): the mean of all channels, in -1 ... 1, at the rate of the file."""

    samples: Samples
    about: Heard


def soundfile() -> Any:
    """The package. UsageError if it is not installed."""
    try:
        import soundfile as package
    except (ImportError, OSError) as error:  # OSError: without the library itself
        raise UsageError(f"--task audio: reading a sound file {INSTALL}") from error
    return package


def is_sound(head: bytes) -> bool:
    """Whether the first bytes are those of a sound file."""
    riff = head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE"
    aiff = head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")
    mp3 = head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] in (b"\xfb", b"\xf3", b"\xf2"))
    return riff or aiff or mp3 or head[:4] in (b"fLaC", b"OggS", b".snd", b"caff")


def rate_of(path: Path) -> int | None:
    """The samples a second of a file; None if it cannot be read."""
    package = soundfile()
    try:
        return int(package.info(str(path)).samplerate)
    except (package.LibsndfileError, RuntimeError, OSError):
        return None


def read_recording(source: Path | bytes, name: str) -> Recording:
    """A file, or its bytes. DataError names it if it is no sound file, is cut off, has no samples,
    or numbers that are not finite."""
    package = soundfile()
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with package.SoundFile(str(file) if isinstance(file, Path) else file) as sound:
            rate, promised = int(sound.samplerate), int(sound.frames)
            found = sound.read(dtype="float32", always_2d=True)
    except (package.LibsndfileError, RuntimeError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise DataError(f"{name}: not a sound file that can be read ({reason})") from error
    missing = _missing(source)
    if missing or len(found) < promised:
        share = f"{missing:,} bytes" if missing else f"{promised - len(found):,} samples"
        raise DataError(f"{name}: cut off, {share} are missing; copy it again, or use --skip-bad")
    if not len(found):
        raise DataError(f"{name}: has no samples")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise DataError(f"{name}: a rate of {rate:,} Hz; known: {MIN_RATE} to {MAX_RATE:,}")
    if not np.isfinite(found).all():
        raise DataError(f"{name}: has samples that are not numbers (NaN or infinite)")
    peak = float(np.abs(found).max())
    clipped = _is_clipped(found)
    if peak > 1:
        found = found / peak
    samples = found.mean(axis=1, dtype=np.float64).astype(np.float32)
    silent = bool((samples == samples[0]).all())
    return Recording(samples, Heard(rate, found.shape[1], silent, clipped, peak > 1))


def _is_clipped(found: Samples) -> bool:
    """Whether a share of the samples (T, channels) is in runs at full scale."""
    full = np.abs(found) >= FULL_SCALE
    if full.sum() < max(CLIPPED_RUN, CLIPPED_SHARE * full.size):
        return False
    runs = full[:-2] & full[1:-1] & full[2:]
    return bool(3 * runs.sum() >= CLIPPED_SHARE * full.size)


def _missing(source: Path | bytes) -> int:
    """The bytes that a WAV file lacks: libsndfile reads what there is of one that is cut off."""
    if isinstance(source, Path):
        size = source.stat().st_size
        with source.open("rb") as file:
            head = file.read(1 << 16)
    else:
        size, head = len(source), source[: 1 << 16]
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0
    at = 12
    while at + 8 <= len(head):
        length = struct.unpack("<I", head[at + 4 : at + 8])[0]
        if head[at : at + 4] == b"data":
            return 0 if length in UNKNOWN_SIZES else max(0, at + 8 + length - size)
        at += 8 + length + length % 2
    return 0


def to_16_bits(samples: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
    """Samples in -1 ... 1 as whole numbers, as WAV files have them."""
    wide = np.clip(np.rint(samples.astype(np.float64) * FULL), -FULL, FULL - 1)
    found: npt.NDArray[np.int16] = wide.astype("<i2")
    return found


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Samples at another rate, by a polyphase filter, in -1 ... 1."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    found = resample_poly(samples.astype(np.float64), wanted // common, rate // common)
    clipped: Samples = np.clip(found, -1, 1).astype(np.float32)
    return clipped
