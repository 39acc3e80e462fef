"""Display of pictures: a grid as PNG, or characters for a terminal."""

from __future__ import annotations

import io
import math
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ...tokenizers.patches import Picture, Pixels
from .pictures import to_8_bit

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
FILE_TYPES = (*FORMATS, ".npz")
GAP_GREY = 64  # grey value of the lines between pictures
GRID_PIXELS = 320  # side that a grid is enlarged to, about
SHADES = " ░▒▓█"
MAX_WIDE_PIXELS = 16  # width of pictures, at most, whose pixels are two characters wide


def grid(pictures: list[Pixels], levels: int, scale: int | None = None, suffix: str = "") -> bytes:
    """A picture file in the format of a suffix, PNG if it is empty: one picture as it is, or a grid
    of several, enlarged if small and `scale` is None."""
    from PIL import Image

    images = [to_8_bit(pixels, levels) for pixels in pictures]
    height, width, channels = images[0].shape
    across = math.ceil(math.sqrt(len(images)))
    down = -(-len(images) // across)
    gap = 1 if len(images) > 1 else 0
    sheet = np.full(
        (down * (height + gap) + gap, across * (width + gap) + gap, channels), GAP_GREY, np.uint8
    )
    for number, image in enumerate(images):
        top = gap + number // across * (height + gap)
        left = gap + number % across * (width + gap)
        sheet[top : top + height, left : left + width] = image
    if scale is None:
        scale = max(1, GRID_PIXELS // max(sheet.shape[:2])) if len(images) > 1 else 1
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    out = io.BytesIO()
    whole = Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet)
    whole.save(out, FORMATS[suffix or ".png"], optimize=True, quality=95)
    return out.getvalue()


def write_arrays(pictures: list[Picture], out: BinaryIO) -> None:
    """A .npz: `images` (N, height, width[, channels]) of 0 ... levels - 1, and `labels` if all have
    one."""
    images = np.stack([each.pixels for each in pictures])
    arrays: dict[str, Any] = {"images": images.squeeze(-1) if images.shape[-1] == 1 else images}
    if all(each.label is not None for each in pictures):
        labels = [each.label or "" for each in pictures]
        whole = all(label.isdecimal() for label in labels)
        arrays["labels"] = np.array([int(label) for label in labels] if whole else labels)
    np.savez(out, **arrays)


def terminal_picture(pictures: list[Pixels], levels: int, width: int) -> str:
    """Pictures side by side in block characters, full blocks for bright pixels: one character for
    two pixels one above the other, or two characters a pixel if a picture is small."""
    blocks = [
        _characters(to_8_bit(pixels, levels).mean(axis=2) / 255, width) for pixels in pictures
    ]
    across = max(1, (width + 2) // (len(blocks[0][0]) + 2))
    lines = []
    for start in range(0, len(blocks), across):
        row = blocks[start : start + across]
        if start:
            lines.append("")
        lines += ["  ".join(parts).rstrip() for parts in zip(*row, strict=True)]
    return "\n".join(lines)


def _characters(grey: npt.NDArray[np.float64], width: int) -> list[str]:
    """The text lines of one picture, grey (height, width) in 0 ... 1."""
    if grey.shape[1] <= MAX_WIDE_PIXELS and 2 * grey.shape[1] <= width:
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
