"""Pictures converted to one format (size, channels, levels), and their split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.data.keyed_random import key, mix, uniform
from ...core.data.scratch import scratch_file
from ...core.errors import DataError, UsageError
from ...core.files import mapped
from ...core.task import Description
from ...tokenizers.patches import Form, Pixels
from .._labelled.labels import label_names
from .meaning import Meaning
from .reader import Found, Look, decode, look

MAX_DEFAULT_SIDE = 64  # pixels of a picture's longer side, without --pixels


@dataclass(frozen=True, eq=False)
class Pictures:
    """Items. `raw` (N, height, width, channels): decoded pixels of `form.depth` values. `found`
    and `meaning`: the source of each and how it is read, to decode it again in another format.
    `label_position`: first, last or none."""

    raw: Pixels
    form: Form
    found: tuple[Found, ...]
    meaning: Meaning
    fingerprint: str
    about: str
    description: Description
    label_position: str = "none"
    useless: tuple[str, ...] = ()  # options that cannot apply to these, as errors
    classes: tuple[str, ...] = ()  # of the data set that these are a split of
    cache: dict[str, Any] = field(default_factory=dict)  # computed arrays by name

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def size(self) -> int:
        return int(self.raw.size)

    @property
    def labels(self) -> tuple[str | None, ...]:
        return tuple(each.label for each in self.found)

    def names(self) -> tuple[str, ...]:
        """The distinct labels in order (numbers by value), of the full data set if a split."""
        return self.classes or label_names(self.labels)

    def pixels(self) -> Pixels:
        """(N, ...) at the levels of the format; stochastic ones depend on the content alone."""
        if "pixels" not in self.cache:
            self.cache["pixels"] = quantised(self.raw, self.form)
        out: Pixels = self.cache["pixels"]
        return out

    def some(self, which: npt.NDArray[np.int64], name: str) -> Pictures:
        return replace(
            self,
            raw=self.raw[which],
            found=tuple(self.found[i] for i in which.tolist()),
            fingerprint=f"{self.fingerprint}/{name}",
            about=f"{len(which):,} of {counted(len(self))}",
            classes=self.names(),
            cache={},
        )

    def converted_to(self, form: Form) -> Pictures:
        """The same pictures in another format, decoded again if size, channels or depth differ."""
        if form == self.form and form.range == self.form.range:
            return self
        wanted = (form.height, form.width, form.channels, form.depth, form.range)
        own = self.form
        current = (own.height, own.width, own.channels, own.depth, own.range)
        raw = self.raw
        if wanted != current:
            raw = read_all(self.found, self.meaning.like(form), form)[0]
        return replace(self, raw=raw, form=form, cache={})

    def parts(self) -> dict[str, Pictures]:
        """The parts that the data names, train and valid or test or both; {} if it does not."""
        names = {each.part for each in self.found}
        if {"valid", "test"} <= names and "train" not in names:
            raise DataError("--data: has parts for validation and test, and none for training")
        if not {"train"} < names:
            return {}
        numbers = {
            part: np.array([n for n, each in enumerate(self.found) if each.part == part])
            for part in ("train", "valid", "test")
            if part in names
        }
        return {part: self.some(which, part) for part, which in numbers.items()}

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
        return train, self.some(np.flatnonzero(held_out), f"held{fraction}")


def counted(pictures: int) -> str:
    """A number of pictures for people."""
    return f"{pictures:,} picture{'' if pictures == 1 else 's'}"


# -- form ----------------------------------------------------------------------------------------


def choose_form(
    looks: Sequence[Look],
    meaning: Meaning,
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
    colour = not grey and not meaning.grey and any(seen.colour for seen in looks)
    depth = 2
    for seen in looks:
        same = (seen.height, seen.width) == (height, width)
        one_bit = seen.mode == "1" and same and not colour
        depth = max(depth, 2 if one_bit else meaning.ranges[seen.kind].depth)
    if levels is not None and not 2 <= levels <= depth:
        raise UsageError(f"--levels {levels}: must be 2 to {depth}, the values that a pixel has")
    if binarise and levels not in (None, 2):
        raise UsageError(f"--binarise {binarise}: makes two levels, not --levels {levels}")
    wanted = 2 if binarise else levels or depth
    return Form(height, width, 3 if colour else 1, depth, wanted, binarise, meaning.stored())


def inspect_all(
    found: Iterable[Found], skip_bad: bool
) -> tuple[list[Found], list[Look], list[str]]:
    """The pictures that can be opened, their headers, and the names of those that cannot."""
    kept, looks, bad = [], [], []
    for each in found:
        try:
            seen = look(each)
            if not seen.height or not seen.width:
                raise DataError(f"{each.name}: has no pixels")
            looks.append(seen)
            kept.append(replace(each, kind=seen.kind))
        except DataError:
            if not skip_bad:
                raise
            bad.append(each.name)
    return kept, looks, bad


def read_all(
    found: Sequence[Found], meaning: Meaning, form: Form, skip_bad: bool = False
) -> tuple[Pixels, list[int]]:
    """Raw pixels (N, height, width, channels), memory-mapped from a scratch file, and the indices
    in `found` of the pictures that could be decoded."""
    shape = (len(found), form.height, form.width, form.channels)
    raw = mapped(scratch_file("pixels"), shape)
    good: list[int] = []
    for number, each in enumerate(found):
        try:
            range = meaning.ranges[each.kind or look(each).kind]
            pixels = decode(each, range, form.height, form.width, form.channels)
        except DataError:
            if not skip_bad:
                raise
            continue
        raw[len(good)] = _to_depth(pixels, range.depth, form.depth)
        good.append(number)
    return np.asarray(raw[: len(good)]), good


def _to_depth(pixels: Pixels, depth: int, wanted: int) -> Pixels:
    """Rescale pixels of `depth` values to `wanted` values."""
    if depth == wanted:
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
