"""The options of the audio task in training and in sampling."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.errors import ConfigError
from .._labelled.labels import POSITIONS
from .._labelled.options import inherited, option

MIN_RATE, MAX_RATE = 100, 192_000
MAX_HOP_MS = 1000.0


@dataclass(frozen=True)
class AudioOptions:
    rate: int | None = inherited(
        "Samples a second that clips are resampled to; by default the rate of most of them, at "
        "most 8000."
    )
    hop: float | None = inherited(
        "Milliseconds from one spectrum to the next, for --tokenizer spectra; 10 by default."
    )
    stages: int | None = inherited(
        "Residual stages of the codebook of spectra, one id a step each; 3 by default."
    )
    labels: str = inherited(
        "Position of labels: before the sound (for sample --label), after it (for accuracy), or "
        "none; auto: first if nearly all clips have one.",
        "auto",
        choices=POSITIONS,
    )
    label_from: str | None = option(
        "A regular expression that is searched in the file name; its first group is the label. By "
        "default labels are the names of subfolders."
    )
    label_weight: float | None = option(
        "Loss weight of a label, relative to 1 an id of the sound. By default 1 for first labels, "
        "a tenth of the ids of a clip for last ones."
    )
    augment: bool | None = option(
        "Train on varied clips: level, speed and start change a little in every epoch. By default "
        "only with --tokenizer spectra."
    )
    skip_bad: bool = option("Skip files that cannot be read.", False)

    def __post_init__(self) -> None:
        if self.rate is not None and not MIN_RATE <= self.rate <= MAX_RATE:
            raise ConfigError(f"--rate: must be {MIN_RATE} to {MAX_RATE:,} Hz, got {self.rate}")
        if self.hop is not None and not 0 < self.hop <= MAX_HOP_MS:
            raise ConfigError(
                f"--hop: must be above 0 and at most {MAX_HOP_MS:g} ms, got {self.hop:g}"
            )
        if self.stages is not None and self.stages < 1:
            raise ConfigError(f"--stages: must be at least 1, got {self.stages}")
        if self.label_weight is not None and self.label_weight < 0:
            raise ConfigError(f"--label-weight: must be at least 0, got {self.label_weight}")
        if self.label_from is not None:
            try:
                groups = re.compile(self.label_from).groups
            except re.error as error:
                raise ConfigError(
                    f"--label-from {self.label_from}: not a regular expression ({error})"
                ) from error
            if not groups:
                raise ConfigError(
                    f"--label-from {self.label_from}: has no group; put the label in parentheses, "
                    "as in '([0-9]+)_'"
                )


@dataclass(frozen=True)
class AudioSampling:
    label: str | None = option("The label to sample clips of.")
    seconds: float | None = option(
        "Seconds of a sample at most, beside those of the prompt; by default as long as the "
        "longest clip in training."
    )

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds <= 3600:
            raise ConfigError(f"--seconds: must be above 0 and at most 3600, got {self.seconds:g}")
