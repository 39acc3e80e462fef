"""Fits the tokenizer that `--tokenizer` names."""

from __future__ import annotations

import numpy as np

from ...core.data.keyed_random import uniform
from ...core.errors import ConfigError, DataError, UsageError
from ...core.protocols import Ids
from ...tokenizers import mulaw, spectra
from ...tokenizers._clips import Clip, ClipTokenizer
from ...tokenizers.spectra import SpectraTokenizer, log_spectra
from .clips import Clips
from .options import AudioOptions
from .reading import no_labels

FIT_STEPS = 200_000  # that a codebook is learned from, at most
DECIBELS = 20 / np.log(10)  # of a natural logarithm of an amplitude


def fit(spec: str, train: Clips, options: AudioOptions) -> ClipTokenizer:
    """The tokenizer for mulaw, mulaw:CODES, spectra or spectra:CODES. ConfigError for any other
    spec, UsageError for options that it has not."""
    position = train.label_position
    labels = train.names() if position != "none" else ()
    if position != "none" and not labels:
        raise DataError(no_labels(position, train.about))
    kind = spec.partition(":")[0]
    if kind == "mulaw":
        for name in ("hop", "stages"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name}: is for --tokenizer spectra")
        codes = mulaw.parse(spec)
        return mulaw.MulawTokenizer(train.rate, codes, train.longest, labels, position)
    if kind != "spectra":
        raise ConfigError(f"--tokenizer {spec}: known: mulaw, mulaw:N, spectra, spectra:N")
    codes = spectra.parse(spec)
    hop = max(1, round((options.hop or spectra.HOP_MS) * train.rate / 1000))
    if hop >= train.longest:
        raise DataError(f"--hop: {hop} samples, and the longest clip has {train.longest}")
    steps = -(-train.size // hop)
    order = sorted(range(len(train)), key=lambda n: uniform("fit", n))
    found = list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]()
    for clip in order if steps > FIT_STEPS else range(len(train)):
        if sum(map(len, found)) >= FIT_STEPS:
            break
        found.append(log_spectra(train.samples(clip), hop)[:FIT_STEPS])
    tokenizer = SpectraTokenizer.fit(
        np.concatenate(found),
        codes,
        options.stages or spectra.STAGES,
        rate=train.rate,
        hop=hop,
        labels=labels,
        label_position=position,
    )
    tokenizer.longest = tokenizer.count(train.longest)
    return tokenizer


def distortion(clip: Clip, ids: Ids, tokenizer: ClipTokenizer) -> tuple[int, float]:
    """(steps, summed mean square error in square dB) of the log spectra that ids encode."""
    assert isinstance(tokenizer, SpectraTokenizer)
    exact = log_spectra(clip.samples, tokenizer.hop)
    found = tokenizer.log_spectra_of(tokenizer.sound(ids))
    errors = ((exact - found) * DECIBELS).astype(np.float64) ** 2
    return len(exact), float(errors.mean(axis=1).sum())
