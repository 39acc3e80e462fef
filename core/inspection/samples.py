"""A few items of a split, chosen while all of them pass by."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ..protocols import Sequence

SLICE = 256  # ids of a running text that are shown as one item


@dataclass(frozen=True)
class Shown:
    """An item to show. number: of the item in its split, from 1; of a running text, the number of
    its first id, from 0."""

    split: str
    number: int
    sequence: Sequence


class Samples:
    """`count` items of `split`: evenly spaced, or with a seed at random. As the number of items is
    not known before, every second one is dropped whenever there are too many."""

    def __init__(self, count: int, split: str, seed: int | None = None) -> None:
        self.count, self.split = count, split
        self.random = None if seed is None else Random(seed)
        self.kept: list[Shown] = []
        self.seen, self.stride = 0, 1
        self.read = 0  # ids of a running text

    def add(self, split: str, sequences: list[Sequence], running: bool) -> None:
        if split != self.split or not self.count:
            return
        for sequence in sequences:
            if not running:
                self._offer(self.seen + 1, sequence)
                continue
            size = max(1, len(sequence) // self.count)
            for start in range(0, len(sequence), size):
                part = Sequence(sequence.ids[start : start + SLICE])
                if start + SLICE <= len(sequence) or not start:
                    self._offer(self.read + start, part)
            self.read += len(sequence)

    def _offer(self, number: int, sequence: Sequence) -> None:
        at, self.seen = self.seen, self.seen + 1
        shown = Shown(self.split, number, sequence)
        if self.random is not None:  # reservoir sampling (Vitter 1985, algorithm R)
            if len(self.kept) < self.count:
                self.kept.append(shown)
            elif (place := self.random.randrange(self.seen)) < self.count:
                self.kept[place] = shown
        elif at % self.stride == 0:
            self.kept.append(shown)
            if len(self.kept) > max(8 * self.count, 64):
                self.kept, self.stride = self.kept[::2], 2 * self.stride

    def chosen(self) -> list[Shown]:
        """The items, in their order."""
        total = len(self.kept)
        if self.random is not None or total <= self.count:
            return sorted(self.kept, key=lambda shown: shown.number)
        return [self.kept[int((at + 0.5) * total / self.count)] for at in range(self.count)]
