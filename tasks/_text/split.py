"""Held-out splits of text: the last part of a running text, or items chosen by a hash."""

from __future__ import annotations

import hashlib

import numpy as np

from ...core.data.keyed_random import uniform
from ...core.errors import DataError
from .spans import Spans


def split_by_hash(items: Spans, fraction: float, key: str) -> tuple[Spans, Spans]:
    """(train, held out) by a hash of each item's bytes, so that equal items stay together.
    Another `key` gives an independent split. DataError if all items are equal."""
    random = np.array(
        [uniform(key, hashlib.sha256(items.read(i)).hexdigest()) for i in range(len(items.spans))]
    )
    if random.min() == random.max():
        raise DataError(
            f"--data {items.about}: one item ({items.size} bytes), need at least 2 that "
            "differ so that one is held out; use --valid, or --each stream"
        )
    held_out = random < fraction
    if not held_out.any():
        held_out = random == random.min()
    if held_out.all():
        held_out = random < random.max()
    parts = [
        Spans(
            items.stream,
            items.spans[which],
            False,
            f"{items.fingerprint}/{name}{fraction}",
            f"{int(which.sum()):,} of {len(which):,} items",
        )
        for name, which in (("train", ~held_out), ("held", held_out))
    ]
    return parts[0], parts[1]


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
