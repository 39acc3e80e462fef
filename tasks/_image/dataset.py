"""Batch rows of pictures for training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...core.data.keyed_random import key, mix
from ...core.protocols import Array, Batch, Floats, Ids
from ...tokenizers.patches import PatchTokenizer, Pixels
from .pictures import Pictures, quantised

Values = npt.NDArray[np.float64]

MAX_SHIFT = 1 / 14  # of height and width
UNSEEN = 0.1  # the share of rows whose pixels are not read, so that the model can do without


class PictureRows:
    """Rows of context + 1 ids, one picture each, padded with weight 0. Stochastic binarisation is
    sampled again in each epoch."""

    def __init__(
        self,
        items: Pictures,
        tokenizer: PatchTokenizer,
        context: int,
        label_weight: float,
        seed: int,
        augment: str = "none",
    ) -> None:
        self.items, self.tokenizer, self.seed = items, tokenizer, seed
        self.flips, self.shifts = augment in ("flip", "both"), augment in ("shift", "both")
        form, label_position = items.form, tokenizer.label_position
        side = tokenizer.side(form.height, form.width)
        length = tokenizer.length(form.height, form.width)
        self.context, self.pad = context, context + 1 - length
        self.label_at = 1 if label_position == "first" else length - 1
        self.weight: Floats = np.ones(context + 1, np.float32)
        self.weight[0] = 0
        self.weight[length:] = 0
        if label_position != "none":
            self.weight[self.label_at] = label_weight
        self.positions = tokenizer.positions(context + 1, side)
        support = tokenizer.support(length, side)
        if isinstance(support, np.ndarray):
            any_id = [[0, tokenizer.vocab_size]]  # padding may be any id, as its weight is 0
            support = np.concatenate((support, np.repeat(any_id, self.pad, axis=0)))
        self.support = support
        self.labels: Ids = np.zeros(len(items), np.int64)
        self.unlabelled = np.zeros(len(items), bool)
        if label_position != "none":
            ids = {label: tokenizer.label_id(label) for label in items.labels if label is not None}
            self.unlabelled = np.array([label is None for label in items.labels])
            # the id of a missing label has no weight, so any label does
            self.labels = np.array(
                [tokenizer.patch_ids if label is None else ids[label] for label in items.labels]
            )
        # codebook ids are computed once, others for each batch
        self.codes: Ids | None = None
        if not tokenizer.lossless and augment == "none":
            if "codes" not in items.cache:
                items.cache["codes"] = tokenizer.patch_ids_of(items.pixels())
            self.codes = items.cache["codes"]

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Ids) -> Batch[Array]:
        which = indices % len(self)
        pixels = self._pixels(indices, which)
        if self.codes is not None:
            patches = self.codes[which]
        else:
            patches = self.tokenizer.patch_ids_of(pixels)
        rows = len(indices)
        features = None
        if self.tokenizer.features:
            features = self.tokenizer.pixel_features(pixels, self.context + 1)
            features[self._uniform(indices, "unseen") < UNSEEN] = 0
        parts = [np.full((rows, 1), self.tokenizer.begin), patches]
        if self.tokenizer.label_position != "none":
            labels = self.labels[which][:, None]
            parts.insert(1 if self.tokenizer.label_position == "first" else 2, labels)
        parts.append(np.zeros((rows, self.pad), np.int64))
        support = self.support
        weight = np.tile(self.weight, (rows, 1))
        weight[self.unlabelled[which], self.label_at] = 0
        return Batch(
            np.concatenate(parts, axis=1).astype(np.int64),
            weight,
            positions=np.tile(self.positions, (rows, 1, 1)),
            support=np.tile(support, (rows, 1, 1)) if isinstance(support, np.ndarray) else support,
            features=features,
        )

    def _pixels(self, indices: Ids, which: Ids) -> Pixels:
        if self.items.form.binarise == "stochastic":
            draw = mix(indices, key(self.seed, "draw")).astype(np.int64)
            pixels = quantised(self.items.raw[which], self.items.form, draw)
        else:
            pixels = self.items.pixels()[which]
        if self.flips:
            turned = self._uniform(indices, "flip") < 0.5
            pixels = np.where(turned[:, None, None, None], pixels[:, :, ::-1], pixels)
        if self.shifts:
            pixels = shifted(pixels, *(self._uniform(indices, name) for name in ("down", "right")))
        return pixels

    def _uniform(self, indices: Ids, name: str) -> Values:
        """(B,) random numbers in [0, 1), keyed by the number of the row."""
        return mix(indices, key(self.seed, name)) / 2.0**64


def shifted(pixels: Pixels, down: Values, right: Values) -> Pixels:
    """Pictures (N, height, width, channels) moved by up to a MAX_SHIFT-th of their height and
    width in either direction, by uniform numbers; their edges are repeated."""
    count, height, width, _ = pixels.shape

    def places(size: int, where: Values) -> Ids:
        most = max(1, round(size * MAX_SHIFT))
        by = (where * (2 * most + 1)).astype(np.int64) - most
        found: Ids = np.clip(np.arange(size) - by[:, None], 0, size - 1)
        return found

    rows, columns = places(height, down)[:, :, None], places(width, right)[:, None, :]
    return pixels[np.arange(count)[:, None, None], rows, columns]
