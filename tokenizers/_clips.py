"""What tokenizers of audio share: the clip, and where begin, label, start and end ids stand.

A sequence is: begin, the label if labels are first, start, the ids of the sound, end, the label if
labels are last. The ids before start are given, and stand before every window of a long clip; start
itself stands only where the clip starts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError
from ..core.protocols import Ids, Sequence, Support, Tokenizer

Samples = npt.NDArray[np.float32]

END_ID = 0
FIRST_ID = 1  # of the sound


@dataclass(frozen=True, eq=False)
class Clip:
    """samples (T,): of one channel, in -1 ... 1, `rate` a second."""

    samples: Samples
    rate: int
    label: str | None = None


class ClipTokenizer(Tokenizer):
    """`labels`: their names. `label_position`: first, last or none. `longest`: ids of the sound of
    the longest clip that it was fitted on. `stages`: how many codes each stage has. The ids of the
    sound go through the stages in turn, a step of the clip after another; each stage has its own
    range of ids.

    The vocabulary is end, the ids of the sound, labels, start, begin.
    """

    lossless = False

    def __init__(
        self,
        rate: int,
        stages: tuple[int, ...],
        longest: int,
        labels: tuple[str, ...],
        label_position: str,
    ) -> None:
        self.rate, self.stages, self.longest = rate, stages, longest
        self.labels, self.label_position = labels, label_position
        self.sound_ids = FIRST_ID, FIRST_ID + sum(stages)
        self.label_ids = self.sound_ids[1], self.sound_ids[1] + len(labels)
        self.start = self.label_ids[1]
        self.begin = self.start + 1
        self.vocab_size = self.begin + 1

    # -- of each kind ------------------------------------------------------------------------

    @abstractmethod
    def ids_of(self, samples: Samples) -> Ids:
        """The ids of the sound: for each step, one of each stage."""

    @abstractmethod
    def samples_of(self, ids: Ids) -> Samples:
        """The samples that ids of the sound encode."""

    @abstractmethod
    def count(self, samples: int) -> int:
        """The number of ids that `ids_of` makes of so many samples."""

    # -- sequences ---------------------------------------------------------------------------

    def header(self, label: str | None) -> Ids:
        """The given ids: begin, and a first label. DataError for a label that is unknown, or
        missing where labels are first."""
        if self.label_position != "first":
            return np.array([self.begin])
        if label is None:
            raise DataError(
                "a clip has no label, and this tokenizer puts labels first; put it in a folder of "
                "its label's name"
            )
        return np.array([self.begin, self.label_id(label)])

    def tail(self, label: str | None) -> Ids:
        """The ids after the sound: end, and a last label."""
        last = [self.label_id(label)] if self.label_position == "last" and label is not None else []
        return np.array([END_ID, *last])

    def label_id(self, label: str) -> int:
        if label not in self.labels:
            some = ", ".join(self.labels[:12]) + (" ..." if len(self.labels) > 12 else "")
            raise DataError(f"label {label}: not one of those trained on: {some or 'none'}")
        return self.label_ids[0] + self.labels.index(label)

    def length(self, samples: int) -> int:
        """The number of ids of a clip of so many samples, with all others."""
        return self.count(samples) + 3 + (self.label_position != "none")

    def encode(self, item: Clip, like: Sequence | None = None) -> Sequence:
        """A clip that `like` decodes to exactly keeps the ids of `like`."""
        header = self.header(item.label)
        sound = self._reused(item, like)
        if sound is None:
            sound = self.ids_of(item.samples)
        ids = np.concatenate((header, [self.start], sound, self.tail(item.label)))
        weight = np.ones(len(ids), np.float32)
        weight[len(header)] = 0  # start is certain
        side = self.side(len(sound)) | {"samples": len(item.samples)}
        return Sequence(ids.astype(np.int64), len(header), weight, side)

    def _reused(self, item: Clip, like: Sequence | None) -> Ids | None:
        if like is None or self.lossless:
            return None
        decoded = self.decode(like.ids, like.side).samples
        same = np.array_equal(decoded, item.samples)
        return self.sound(like.ids) if same else None

    def sound(self, ids: Ids) -> Ids:
        """Those of the ids that encode sound, before the first end token."""
        ends = np.flatnonzero(ids == END_ID)
        ids = ids[: ends[0]] if len(ends) else ids
        low, high = self.sound_ids
        return ids[(ids >= low) & (ids < high)]

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Clip:
        """A clip from possibly incomplete ids, without an incomplete last step."""
        sound = self.sound(ids)
        samples = self.samples_of(sound[: len(sound) // len(self.stages) * len(self.stages)])
        low, high = self.label_ids
        found = ids[(ids >= low) & (ids < high)]
        label = self.labels[int(found[0]) - low] if len(found) else None
        return Clip(samples[: side.get("samples")], self.rate, label)

    # -- positions and support ---------------------------------------------------------------

    def side(self, sound: int | None, start: bool = True) -> dict[str, Any]:
        """sound: the number of ids of the sound, None if it is open; start: whether the sequence
        has the start id, as a window from within a clip has not."""
        return {"rate": self.rate, "sound": sound, "start": start}

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        """(length, 2) the legal ids of each place: sound or its end, and each other id at its own
        place. After the end, no id is legal."""
        first = FIRST_ID + np.cumsum((0, *self.stages))
        legal = [(self.begin, self.begin + 1)]
        if self.label_position == "first":
            legal.append(self.label_ids)
        if side["start"]:
            legal.append((self.start, self.begin))
        turn = [(int(a), int(b)) for a, b in zip(first[:-1], first[1:], strict=True)]
        turn[0] = END_ID, turn[0][1]
        room = max(0, length - len(legal))
        sound = room if side["sound"] is None else int(side["sound"])
        middle = np.tile(np.array(turn), (-(-(sound + 1) // len(turn)), 1))[: sound + 1]
        last = [self.label_ids] if self.label_position == "last" else []
        ranges = np.concatenate((legal, middle, np.array(last, np.int64).reshape(-1, 2)))[:length]
        past = np.zeros((length - len(ranges), 2), np.int64)
        return np.concatenate((ranges, past)).astype(np.int64)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        return {
            "rate": self.rate,
            "longest": self.longest,
            "labels": list(self.labels),
            "label_position": self.label_position,
        }, {}
