"""Pictures as patches: exact ids if a patch has few possible values, a codebook otherwise."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core import task
from ..core.data.datasets import too_long
from ..core.data.source import Source, scratch_file
from ..core.errors import ConfigError, DataError, UsageError
from ..core.protocols import Sequence
from ..tokenizers.patches import PatchTokenizer, Picture
from ._image.completion import prompt_rows
from ._image.dataset import PictureRows, accuracy
from ._image.display import grid, terminal_picture
from ._image.pictures import Pictures, choose_form, describe, histogram, inspect_all, png, read_all
from ._image.reader import MAGIC, SUFFIXES, find_pictures, parse_size
from ._image.tokenizer import fit

HOLDOUT = 0.1
DROPOUT = ((500_000, 0.3), (4_000_000, 0.1))  # (training ids at most, dropout rate)


def option(help: str, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class ImageOptions:
    pixels: str | None = option("Resize every picture to HEIGHTxWIDTH.")
    grey: bool = option("Convert every picture to grey.", False)
    levels: int | None = option(
        "Values of a channel of a pixel; by default as many as the data has."
    )
    binarise: str | None = option(
        "Reduce pixels to two levels: by a threshold at half, or 1 with probability grey value.",
        choices=("threshold", "stochastic"),
    )
    patch: str | None = option("Patch size in pixels, P or HEIGHTxWIDTH; by default by the levels.")
    stages: int | None = option("Residual stages of a codebook, one id a patch each; 2 by default.")
    labels: str = option(
        "Position of labels: before the pixels (for sample --label), after them (for accuracy), or "
        "none; auto: first if all pictures have one.",
        "auto",
        choices=("auto", "first", "last", "none"),
    )
    label_weight: float | None = option(
        "Loss weight of a label, relative to 1 an id of a patch. By default 1 for first labels, a "
        "tenth of the ids of a picture for last ones."
    )
    skip_bad: bool = option("Skip pictures that cannot be read.", False)


@dataclass(frozen=True)
class ImageSampling:
    label: str | None = option("The label to sample pictures of.")
    rows: int | None = option("Rows of the prompt picture, from its top, that samples start with.")
    scale: int | None = option("Factor to enlarge by; by default only small grids are enlarged.")


class ImageTask(task.Task):
    name = "image"
    about = "pictures: files in folders, NumPy and IDX arrays, columns of tables"
    unit = "dim"  # one channel of one pixel
    default_tokenizer = "patches"
    binary = True
    Options = ImageOptions
    SampleOptions = ImageSampling
    options: ImageOptions

    def __init__(self, options: ImageOptions) -> None:
        super().__init__(options)
        if options.patch is not None:
            parse_size(options.patch, "--patch")
        if options.stages is not None and options.stages < 1:
            raise ConfigError(f"--stages: must be at least 1, got {options.stages}")
        if options.label_weight is not None and options.label_weight < 0:
            raise ConfigError(f"--label-weight: must be at least 0, got {options.label_weight}")

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        name = path.name.lower()
        if name.endswith(SUFFIXES) or head.startswith(MAGIC[:3]) or "idx3-ubyte" in name:
            return 0.9
        return 0.6 if name.endswith((".npz", ".npy", ".npy.gz")) else 0.0

    def default_source(self) -> Source:
        """The UCI digits that ship with scikit-learn: 1,797 of 8 x 8 pixels in 17 levels."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        path = scratch_file("digits")
        with path.open("wb") as file:
            np.savez(file, images=digits.images.astype(np.uint8), labels=digits.target)
        return Source((str(path),), about="1,797 handwritten digits (UCI, from scikit-learn)")

    # -- items -------------------------------------------------------------------------------

    def items(self, source: Source) -> Pictures:
        options = self.options
        found, looks, bad = inspect_all(find_pictures(source), options.skip_bad)
        if not found:
            raise DataError(f"--data {source.describe()}: contains no readable picture")
        size = parse_size(options.pixels, "--pixels") if options.pixels else None
        form = choose_form(found, looks, size, options.grey, options.levels, options.binarise)
        raw, good = read_all(found, form, options.skip_bad)
        if not good:
            raise DataError(f"--data {source.describe()}: contains no readable picture")
        bad += len(looks) - len(good)
        found, looks = [found[i] for i in good], [looks[i] for i in good]
        labels = tuple(each.label for each in found)
        digest = hashlib.sha256(repr((form, labels)).encode())
        digest.update(np.ascontiguousarray(raw).data)
        kinds = len({label for label in labels if label is not None})
        about = describe(form, looks, kinds, bad)
        return Pictures(raw, labels, form, tuple(found), digest.hexdigest(), about)

    def split(self, items: Pictures, holdout: float | None) -> tuple[Pictures, Pictures]:
        return items.split(HOLDOUT if holdout is None else holdout)

    def halves(self, held: Pictures) -> tuple[Pictures, Pictures]:
        return held.split(0.5, "halves")

    def floor(self, train: Pictures, held: Pictures) -> dict[str, float]:
        held = held.converted_to(train.form)
        levels = train.form.levels
        return {
            "histogram": histogram(train.pixels(), held.pixels(), levels),
            "png": png(held.pixels(), levels),
        }

    # -- ids ---------------------------------------------------------------------------------

    def fit_tokenizer(self, spec: str, train: Pictures) -> PatchTokenizer:
        options = self.options
        patch = parse_size(options.patch, "--patch") if options.patch else None
        return fit(spec, train, patch, options.stages, options.labels)

    def longest(self, train: Pictures, tokenizer: PatchTokenizer) -> int:
        return tokenizer.length(train.form.height, train.form.width)

    def defaults(self, train: Pictures, tokenizer: PatchTokenizer) -> dict[str, dict[str, object]]:
        """Small data sets train for many epochs: dropout, rather than weight decay, limits
        overfitting."""
        tokens = len(train) * self.longest(train, tokenizer)
        rate = next((rate for most, rate in DROPOUT if tokens <= most), 0.0)
        return {"model": {"dropout": rate}, "train": {"weight_decay": 0.01}}

    def dataset(
        self,
        train: Pictures,
        tokenizer: PatchTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> PictureRows:
        length = self.longest(train, tokenizer)
        if length > context + 1:
            raise too_long(length, context)
        weight = self.options.label_weight
        if weight is None:
            weight = 1.0 if tokenizer.label_position == "first" else max(1.0, (length - 2) / 10)
        return PictureRows(train, tokenizer, context, weight, seed)

    def sequences(self, items: Pictures, tokenizer: PatchTokenizer) -> Iterator[Sequence]:
        """A last label has weight 0: the score covers the pixels, and `accuracy` the label."""
        items = items.converted_to(tokenizer.form)
        for pixels, label in zip(items.pixels(), items.labels, strict=True):
            sequence = tokenizer.encode(Picture(pixels, label))
            if tokenizer.label_position == "last" and label is not None:
                weight = np.ones(len(sequence), np.float32)
                weight[-1] = 0
                sequence = replace(sequence, weight=weight)
            yield sequence

    def names(self, items: Pictures) -> Iterator[str]:
        """The name of each of `sequences`: its file or table row."""
        return (found.name for found in items.found)

    # -- scores ------------------------------------------------------------------------------

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        """Counts of dims (channels of pixels) and images, and the summed squared error of codes."""
        total = {"dim": 0.0, "image": 0.0, "error": 0.0}
        for sequence in sequences:
            side = sequence.side
            total["dim"] += side["height"] * side["width"] * side["channels"]
            total["image"] += 1
            total["error"] += side.get("error", 0.0)
        return total

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        images, dims, error = units.get("image", 0), units.get("dim", 0), units.get("error", 0)
        psnr = 10 * math.log10(dims / error) if not lossless and error > 0 else None
        return {
            "nats_per_image": nll / images if lossless and images else None,
            "images": images,
            "psnr": psnr,
        }

    def model_metrics_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        return sum(map(len, sequences)) if self.options.labels == "last" else 0

    def model_metrics(
        self,
        model: Any,
        tokenizer: PatchTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
    ) -> dict[str, Any]:
        """`levels`; with last labels, `accuracy`: how often the most likely label is correct."""
        found = super().model_metrics(model, tokenizer, sequences, protocol)
        found["levels"] = tokenizer.form.levels
        if tokenizer.label_position == "last":
            found["accuracy"] = accuracy(model, tokenizer, sequences)
        return found

    # -- samples -----------------------------------------------------------------------------

    def prompt(
        self, data: bytes | None, tokenizer: PatchTokenizer, sampling: ImageSampling
    ) -> Sequence:
        """`data`: a picture, or the name of its file, whose top `--rows` start the samples."""
        form = tokenizer.form
        length = tokenizer.length(form.height, form.width)
        side = {**tokenizer.side(form.height, form.width), "ids": length}
        ids = [tokenizer.begin]
        if sampling.label is not None:
            if tokenizer.label_position != "first":
                raise UsageError(
                    "--label: this run has no labels to sample by; train with --labels first"
                )
            ids.append(tokenizer.label_id(sampling.label))
        if data is None:
            if sampling.rows is not None:
                raise UsageError("--rows: of which picture? give it with -p FILE")
            return Sequence(np.array(ids, np.int64), len(ids), side=side)
        if tokenizer.label_position == "first" and sampling.label is None:
            raise UsageError(
                f"--label: needed to complete a picture, as this run puts labels first: "
                f"{', '.join(tokenizer.labels[:12])}"
            )
        pixels, rows = prompt_rows(data, tokenizer.form, tokenizer.patch[0], sampling.rows)
        _, columns = tokenizer.grid(form.height, form.width)
        across = columns * tokenizer.per_patch
        top = tokenizer.patch_ids_of(pixels[None])[0][: rows // tokenizer.patch[0] * across]
        return Sequence(np.concatenate((ids, top)).astype(np.int64), len(ids), side=side)

    def new_tokens(self, prompt: Sequence, sampling: ImageSampling) -> int:
        return int(prompt.side["ids"]) - len(prompt)

    def write(
        self, items: list[Picture], prompt: Sequence | None, sampling: ImageSampling, out: BinaryIO
    ) -> None:
        out.write(grid([i.pixels for i in items], _levels(prompt), sampling.scale))

    def preview(
        self, items: list[Picture], prompt: Sequence | None, sampling: ImageSampling, width: int
    ) -> str:
        return terminal_picture([i.pixels for i in items], _levels(prompt), width)


def _levels(prompt: Sequence | None) -> int:
    assert prompt is not None  # the image task always has a prompt
    return int(prompt.side["levels"])


Task = ImageTask
