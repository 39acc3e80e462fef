"""The rows of a given picture that a drawn one begins with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import DataError, UsageError
from ...tokenizers.patches import Form, Pixels
from .pictures import quantised
from .reader import MAGIC, Found, decode, look


def given_top(data: bytes, form: Form, step: int, rows: int | None) -> tuple[Pixels, int]:
    """The prompt's picture (or that of the file it names) in the run's form, and how many of
    its rows are given, a multiple of `step`, the height of a patch."""
    found = Found("-p", data)
    if not data.startswith(MAGIC):
        path = Path(data.decode("utf-8", "surrogateescape"))
        if not path.is_file():
            raise DataError(f"-p {path}: no such file; give a picture's name, or - to pipe it")
        found = Found(f"-p {path}", path)
    seen = look(found)
    part = seen.width == form.width and seen.height < form.height
    height = seen.height if part else form.height
    raw = decode(found, height, form.width, form.channels)
    whole = np.zeros((form.height, form.width, form.channels), np.uint8)
    whole[:height] = raw
    if form.depth != 256:
        whole = (whole.astype(np.int64) * form.depth // 256).astype(np.uint8)
    given = height if rows is None and part else rows
    if given is None:
        raise UsageError(f"--rows: how many of its {form.height} rows are given?")
    if not 0 <= given <= height or given % step:
        even = f", a multiple of the patch's {step}" if step > 1 else ""
        raise UsageError(f"--rows {given}: must be 0 to {height}{even}")
    return quantised(whole[None], form)[0], given
