"""Pictures that are drawn: begun with rows of a given one, grown id by id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import DataError, UsageError
from ...core.protocols import Sequence
from ...tokenizers.patches import Form, PatchTokenizer, Picture, Pixels
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


class DrawnPicture:
    """A picture as its ids come; there is nothing to show before the end."""

    def __init__(self, tokenizer: PatchTokenizer, prompt: Sequence) -> None:
        self.tokenizer, self.side, self.ids = tokenizer, prompt.side, prompt.ids.tolist()

    def feed(self, id: int) -> bytes:
        self.ids.append(id)
        return b""

    def rest(self) -> bytes:
        return b""

    def item(self) -> Picture:
        return self.tokenizer.decode(np.array(self.ids, np.int64), self.side)
