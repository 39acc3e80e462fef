"""Baselines of pictures: a histogram for each pixel, and PNG."""

from __future__ import annotations

import io
import math

import numpy as np

from ...tokenizers.patches import Pixels

PNG_DIMS = 1_000_000  # of held-out pictures, at most, for the PNG baseline


def histogram(train: Pixels, held: Pixels, levels: int) -> float:
    """Bits per dim of `held` under one histogram for each channel of each pixel, counted on
    `train` and interpolated with p, the histogram of all pixels, as in Witten & Bell 1991
    (method C): (n + t p) / (N + t), t the number of distinct values seen there."""
    pixels, targets = train.reshape(len(train), -1), held.reshape(len(held), -1)
    all_counts = np.bincount(pixels.reshape(-1), minlength=levels) + 1.0
    p = all_counts / all_counts.sum()
    bits = 0.0
    for at in range(pixels.shape[1]):
        counts = np.bincount(pixels[:, at], minlength=levels)
        distinct = (counts > 0).sum()
        bits -= np.log2((counts + distinct * p) / (len(pixels) + distinct))[targets[:, at]].sum()
    return float(bits / max(targets.size, 1))


def png(held: Pixels, levels: int) -> float:
    """Bits per dim of pictures tiled in one PNG, so that the file header counts only once."""
    count = min(len(held), max(1, PNG_DIMS // max(1, held[0].size)))
    across = math.isqrt(count)
    some = held[: count // across * across]
    rows = some.reshape(-1, across, *some.shape[1:]).transpose(0, 2, 1, 3, 4)
    sheet = rows.reshape(-1, across * some.shape[2], some.shape[3])
    return 8 * len(png_bytes(sheet, levels)) / sheet.size


def png_bytes(pixels: Pixels, levels: int) -> bytes:
    """A PNG of (height, width, 1 or 3), with the fewest bits a pixel that fit the levels."""
    from PIL import Image

    out = io.BytesIO()
    if pixels.shape[2] == 3:
        Image.fromarray(pixels).save(out, "PNG", optimize=True)
        return out.getvalue()
    flat = np.ascontiguousarray(pixels[..., 0])
    if levels == 2:
        Image.fromarray(flat * np.uint8(255)).convert("1", dither=Image.Dither.NONE).save(
            out, "PNG", optimize=True
        )
    elif levels <= 16:
        image = Image.fromarray(flat)
        image.putpalette([value for value in range(levels) for _ in range(3)])
        image.save(out, "PNG", optimize=True, bits=2 if levels <= 4 else 4)
    else:
        Image.fromarray(flat).save(out, "PNG", optimize=True)
    return out.getvalue()
