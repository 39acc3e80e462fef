"""Pictures as patches: exact ids if a patch has few possible values, a codebook otherwise."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core.data.datasets import too_long
from ..core.data.keyed_random import key, mix
from ..core.data.scratch import scratch_file
from ..core.data.source import Source
from ..core.errors import DataError, UsageError
from ..core.protocols import Ids, Sequence
from ..core.task import Description
from ..tokenizers.patches import PatchTokenizer, Picture
from ._image.baselines import histogram, label_baselines, png
from ._image.completion import prompt_rows
from ._image.dataset import PictureRows
from ._image.display import FILE_TYPES, grid, terminal_picture, write_arrays
from ._image.illustration import illustration, labels
from ._image.options import ImageOptions, ImageSampling
from ._image.patch_grid import patch_grid
from ._image.pictures import Pictures
from ._image.reader import SUFFIXES, is_picture_file, parse_size
from ._image.reading import form_text, read_pictures
from ._image.tokenizer import fit
from ._labelled.folders import listed
from ._labelled.task import LabelledTask

HOLDOUT = 0.1
LABEL_WEIGHT = 100.0  # of a last label where the model reads pixels beside few ids
DROPOUT = ((500_000, 0.3), (4_000_000, 0.1))  # (training ids at most, dropout rate)


class ImageTask(LabelledTask):
    name = "image"
    about = "pictures: files in folders and archives, NumPy and IDX arrays, columns of tables"
    unit = "dim"  # one channel of one pixel
    default_tokenizer = "patches"
    binary = True
    file_types = FILE_TYPES
    Options = ImageOptions
    SampleOptions = ImageSampling
    options: ImageOptions

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        name = path.name.lower()
        if name.endswith(SUFFIXES) or is_picture_file(head[:16]) or "idx3-ubyte" in name:
            return 0.9
        return 0.6 if name.endswith((".npz", ".npy", ".npy.gz")) else 0.0

    def default_source(self) -> Source:
        """The UCI digits that ship with scikit-learn: 1,797 of 8 x 8 pixels in 17 levels."""
        # the file itself, as the import of scikit-learn takes a second
        found = importlib.util.find_spec("sklearn")
        assert found is not None and found.submodule_search_locations
        file_name = Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
        digits = np.loadtxt(file_name, delimiter=",", dtype=np.uint8)
        path = scratch_file("digits")
        with path.open("wb") as file:
            np.savez(file, images=digits[:, :-1].reshape(-1, 8, 8), labels=digits[:, -1])
        return Source((str(path),), about="1,797 handwritten digits (UCI, from scikit-learn)")

    # -- items -------------------------------------------------------------------------------

    def items(self, source: Source) -> Pictures:
        return read_pictures(source, self.options)

    def describe(self, items: Pictures) -> Description:
        return items.description

    def parts(self, items: Pictures) -> dict[str, Pictures]:
        return items.parts()

    @classmethod
    def init_options(cls, options: ImageOptions, tokenizer: PatchTokenizer) -> dict[str, object]:
        form = tokenizer.form
        return {
            "pixels": f"{form.height}x{form.width}",
            "grey": form.channels == 1,
            "levels": None,
            "binarise": None,
            "labels": tokenizer.label_position,
        }

    def conform(
        self, items: Pictures, tokenizer: PatchTokenizer, note: Callable[[str], None]
    ) -> Pictures:
        """The pictures in the form of the run. DataError for labels that the run does not know."""
        if tokenizer.label_position != "none":
            unknown = [name for name in items.names() if name not in tokenizer.labels]
            if unknown:
                raise DataError(
                    f"{listed(unknown, 'labels that the run does not know')[0]}; it knows "
                    f"{', '.join(tokenizer.labels[:12])}"
                )
        own, form = items.form, tokenizer.form
        if own != form or (own.range and form.range and own.range != form.range):
            text = f"brought to the form of the run: {form_text(form)}"
            if form.range and items.meaning.like(form) != items.meaning:
                text += f", values of its {form.range[0]:g} to {form.range[1]:g} (or --range)"
            note(text)
        return replace(items.converted_to(tokenizer.form), label_position=tokenizer.label_position)

    def split(self, items: Pictures, holdout: float | None) -> tuple[Pictures, Pictures]:
        return items.split(HOLDOUT if holdout is None else holdout)

    def halves(self, held: Pictures) -> tuple[Pictures, Pictures]:
        return held.split(0.5, "halves")

    @property
    def floor_unit(self) -> str:
        return "" if self.options.labels == "last" else super().floor_unit

    def floor(self, train: Pictures, held: Pictures) -> dict[str, float]:
        held = held.converted_to(train.form)
        levels = train.form.levels
        found = {
            "histogram": histogram(train.pixels(), held.pixels(), levels),
            "png": png(held.pixels(), levels),
        }
        return found | (label_baselines(train, held) if train.label_position == "last" else {})

    # -- ids ---------------------------------------------------------------------------------

    def fit_tokenizer(self, spec: str, train: Pictures) -> PatchTokenizer:
        options = self.options
        patch = parse_size(options.patch, "--patch") if options.patch else None
        return fit(spec, train, patch, options.stages)

    def longest(self, train: Pictures, tokenizer: PatchTokenizer) -> int:
        return tokenizer.length(train.form.height, train.form.width)

    def defaults(self, train: Pictures, tokenizer: PatchTokenizer) -> dict[str, dict[str, object]]:
        """Small data sets train for many epochs: dropout, rather than weight decay, limits
        overfitting. Where labels are what matters, its rate is that of the planner's rules."""
        if tokenizer.reads:
            return {"train": {"weight_decay": 0.01}}
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
        if train.useless:
            raise UsageError(train.useless[0])
        train = train.converted_to(tokenizer.form)
        length = self.longest(train, tokenizer)
        if length > context + 1:
            raise too_long(length, context)
        weight = self.options.label_weight
        if weight is not None and tokenizer.label_position == "none":
            raise UsageError("--label-weight: there are no labels to weigh (--labels none)")
        if weight is None and tokenizer.reads:
            weight = LABEL_WEIGHT
        elif weight is None:
            weight = 1.0 if tokenizer.label_position == "first" else max(1.0, (length - 2) / 10)
        return PictureRows(train, tokenizer, context, weight, seed, self.options.augment)

    def sequences(self, items: Pictures, tokenizer: PatchTokenizer) -> Iterator[Sequence]:
        """A label counts wherever it is: first or last, the score is of pixels and label."""
        items = items.converted_to(tokenizer.form)
        for pixels, found in zip(items.pixels(), items.found, strict=True):
            sequence = tokenizer.encode(Picture(pixels, found.label))
            yield replace(sequence, side={**sequence.side, "id": found.name})

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

    def model_metrics(
        self,
        model: Any,
        tokenizer: PatchTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: Any,
    ) -> dict[str, Any]:
        """`levels`; with last labels, `accuracy`."""
        found = super().model_metrics(model, tokenizer, sequences, protocol, evaluation)
        found["levels"] = tokenizer.form.levels
        return found

    def incomparable(self, one: PatchTokenizer, other: PatchTokenizer) -> str | None:
        """Pictures of another form are other pictures; a label costs bits wherever it is."""
        if one.form != other.form:
            return f"{form_text(one.form)} against {form_text(other.form)}"
        if one.labels != other.labels:
            counts = [f"{len(t.labels)} labels ({t.label_position})" for t in (one, other)]
            return " against ".join(counts)
        return None

    # -- what a person sees of ids -----------------------------------------------------------

    def to_read(
        self, data: bytes, tokenizer: PatchTokenizer, note: Callable[[str], None]
    ) -> Sequence:
        """A whole picture: its bytes, or the name of its file. UsageError for a run that puts a
        label before the picture."""
        if tokenizer.label_position == "first":
            raise UsageError("-p: this run reads a label before the picture; use --item N")
        pixels, _ = prompt_rows(data, tokenizer.form, tokenizer.patch[0], tokenizer.form.height)
        return tokenizer.encode(Picture(pixels))

    def token_labels(self, ids: Ids, tokenizer: PatchTokenizer) -> list[str]:
        return labels(ids, tokenizer)

    def illustration(
        self, sequence: Sequence, tokenizer: PatchTokenizer, guesses: Ids, ids: Ids
    ) -> dict[str, Any]:
        return illustration(sequence, tokenizer, guesses, ids)

    def show(self, sequence: Sequence, tokenizer: PatchTokenizer, width: int, colour: bool) -> str:
        """The picture that the ids decode to, next to its patches."""
        return patch_grid(sequence, tokenizer, width)

    def label(self, sequence: Sequence, tokenizer: PatchTokenizer) -> str | None:
        found = sequence.ids[[-1 if tokenizer.label_position == "last" else 1]]
        own = (found >= tokenizer.patch_ids) & (found < tokenizer.begin)
        return tokenizer.labels[int(found[0]) - tokenizer.patch_ids] if own.all() else None

    def content(self, sequence: Sequence, tokenizer: PatchTokenizer) -> Ids:
        """The patches, without a label."""
        return sequence.ids[sequence.ids < tokenizer.patch_ids]

    def sampled(self, items: Pictures, size: int) -> Pictures:
        count = len(items) * size // max(items.size, 1)
        if count >= len(items):
            return items
        chosen = np.argsort(mix(np.arange(len(items)), key("sampled")), kind="stable")[:count]
        return items.some(np.sort(chosen), "sampled")

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

    def write_as(
        self,
        suffix: str,
        items: list[Picture],
        prompt: Sequence | None,
        sampling: ImageSampling,
        out: BinaryIO,
    ) -> None:
        """A grid of all pictures, or with .npz their values as `images` (and `labels`)."""
        if suffix == ".npz":
            if sampling.scale is not None:
                raise UsageError("--scale: a .npz has the pictures as they are")
            write_arrays(items, out)
        else:
            out.write(grid([i.pixels for i in items], _levels(prompt), sampling.scale, suffix))

    def record(self, item: Picture) -> dict[str, Any]:
        return {"label": item.label}

    def preview(
        self, items: list[Picture], prompt: Sequence | None, sampling: ImageSampling, width: int
    ) -> str:
        return terminal_picture([i.pixels for i in items], _levels(prompt), width)


def _levels(prompt: Sequence | None) -> int:
    assert prompt is not None  # the image task always has a prompt
    return int(prompt.side["levels"])


Task = ImageTask
