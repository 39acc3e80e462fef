"""Batch rows of clips for training."""

from __future__ import annotations

import bisect

import numpy as np

from ...core.data.datasets import collate
from ...core.data.keyed_random import key, uniform
from ...core.errors import DataError
from ...core.protocols import Array, Batch, Ids, Sequence
from ...tokenizers._clips import ClipTokenizer, Samples
from .clips import Clips

MAX_GAIN_DB, MAX_SPEED, MAX_CUT = 6.0, 0.1, 0.02  # of varied clips; the cut is in seconds
NOISE_DB = (-70.0, -45.0)  # below full scale


class ClipRows:
    """Rows of context + 1 ids: several whole clips, or a window of one that is longer.

    Every window starts with the given ids of its clip (begin, and a first label); one from within
    the clip has no start id after them. Windows move by a random offset in each epoch; in a quarter
    of the epochs the first one starts with the clip, in another the last one ends with it. varied:
    whether level, speed and start of a clip change in each epoch.
    """

    def __init__(
        self,
        clips: Clips,
        tokenizer: ClipTokenizer,
        context: int,
        label_weight: float,
        seed: int,
        varied: bool,
    ) -> None:
        self.clips, self.tokenizer, self.context = clips, tokenizer, context
        self.label_weight, self.seed, self.varied = label_weight, seed, varied
        self.header = 1 + (tokenizer.label_position == "first")
        stages = len(tokenizer.stages)
        # ids of the sound in a window, a whole number of steps
        self.window = (context + 1 - self.header - 1) // stages * stages
        if self.window < stages:
            raise DataError(f"--context {context}: too short for a clip of audio")
        self.rows: list[list[tuple[int, int]]] = []  # (clip, number of its window)
        order = sorted(range(len(clips)), key=lambda n: uniform(seed, "order", n))
        free: list[tuple[int, list[tuple[int, int]]]] = []  # (ids, row) of rows with room
        for clip in order:
            length = self._longest(clip)
            if length > context + 1:
                count = max(1, tokenizer.count(self._size(clip)) // self.window)
                self.rows += [[(clip, window)] for window in range(count)]
                continue
            # the fullest row that has room, or a new one
            at = bisect.bisect_left(free, length, key=lambda each: each[0])
            if at == len(free):
                self.rows.append([])
                room, row = context + 1, self.rows[-1]
            else:
                room, row = free.pop(at)
            row.append((clip, 0))
            bisect.insort(free, (room - length, row), key=lambda each: each[0])
        self.ids = clips.cache

    def _size(self, clip: int) -> int:
        start, end = self.clips.bounds[clip]
        return int(end - start)

    def _longest(self, clip: int) -> int:
        """Ids of a whole clip at most, however it is varied."""
        return self.tokenizer.length(longest(self._size(clip), self.varied))

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Ids) -> Batch[Array]:
        rows = [
            [
                (sequence, 0, len(sequence))
                for sequence in (
                    self._sequence(clip, window, index // len(self))
                    for clip, window in self.rows[index % len(self)]
                )
            ]
            for index in indices.tolist()
        ]
        return collate(rows, self.tokenizer, self.context + 1)

    def _sequence(self, clip: int, window: int, epoch: int) -> Sequence:
        tokenizer, label = self.tokenizer, self.clips.found[clip].label
        header, tail = tokenizer.header(label), tokenizer.tail(label)
        sound = self._sound(clip, epoch)
        start = True
        if len(header) + 1 + len(sound) + len(tail) > self.context + 1:
            room, stages = self.window, len(tokenizer.stages)
            # the windows of an epoch lie side by side: from the start, to the end, or in between
            count = max(1, len(sound) // room)
            slack = max(0, len(sound) - count * room) // stages
            at = np.clip(2 * uniform(self.seed, "offset", clip, epoch) - 0.5, 0, 1)
            first = min(round(at * slack) * stages + window * room, len(sound) - stages)
            start = first == 0
            at_end = first + room >= len(sound) and not start
            sound = sound[first : first + room]
            tail = tail[:1] if at_end else tail[:0]
        ids = np.concatenate((header, [tokenizer.start] if start else [], sound, tail))
        weight = np.ones(len(ids), np.float32)
        weight[0] = 0
        if start:
            weight[len(header)] = 0
        low, high = tokenizer.label_ids
        weight[1:][(ids[1:] >= low) & (ids[1:] < high)] = self.label_weight
        return Sequence(ids.astype(np.int64), 1, weight, tokenizer.side(len(sound), start))

    def _sound(self, clip: int, epoch: int) -> Ids:
        """The ids of the sound of a clip; kept if they are the same in each epoch."""
        if self.varied:
            return self.tokenizer.ids_of(
                varied(self.clips.samples(clip), self.clips.rate, key(self.seed, clip, epoch))
            )
        if clip not in self.ids:
            self.ids[clip] = self.tokenizer.ids_of(self.clips.samples(clip))
        return self.ids[clip]


def longest(size: int, varied: bool) -> int:
    """The samples of a clip of `size` samples at most, however it is varied."""
    return int(size * (1 + MAX_SPEED)) + 1 if varied else size


def varied(samples: Samples, rate: int, seed: int) -> Samples:
    """A clip at another level and speed, from a slightly later start, with a little noise."""
    rng = np.random.default_rng(seed)
    gain, speed, cut = rng.uniform(-1, 1, 3)
    start = int((cut + 1) / 2 * min(MAX_CUT * rate, len(samples) / 4))
    samples = samples[start:]
    size = max(1, round(len(samples) * (1 + MAX_SPEED * speed)))
    places = np.linspace(0, len(samples) - 1, size)
    out = np.interp(places, np.arange(len(samples)), samples) * 10 ** (MAX_GAIN_DB * gain / 20)
    noise = 10 ** (rng.uniform(*NOISE_DB) / 20)
    out += noise * rng.standard_normal(size)
    changed: Samples = np.clip(out, -1, 1).astype(np.float32)
    return changed
