"""Pictures as patches in raster order, with rows and columns as positions.

Exact: an id is the pixels of a patch themselves, as the digits of a number in base `levels`, so
that the likelihood of the ids is that of the pixels. Learned: a k-means codebook and residual
stages (Gray 1984; Juang & Gray 1982) for patches whose alphabet is too large for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import ConfigError, DataError
from ..core.protocols import Ids, Sequence, Support
from ._codebook import CHUNK, Codebook, learn_codebooks, nearest_code

Pixels = npt.NDArray[np.uint8]

MAX_IDS = 4096  # of an exact patch


@dataclass(frozen=True)
class Form:
    """What every picture is brought to. A channel of a pixel takes `depth` values as it is read
    and `levels` as it is modelled; `binarise` says how it gets to two."""

    height: int
    width: int
    channels: int = 1
    depth: int = 256
    levels: int = 256
    binarise: str | None = None  # threshold, stochastic


@dataclass(frozen=True, eq=False)
class Picture:
    """pixels (height, width, channels), each 0 ... levels - 1."""

    pixels: Pixels
    label: str | None = None


class PatchTokenizer:
    """`labels`: their names; `place`: where one stands, first (behind the begin id), last, none.

    Ids: patches from 0, then labels, then begin. With `codebooks`, one (codes, values of a patch)
    a stage, a patch is one id a stage; without, one id, or one a channel where all channels
    together would be more than MAX_IDS.
    """

    axes = 2

    def __init__(
        self,
        form: Form,
        patch: tuple[int, int] = (1, 1),
        labels: tuple[str, ...] = (),
        place: str = "none",
        codebooks: tuple[Codebook, ...] = (),
    ) -> None:
        self.form, self.patch, self.labels, self.place = form, patch, labels, place
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
        alone = not codebooks and self.patch_ids == form.levels  # an id is a level of grey
        self.ordered = (0, form.levels if alone else 0)
        self.begin = self.patch_ids + len(labels)
        self.vocab_size = self.begin + 1
        self._layouts: dict[tuple[int, int], tuple[Ids, Ids]] = {}

    # -- items -------------------------------------------------------------------------------

    def encode(self, item: Picture, like: Sequence | None = None) -> Sequence:
        """Learned codes: where the ids of `like` give the very pixels of a patch, they stay."""
        height, width = item.pixels.shape[:2]
        ids = self.patch_ids_of(item.pixels[None])[0]
        if like is not None:
            ids = self._kept(ids, like, item.pixels)
        side = self.side(height, width)
        if not self.lossless:
            there = self.pixels_of(ids[None], height, width)[0].astype(np.float64)
            peak = max(self.form.levels - 1, 1)
            side["error"] = float((((there - item.pixels) / peak) ** 2).sum())
        return Sequence(self.with_label(ids, item.label), side=side)

    def side(self, height: int, width: int) -> dict[str, Any]:
        form = self.form
        return {"height": height, "width": width, "channels": form.channels, "levels": form.levels}

    def with_label(self, ids: Ids, label: str | None) -> Ids:
        """The begin id, the patches, and the label where it belongs."""
        named = [] if self.place == "none" or label is None else [self.label_id(label)]
        if self.place == "first":
            if not named:
                raise DataError(
                    "a picture has no label, and this tokenizer puts labels first; put it in a "
                    "folder of its label's name"
                )
            return np.concatenate(([self.begin], named, ids)).astype(np.int64)
        return np.concatenate(([self.begin], ids, named)).astype(np.int64)

    def label_id(self, label: str) -> int:
        if label not in self.labels:
            some = ", ".join(self.labels[:12]) + (" ..." if len(self.labels) > 12 else "")
            raise DataError(f"label {label}: not one of those trained on: {some or 'none'}")
        return self.patch_ids + self.labels.index(label)

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Picture:
        """Patches that are not there (yet) are 0."""
        height, width = int(side["height"]), int(side["width"])
        named = ids[(ids >= self.patch_ids) & (ids < self.begin)]
        found = ids[ids < self.patch_ids]
        known = len(found) // self.per_patch * self.per_patch
        count = self._count(height, width)
        whole = np.tile(self._lowest(), count // self.per_patch)
        whole[:known] = found[:known][:count]
        pixels = self.pixels_of(whole[None], height, width)[0]
        self._blank(pixels, known // self.per_patch)
        return Picture(pixels, self.labels[int(named[0]) - self.patch_ids] if len(named) else None)

    def _blank(self, pixels: Pixels, known: int) -> None:
        """0 from the patch numbered `known` on (a code of 0 need not be black)."""
        columns = -(-pixels.shape[1] // self.patch[1])
        row, column = divmod(known, columns)
        top, left = row * self.patch[0], column * self.patch[1]
        pixels[top : top + self.patch[0], left:] = 0
        pixels[top + self.patch[0] :] = 0

    # -- patches -----------------------------------------------------------------------------

    def patch_ids_of(self, pixels: Pixels) -> Ids:
        """(N, ids) of pictures (N, height, width, channels), all of one size."""
        step = max(1, CHUNK // max(1, pixels[0].size)) if len(pixels) else 1
        encode = self._exact if self.lossless else self._nearest
        parts = [encode(pixels[at : at + step]) for at in range(0, len(pixels), step)]
        return np.concatenate(parts) if parts else np.empty((0, 0), np.int64)

    def pixels_of(self, ids: Ids, height: int, width: int) -> Pixels:
        """(N, height, width, channels) of patch ids (N, ids)."""
        (ph, pw), channels = self.patch, self.form.channels
        rows, columns = self.grid(height, width)
        if self.lossless:
            place = self._places(height, width)
            shaped = ids.reshape(len(ids), rows, columns, 1, 1, -1)
            blocks: npt.NDArray[Any] = shaped // np.maximum(place, 1) % self.form.levels
        else:
            stages = ids.reshape(len(ids), rows * columns, self.per_patch)
            total = np.zeros((*stages.shape[:2], ph * pw * channels), np.float32)
            for stage, (first, book) in enumerate(zip(self._firsts(), self.codebooks, strict=True)):
                total += book[stages[..., stage] - first]
            total = np.clip(np.rint(total), 0, self.form.levels - 1)
            blocks = total.reshape(len(ids), rows, columns, ph, pw, channels)
        whole = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
            len(ids), rows * ph, columns * pw, channels
        )
        return whole[:, :height, :width].astype(np.uint8)

    def _blocks(self, pixels: Pixels, pad: str) -> npt.NDArray[Any]:
        """(N, rows, columns, patch height, patch width, channels), the edges filled up."""
        count, height, width, channels = pixels.shape
        (ph, pw), (rows, columns) = self.patch, self.grid(height, width)
        below, right = rows * ph - height, columns * pw - width
        if below or right:
            pixels = np.pad(pixels, ((0, 0), (0, below), (0, right), (0, 0)), pad)  # type: ignore[call-overload]
        return pixels.reshape(count, rows, ph, columns, pw, channels).transpose(0, 1, 3, 2, 4, 5)

    def _places(self, height: int, width: int) -> Ids:
        """(rows, columns, patch height, patch width, channels or 1): what each pixel counts in its
        patch's id, 0 outside the picture. A patch over the edge has fewer pixels, so fewer ids."""
        ph, pw = self.patch
        rows, columns = self.grid(height, width)
        inside = np.zeros((rows * ph, columns * pw), np.int64)
        inside[:height, :width] = 1
        inside = inside.reshape(rows, ph, columns, pw).transpose(0, 2, 1, 3)[..., None]
        inside = np.repeat(inside, self.form.channels if self.joint else 1, axis=-1)
        flat = inside.reshape(rows, columns, -1)
        power = np.cumsum(flat, axis=-1) - flat
        places: Ids = np.where(flat, self.form.levels**power, 0).reshape(inside.shape)
        return places

    def _exact(self, pixels: Pixels) -> Ids:
        blocks = self._blocks(pixels, "constant").astype(np.int64)
        values = blocks * self._places(*pixels.shape[1:3])
        ids: Ids = values.sum((3, 4, 5)) if self.joint else values.sum((3, 4))
        return ids.reshape(len(pixels), -1)

    def _nearest(self, pixels: Pixels) -> Ids:
        blocks = self._blocks(pixels, "edge")
        vectors = blocks.reshape(-1, self.codebooks[0].shape[1]).astype(np.float32)
        stages = []
        for first, book in zip(self._firsts(), self.codebooks, strict=True):
            found = nearest_code(vectors, book)
            vectors = vectors - book[found]
            stages.append(found + first)
        return np.stack(stages, axis=1).reshape(len(pixels), -1)

    def _kept(self, ids: Ids, like: Sequence, pixels: Pixels) -> Ids:
        old = like.ids[like.ids < self.patch_ids]
        if self.lossless or len(old) != len(ids):
            return ids
        same = self.pixels_of(old[None], *pixels.shape[:2]) == pixels[None]
        whole = self._blocks(same.astype(np.uint8) ^ 1, "constant").sum((0, 3, 4, 5)) == 0
        return np.where(np.repeat(whole.reshape(-1), self.per_patch), old, ids)

    def _firsts(self) -> list[int]:
        """The first id of each stage."""
        return [sum(map(len, self.codebooks[:n])) for n in range(len(self.codebooks))]

    def _lowest(self) -> Ids:
        return np.array(self._firsts() if self.codebooks else [0] * self.per_patch, np.int64)

    # -- where ids stand ---------------------------------------------------------------------

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return -(-height // self.patch[0]), -(-width // self.patch[1])

    def _count(self, height: int, width: int) -> int:
        rows, columns = self.grid(height, width)
        return rows * columns * self.per_patch

    def length(self, height: int, width: int) -> int:
        """Ids of a picture of this size, its label included."""
        return 1 + self._count(height, width) + (self.place != "none")

    def _layout(self, side: Mapping[str, Any]) -> tuple[Ids, Ids]:
        """Positions and legal ranges, each (T, 2). Row and column 0 are for begin and a first
        label; ids of one patch stand side by side; a last label stands below."""
        size = int(side["height"]), int(side["width"])
        if size not in self._layouts:
            rows, columns = self.grid(*size)
            across = columns * self.per_patch
            places = [np.array([[0, 0]])]
            ranges = [np.array([[self.begin, self.begin + 1]])]
            label = np.array([[self.patch_ids, self.begin]])
            if self.place == "first":
                places.append(np.array([[0, 1]]))
                ranges.append(label)
            places.append(np.indices((rows, across)).reshape(2, -1).T + 1)
            ranges.append(self._ranges(*size))
            if self.place == "last":
                places.append(np.array([[rows + 1, 0]]))
                ranges.append(label)
            self._layouts[size] = np.concatenate(places), np.concatenate(ranges)
        return self._layouts[size]

    def _ranges(self, height: int, width: int) -> Ids:
        if self.codebooks:
            firsts = self._firsts()
            each = [[a, a + len(book)] for a, book in zip(firsts, self.codebooks, strict=True)]
            return np.tile(each, (self._count(height, width) // self.per_patch, 1))
        pixels = (self._places(height, width) > 0).sum((2, 3, 4)).reshape(-1)
        high: Ids = np.repeat(self.form.levels**pixels, self.per_patch)
        return np.stack([np.zeros_like(high), high], axis=1)

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        """Nothing is legal behind the picture's end. One range for all where that is so."""
        legal = self._layout(side)[1]
        if length <= len(legal) and self.place == "none" and (legal[1:] == legal[1]).all():
            return int(legal[1, 0]), int(legal[1, 1])
        past = np.zeros((max(0, length - len(legal)), 2), np.int64)
        return np.concatenate((legal[:length], past))

    def positions(self, length: int, side: Mapping[str, Any]) -> Ids:
        places = self._layout(side)[0]
        past = np.broadcast_to(places[-1:], (max(0, length - len(places)), 2))
        return np.concatenate((places[:length], past))

    # -- on disk -----------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        about = {
            "form": asdict(self.form),
            "patch": list(self.patch),
            "labels": list(self.labels),
            "place": self.place,
            "stages": len(self.codebooks),
        }
        return about, {f"codebook{n}": book for n, book in enumerate(self.codebooks)}

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> PatchTokenizer:
        books = tuple(arrays[f"codebook{n}"] for n in range(state["stages"]))
        height, width = state["patch"]
        return cls(
            Form(**state["form"]), (height, width), tuple(state["labels"]), state["place"], books
        )

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
        place: str = "none",
    ) -> PatchTokenizer:
        """A codebook of at most `codes` for each stage, learned from pictures (N, height, width,
        channels); a stage that has nothing left to say is left out."""
        exact = cls(replace(form, levels=1), patch)  # for its blocks alone
        vectors = exact._blocks(pixels, "edge").reshape(-1, patch[0] * patch[1] * form.channels)
        books = learn_codebooks(vectors, codes, stages)
        return cls(form, patch, labels, place, books)


def exact_ids(form: Form, patch: tuple[int, int], joint: bool) -> int:
    """How many values a patch can take, of all channels or of one."""
    return int(form.levels ** (patch[0] * patch[1] * (form.channels if joint else 1)))


Tokenizer = PatchTokenizer
