"""Baselines of audio, in bits a sample: a histogram, FLAC and xz of the mu-law codes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from ...tokenizers.mulaw import compress
from .._text.baselines import xz_size
from .clips import Clips

MAX_SAMPLES = 2_000_000  # of held-out clips, at most, for FLAC and xz


def floors(train: Clips, held: Clips, codes: int) -> dict[str, float]:
    """`histogram`: one histogram of the training codes for all samples, each code counted once
    more. FLAC is left out without the package soundfile."""
    targets = _codes(held, codes)
    counts = np.bincount(_codes(train, codes), minlength=codes) + 1.0
    found = {"histogram": float(-np.log2(counts / counts.sum())[targets].mean())}
    some = targets[:MAX_SAMPLES]
    flac = _flac(some, codes, held.rate)
    if flac is not None:
        found["flac"] = 8 * flac / len(some)
    return found | {"xz": 8 * xz_size(some.tobytes(), 9) / len(some)}


def _codes(clips: Clips, codes: int) -> npt.NDArray[np.uint8]:
    return np.concatenate([compress(clip.samples, codes) for clip in clips.clips()])


def _flac(found: npt.NDArray[np.uint8], codes: int, rate: int) -> int | None:
    """The bytes of a FLAC of 8 bits a sample."""
    try:
        import soundfile
    except (ImportError, OSError):
        return None
    out = io.BytesIO()
    centred = (found.astype(np.int16) - codes // 2) << 8
    soundfile.write(out, centred, rate, format="FLAC", subtype="PCM_S8")
    return len(out.getvalue())
