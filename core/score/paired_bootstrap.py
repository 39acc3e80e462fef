"""Whether one model is worse than another on the same items, and how sure that is.

Paired bootstrap (Efron & Tibshirani 1993; Koehn 2004): the items are drawn again with replacement,
for both models alike, and the difference in bits per unit worked out anew each time. What varies
between items but not between models drops out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.keyed_random import key
from ..model.sequence_model import SequenceModel
from ..protocols import Score, Sequence, Tokenizer
from .likelihood import evaluate

BLOCK = 1024  # bytes of a text that are drawn as one
RESAMPLES = 2000
CONFIDENCE = 0.95
DRAWN = 1 << 22  # items drawn at once: 32 MB

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """An item: what says whether another is the same one, and nats (N,) and units (N,) of its N
    blocks (a text's; one of anything else)."""

    content: bytes
    nats: Array
    units: Array


def scored(
    model: SequenceModel,
    tokenizer: Tokenizer,
    sequences: Iterable[Sequence],
    units: Callable[[Sequence], float],
    as_ids: bool,
    pieces: list[bytes] | None = None,
) -> Iterator[Scored]:
    """Each item by the model. `as_ids`: items are the same where their ids are, rather than
    where what the ids stand for is, as between different tokenizers. pieces: the bytes of each id
    of a tokenizer of text, whose items are cut into blocks where it is lossless."""
    for score in evaluate(model, tokenizer, sequences):
        sequence = score.sequence
        digest = hashlib.sha256()
        if as_ids:
            digest.update(sequence.ids.tobytes())
        else:
            digest.update(_content(tokenizer.decode(sequence.ids, sequence.side)))
        if pieces is not None and tokenizer.lossless:
            nats, size = _blocks(score, pieces)
        else:
            nats, size = np.array([score.nll]), np.array([units(sequence)])
        yield Scored(digest.digest(), nats, size)


def _blocks(score: Score, pieces: list[bytes]) -> tuple[Array, Array]:
    """nats and bytes of each BLOCK of a text; a token is its first byte's."""
    given = score.sequence.given
    ids = score.sequence.ids
    weighted = score.nats * score.sequence.target_weight()[given:]
    # begin and end stand for no bytes
    lengths = np.array([len(pieces[i]) if i < len(pieces) else 0 for i in ids.tolist()], np.int64)
    starts = (lengths.cumsum() - lengths)[given:]
    size = int(lengths.sum())
    count = max(1, -(-size // BLOCK))
    block = np.minimum(starts // BLOCK, count - 1)
    units = np.full(count, float(BLOCK))
    units[-1] = size - BLOCK * (count - 1)
    return np.bincount(block, weighted, count).astype(np.float64), units


def _content(item: Any) -> bytes:
    """What an item is, for the purpose of telling whether another is the same: its bytes, or its
    arrays (a picture's label may be known to one tokenizer alone)."""
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    arrays = [v for v in getattr(item, "__dict__", {}).values() if isinstance(v, np.ndarray)]
    if not arrays:
        return repr(item).encode()
    return b"".join(repr(a.shape).encode() + a.astype(np.float64).tobytes() for a in arrays)


@dataclass(frozen=True)
class Difference:
    """Of two models' bits per unit: b's less a's, with the interval that holds it."""

    value: float
    low: float
    high: float


def difference(a: Array, b: Array, units: Array, seed: int = 0) -> Difference:
    """nats of N >= 2 items by either model, and the units they hold, each (N,)."""
    count, worse = len(units), (b - a) / math.log(2)
    draw = np.random.default_rng(key(seed, "bootstrap"))
    found: list[Array] = []
    rows = max(1, DRAWN // count)
    for start in range(0, RESAMPLES, rows):
        chosen = draw.integers(0, count, (min(rows, RESAMPLES - start), count))
        found.append(worse[chosen].sum(1) / np.maximum(units[chosen].sum(1), 1e-300))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(found), (tail, 1 - tail))
    return Difference(float(worse.sum() / units.sum()), float(low), float(high))
