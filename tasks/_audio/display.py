"""Clips for people: sound files, waveforms in a terminal, plots."""

from __future__ import annotations

import io
import wave

import numpy as np

from ...core.display import BRAILLE_DOTS
from ...tokenizers._clips import Clip, Samples
from ...tokenizers.spectra import log_spectra
from .recordings import soundfile, to_16_bits

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
PICTURES = (".png", ".svg", ".pdf")
FILE_TYPES = (*FORMATS, *PICTURES)
GAP_SECONDS = 0.25  # of silence between clips of one file
ROWS = 7  # of a waveform in a terminal
MAX_PLOTTED = 12  # clips


def joined(clips: list[Clip]) -> Samples:
    """The clips one after another, with a gap of silence between any two."""
    gap = np.zeros(round(GAP_SECONDS * clips[0].rate), np.float32)
    parts = [part for clip in clips for part in (gap, clip.samples)]
    return np.concatenate(parts[1:])


def file_bytes(clips: list[Clip], suffix: str) -> bytes:
    """A sound file of all clips in the format of a suffix, WAV of 16 bits if it is empty; or a
    picture of them."""
    if suffix in PICTURES:
        return picture(clips, suffix)
    samples, rate = joined(clips), clips[0].rate
    out = io.BytesIO()
    if suffix in ("", ".wav"):
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(to_16_bits(samples).tobytes())
    else:
        soundfile().write(out, samples, rate, format=FORMATS[suffix])
    return out.getvalue()


def terminal_waveform(samples: Samples, rate: int, width: int) -> str:
    """A line through the samples, in Braille dots, with the scale of both axes."""
    columns, dots = 2 * max(8, width - 6), 4 * ROWS
    seconds = f"{len(samples) / rate:.2f} s"
    samples = samples if len(samples) else np.zeros(1, np.float32)
    if len(samples) <= columns:
        places = np.linspace(0, len(samples) - 1, columns + 1)
        samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
    edges = np.linspace(0, len(samples) - 1, columns + 1).astype(int)
    # neighbours share a sample, so that the line has no gaps
    pieces = [samples[a : b + 1] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    high = np.array([float(piece.max()) for piece in pieces])
    low = np.array([float(piece.min()) for piece in pieces])
    peak = max(float(np.abs((low, high)).max()), 1e-4)
    top, bottom = ((dots - 1) * (1 - edge / peak) / 2 for edge in (high, low))
    cells = np.zeros((ROWS, columns // 2), int)
    for row in range(dots):
        filled = (np.rint(top) <= row) & (row <= np.rint(bottom))
        for side in range(2):
            cells[row // 4] |= np.where(filled[side::2], BRAILLE_DOTS[row % 4][side], 0)
    names = [f"{peak:+5.2f}", *[" " * 5] * (ROWS - 2), f"{-peak:+5.2f}"]
    lines = [
        f"{name} {''.join(chr(0x2800 + cell) for cell in line)}"
        for name, line in zip(names, cells.tolist(), strict=True)
    ]
    lines.append(" " * 6 + "0" + seconds.rjust(columns // 2 - 1))
    return "\n".join(lines)


def picture(clips: list[Clip], suffix: str) -> bytes:
    """Waveforms, and below each its spectrogram."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    shown = clips[:MAX_PLOTTED]
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.2 * across, 2.6 * down + 0.2), layout="constrained")
    axes = figure.subplots(2 * down, across, squeeze=False, height_ratios=[1, 2] * down)
    for one in axes.flat[:]:
        one.set_axis_off()
    for number, clip in enumerate(shown):
        row, column = divmod(number, across)
        wave_axes, spectrum_axes = axes[2 * row, column], axes[2 * row + 1, column]
        seconds = len(clip.samples) / clip.rate
        wave_axes.set_axis_on()
        wave_axes.plot(np.arange(len(clip.samples)) / clip.rate, clip.samples, linewidth=0.5)
        wave_axes.set_xlim(0, max(seconds, 1e-3))
        wave_axes.set_xticks([])
        if clip.label is not None:
            wave_axes.set_title(clip.label)
        if len(clip.samples):
            spectrum_axes.set_axis_on()
            spectra = log_spectra(clip.samples, max(1, clip.rate // 200))
            extent = (0, seconds, 0, clip.rate / 2000)
            spectrum_axes.imshow(
                spectra.T, origin="lower", aspect="auto", extent=extent, cmap="magma"
            )
            spectrum_axes.set_xlabel("s")
            if column == 0:
                spectrum_axes.set_ylabel("kHz")
    out = io.BytesIO()
    figure.savefig(out, format=suffix.removeprefix("."), dpi=150)
    return out.getvalue()
