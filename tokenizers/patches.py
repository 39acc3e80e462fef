"""Pictures as patches in raster order; the positions are rows and columns.

Exact (lossless): the pixels of a patch are the digits of its id in base `levels`, so that the
likelihood of the ids is the likelihood of the pixels. Learned (lossy): a k-means codebook with
residual stages (Gray 1984; Juang & Gray 1982), for patches with too many possible values.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import protocols
from ..core.errors import ConfigError, DataError
from ..core.protocols import Floats, Ids, Sequence, Support
from ._codebook import CHUNK, Codebook, learn_codebooks, nearest_code
from ._surroundings import BEFORE, surroundings

Pixels = npt.NDArray[np.uint8]

MAX_IDS = 4096  # vocabulary of exact patches, at most


@dataclass(frozen=True)
class Form:
    """The format that every picture is converted to. A channel of a pixel has `depth` values when
    read and `levels` when modelled. `binarise`: how it is reduced to two levels, None if not."""

    height: int
    width: int
    channels: int = 1
    depth: int = 256
    levels: int = 256
    binarise: str | None = None  # threshold, stochastic
    # (low, high) of the numbers in arrays, which become 0 ... depth - 1; None without arrays
    range: tuple[float, float] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Picture:
    """pixels (height, width, channels), values 0 ... levels - 1."""

    pixels: Pixels
    label: str | None = None


class PatchTokenizer(protocols.Tokenizer):
    """`labels`: their names. `label_position`: first (after the begin id), last or none. `reads`:
    the model reads the pixels of a patch, and of those around it that came before, beside its id.

    The vocabulary is patch ids from 0, then labels, then begin. With `codebooks`, one array
    (codes, values of a patch) a stage, a patch has one id a stage. Without, it has one id, or one
    a channel if the vocabulary of all channels together would exceed MAX_IDS.
    """

    axes = 2

    def __init__(
        self,
        form: Form,
        patch: tuple[int, int] = (1, 1),
        labels: tuple[str, ...] = (),
        label_position: str = "none",
        codebooks: tuple[Codebook, ...] = (),
        reads: bool = False,
    ) -> None:
        self.form, self.patch, self.labels = form, patch, labels
        self.label_position = label_position
        self.codebooks = codebooks
        self.lossless = not codebooks
        self.joint = bool(codebooks) or exact_ids(form, patch, joint=True) <= MAX_IDS
        if codebooks:
            self.patch_ids = sum(map(len, codebooks))
            self.per_patch = len(codebooks)
        else:
            self.patch_ids = exact_ids(form, patch, self.joint)
            self.per_patch = 1 if self.joint else form.channels
            if self.patch_ids > MAX_IDS:
                raise ConfigError(
                    f"--patch {patch[0]}x{patch[1]}: at {form.levels} levels more than {MAX_IDS:,} "
                    "exact ids; use fewer --levels, or --tokenizer patches:512 for a codebook"
                )
        id_is_level = not codebooks and self.patch_ids == form.levels
        self.ordered: tuple[tuple[int, int], ...] = ((0, form.levels),) if id_is_level else ()
        self.begin = self.patch_ids + len(labels)
        self.label_ids = self.patch_ids, self.begin
        self.vocab_size = self.begin + 1
        self.reads = reads
        self.features = len(BEFORE) * patch[0] * patch[1] * form.channels if reads else 0
        self._layouts: dict[tuple[int, int], tuple[Ids, Ids]] = {}

    # -- items -------------------------------------------------------------------------------

    def encode(self, item: Picture, like: Sequence | None = None) -> Sequence:
        """With codebooks, a patch that `like` decodes to exactly keeps the ids of `like`."""
        height, width = item.pixels.shape[:2]
        ids = self.patch_ids_of(item.pixels[None])[0]
        if like is not None:
            ids = self._reuse_ids(ids, like, item.pixels)
        side = self.side(height, width)
        if not self.lossless:
            decoded = self.pixels_of(ids[None], height, width)[0].astype(np.float64)
            peak = max(self.form.levels - 1, 1)
            side["error"] = float((((decoded - item.pixels) / peak) ** 2).sum())
        if self.reads:
            side["pixels"] = b64encode(item.pixels.tobytes()).decode()
        return Sequence(self.with_label(ids, item.label), side=side)

    def side(self, height: int, width: int) -> dict[str, Any]:
        form = self.form
        return {"height": height, "width": width, "channels": form.channels, "levels": form.levels}

    def with_label(self, ids: Ids, label: str | None) -> Ids:
        """The begin id, the patch ids, and the label at `label_position`. DataError if unknown."""
        label_ids = [] if self.label_position == "none" or label is None else [self.label_id(label)]
        if self.label_position == "first":
            if not label_ids:
                raise DataError(
                    "a picture has no label, and this tokenizer puts labels first; put it in a "
                    "folder of its label's name"
                )
            return np.concatenate(([self.begin], label_ids, ids)).astype(np.int64)
        return np.concatenate(([self.begin], ids, label_ids)).astype(np.int64)

    def label_id(self, label: str) -> int:
        if label not in self.labels:
            some = ", ".join(self.labels[:12]) + (" ..." if len(self.labels) > 12 else "")
            raise DataError(f"label {label}: not one of those trained on: {some or 'none'}")
        return self.patch_ids + self.labels.index(label)

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Picture:
        """A picture from possibly incomplete ids: the pixels of missing patches are 0."""
        height, width = int(side["height"]), int(side["width"])
        label_ids = ids[(ids >= self.patch_ids) & (ids < self.begin)]
        found = ids[ids < self.patch_ids]
        known = len(found) // self.per_patch * self.per_patch
        count = self._count(height, width)
        patch_ids = np.tile(self._lowest_ids(), count // self.per_patch)
        patch_ids[:known] = found[:known][:count]
        pixels = self.pixels_of(patch_ids[None], height, width)[0]
        self._clear_from(pixels, known // self.per_patch)
        label = self.labels[int(label_ids[0]) - self.patch_ids] if len(label_ids) else None
        return Picture(pixels, label)

    def _clear_from(self, pixels: Pixels, known: int) -> None:
        """Set the patches from number `known` on to 0: a code of 0 may not be black."""
        columns = -(-pixels.shape[1] // self.patch[1])
        row, column = divmod(known, columns)
        top, left = row * self.patch[0], column * self.patch[1]
        pixels[top : top + self.patch[0], left:] = 0
        pixels[top + self.patch[0] :] = 0

    # -- patches -----------------------------------------------------------------------------

    def patch_ids_of(self, pixels: Pixels) -> Ids:
        """Patch ids (N, ids) of pictures (N, height, width, channels), all of one size."""
        step = max(1, CHUNK // max(1, pixels[0].size)) if len(pixels) else 1
        encode = self._exact if self.lossless else self._nearest
        parts = [encode(pixels[at : at + step]) for at in range(0, len(pixels), step)]
        return np.concatenate(parts) if parts else np.empty((0, 0), np.int64)

    def pixels_of(self, ids: Ids, height: int, width: int) -> Pixels:
        """Pixels (N, height, width, channels) decoded from patch ids (N, ids)."""
        (ph, pw), channels = self.patch, self.form.channels
        rows, columns = self.grid(height, width)
        if self.lossless:
            weights = self._digit_weights(height, width)
            shaped = ids.reshape(len(ids), rows, columns, 1, 1, -1)
            blocks: npt.NDArray[Any] = shaped // np.maximum(weights, 1) % self.form.levels
        else:
            stages = ids.reshape(len(ids), rows * columns, self.per_patch)
            total = np.zeros((*stages.shape[:2], ph * pw * channels), np.float32)
            for stage, (first, book) in enumerate(
                zip(self._offsets(), self.codebooks, strict=True)
            ):
                total += book[stages[..., stage] - first]
            total = np.clip(np.rint(total), 0, self.form.levels - 1)
            blocks = total.reshape(len(ids), rows, columns, ph, pw, channels)
        whole = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
            len(ids), rows * ph, columns * pw, channels
        )
        return whole[:, :height, :width].astype(np.uint8)

    def _blocks(self, pixels: Pixels, pad: str) -> npt.NDArray[Any]:
        """(N, rows, columns, patch height, patch width, channels); edge patches are padded."""
        count, height, width, channels = pixels.shape
        (ph, pw), (rows, columns) = self.patch, self.grid(height, width)
        below, right = rows * ph - height, columns * pw - width
        if below or right:
            pixels = np.pad(pixels, ((0, 0), (0, below), (0, right), (0, 0)), pad)  # type: ignore[call-overload]
        return pixels.reshape(count, rows, ph, columns, pw, channels).transpose(0, 1, 3, 2, 4, 5)

    def _digit_weights(self, height: int, width: int) -> Ids:
        """(rows, columns, patch height, patch width, channels or 1): the power of `levels` by which
        a pixel counts in its patch's id, 0 outside the picture: edge patches have fewer ids."""
        ph, pw = self.patch
        rows, columns = self.grid(height, width)
        inside = np.zeros((rows * ph, columns * pw), np.int64)
        inside[:height, :width] = 1
        inside = inside.reshape(rows, ph, columns, pw).transpose(0, 2, 1, 3)[..., None]
        inside = np.repeat(inside, self.form.channels if self.joint else 1, axis=-1)
        flat = inside.reshape(rows, columns, -1)
        power = np.cumsum(flat, axis=-1) - flat
        weights: Ids = np.where(flat, self.form.levels**power, 0).reshape(inside.shape)
        return weights

    def _exact(self, pixels: Pixels) -> Ids:
        blocks = self._blocks(pixels, "constant").astype(np.int64)
        values = blocks * self._digit_weights(*pixels.shape[1:3])
        ids: Ids = values.sum((3, 4, 5)) if self.joint else values.sum((3, 4))
        return ids.reshape(len(pixels), -1)

    def _nearest(self, pixels: Pixels) -> Ids:
        blocks = self._blocks(pixels, "edge")
        vectors = blocks.reshape(-1, self.codebooks[0].shape[1]).astype(np.float32)
        stages = []
        for first, book in zip(self._offsets(), self.codebooks, strict=True):
            found = nearest_code(vectors, book)
            vectors = vectors - book[found]
            stages.append(found + first)
        return np.stack(stages, axis=1).reshape(len(pixels), -1)

    def _reuse_ids(self, ids: Ids, like: Sequence, pixels: Pixels) -> Ids:
        old = like.ids[like.ids < self.patch_ids]
        if self.lossless or len(old) != len(ids):
            return ids
        same = self.pixels_of(old[None], *pixels.shape[:2]) == pixels[None]
        whole = self._blocks(same.astype(np.uint8) ^ 1, "constant").sum((0, 3, 4, 5)) == 0
        return np.where(np.repeat(whole.reshape(-1), self.per_patch), old, ids)

    def _offsets(self) -> list[int]:
        """The first id of each stage."""
        return [sum(map(len, self.codebooks[:n])) for n in range(len(self.codebooks))]

    def _lowest_ids(self) -> Ids:
        return np.array(self._offsets() if self.codebooks else [0] * self.per_patch, np.int64)

    # -- positions and support ---------------------------------------------------------------

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return -(-height // self.patch[0]), -(-width // self.patch[1])

    def _count(self, height: int, width: int) -> int:
        rows, columns = self.grid(height, width)
        return rows * columns * self.per_patch

    def length(self, height: int, width: int) -> int:
        """Number of ids of a picture of this size, with the begin id and the label."""
        return 1 + self._count(height, width) + (self.label_position != "none")

    def _layout(self, side: Mapping[str, Any]) -> tuple[Ids, Ids]:
        """Positions (row, column) and legal id ranges (low, high), each (T, 2). Row 0 is for begin
        and a first label; ids of one patch are in adjacent columns; a last label has its own row
        below the picture."""
        size = int(side["height"]), int(side["width"])
        if size not in self._layouts:
            rows, columns = self.grid(*size)
            across = columns * self.per_patch
            positions = [np.array([[0, 0]])]
            ranges = [np.array([[self.begin, self.begin + 1]])]
            label = np.array([[self.patch_ids, self.begin]])
            if self.label_position == "first":
                positions.append(np.array([[0, 1]]))
                ranges.append(label)
            positions.append(np.indices((rows, across)).reshape(2, -1).T + 1)
            ranges.append(self._ranges(*size))
            if self.label_position == "last":
                positions.append(np.array([[rows + 1, 0]]))
                ranges.append(label)
            self._layouts[size] = np.concatenate(positions), np.concatenate(ranges)
        return self._layouts[size]

    def _ranges(self, height: int, width: int) -> Ids:
        if self.codebooks:
            offsets = self._offsets()
            each = [[a, a + len(book)] for a, book in zip(offsets, self.codebooks, strict=True)]
            return np.tile(each, (self._count(height, width) // self.per_patch, 1))
        pixels = (self._digit_weights(height, width) > 0).sum((2, 3, 4)).reshape(-1)
        high: Ids = np.repeat(self.form.levels**pixels, self.per_patch)
        return np.stack([np.zeros_like(high), high], axis=1)

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        """The legal id ranges: one range if all positions share it, else (length, 2). After the
        end of the picture, no id is legal."""
        legal = self._layout(side)[1]
        if length <= len(legal) and self.label_position == "none" and (legal[1:] == legal[1]).all():
            return int(legal[1, 0]), int(legal[1, 1])
        past = np.zeros((max(0, length - len(legal)), 2), np.int64)
        return np.concatenate((legal[:length], past))

    def positions(self, length: int, side: Mapping[str, Any]) -> Ids:
        positions = self._layout(side)[0]
        past = np.broadcast_to(positions[-1:], (max(0, length - len(positions)), 2))
        return np.concatenate((positions[:length], past))

    def feature_rows(self, length: int, side: Mapping[str, Any]) -> Floats:
        """The pixels at the last id of each patch (`surroundings`); zeros where the side
        information has no picture. DataError if its size is another."""
        if "pixels" not in side:
            return np.zeros((length, self.features), np.float32)
        shape = 1, int(side["height"]), int(side["width"]), self.form.channels
        pixels = np.frombuffer(b64decode(side["pixels"]), np.uint8)
        if len(pixels) != math.prod(shape):
            raise DataError(f"side information: {len(pixels):,} pixels, not {math.prod(shape):,}")
        (rows,) = self.pixel_features(pixels.reshape(shape), length)
        return np.asarray(rows)

    def pixel_features(self, pixels: Pixels, length: int) -> Floats:
        """(N, length, features) of sequences of pictures (N, height, width, channels)."""
        blocks = self._blocks(pixels, "edge")
        around = surroundings(blocks.reshape(*blocks.shape[:3], -1), self.form.levels)
        rows: Floats = np.zeros((len(pixels), length, self.features), np.float32)
        first = self.per_patch + (self.label_position == "first")
        places = first + self.per_patch * np.arange(around.shape[1])
        known = places < length
        rows[:, places[known]] = around[:, known]
        return rows

    # -- on disk -----------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        about = {
            "form": asdict(self.form),
            "patch": list(self.patch),
            "labels": list(self.labels),
            "place": self.label_position,
            "stages": len(self.codebooks),
            "reads": self.reads,
        }
        return about, {f"codebook{n}": book for n, book in enumerate(self.codebooks)}

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> PatchTokenizer:
        books = tuple(arrays[f"codebook{n}"] for n in range(state["stages"]))
        height, width = state["patch"]
        form = Form(**state["form"])
        if form.range is not None:
            form = replace(form, range=(form.range[0], form.range[1]))
        reads = state.get("reads", False)
        return cls(form, (height, width), tuple(state["labels"]), state["place"], books, reads)

    # -- learning ----------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        pixels: Pixels,
        form: Form,
        patch: tuple[int, int],
        codes: int,
        stages: int,
        labels: tuple[str, ...] = (),
        label_position: str = "none",
        reads: bool = False,
    ) -> PatchTokenizer:
        """Learn a codebook of at most `codes` a stage from pictures (N, height, width, channels).
        There are fewer stages if the residual is already zero."""
        exact = cls(replace(form, levels=1), patch)  # only for `_blocks`
        vectors = exact._blocks(pixels, "edge").reshape(-1, patch[0] * patch[1] * form.channels)
        books = learn_codebooks(vectors, codes, stages)
        return cls(form, patch, labels, label_position, books, reads)


def exact_ids(form: Form, patch: tuple[int, int], joint: bool) -> int:
    """Number of values a patch can take: of all channels together if `joint`, else of one."""
    return int(form.levels ** (patch[0] * patch[1] * (form.channels if joint else 1)))


Tokenizer = PatchTokenizer
