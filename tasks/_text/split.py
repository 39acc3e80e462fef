"""What is held out of a text: its last part, or items chosen by what they say."""

from __future__ import annotations

import hashlib

import numpy as np

from ...core.data.keyed_random import uniform
from ...core.errors import DataError
from .spans import Spans


def split_by_hash(items: Spans, fraction: float, key: str) -> tuple[Spans, Spans]:
    """(train, held out) by a hash of what items say, so that equal ones stay together; `key` tells
    one split from another. DataError where items do not differ."""
    drawn = np.array(
        [uniform(key, hashlib.sha256(items.read(i)).hexdigest()) for i in range(len(items.spans))]
    )
    if drawn.min() == drawn.max():
        raise DataError(
            f"--data {items.about}: one item ({items.size} bytes), need at least 2 that "
            "differ so that one is held out; use --valid, or --each stream"
        )
    hidden = drawn < fraction
    if not hidden.any():
        hidden = drawn == drawn.min()
    if hidden.all():
        hidden = drawn < drawn.max()
    parts = [
        Spans(
            items.stream,
            items.spans[which],
            False,
            f"{items.fingerprint}/{name}{fraction}",
            f"{int(which.sum()):,} of {len(which):,} items",
        )
        for name, which in (("train", ~hidden), ("held", hidden))
    ]
    return parts[0], parts[1]


def split_by_place(items: Spans, fraction: float, most: int | None = None) -> tuple[Spans, Spans]:
    """(train, held out): the first part of a running text and its last `fraction`, `most` bytes at
    most, cut between characters. DataError where there is too little text."""
    too_little = DataError(
        f"--data {items.about}: need at least {max(3, int(1 / fraction) + 1)} bytes to "
        f"train on and hold some out, got {items.size}"
    )
    held = int(items.size * fraction)
    if most is not None:
        held = min(held, most)
    if held < 1 or items.size - held < 2:
        raise too_little
    before = np.cumsum(items.spans[:, 1] - items.spans[:, 0])
    number = int(np.searchsorted(before, items.size - held, side="right"))
    number = min(number, len(before) - 1)
    start, end = items.spans[number].tolist()
    cut = items.whole_character(end - int(before[number] - (items.size - held)), end)
    if cut == end and number == len(before) - 1:  # nothing would be held out
        cut = items.last_character(start, end)
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
        raise too_little
    return parts[0], parts[1]
