"""Held-out splits of text: the last part of a running text, or items chosen by a hash."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...core.data.keyed_random import held_out, key, mix
from ...core.errors import DataError
from .spans import Spans

BLOCK_BYTES = 1 << 20  # of items, read at a time


@dataclass(frozen=True)
class Largest:
    """The most items, and the most bytes, to hold out."""

    count: int
    size: int


def split_by_hash(
    items: Spans, fraction: float, purpose: str, largest: Largest | None = None
) -> tuple[Spans, Spans]:
    """(train, held out) by a hash of each item's bytes, so that equal items stay together.
    Another `purpose` gives an independent split. largest: of the held-out part; None: any.
    DataError if all items are equal."""
    if largest is not None:
        fraction = min(
            fraction, largest.size / max(items.size, 1), largest.count / len(items.spans)
        )
    random = _uniform(items, key("items", purpose))
    held = held_out(random, fraction)
    if not held.any():
        raise DataError(
            f"--data {items.about}: one item ({items.size} bytes), need at least 2 that "
            "differ so that one is held out; use --valid, or --each stream"
        )
    parts = [
        Spans(
            items.stream,
            items.spans[which],
            False,
            f"{items.fingerprint}/{name}{fraction}/crc",
            f"{int(which.sum()):,} of {len(which):,} items",
            items.whole_files,
        )
        for name, which in (("train", ~held), ("held", held))
    ]
    return parts[0], parts[1]


def _uniform(items: Spans, seed: int) -> npt.NDArray[np.float64]:
    """(N,) numbers in [0, 1), hashes of each item's bytes: its CRC-32, mixed with a seed.
    Neighbouring items are read together."""
    found = np.empty(len(items.spans))
    start = stop = 0
    block = memoryview(b"")
    for number, (first, last) in enumerate(items.each()):
        if not start <= first <= last <= stop:
            start, stop = first, max(last, min(first + BLOCK_BYTES, len(items.stream)))
            block = memoryview(items.stream.read(start, stop))
        found[number] = zlib.crc32(block[first - start : last - start])
    for at in range(0, len(found), BLOCK_BYTES):  # in place: arrays of all items are large
        here = slice(at, at + BLOCK_BYTES)
        found[here] = mix(found[here], seed) / 2.0**64
    return found


def split_by_position(
    items: Spans, fraction: float, max_bytes: int | None = None
) -> tuple[Spans, Spans]:
    """(train, held out) of a running text: the held-out part is its last `fraction`, at most
    `max_bytes`, cut between characters. DataError if the text is too short."""
    too_short = DataError(
        f"--data {items.about}: need at least {max(3, int(1 / fraction) + 1)} bytes to "
        f"train on and hold some out, got {items.size}"
    )
    held_bytes = int(items.size * fraction)
    if max_bytes is not None:
        held_bytes = min(held_bytes, max_bytes)
    if held_bytes < 1 or items.size - held_bytes < 2:
        raise too_short
    before = np.cumsum(items.spans[:, 1] - items.spans[:, 0])
    number = int(np.searchsorted(before, items.size - held_bytes, side="right"))
    number = min(number, len(before) - 1)
    start, end = items.spans[number].tolist()
    cut = items.character_boundary(end - int(before[number] - (items.size - held_bytes)), end)
    if cut == end and number == len(before) - 1:  # nothing would be held out
        cut = items.last_character_start(start, end)
    train = [*items.spans[:number].tolist(), [start, cut]]
    rest = [[cut, end], *items.spans[number + 1 :].tolist()]
    parts = []
    for name, spans in (("train", train), ("held", rest)):
        kept = np.array([s for s in spans if s[1] > s[0]], np.int64).reshape(-1, 2)
        size = int((kept[:, 1] - kept[:, 0]).sum())
        which = "first" if name == "train" else "last"
        parts.append(
            Spans(
                items.stream,
                kept,
                True,
                f"{items.fingerprint}/{name}{cut}",
                f"the {which} {size:,} bytes",
            )
        )
    if parts[0].size < 2:  # the rest is one character
        raise too_short
    return parts[0], parts[1]
