"""Baselines for running text: compressors and an n-gram, in bits per byte of held-out text."""

from __future__ import annotations

import bz2
import gzip
import lzma

import numpy as np
import numpy.typing as npt

Grams = npt.NDArray[np.uint64]

CONTEXT_BYTES = 4  # of the n-gram: its order is one more


def compressors(held: bytes) -> dict[str, float]:
    """Bits per byte of the held-out bytes alone under gzip -9, bzip2 -9 and xz -9e."""
    sizes = {
        "gzip": len(gzip.compress(held, 9, mtime=0)),
        "bz2": len(bz2.compress(held, 9)),
        "xz": xz_size(held, 9 | lzma.PRESET_EXTREME),
    }
    return {name: 8 * size / max(len(held), 1) for name, size in sizes.items()}


def xz_size(data: bytes, preset: int) -> int:
    """The bytes of `xz -9`, or -9e. The dictionary is not larger than the data: one of 64 MB, as of
    these presets, takes 50 ms to set up and changes nothing."""
    dictionary = min(1 << 26, max(4096, 1 << len(data).bit_length()))
    kind = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}
    return len(lzma.compress(data, filters=[kind]))


def _grams(data: npt.NDArray[np.uint8], size: int) -> Grams:
    """(N,) the `size` bytes that end at each position, as one integer; zero bytes before data."""
    grams = np.zeros(len(data), np.uint64)
    for back in range(min(size, len(data))):
        grams[back:] |= data[: len(data) - back].astype(np.uint64) << np.uint64(8 * back)
    return grams


def _counted(data: npt.NDArray[np.uint8], size: int) -> list[tuple[Grams, npt.NDArray[np.int64]]]:
    """The distinct grams of 1 ... `size` bytes, sorted, and their counts; [] without data. Shorter
    grams are counted from the distinct longer ones, as sorting them all takes most of the time."""
    if not len(data):
        return []
    grams, counts = np.unique(_grams(data, size), return_counts=True)
    found = [(grams, counts)]
    for length in range(size - 1, 0, -1):
        shorter = grams & np.uint64((1 << 8 * length) - 1)
        order = np.argsort(shorter, kind="stable")
        shorter = shorter[order]
        first = np.flatnonzero(np.append(True, shorter[1:] != shorter[:-1]))
        grams, counts = shorter[first], np.add.reduceat(counts[order], first)
        found.append((grams, counts))
    return found[::-1]


def ngram(train: bytes, held: bytes, context_bytes: int = CONTEXT_BYTES) -> float:
    """Bits per byte of `held` under an interpolated Witten-Bell n-gram counted on `train`.

    Witten & Bell 1991, method C, interpolated: p_k(c | h) = (n(hc) + t(h) p_{k-1}(c)) / (n(h) +
    t(h)), with t(h) the number of different bytes seen after h, and p_{-1} uniform over 256.
    """
    train_bytes = np.frombuffer(train, np.uint8)
    targets = np.frombuffer(held, np.uint8)
    if not len(targets):
        return 0.0
    p = np.full(len(targets), 1 / 256)
    for length, (grams, counts) in enumerate(_counted(train_bytes, context_bytes + 1)):
        histories, first = np.unique(grams >> np.uint64(8), return_index=True)
        followers = np.diff(np.append(first, len(grams)))
        totals = np.add.reduceat(counts, first)
        wanted = _grams(targets, length + 1)
        at = np.minimum(np.searchsorted(grams, wanted), len(grams) - 1)
        n = np.where(grams[at] == wanted, counts[at], 0)
        at = np.minimum(np.searchsorted(histories, wanted >> np.uint64(8)), len(histories) - 1)
        known_history = histories[at] == wanted >> np.uint64(8)
        mixed = (n + followers[at] * p) / (totals[at] + followers[at])
        p = np.where(known_history, mixed, p)
    return float(-np.log2(p).mean())
