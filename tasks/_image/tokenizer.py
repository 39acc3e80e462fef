"""Chooses the patch size, and between exact patch ids and a learned codebook."""

from __future__ import annotations

from ...core.errors import ConfigError, DataError
from ...tokenizers.patches import MAX_IDS, Form, PatchTokenizer, exact_ids
from .pictures import Pictures

MAX_PICTURE_TOKENS = 1024  # longest picture that gets exact ids by default
MAX_DEFAULT_IDS = 256  # vocabulary of exact patches, at most, at the default patch size
TARGET_TOKENS = 256  # of a picture: larger patches are tried until it is as short
DEFAULT_CODES, DEFAULT_STAGES = 512, 2  # of a codebook
LABEL_PATCHES = 64  # of a picture whose last label is what matters, at most
LABEL_CODES, LABEL_STAGES = 512, 1  # of its codebook
FIT_DIMS = 20_000_000  # channels of pixels, at most, that a codebook is learned from


def fit(
    spec: str, train: Pictures, patch_size: tuple[int, int] | None, stages: int | None
) -> PatchTokenizer:
    """The tokenizer for `spec`: patches:exact, patches:CODES (a codebook), or patches (exact if a
    picture then has at most MAX_PICTURE_TOKENS ids). `patch_size`: (height, width), None for the
    default. ConfigError for any other spec, DataError if there are no labels to put anywhere.

    With last labels, larger pictures are read in few patches by a codebook, whose pixels the model
    reads too: it is the label that matters, and not the bits of the pixels."""
    kind, _, argument = spec.partition(":")
    if kind != "patches" or not (argument in ("", "exact") or argument.isdecimal()):
        raise ConfigError(f"--tokenizer {spec}: known: patches, patches:exact, patches:CODES")
    label_position = train.label_position
    labels = train.names() if label_position != "none" else ()
    if label_position != "none" and not labels:
        raise DataError(
            f"--labels {label_position}: none of {len(train):,} pictures has a label; use "
            "subfolders, a label column or a labels file, or --labels none"
        )
    form = train.form
    patch = patch_size or exact_patch(form)
    learned = argument.isdecimal() or stages is not None
    if not learned and not argument:
        joint = exact_ids(form, patch, joint=True) <= MAX_IDS
        fits = joint or exact_ids(form, patch, joint=False) <= MAX_IDS
        count = -(-form.height // patch[0]) * -(-form.width // patch[1])
        tokens = count * (1 if joint else form.channels)
        most = TARGET_TOKENS if label_position == "last" else MAX_PICTURE_TOKENS
        learned = not fits or (tokens > most and patch_size is None)
    if not learned:
        return PatchTokenizer(form, patch, labels, label_position)
    last = label_position == "last"  # what matters is the label
    usual = (LABEL_CODES, LABEL_STAGES) if last else (DEFAULT_CODES, DEFAULT_STAGES)
    codes = int(argument) if argument.isdecimal() else usual[0]
    stages = stages or usual[1]
    most = LABEL_PATCHES if last else MAX_PICTURE_TOKENS
    patch = patch_size or codebook_patch(form, stages, most)
    if codes < 2:
        raise ConfigError(f"--tokenizer {spec}: a codebook has at least 2 codes")
    some = train.pixels()[:: max(1, -(-train.size // FIT_DIMS))]
    return PatchTokenizer.fit(some, form, patch, codes, stages, labels, label_position, last)


def exact_patch(form: Form) -> tuple[int, int]:
    """The smallest patch with which a picture has at most TARGET_TOKENS ids, else the largest
    whose vocabulary is at most MAX_DEFAULT_IDS (1 x 1 always is allowed)."""
    chosen = (1, 1)
    for patch in ((1, 1), (2, 1), (2, 2), (4, 2)):
        if exact_ids(form, patch, joint=True) > MAX_DEFAULT_IDS and patch != (1, 1):
            break
        chosen = patch
        if -(-form.height // patch[0]) * -(-form.width // patch[1]) <= TARGET_TOKENS:
            break
    return chosen


def codebook_patch(form: Form, stages: int, most: int) -> tuple[int, int]:
    """4 x 4 pixels, or the smallest larger square with at most `most` ids a picture."""
    side = 4
    while -(-form.height // side) * -(-form.width // side) * stages > most:
        side += 1
    return side, side
