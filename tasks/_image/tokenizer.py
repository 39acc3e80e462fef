"""Which patches pictures are cut into, and whether each is exact or the nearest of a codebook."""

from __future__ import annotations

from ...core.errors import ConfigError, DataError
from ...tokenizers.patches import MAX_IDS, Form, PatchTokenizer, exact_ids
from .pictures import Pictures

EXACT_TOKENS = 1024  # of a picture, up to which exact pixels are the default
SMALL_ALPHABET = 256  # ids that exact patches grow to by themselves
SHORT = 256  # ids of a picture, down to which they grow
CODES, STAGES = 512, 2  # of a codebook, where nothing says how many
FIT_DIMS = 20_000_000  # that a codebook is learned from
LABELS_MAX = 1000  # different labels that are taken for labels by themselves


def fit(
    spec: str, train: Pictures, wanted: tuple[int, int] | None, stages: int | None, place: str
) -> PatchTokenizer:
    """The tokenizer that SPEC names. patches: exact where a picture is at most EXACT_TOKENS ids
    that way; patches:exact; patches:CODES for a codebook. wanted: (height, width) of a patch, None
    for what suits the pictures; place: where labels stand, as `--labels` says. ConfigError for any
    other spec."""
    kind, _, argument = spec.partition(":")
    if kind != "patches" or not (argument in ("", "exact") or argument.isdecimal()):
        raise ConfigError(f"--tokenizer {spec}: known: patches, patches:exact, patches:CODES")
    labels, place = label_place(place, train)
    form = train.form
    patch = wanted or exact_patch(form)
    learned = argument.isdecimal() or stages is not None
    if not learned and not argument:
        joint = exact_ids(form, patch, joint=True) <= MAX_IDS
        fits = joint or exact_ids(form, patch, joint=False) <= MAX_IDS
        count = -(-form.height // patch[0]) * -(-form.width // patch[1])
        tokens = count * (1 if joint else form.channels)
        learned = not fits or (tokens > EXACT_TOKENS and wanted is None)
    if not learned:
        return PatchTokenizer(form, patch, labels, place)
    codes = int(argument) if argument.isdecimal() else CODES
    stages = stages or STAGES
    patch = wanted or codebook_patch(form, stages)
    if codes < 2:
        raise ConfigError(f"--tokenizer {spec}: a codebook has at least 2 codes")
    some = train.pixels()[:: max(1, -(-train.size // FIT_DIMS))]
    return PatchTokenizer.fit(some, form, patch, codes, stages, labels, place)


def label_place(place: str, train: Pictures) -> tuple[tuple[str, ...], str]:
    """The names of labels, and where they stand, `--labels PLACE`. DataError where pictures have
    none."""
    names = train.names()
    if place == "auto":
        place = "first" if 1 < len(names) <= LABELS_MAX else "none"
    if place != "none" and not names:
        missing = sum(label is None for label in train.labels)
        raise DataError(
            f"--labels {place}: {missing:,} of {len(train):,} pictures have none; use "
            "subfolders, a label column or a labels file, or --labels none"
        )
    return (names, place) if place != "none" else ((), "none")


def exact_patch(form: Form) -> tuple[int, int]:
    """The smallest patch with few ids that makes a picture short, else the largest such."""
    chosen = (1, 1)
    for patch in ((1, 1), (2, 1), (2, 2), (4, 2)):
        if exact_ids(form, patch, joint=True) > SMALL_ALPHABET and patch != (1, 1):
            break
        chosen = patch
        if -(-form.height // patch[0]) * -(-form.width // patch[1]) <= SHORT:
            break
    return chosen


def codebook_patch(form: Form, stages: int) -> tuple[int, int]:
    """4 x 4 pixels, or as many more as keep a picture within EXACT_TOKENS ids."""
    side = 4
    while -(-form.height // side) * -(-form.width // side) * stages > EXACT_TOKENS:
        side += 1
    return side, side
