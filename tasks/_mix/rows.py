"""Training rows of several domains in one vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.data.keyed_random import key, permute
from ...core.protocols import Array, Batch, Dataset, Ids
from ...tokenizers.mixed import MixedTokenizer


class MixedRows:
    """Rows of context + 1 ids, each of one part: as many rows of its own data set as fit, one after
    another; they do not attend to each other. weights: the share of tokens of each part.

    An epoch is long enough for the part that is seen the least often to be seen once.
    """

    def __init__(
        self,
        data: dict[str, Dataset],
        weights: dict[str, float],
        tokenizer: MixedTokenizer,
        context: int,
        seed: int,
    ) -> None:
        self.tokenizer, self.context, self.seed = tokenizer, context, seed
        self.parts = list(data.items())
        self.fits = [(context + 1) // (each.context + 1) for _, each in self.parts]
        tokens = [n * each.context for n, (_, each) in zip(self.fits, self.parts, strict=True)]
        rows = np.array(
            [weights[name] / size for (name, _), size in zip(self.parts, tokens, strict=True)]
        )
        whole = [len(each) / n for n, (_, each) in zip(self.fits, self.parts, strict=True)]
        epoch = max(size / share for size, share in zip(whole, rows, strict=True))
        self.counts = np.maximum(1, np.rint(rows * epoch)).astype(np.int64)
        self.ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batch(self, indices: Ids) -> Batch[Array]:
        shape = (len(indices), self.context + 1)
        axes = self.tokenizer.axes
        ids, weight = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        segments = np.full(shape, -1, np.int64)
        positions = np.zeros((*shape, axes), np.int64)
        support = np.broadcast_to(np.array([0, self.tokenizer.vocab_size]), (*shape, 2)).copy()
        epoch, row = indices // len(self), indices % len(self)
        part = np.searchsorted(self.ends, row, side="right")
        plain, ranges = True, set[tuple[int, int] | None]()
        for number in np.unique(part).tolist():
            name, data = self.parts[number]
            at, fits = np.flatnonzero(part == number), self.fits[number]
            own = self._chosen(number, epoch[at], row[at])
            batch = data.batch(own)
            width = batch.ids.shape[1]
            here = slice(0, fits * width)

            def laid(values: Array, rows: int = len(at), size: int = fits * width) -> Array:
                return values.reshape(rows, size, *values.shape[2:])

            low, high = self.tokenizer.ids_of(name)
            ids[at, here] = laid(batch.ids) + low
            weight[at, here] = laid(batch.weight)
            each = np.zeros_like(batch.ids) if batch.segments is None else batch.segments
            turn = np.arange(len(own))[:, None] % fits * (int(each.max(initial=0)) + 1)
            segments[at, here] = laid(np.where(each >= 0, each + turn, -1))
            places = np.arange(width)[None, :, None]
            if batch.positions is not None:
                places = batch.positions[..., np.arange(axes) % batch.positions.shape[-1]]
            positions[at, here] = laid(np.broadcast_to(places, (len(own), width, axes)))
            plain = plain and fits == 1 and batch.segments is None and batch.positions is None
            if isinstance(batch.support, np.ndarray):
                support[at, here] = laid(batch.support) + low
                ranges.add(None)
            else:
                first, end = batch.support or (0, high - low)
                support[at] = low + first, low + end
                ranges.add((low + first, low + end))
        one = ranges.pop() if len(ranges) == 1 else None
        return Batch(
            ids,
            weight,
            positions=None if plain else positions,
            segments=None if plain else segments,
            support=one or support,
        )

    def _chosen(self, part: int, epoch: Ids, row: Ids) -> Any:
        """The rows of a part's own data set that rows of the mix hold: each epoch of that data set
        in an order of its own."""
        _, data = self.parts[part]
        fits, count = self.fits[part], int(self.counts[part])
        number = row - (self.ends[part] - count) + epoch * count
        wanted = (number[:, None] * fits + np.arange(fits)).ravel()
        own_epoch = wanted // len(data)
        chosen = np.empty_like(wanted)
        for each in np.unique(own_epoch).tolist():
            here = own_epoch == each
            seed = key(self.seed, "mix", part, each)
            chosen[here] = permute(wanted[here] % len(data), len(data), seed) + each * len(data)
        return chosen
