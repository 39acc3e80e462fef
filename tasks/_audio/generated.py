"""Clips that need no data: decaying tones and chords."""

from __future__ import annotations

import numpy as np

from ...core.errors import UsageError
from ...core.task import Description
from .clips import Clips, Found
from .options import AudioOptions
from .reading import clips_of
from .recordings import to_16_bits

COUNT = 600  # clips
RATE, SECONDS = 4000, 0.25
CHORDS = {"tone": (0,), "major": (0, 4, 7), "minor": (0, 3, 7)}  # semitones above the root
LOWEST_HZ, ROOTS = 220.0, 12  # roots, in semitones
PARTIALS = (1.0, 0.5, 0.25)  # amplitudes of the multiples of a frequency
ABOUT = f"{COUNT} generated tones and chords of {SECONDS:g} s"


def generated_clips(options: AudioOptions) -> Clips:
    """Chords on random roots, with random onset, loudness, decay and phase, and a little noise.
    Always the same. UsageError for options that are for files."""
    if options.rate not in (None, RATE):
        raise UsageError(f"--rate {options.rate}: the generated clips have {RATE}; use --data")
    if options.label_from is not None or options.skip_bad:
        flag = "--skip-bad" if options.label_from is None else "--label-from"
        raise UsageError(f"{flag}: is for files; use --data")
    rng = np.random.default_rng(0)
    length = round(RATE * SECONDS)
    times = np.arange(length) / RATE
    found, sounds = [], []
    for number in range(COUNT):
        name = list(CHORDS)[number % len(CHORDS)]
        root = LOWEST_HZ * 2 ** (rng.integers(ROOTS) / 12)
        sound = np.zeros(length)
        for semitones in CHORDS[name]:
            for partial, amplitude in enumerate(PARTIALS, 1):
                frequency = root * 2 ** (semitones / 12) * partial
                phase = rng.random()
                sound += amplitude * np.sin(2 * np.pi * (frequency * times + phase))
        onset, decay = rng.uniform(0.0, 0.03), rng.uniform(5.0, 20.0)
        after = np.maximum(times - onset, 0)
        sound *= np.minimum(after / 0.005, 1) * np.exp(-decay * after)
        sound *= rng.uniform(0.3, 0.9) / max(np.abs(sound).max(), 1e-9)
        sound += 0.002 * rng.standard_normal(length)
        found.append(Found(f"{name}-{number}", name))
        sounds.append(to_16_bits(sound))
    text = f"{ABOUT} at {RATE:,} Hz, {len(CHORDS)} labels ({', '.join(CHORDS)})"
    record = {"clips": COUNT, "seconds": COUNT * SECONDS, "rate": RATE, "generated": True}
    raw = np.concatenate(sounds)
    where = "first" if options.labels == "auto" else options.labels
    return clips_of(raw, [length] * COUNT, RATE, found, where, Description((text,), record))
