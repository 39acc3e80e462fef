"""Reads the pictures of a source, and says what was found, chosen and left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from ...core.data.source import Source
from ...core.errors import DataError
from ...core.task import Description
from ...tokenizers.patches import Form
from .._labelled.folders import listed
from .._labelled.labels import label_names, resolve_position
from .find import find_pictures
from .meaning import Meaning, survey
from .options import ImageOptions
from .pictures import Pictures, choose_form, counted, inspect_all, read_all
from .reader import ALPHA_MODES, Found, Look, parse_size

SHOWN_LABELS = 6  # in the description
PLACES = {"first": "before the pixels", "last": "after the pixels", "none": "not used"}


def read_pictures(source: Source, options: ImageOptions) -> Pictures:
    """All pictures of a source in one form. DataError if it has none."""
    finding = find_pictures(source, options.label_column, options.labels != "none")
    found, looks, bad = inspect_all(finding.found, options.skip_bad)
    left = listed(bad, "unreadable")
    pairs = list(zip(found, looks, strict=True))

    if {"train"} < {each.part for each in found}:
        pairs, outside = _divided(pairs, lambda each: bool(each.part))
        left += listed(outside, "in no part of the data set")
    counted_on = [each for each, _ in pairs if each.part in ("", "train")] or found
    position = resolve_position(options.labels, tuple(each.label for each in counted_on))
    if position == "first":
        pairs, unlabelled = _divided(pairs, lambda each: each.label is not None)
        left += listed(unlabelled, "without a label")
        if unlabelled and not pairs:
            raise DataError(
                f"--labels first: none of {len(unlabelled):,} pictures has a label; use "
                "subfolders, a label column or a labels file, or --labels none"
            )
    if not pairs:
        raise DataError(f"--data {source.describe()}: contains no readable picture")

    found, looks = [each for each, _ in pairs], [seen for _, seen in pairs]
    if finding.conflict and options.range is None:
        shares, wholes = finding.conflict
        raise DataError(
            f"--data: {shares} has fractions up to 1, and {wholes} whole numbers above; bring them "
            "to one range, or name it with --range LOW,HIGH"
        )
    meaning = survey(found, looks, finding.numbers, options.range, options.skip_bad)
    size = parse_size(options.pixels, "--pixels") if options.pixels else None
    form = choose_form(looks, meaning, size, options.grey, options.levels, options.binarise)
    raw, good = read_all(found, meaning, form, options.skip_bad)
    if not good:
        raise DataError(f"--data {source.describe()}: contains no readable picture")
    kept = set(good)
    left += listed([each.name for n, each in enumerate(found) if n not in kept], "unreadable")
    found, looks = [found[i] for i in good], [looks[i] for i in good]

    labels = tuple(each.label for each in found)
    parts = tuple(each.part for each in found)
    digest = hashlib.sha256(repr((form, labels, parts) if any(parts) else (form, labels)).encode())
    digest.update(np.ascontiguousarray(raw).data)
    description = _describe(
        form, found, looks, meaning, position, finding.said, left + finding.left
    )
    return Pictures(
        raw,
        form,
        tuple(found),
        meaning,
        digest.hexdigest(),
        counted(len(found)),
        description,
        position,
        tuple(_useless(options, found, source)),
    )


def _useless(options: ImageOptions, found: list[Found], source: Source) -> Iterator[str]:
    """Options that cannot apply to the pictures. Training refuses them; other data that a run is
    evaluated on can be of another kind."""
    if options.range is not None and not {each.kind for each in found} & {"numbers", "wide"}:
        yield (
            f"--range {options.range}: is for arrays and pictures of more than 8 bits; these have 8"
        )
    named = source.is_table() or any(str(p).endswith(".npz") for p in source.files())
    if options.label_column is not None and not named:
        yield f"--label-column {options.label_column}: is for tables and .npz files"


def _divided(
    pairs: list[tuple[Found, Look]], keep: Callable[[Found], bool]
) -> tuple[list[tuple[Found, Look]], list[str]]:
    """The pictures to keep, and the names of the others."""
    kept = [pair for pair in pairs if keep(pair[0])]
    return kept, [each.name for each, _ in pairs if not keep(each)]


def form_text(form: Form) -> str:
    """A form for people: 8x8 grey, 17 levels."""
    binary = f", binarised ({form.binarise})" if form.binarise else ""
    kind = "grey" if form.channels == 1 else "colour"
    return f"{form.height}x{form.width} {kind}, {form.levels} levels{binary}"


def _describe(
    form: Form,
    found: list[Found],
    looks: list[Look],
    meaning: Meaning,
    position: str,
    said: list[str],
    left: list[str],
) -> Description:
    """One line and one object: how many of what, what was chosen and changed, what was left out."""
    labels = Counter(each.label for each in found)
    missing = labels.pop(None, 0)
    names = label_names(labels)
    parts = Counter(each.part for each in found)
    changes = {name: count for name, count in _changes(form, looks, meaning).items() if count}

    first = f"{counted(len(found))}, {form_text(form)}"
    if len(parts) > 1:
        in_order = [name for name in ("train", "valid", "test") if parts[name]]
        first += f" ({', '.join(f'{name} {parts[name]:,}' for name in in_order)})"
    if names:
        shown = ", ".join(names[:SHOWN_LABELS]) + (" ..." if len(names) > SHOWN_LABELS else "")
        plural = "" if len(names) == 1 else "s"
        first += f", {len(names):,} label{plural} ({shown}) {PLACES[position]}"
        if missing:
            unlabelled = [each.name for each in found if each.label is None]
            first += "; " + listed(unlabelled, "without a label")[0]
    chosen = [*said, *meaning.said]
    texts = [first, *chosen, *(f"{count:,} {name}" for name, count in changes.items())]
    if left:
        texts.append(f"left out: {'; '.join(left)}")
    record = {
        "pictures": len(found),
        "height": form.height,
        "width": form.width,
        "channels": form.channels,
        "levels": form.levels,
        "labels": {name: labels[name] for name in names},
        "label_position": position,
        "unlabelled": missing,
        "parts": {name: count for name, count in sorted(parts.items()) if name},
        "chosen": chosen,
        "changed": changes,
        "left_out": left,
    }
    return Description(("; ".join(texts),), record)


def _changes(form: Form, looks: list[Look], meaning: Meaning) -> dict[str, int]:
    """How many pictures were changed in each way."""
    size = (form.height, form.width)
    colour = [seen.colour and not meaning.grey for seen in looks]
    animations = [seen.frames - 1 for seen in looks if seen.frames > 1]
    frames = f"animations reduced to their first frame ({sum(animations):,} frames left out)"
    return {
        "resized": sum((seen.height, seen.width) != size for seen in looks),
        "made grey": sum(colour) if form.channels == 1 else 0,
        "made colour": len(colour) - sum(colour) if form.channels == 3 else 0,
        "with a palette": sum(seen.mode == "P" for seen in looks),
        "laid on white": sum(seen.mode in ALPHA_MODES for seen in looks),
        "of 16 bits brought to 8": sum(seen.kind == "wide" for seen in looks),
        frames: len(animations),
    }
