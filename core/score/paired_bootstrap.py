"""Paired bootstrap: the difference of two models' scores on the same items, with a confidence
interval.

Items are resampled with replacement, the same ones for both models, and the difference in bits per
unit, or in another metric, is computed for each resample (Efron & Tibshirani 1993; Koehn 2004). So
the variation between items that both models share cancels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.keyed_random import key
from ..model.sequence_model import SequenceModel
from ..protocols import Score, Sequence, Tokenizer
from .likelihood import evaluate

BLOCK_BYTES = 1024  # of text, resampled as one unit
MIN_BLOCKS, MIN_BLOCK_BYTES = 8, 32  # of a text too short for so many larger ones
RESAMPLES = 2000
CONFIDENCE = 0.95
MAX_RESAMPLED_ITEMS = 1 << 22  # at once: 32 MB

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """The scores of an item, in blocks of some bytes for text, else in one block."""

    content: bytes  # a hash, equal for equal items
    nats: Array  # (blocks,)
    units: Array  # (blocks,)


def scored(
    model: SequenceModel,
    tokenizer: Tokenizer,
    sequences: Iterable[Sequence],
    units: Callable[[Sequence], float],
    as_ids: bool,
    pieces: list[bytes] | None = None,
) -> Iterator[Scored]:
    """Scores each item. `as_ids`: `content` is a hash of the ids; else of the decoded item, so that
    models with different tokenizers can be compared. pieces: the bytes of each id of a text
    tokenizer; if it is lossless, items are cut into blocks of BLOCK_BYTES, or of less where they
    are few and short."""
    first = list(islice(sequences := iter(sequences), MIN_BLOCKS))
    block_bytes, total = BLOCK_BYTES, int(sum(map(units, first)))
    if len(first) < MIN_BLOCKS and total < MIN_BLOCKS * BLOCK_BYTES:
        block_bytes = max(MIN_BLOCK_BYTES, total // MIN_BLOCKS)
    for score in evaluate(model, tokenizer, chain(first, sequences)):
        sequence = score.sequence
        digest = hashlib.sha256()
        if as_ids:
            digest.update(sequence.ids.tobytes())
        else:
            digest.update(_content(tokenizer.decode(sequence.ids, sequence.side)))
        if pieces is not None and tokenizer.lossless:
            nats, size = _blocks(score, pieces, block_bytes)
        else:
            nats, size = np.array([score.nll]), np.array([units(sequence)])
        yield Scored(digest.digest(), nats, size)


def _blocks(score: Score, pieces: list[bytes], block_bytes: int) -> tuple[Array, Array]:
    """Nats and bytes of each block of a text. A token belongs to the block of its first byte."""
    given = score.sequence.given
    ids = score.sequence.ids
    weighted = score.nats * score.sequence.target_weight()[given:]
    # begin and end tokens have no bytes
    lengths = np.array([len(pieces[i]) if i < len(pieces) else 0 for i in ids.tolist()], np.int64)
    starts = (lengths.cumsum() - lengths)[given:]
    size = int(lengths.sum())
    count = max(1, -(-size // block_bytes))
    block = np.minimum(starts // block_bytes, count - 1)
    units = np.full(count, float(block_bytes))
    units[-1] = size - block_bytes * (count - 1)
    return np.bincount(block, weighted, count).astype(np.float64), units


def _content(item: Any) -> bytes:
    """The bytes that identify a decoded item: its text, or its arrays. Other fields are left out,
    since a tokenizer may not encode them (the label of an image)."""
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
    """A metric of model b minus that of model a, with its confidence interval."""

    value: float
    low: float
    high: float


def difference(a: Array, b: Array, units: Array, seed: int = 0) -> Difference:
    """The ratio of sums of b and `units`, minus that of a and `units`. a, b: what N >= 2 blocks add
    to the numerator, such as bits; units: to the denominator; all (N,)."""
    count, excess = len(units), b - a
    rng = np.random.default_rng(key(seed, "bootstrap"))
    differences: list[Array] = []
    rows = max(1, MAX_RESAMPLED_ITEMS // count)
    for start in range(0, RESAMPLES, rows):
        items = rng.integers(0, count, (min(rows, RESAMPLES - start), count))
        differences.append(excess[items].sum(1) / np.maximum(units[items].sum(1), 1e-300))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(differences), (tail, 1 - tail))
    return Difference(float(excess.sum() / units.sum()), float(low), float(high))
