"""Residual vector quantisation (Juang & Gray 1982): each stage quantises the previous error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.protocols import Ids

Codebook = npt.NDArray[np.float32]

FIT_PATCHES = 200_000  # that a codebook is learned from, at most
CHUNK = 1 << 22  # array elements processed at a time, to bound memory


def learn_codebooks(vectors: npt.NDArray[Any], codes: int, stages: int) -> tuple[Codebook, ...]:
    """One codebook (at most `codes`, values) a stage, learned from evenly spaced vectors of
    (N, values). There are fewer stages if the residual is already zero."""
    residual = vectors[:: max(1, -(-len(vectors) // FIT_PATCHES))].astype(np.float32)
    books: list[Codebook] = []
    for _ in range(stages):
        if books and not residual.any():
            break
        books.append(_k_means(residual, codes))
        residual = residual - books[-1][nearest_code(residual, books[-1])]
    return tuple(books)


def nearest_code(vectors: npt.NDArray[np.float32], book: Codebook) -> Ids:
    """(N,) index of the code nearest to each of vectors (N, values), the first if several tie."""
    out = np.empty(len(vectors), np.int64)
    squares = (book.astype(np.float64) ** 2).sum(1).astype(np.float32)
    step = max(1, CHUNK // len(book))
    for at in range(0, len(vectors), step):
        part = vectors[at : at + step]
        out[at : at + step] = (squares - 2 * part @ book.T).argmin(1)
    return out


def _k_means(vectors: npt.NDArray[np.float32], codes: int) -> Codebook:
    from sklearn.cluster import MiniBatchKMeans

    distinct = np.unique(vectors, axis=0)
    if len(distinct) <= codes:
        return distinct
    means = MiniBatchKMeans(codes, batch_size=4096, n_init=1, max_iter=20, random_state=0)
    centres: Codebook = means.fit(vectors).cluster_centers_.astype(np.float32)
    return centres
