"""Pictures converted to one format (size, channels, levels); their split and baselines."""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.data.keyed_random import key, mix, uniform
from ...core.data.source import scratch_file
from ...core.errors import DataError, UsageError
from ...tokenizers.patches import Form, Pixels
from .reader import Found, Look, decode, look

MAX_DEFAULT_SIDE = 64  # pixels of a picture's longer side, without --pixels
PNG_DIMS = 1_000_000  # of held-out pictures, at most, for the PNG baseline
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Items. `raw` (N, height, width, channels): decoded pixels of `form.depth` values. `found`:
    the source of each, to decode it again in another format."""

    raw: Pixels
    labels: tuple[str | None, ...]
    form: Form
    found: tuple[Found, ...]
    fingerprint: str
    about: str
    classes: tuple[str, ...] = ()  # of the data set that these are a split of
    cache: dict[str, Any] = field(default_factory=dict)  # computed arrays by name

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def size(self) -> int:
        return int(self.raw.size)

    def names(self) -> tuple[str, ...]:
        """The sorted distinct labels (numbers by value), of the full data set if this is a split;
        empty if a picture has no label."""
        if None in self.labels or self.classes:
            return self.classes
        found = {str(label) for label in self.labels}
        numeric = all(name.isdecimal() for name in found)
        return tuple(sorted(found, key=lambda n: (int(n), n)) if numeric else sorted(found))

    def pixels(self) -> Pixels:
        """(N, ...) at the levels of the format; stochastic ones depend on the content alone."""
        if "pixels" not in self.cache:
            self.cache["pixels"] = quantised(self.raw, self.form)
        out: Pixels = self.cache["pixels"]
        return out

    def some(self, which: npt.NDArray[np.int64], name: str) -> Pictures:
        chosen = which.tolist()
        return Pictures(
            self.raw[which],
            tuple(self.labels[i] for i in chosen),
            self.form,
            tuple(self.found[i] for i in chosen),
            f"{self.fingerprint}/{name}",
            f"{len(chosen):,} of {len(self):,} pictures",
            self.names(),
        )

    def converted_to(self, form: Form) -> Pictures:
        """The same pictures in another format, decoded again if size, channels or depth differ."""
        if form == self.form:
            return self
        wanted = (form.height, form.width, form.channels, form.depth)
        current = (self.form.height, self.form.width, self.form.channels, self.form.depth)
        raw = self.raw if wanted == current else read_all(self.found, form)[0]
        return replace(self, raw=raw, form=form, cache={})

    def split(self, fraction: float, key: str = "split") -> tuple[Pictures, Pictures]:
        """(train, held out) by a hash of the pixels, so that equal pictures stay together."""
        digests = [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in self.raw]
        held_out = np.array([uniform(key, digest) < fraction for digest in digests])
        if held_out.all() or not held_out.any():
            held_out = np.array([digest == digests[-1] for digest in digests])
        if held_out.all():
            raise DataError(
                f"--data: {self.about}: need at least 2 different ones so that one is held out; "
                "add some, or name others with --valid"
            )
        train = self.some(np.flatnonzero(~held_out), f"train{fraction}")
        held = self.some(np.flatnonzero(held_out), f"held{fraction}")
        return replace(train, about=f"{train.about} ({self.about})"), held


# -- form ----------------------------------------------------------------------------------------


def choose_form(
    found: list[Found],
    looks: list[Look],
    size: tuple[int, int] | None,
    grey: bool,
    levels: int | None,
    binarise: str | None,
) -> Form:
    """The format that the options set; by default the most common size, colour if any picture has
    colour, and as many levels as the pictures have."""
    sizes = Counter((seen.height, seen.width) for seen in looks)
    height, width = size or max(sizes, key=lambda s: (sizes[s], s))
    longest = max(height, width)
    if size is None and longest > MAX_DEFAULT_SIDE:
        height = max(1, round(height * MAX_DEFAULT_SIDE / longest))
        width = max(1, round(width * MAX_DEFAULT_SIDE / longest))
    colour = not grey and any(seen.colour for seen in looks)
    depth = 2
    for each, seen in zip(found, looks, strict=True):
        same = (seen.height, seen.width) == (height, width)
        depth = max(depth, 2 if seen.mode == "1" and same and not colour else each.depth)
    if levels is not None and not 2 <= levels <= depth:
        raise UsageError(f"--levels {levels}: must be 2 to {depth}, the values that a pixel has")
    if binarise and levels not in (None, 2):
        raise UsageError(f"--binarise {binarise}: makes two levels, not --levels {levels}")
    wanted = 2 if binarise else levels or depth
    return Form(height, width, 3 if colour else 1, depth, wanted, binarise)


def inspect_all(found: Iterable[Found], skip_bad: bool) -> tuple[list[Found], list[Look], int]:
    """The pictures that can be opened, their headers, and how many cannot be opened."""
    kept, looks, bad = [], [], 0
    for each in found:
        try:
            seen = look(each)
            if not seen.height or not seen.width:
                raise DataError(f"{each.name}: has no pixels")
            looks.append(seen)
            kept.append(each)
        except DataError:
            if not skip_bad:
                raise
            bad += 1
    return kept, looks, bad


def read_all(
    found: Iterable[Found], form: Form, skip_bad: bool = False
) -> tuple[Pixels, list[int]]:
    """Raw pixels (N, height, width, channels), memory-mapped from a scratch file, and the indices
    in `found` of the pictures that could be decoded."""
    found = list(found)
    shape = (len(found), form.height, form.width, form.channels)
    raw = np.memmap(scratch_file("pixels"), np.uint8, "w+", shape=shape)
    good: list[int] = []
    for number, each in enumerate(found):
        try:
            pixels = decode(each, form.height, form.width, form.channels)
        except DataError:
            if not skip_bad:
                raise
            continue
        depth = each.depth if isinstance(each.data, np.ndarray) else 256
        raw[len(good)] = _to_depth(pixels, depth, form.depth)
        good.append(number)
    return np.asarray(raw[: len(good)]), good


def _to_depth(pixels: Pixels, depth: int, wanted: int) -> Pixels:
    """Rescale pixels of `depth` values to `wanted` values. An array of 3 ... `wanted` - 1 values
    stays as it is."""
    if depth == wanted or 2 < depth < wanted:
        return pixels
    if depth > wanted:
        return (pixels.astype(np.int64) * wanted // depth).astype(np.uint8)
    more: Pixels = np.rint(pixels * ((wanted - 1) / (depth - 1))).astype(np.uint8)
    return more


def quantised(raw: Pixels, form: Form, draw: npt.NDArray[np.int64] | None = None) -> Pixels:
    """Raw pixels (N, ...) at the levels of the format: bins of equal width, or, for `stochastic`,
    1 with the probability of the grey value (Salakhutdinov & Murray 2008). The random seed of a
    picture is its content, or `draw` (N,)."""
    if form.binarise == "stochastic":
        seeds = (
            draw
            if draw is not None
            else np.array(
                [int.from_bytes(hashlib.sha256(x.tobytes()).digest()[:8], "little") for x in raw],
                np.uint64,
            )
        )
        at = np.arange(raw[0].size if len(raw) else 0, dtype=np.uint64)
        rows = mix(seeds, key("binarise"))[:, None] + at * np.uint64(0x9E3779B97F4A7C15)
        chance = (mix(rows, key("pixel")) >> np.uint64(11)).astype(np.float64) / 2.0**53
        return (chance.reshape(raw.shape) * (form.depth - 1) < raw).astype(np.uint8)
    return _to_depth(raw, form.depth, form.levels) if form.depth > form.levels else raw


def to_8_bit(pixels: Pixels, levels: int) -> Pixels:
    """Rescale values 0 ... levels - 1 to 0 ... 255, for display."""
    grey: Pixels = np.rint(pixels * (255 / max(levels - 1, 1))).astype(np.uint8)
    return grey


def describe(form: Form, looks: list[Look], labels: int, bad: int) -> str:
    """One line for people: the format, and how many pictures were converted in each way."""
    kind = "grey" if form.channels == 1 else "colour"
    binary = f", binarised ({form.binarise})" if form.binarise else ""
    parts = [f"{form.height}x{form.width} {kind}, {form.levels} levels{binary}"]
    if labels:
        parts.append(f"{labels} labels")
    size = (form.height, form.width)
    counts = {
        "resized": sum((seen.height, seen.width) != size for seen in looks),
        "made grey": sum(seen.colour for seen in looks) if form.channels == 1 else 0,
        "made colour": sum(not seen.colour for seen in looks) if form.channels == 3 else 0,
        "with a palette": sum(seen.mode == "P" for seen in looks),
        "laid on white": sum(seen.mode in ALPHA_MODES for seen in looks),
        "of 16 bits brought to 8": sum(seen.mode.startswith(("I", "F")) for seen in looks),
        "unreadable, left out": bad,
    }
    return ", ".join([*parts, *(f"{n:,} {what}" for what, n in counts.items() if n)])


# -- baselines -----------------------------------------------------------------------------------


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
