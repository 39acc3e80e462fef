"""Clips at one rate, and their split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.data.keyed_random import held_out, uniform
from ...core.errors import DataError
from ...core.protocols import Ids
from ...core.task import Description
from ...tokenizers._clips import Clip, Samples
from .._labelled.labels import label_names
from .recordings import FULL, resampled, to_16_bits

FEW_CLIPS = 10  # fewer than these, without labels, are cut in time rather than held out whole
MIN_CUT = 100  # samples of each part of a clip that is cut


@dataclass(frozen=True)
class Found:
    """One clip, unread: its name, label, and part (train, valid, test, or empty)."""

    name: str
    label: str | None = None
    part: str = ""


@dataclass(frozen=True, eq=False)
class Clips:
    """Items. raw: the samples of all clips of a data set, 16 bits, at `rate`; bounds (N, 2): the
    first sample of each clip, and the one after its last."""

    raw: npt.NDArray[np.int16]
    bounds: npt.NDArray[np.int64]
    rate: int
    found: tuple[Found, ...]
    label_position: str
    fingerprint: str
    about: str
    description: Description
    classes: tuple[str, ...] = ()  # of the data set that these are a split of
    cache: dict[int, Ids] = field(default_factory=dict)  # by clip

    def __len__(self) -> int:
        return len(self.bounds)

    @property
    def size(self) -> int:
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    @property
    def longest(self) -> int:
        return int((self.bounds[:, 1] - self.bounds[:, 0]).max())

    @property
    def labels(self) -> tuple[str | None, ...]:
        return tuple(each.label for each in self.found)

    def names(self) -> tuple[str, ...]:
        """The distinct labels in order (numbers by value), of the full data set if a split."""
        return self.classes or label_names(self.labels)

    def samples(self, index: int) -> Samples:
        start, end = self.bounds[index]
        return self.raw[start:end].astype(np.float32) / np.float32(FULL)

    def clips(self) -> Iterator[Clip]:
        for index, each in enumerate(self.found):
            yield Clip(self.samples(index), self.rate, each.label)

    def at_rate(self, rate: int) -> Clips:
        """The same clips, resampled if they are at another rate."""
        if rate == self.rate:
            return self
        sounds = [resampled(clip.samples, self.rate, rate) for clip in self.clips()]
        ends = np.cumsum([len(sound) for sound in sounds])
        starts = np.concatenate(([0], ends[:-1]))
        raw = to_16_bits(np.concatenate(sounds))
        return replace(self, raw=raw, bounds=np.stack((starts, ends), 1), rate=rate, cache={})

    def some(self, bounds: npt.NDArray[np.int64], which: Any, name: str, about: str) -> Clips:
        return replace(
            self,
            bounds=bounds,
            found=tuple(self.found[i] for i in which),
            fingerprint=f"{self.fingerprint}/{name}",
            about=about,
            classes=self.names(),
            cache={},
        )

    def parts(self) -> dict[str, Clips]:
        """The parts that the data names, train and valid or test or both; {} if it does not."""
        names = {each.part for each in self.found}
        if not {"train"} < names:
            return {}
        out = {}
        for part in ("train", "valid", "test"):
            which = [n for n, each in enumerate(self.found) if each.part == part]
            if which:
                out[part] = self.some(self.bounds[which], which, part, counted(len(which)))
        return out

    def split(self, fraction: float, key: str = "split") -> tuple[Clips, Clips]:
        """(train, held out). Whole clips by a hash of their samples, so that equal ones stay
        together; the end of each clip if they are few and have no labels."""
        if len(self) < FEW_CLIPS and self.label_position == "none":
            return self._split_in_time(fraction, key)
        digests = [hashlib.sha256(self.samples(n).tobytes()).hexdigest() for n in range(len(self))]
        held = held_out(np.array([uniform(key, digest) for digest in digests]), fraction)
        if not held.any():
            raise DataError(
                f"--data: {self.about}: need at least 2 different clips so that one is held out; "
                "add some, or name others with --valid"
            )
        sides = np.flatnonzero(~held), np.flatnonzero(held)
        train, held_items = (
            self.some(self.bounds[n], n, f"{name}{fraction}", f"{len(n):,} of {counted(len(self))}")
            for name, n in zip(("train", "held"), sides, strict=True)
        )
        return train, held_items

    def _split_in_time(self, fraction: float, name: str) -> tuple[Clips, Clips]:
        lengths = self.bounds[:, 1] - self.bounds[:, 0]
        after = np.rint(lengths * fraction).astype(np.int64)
        long = np.flatnonzero((after >= MIN_CUT) & (lengths - after >= MIN_CUT))
        if not len(long):
            raise DataError(
                f"--data: {self.about}: too short to hold out {fraction:g} of each clip; need "
                f"{FEW_CLIPS} clips, or longer ones, or others with --valid"
            )
        cut = self.bounds.copy()
        cut[long, 1] -= after[long]
        rest = np.stack((cut[long, 1], self.bounds[long, 1]), axis=1)
        seconds = after[long].sum() / self.rate
        everything = range(len(self))
        return (
            self.some(cut, everything, f"{name}-before{fraction}", counted(len(self))),
            self.some(
                rest,
                long,
                f"{name}-after{fraction}",
                f"the last {seconds:,.1f} s of {counted(len(long))}",
            ),
        )


def counted(clips: int) -> str:
    """A number of clips for people."""
    return f"{clips:,} clip{'' if clips == 1 else 's'}"
