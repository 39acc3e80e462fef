"""Four-part chorales for tfm: soprano, alto, tenor and bass on a grid of sixteenth notes.

Data is JSON: {"train": [chorale, ...], "valid": [...], "test": [...]}, or one chorale: a list of
steps of four MIDI pitches, -1 for a rest.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfm.core.data.item_list import ItemList, ListTask
from tfm.core.errors import UsageError
from tfm.core.protocols import Ids, Sequence, Tokenizer

VOICES, REST = 4, -1
BAR, WINDOW = 16, 64  # steps of a bar of four quarter notes, and of an item
PITCHES = range(6, 123)  # those that stay within MIDI's 0 to 127 in every key
KINDS = 129  # of notes: 0 for a rest, or 1 + pitch
BEGIN = VOICES * KINDS  # the begin token
Chorale = list[list[int]]


class ChoraleTokenizer(Tokenizer):
    """A note is a token: step by step, from soprano to bass. Each voice has ids of its own."""

    vocab_size, begin = BEGIN + 1, BEGIN
    axes = 2  # time and voice

    def encode(self, item: Chorale, like: Sequence | None = None) -> Sequence:
        ids = np.array(item) - REST + KINDS * np.arange(VOICES)
        return Sequence(np.array([BEGIN, *ids.ravel()], np.int64))

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Chorale:
        notes = ids[ids != BEGIN] % KINDS + REST
        chorale: Chorale = notes[: len(notes) // VOICES * VOICES].reshape(-1, VOICES).tolist()
        return chorale

    def positions(self, length: int, side: Mapping[str, Any]) -> Ids:
        note = np.maximum(np.arange(length) - 1, 0)  # the begin token is where the first note is
        return np.stack((note // VOICES, note % VOICES), axis=-1)

    def support(self, length: int, side: Mapping[str, Any]) -> Ids:
        lowest = KINDS * self.positions(length, side)[:, 1]
        return np.stack((lowest, lowest + KINDS), axis=-1)


@dataclass(frozen=True)
class ChoraleSampling:
    bars: int = field(default=4, metadata={"help": "Bars of four quarter notes, 1 to 4."})

    def __post_init__(self) -> None:
        if not 1 <= self.bars <= WINDOW // BAR:
            raise UsageError(f"--bars {self.bars}: must be 1 to {WINDOW // BAR}")


class ChoraleTask(ListTask[Chorale]):
    name, about = "chorales", "four-part chorales: JSON of steps of four MIDI pitches"
    unit, binary, file_types = "note", True, (".mid",)
    default_tokenizer, Tokenizer = "chorale", ChoraleTokenizer
    SampleOptions = ChoraleSampling

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        return 0.95 if re.match(rb'{"\w+": \[\[\[-?\d+, -?\d+, -?\d+, -?\d+]', head) else 0.0

    def read(self, data: bytes) -> Mapping[str, Iterable[Chorale]]:
        found = json.loads(data)
        parts = found if isinstance(found, dict) else {"": [found]}
        return {part: [w for each in some for w in windows(each)] for part, some in parts.items()}

    def variants(self, item: Chorale) -> Iterator[Chorale]:
        """The chorale in each of the twelve keys."""
        for shift in range(-6, 6):
            yield [[REST if note == REST else note + shift for note in step] for step in item]

    def floor(self, train: ItemList[Chorale], held: ItemList[Chorale]) -> dict[str, float]:
        """How often a note is in its voice, and how often it follows the note before it there."""
        counts = np.zeros((VOICES, KINDS + 1, KINDS))
        np.add.at(counts, transitions(train), 1)
        unigram = (counts.sum(1) + 1 / KINDS) / (counts.sum((1, 2))[:, None] + 1)
        previous = (counts + unigram[:, None]) / (counts.sum(2, keepdims=True) + 1)
        voice, before, note = transitions(held)
        chances = {"unigram": unigram[voice, note], "previous": previous[voice, before, note]}
        return {name: float(-np.log2(chance).mean()) for name, chance in chances.items()}

    def metrics(self, nll: float, tokens: int, units: Any, lossless: bool) -> dict[str, Any]:
        return {"nats_per_note": nll / units["note"]}

    def new_tokens(self, prompt: Sequence, sampling: ChoraleSampling) -> int:
        return max(0, 1 + sampling.bars * BAR * VOICES - len(prompt))

    def write(self, items: list[Chorale], prompt: Any, sampling: Any, out: BinaryIO) -> None:
        out.write(midi([step for chorale in items for step in chorale]))

    def record(self, item: Chorale) -> dict[str, Any]:
        return {"chorale": item}

    def preview(self, items: list[Chorale], prompt: Any, sampling: Any, width: int) -> str:
        return piano_roll(np.array(items[0][:width]))


def windows(chorale: Chorale) -> Iterator[Chorale]:
    """A chorale in pieces of WINDOW steps. ValueError if it is none."""
    if not all(len(step) == VOICES and {REST, *PITCHES}.issuperset(step) for step in chorale):
        raise ValueError("a step must be four pitches, 6 to 122 or -1 for a rest")
    return (chorale[start : start + WINDOW] for start in range(0, len(chorale), WINDOW))


def transitions(chorales: Iterable[Chorale]) -> tuple[Ids, Ids, Ids]:
    """(voice, kind of the note before in this voice, kind of the note), each (notes,)."""
    notes = [np.array(chorale) - REST for chorale in chorales]
    before = [np.vstack(([KINDS] * VOICES, each[:-1])) for each in notes]
    after = np.concatenate(notes)
    return np.indices(after.shape)[1].ravel(), np.concatenate(before).ravel(), after.ravel()


def midi(chorale: Chorale) -> bytes:
    """A MIDI file of format 0, each voice a channel. Equal notes in a row are one held note."""
    events = [(len(chorale), 0xFF, 0x2F, 0)]  # (step, three bytes): the end of the track
    for channel, notes in enumerate(zip(*chorale, strict=True)):
        end = 0
        for note, held in groupby(notes):
            start, end = end, end + len(list(held))
            if note != REST:
                events += [(start, 0x90 | channel, note, 80), (end, 0x80 | channel, note, 0)]
    track, now = b"", 0
    for step, *message in sorted(events):
        wait, now = step - now, step
        high = [128 | wait >> bits & 127 for bits in (21, 14, 7) if wait >> bits]
        track += bytes([*high, wait & 127, *message])
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, BAR // 4, b"MTrk", len(track)) + track


def piano_roll(steps: Ids) -> str:
    """Time to the right, pitch upwards, two semitones a line."""
    lowest = steps[steps != REST].min(initial=127) // 2 * 2
    pitches = np.arange(lowest, steps.max(initial=0) + 2)
    rows = (steps == pitches[:, None, None]).any(-1)  # (pitch, step)
    lines = [lower + 2 * upper for lower, upper in zip(rows[::2], rows[1::2], strict=False)]
    return "\n".join("".join(" ▄▀█"[cell] for cell in line) for line in reversed(lines))
