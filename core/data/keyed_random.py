"""Stateless randomness: every random number is a hash of a seed, a purpose and an index."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]


def key(*parts: object) -> int:
    """A 63-bit seed: the hash of `parts` (numbers and strings)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniform(*parts: object) -> float:
    """A uniform number in [0, 1): the hash of `parts`."""
    return key(*parts) / 2.0**63


def mix(values: Any, seed: int) -> U64:
    """A random 64-bit integer per value (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.asarray(values).astype(np.uint64) + np.uint64(seed % 2**64)
        z = (z + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def permute(indices: npt.NDArray[np.int64], size: int, seed: int) -> npt.NDArray[np.int64]:
    """Maps each index by a keyed permutation of range(size), for sizes up to 2^62, without a table.

    A Feistel network permutes the next even number of bits; results outside range(size) are
    permuted again (cycle walking).
    """
    half = max(1, -(-(max(size - 1, 1)).bit_length() // 2))
    mask = np.uint64((1 << half) - 1)
    out = indices.astype(np.uint64)
    outside = np.ones(len(out), bool)
    while outside.any():
        left, right = out[outside] >> np.uint64(half), out[outside] & mask
        for round in range(4):
            left, right = right, left ^ (mix(right, key(seed, round)) & mask)
        out[outside] = (left << np.uint64(half)) | right
        outside &= out >= np.uint64(size)
    return out.astype(np.int64)


def held_out(random: npt.NDArray[np.float64], fraction: float) -> npt.NDArray[np.bool_]:
    """Which items are held out: those whose number in [0, 1) is below `fraction`, at least one and
    not all; none if all numbers are equal. Items with equal numbers stay together."""
    found: npt.NDArray[np.bool_] = random < fraction
    if not found.any():
        found = random == random.min(initial=1.0)
    if found.all():
        found = random < random.max(initial=0.0)
    return found
