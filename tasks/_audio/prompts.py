"""The clip that a user gives: its bytes, or the name of its file."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import DataError
from ...tokenizers._clips import Clip
from .recordings import is_sound, read_recording, resampled


def prompt_clip(data: bytes, rate: int) -> Clip:
    """The clip at the rate of a run. DataError if there is none."""
    source: Path | bytes = data
    name = "-p"
    if not is_sound(data[:16]):
        path = Path(data.decode("utf-8", "surrogateescape"))
        if not path.is_file():
            raise DataError(f"-p {path}: no such file; give a sound file's name, or - to pipe it")
        source, name = path, f"-p {path}"
    recording = read_recording(source, name)
    return Clip(resampled(recording.samples, recording.about.rate, rate), rate)
