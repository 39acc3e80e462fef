"""Pictures for people: a grid as PNG, characters for a terminal."""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt

from ...tokenizers.patches import Pixels
from .pictures import shown

GAP = 64  # the grey between pictures
GRID_SIDE = 320  # pixels that a grid is enlarged to, about
SHADES = " ░▒▓█"
SMALL = 16  # pixels of width up to which a pixel is two characters wide


def grid(pictures: list[Pixels], levels: int, scale: int | None = None) -> bytes:
    """A PNG of all: one as it is, several side by side, enlarged where they are small."""
    from PIL import Image

    images = [shown(pixels, levels) for pixels in pictures]
    height, width, channels = images[0].shape
    across = math.ceil(math.sqrt(len(images)))
    down = -(-len(images) // across)
    gap = 1 if len(images) > 1 else 0
    sheet = np.full(
        (down * (height + gap) + gap, across * (width + gap) + gap, channels), GAP, np.uint8
    )
    for number, image in enumerate(images):
        top = gap + number // across * (height + gap)
        left = gap + number % across * (width + gap)
        sheet[top : top + height, left : left + width] = image
    if scale is None:
        scale = max(1, GRID_SIDE // max(sheet.shape[:2])) if len(images) > 1 else 1
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    out = io.BytesIO()
    Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet).save(out, "PNG", optimize=True)
    return out.getvalue()


def terminal_picture(pictures: list[Pixels], levels: int, width: int) -> str:
    """Pictures side by side in shades of blocks, bright pixels as full ones: a character for two
    pixels one above the other, or two for each where a picture is small."""
    blocks = [_characters(shown(pixels, levels).mean(axis=2) / 255, width) for pixels in pictures]
    across = max(1, (width + 2) // (len(blocks[0][0]) + 2))
    lines = []
    for start in range(0, len(blocks), across):
        some = blocks[start : start + across]
        if start:
            lines.append("")
        lines += ["  ".join(parts).rstrip() for parts in zip(*some, strict=True)]
    return "\n".join(lines)


def _characters(grey: npt.NDArray[np.float64], width: int) -> list[str]:
    """The lines of one picture, grey (height, width) in 0 ... 1."""
    if grey.shape[1] <= SMALL and 2 * grey.shape[1] <= width:
        return ["".join(2 * _shade(value) for value in row) for row in grey.tolist()]
    step = -(-grey.shape[1] // max(width, 1))
    below, right = -grey.shape[0] % step, -grey.shape[1] % step
    grey = np.pad(grey, ((0, below), (0, right)), "edge")
    grey = grey.reshape(grey.shape[0] // step, step, -1, step).mean(axis=(1, 3))
    if len(grey) % 2:
        grey = np.concatenate((grey, np.zeros((1, grey.shape[1]))))
    pairs = zip(grey[0::2].tolist(), grey[1::2].tolist(), strict=True)
    return ["".join(_half(a, b) for a, b in zip(*rows, strict=True)) for rows in pairs]


def _shade(value: float) -> str:
    return SHADES[min(int(value * len(SHADES)), len(SHADES) - 1)]


def _half(above: float, below: float) -> str:
    if abs(above - below) > 0.4:
        return "▀" if above > below else "▄"
    return _shade((above + below) / 2)
