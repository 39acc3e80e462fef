"""The options of the image task in training and in sampling."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import ConfigError
from .._labelled.labels import POSITIONS
from .._labelled.options import inherited, option
from .reader import parse_size
from .values import parse_range

MAX_SCALE = 64


@dataclass(frozen=True)
class ImageOptions:
    pixels: str | None = inherited("Resize every picture to HEIGHTxWIDTH.")
    grey: bool = inherited("Convert every picture to grey.", False)
    range: str | None = option(
        "LOW,HIGH of the values in arrays and in pictures of more than 8 bits; by default 0 to 1, "
        "-1 to 1, or 8, 12 or 16 bits, by the values of all of them."
    )
    levels: int | None = inherited(
        "Values of a channel of a pixel; by default as many as the data has."
    )
    binarise: str | None = inherited(
        "Reduce pixels to two levels: by a threshold at half, or 1 with probability grey value.",
        choices=("threshold", "stochastic"),
    )
    patch: str | None = inherited(
        "Patch size in pixels, P or HEIGHTxWIDTH; by default by the levels."
    )
    stages: int | None = inherited(
        "Residual stages of a codebook, one id a patch each; 2 by default."
    )
    labels: str = inherited(
        "Position of labels: before the pixels (for sample --label), after them (for accuracy), or "
        "none; auto: first if nearly all pictures have one.",
        "auto",
        choices=POSITIONS,
    )
    label_column: str | None = option(
        "Column of a table, or array of a .npz, with the labels; by default label, class, y ..."
    )
    label_weight: float | None = option(
        "Loss weight of a label, relative to 1 an id of a patch. By default 1 for first labels, a "
        "tenth of the ids of a picture for last ones, 100 where the model reads pixels."
    )
    augment: str = option(
        "Change pictures at random in each epoch: shift them by up to a 14th of height and width, "
        "flip them left to right, or both.",
        "none",
        choices=("none", "shift", "flip", "both"),
    )
    skip_bad: bool = option("Skip pictures that cannot be read.", False)

    def __post_init__(self) -> None:
        if self.pixels is not None:
            parse_size(self.pixels, "--pixels")
        if self.patch is not None:
            parse_size(self.patch, "--patch")
        if self.range is not None:
            parse_range(self.range)
        if self.stages is not None and self.stages < 1:
            raise ConfigError(f"--stages: must be at least 1, got {self.stages}")
        if self.label_weight is not None and self.label_weight < 0:
            raise ConfigError(f"--label-weight: must be at least 0, got {self.label_weight}")


@dataclass(frozen=True)
class ImageSampling:
    label: str | None = option("The label to sample pictures of.")
    rows: int | None = option("Rows of the prompt picture, from its top, that samples start with.")
    scale: int | None = option("Factor to enlarge by; by default only small grids are enlarged.")

    def __post_init__(self) -> None:
        if self.scale is not None and not 1 <= self.scale <= MAX_SCALE:
            raise ConfigError(f"--scale {self.scale}: must be 1 to {MAX_SCALE}")
        if self.rows is not None and self.rows < 0:
            raise ConfigError(f"--rows {self.rows}: must be at least 0")
