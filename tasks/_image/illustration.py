"""What a picture's ids are to a person, for `tfm view`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.protocols import Ids, Sequence
from ...tokenizers.patches import PatchTokenizer, Pixels


def labels(ids: Ids, tokenizer: PatchTokenizer) -> list[str]:
    """Levels of single pixels, numbers of patches, names of labels."""

    def label(id: int) -> str:
        if id < tokenizer.patch_ids:
            return str(id)
        return "<begin>" if id == tokenizer.begin else tokenizer.labels[id - tokenizer.patch_ids]

    return [label(id) for id in ids.tolist()]


def illustration(
    sequence: Sequence, tokenizer: PatchTokenizer, guesses: Ids, ids: Ids
) -> dict[str, Any]:
    """pixels and guesses (levels ...): bytes, row by row, of the picture and of the pictures that
    `guesses` encode; cells (T,): [row, column, which id of the patch] of each id of the sequence,
    None for one that is no patch; thumbnails: id -> the bytes of its patch."""
    side = sequence.side
    height, width = int(side["height"]), int(side["width"])
    rows, columns = tokenizer.grid(height, width)
    is_patch = sequence.ids < tokenizer.patch_ids
    number = np.cumsum(is_patch) - 1
    each = tokenizer.per_patch
    cells = [
        [int(n) // each // columns, int(n) // each % columns, int(n) % each] if patch else None
        for n, patch in zip(number, is_patch, strict=True)
    ]
    patches = np.flatnonzero(is_patch)
    decoded = []
    for level in guesses:
        guessed = sequence.ids.copy()  # the first id is given
        guessed[1 : 1 + len(level)] = level[: len(guessed) - 1]
        own = np.clip(guessed[patches], *_legal(tokenizer, sequence)[:, patches])
        decoded.append(_bytes(tokenizer.decode(own, side).pixels, tokenizer))
    shown = ids[ids < tokenizer.patch_ids]
    return {
        "form": "picture",
        "height": height,
        "width": width,
        "channels": tokenizer.form.channels,
        "patch": list(tokenizer.patch),
        "rows": rows,
        "columns": columns,
        "cells": cells,
        "pixels": _bytes(tokenizer.decode(sequence.ids, side).pixels, tokenizer),
        "guesses": decoded,
        "thumbnails": {str(id): _thumbnail(id, tokenizer) for id in shown.tolist()},
        "thumbnail": [*tokenizer.patch, tokenizer.form.channels],
    }


def _legal(tokenizer: PatchTokenizer, sequence: Sequence) -> Ids:
    """(2, T) the lowest and the highest legal id of each place."""
    support = tokenizer.support(len(sequence.ids), sequence.side)
    if isinstance(support, tuple):
        support = np.tile(support, (len(sequence.ids), 1))
    assert support is not None  # pictures always have legal ids
    return np.stack((support[:, 0], np.maximum(support[:, 1] - 1, support[:, 0])))


def _bytes(pixels: Pixels, tokenizer: PatchTokenizer) -> list[int]:
    """Levels as shades 0 to 255."""
    most = max(tokenizer.form.levels - 1, 1)
    shades: Ids = np.rint(pixels.astype(np.float64) * 255 / most).astype(np.int64)
    return shades.ravel().tolist()


def _thumbnail(id: int, tokenizer: PatchTokenizer) -> list[int]:
    """A patch alone. The code of a later stage is what it adds, around a medium grey."""
    height, width = tokenizer.patch
    channels, levels = tokenizer.form.channels, tokenizer.form.levels
    if not tokenizer.codebooks:
        if tokenizer.joint:
            return _bytes(tokenizer.pixels_of(np.array([[id]]), height, width)[0], tokenizer)
        # an id is of one channel: the powers of the number of levels are its pixels
        power = levels ** np.arange(height * width)
        shades = np.repeat((id // power % levels)[:, None], channels, axis=1)
        return _bytes(shades.astype(np.uint8), tokenizer)
    first = 0
    for stage, book in enumerate(tokenizer.codebooks):
        if id < first + len(book):
            values = book[id - first] + (0.0 if stage == 0 else (levels - 1) / 2)
            return _bytes(np.clip(np.rint(values), 0, levels - 1).astype(np.uint8), tokenizer)
        first += len(book)
    raise AssertionError("an id of no codebook")
