"""Baselines of pictures: a histogram for each pixel, and PNG; of labels: simple classifiers."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter

import numpy as np
import numpy.typing as npt

from ...tokenizers.patches import Pixels
from .pictures import Pictures

# what the classifiers learn from and are scored on, at most
TRAIN_PICTURES, TRAIN_DIMS, HELD_PICTURES = 10_000, 8_000_000, 2_000
NEIGHBOURS = 3
PNG_DIMS = 1_000_000  # of held-out pictures, at most, for the PNG baseline


def histogram(train: Pixels, held: Pixels, levels: int) -> float:
    """Bits per dim of `held` under one histogram for each channel of each pixel, counted on
    `train` and interpolated with p, the histogram of all pixels, as in Witten & Bell 1991
    (method C): (n + t p) / (N + t), t the number of distinct values seen there."""
    pixels, targets = train.reshape(len(train), -1), held.reshape(len(held), -1)
    all_counts = np.bincount(pixels.reshape(-1), minlength=levels) + 1.0
    p = all_counts / all_counts.sum()
    bits = 0.0
    for at in range(pixels.shape[1]):
        counts = np.bincount(pixels[:, at], minlength=levels)
        distinct = (counts > 0).sum()
        bits -= np.log2((counts + distinct * p) / (len(pixels) + distinct))[targets[:, at]].sum()
    return float(bits / max(targets.size, 1))


def png(held: Pixels, levels: int) -> float:
    """Bits per dim of pictures tiled in one PNG, so that the file header counts only once."""
    count = min(len(held), max(1, PNG_DIMS // max(1, held[0].size)))
    across = math.isqrt(count)
    some = held[: count // across * across]
    rows = some.reshape(-1, across, *some.shape[1:]).transpose(0, 2, 1, 3, 4)
    sheet = rows.reshape(-1, across * some.shape[2], some.shape[3])
    return 8 * len(png_bytes(sheet, levels)) / sheet.size


def label_baselines(train: Pictures, held: Pictures) -> dict[str, float]:
    """The accuracies of the most frequent label, of logistic regression and of the NEIGHBOURS
    nearest neighbours (scikit-learn, of the pixels). They learn from at most TRAIN_PICTURES of
    TRAIN_DIMS pixels, and are scored on at most HELD_PICTURES. Empty where none has a label."""
    size = max(1, int(np.prod(train.raw.shape[1:])))
    pixels, labels = _some(train, min(TRAIN_PICTURES, max(1, TRAIN_DIMS // size)))
    held_pixels, held_labels = _some(held, HELD_PICTURES)
    if not labels or not held_labels:
        return {}
    common = Counter(label for label in train.labels if label is not None).most_common(1)[0][0]
    found = {"majority_accuracy": held_labels.count(common) / len(held_labels)}
    if len(set(labels)) > 1:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        models = {
            "logistic": LogisticRegression(max_iter=100),
            "neighbours": KNeighborsClassifier(min(NEIGHBOURS, len(labels))),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            for name, model in models.items():
                right = model.fit(pixels, labels).predict(held_pixels) == np.array(held_labels)
                found[f"{name}_accuracy"] = float(right.mean())
    return found


def _some(pictures: Pictures, most: int) -> tuple[npt.NDArray[np.float32], list[str]]:
    """(N, values) pixels from 0 to 1 and labels of at most `most` pictures that have one, evenly
    spread."""
    labels = pictures.labels
    known = [number for number, label in enumerate(labels) if label is not None]
    chosen = known[:: max(1, -(-len(known) // most))]
    pixels = pictures.pixels()[chosen].reshape(len(chosen), -1).astype(np.float32)
    pixels /= max(pictures.form.levels - 1, 1)
    return pixels, [str(labels[n]) for n in chosen]


def png_bytes(pixels: Pixels, levels: int) -> bytes:
    """A PNG of (height, width, 1 or 3), with the fewest bits a pixel that fit the levels."""
    from PIL import Image

    out = io.BytesIO()
    if pixels.shape[2] == 3:
        Image.fromarray(pixels).save(out, "PNG", optimize=True)
        return out.getvalue()
    flat = np.ascontiguousarray(pixels[..., 0])
    if levels == 2:
        Image.fromarray(flat * np.uint8(255)).convert("1", dither=Image.Dither.NONE).save(
            out, "PNG", optimize=True
        )
    elif levels <= 16:
        image = Image.fromarray(flat)
        image.putpalette([value for value in range(levels) for _ in range(3)])
        image.save(out, "PNG", optimize=True, bits=2 if levels <= 4 else 4)
    else:
        Image.fromarray(flat).save(out, "PNG", optimize=True)
    return out.getvalue()
