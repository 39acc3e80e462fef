"""Picture completion: the top rows of a prompt picture, with which samples start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core.errors import DataError, UsageError
from ...tokenizers.patches import Form, Pixels
from .meaning import survey
from .pictures import quantised, read_all
from .reader import Found, is_picture_file, look
from .values import EIGHT_BITS


def prompt_rows(data: bytes, form: Form, patch_height: int, rows: int | None) -> tuple[Pixels, int]:
    """The prompt picture (`data`: its bytes or its file name) in the format of the run, and how
    many of its rows are the prompt: a multiple of `patch_height`. DataError, UsageError."""
    found = Found("-p", data)
    if not is_picture_file(data[:16]):
        path = Path(data.decode("utf-8", "surrogateescape"))
        if not path.is_file():
            raise DataError(f"-p {path}: no such file; give a picture's name, or - to pipe it")
        found = Found(f"-p {path}", path)
    seen = look(found)
    meaning = survey([found], [seen], None, None)
    if form.depth != 2:  # in one picture, 0 and 1 may be shades as dark as that
        meaning = replace(meaning, ranges={**meaning.ranges, "bytes": EIGHT_BITS})
    top_only = seen.width == form.width and seen.height < form.height
    height = seen.height if top_only else form.height
    wanted = replace(form, height=height)
    padded = np.zeros((form.height, form.width, form.channels), np.uint8)
    padded[:height] = read_all([found], meaning, wanted)[0][0]
    prompt_height = height if rows is None and top_only else rows
    if prompt_height is None:
        raise UsageError(f"--rows: how many of its {form.height} rows start the samples?")
    if not 0 <= prompt_height <= height or prompt_height % patch_height:
        even = f", a multiple of the patch's {patch_height}" if patch_height > 1 else ""
        raise UsageError(f"--rows {prompt_height}: must be 0 to {height}{even}")
    return quantised(padded[None], form)[0], prompt_height
