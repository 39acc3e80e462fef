"""What `tfm data` finds in the splits of a task: counts, a few items, and what is doubtful.

The held-out sequences are in memory, as in training; the training sequences are read once, in
chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..display import visible
from ..protocols import Items, Sequence, Tokenizer
from ..task import DataWarning, Task
from .doubts import NAMED, Doubts, listed
from .overlap import Overlap
from .runs_in_common import RUN
from .samples import Samples, Shown
from .tally import Tally

CHUNK_ITEMS, CHUNK_IDS = 4096, 1 << 20  # read at a time, about
MAX_SIZE = 100_000_000  # units of training items that are examined; of more, a random sample
RUN_BYTES = 200  # of a run in common, at least: 50 tokens of four bytes


@dataclass(frozen=True)
class Domain:
    """The data of one domain. held: the held-out sequences by split; parts: their items, where they
    are at hand."""

    task: Task
    tokenizer: Tokenizer
    train: Items
    held: Mapping[str, Collection[Sequence]]
    parts: Mapping[str, Items] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """splits: figures by name; shown: the items to show; warnings: what is doubtful; sampled: the
    share of the training part that was examined."""

    splits: dict[str, dict[str, Any]]
    shown: list[Shown]
    warnings: list[DataWarning]
    sampled: float


def domains(data: Domain) -> dict[str, Domain]:
    """The data of each domain of a task of several; else the data itself, as the only one."""
    each = data.task.domains(data.train, data.held, data.tokenizer)
    found = {
        name: Domain(task, tokenizer, train, held)
        for name, (task, train, held, tokenizer) in each.items()
    }
    return found or {"": data}


def inspect(
    data: Domain, context: int | None, samples: Samples, progress: Callable[[float], None]
) -> Findings:
    """Reads all of the data. context: of the model, in ids, None for that of the task; samples:
    which items to keep; progress: receives the fraction that is done."""
    task, tokenizer = data.task, data.tokenizer
    train = task.sampled(data.train, MAX_SIZE)
    parts = {"train": train, **data.parts}
    if task.running and train is not data.train:
        del parts["train"]  # pieces of texts, without names
    tallies = {
        split: Tally(task, tokenizer, task.names(parts[split]) if split in parts else None)
        for split in ("train", *data.held)
    }
    held = {}
    for split, sequences in data.held.items():
        kept = list(sequences)
        held[split] = [task.content(sequence, tokenizer) for sequence in kept]
        tallies[split].add(kept, held[split])
        samples.add(split, kept, task.running)
    overlap = Overlap(task.comparison(tokenizer), held, _run_length(task, tallies))
    size, tally = max(train.size, 1), tallies["train"]
    for chunk in _chunks(task.examined(train, tokenizer)):
        contents = [task.content(sequence, tokenizer) for sequence in chunk]
        tally.add(chunk, contents)
        overlap.add(contents)
        samples.add("train", chunk, task.running)
        progress(min(1.0, tally.units[task.unit] / size))

    def names(split: str, numbers: Iterable[int]) -> tuple[str, ...]:
        return _names(task, tallies[split], parts.get(split), list(numbers))

    longest = task.longest(data.train, tokenizer) if context is None else context + 1
    refused = task.pairs or tokenizer.axes > 1  # others are cut
    found = [*Doubts(task, tallies, names).found(overlap, longest, refused)]
    found += task.data_warnings(data.train, data.held, tokenizer)
    return Findings(
        {split: tally.figures() for split, tally in tallies.items()},
        samples.chosen(),
        found,
        train.size / max(data.train.size, 1),
    )


def _chunks(sequences: Iterable[Sequence]) -> Iterator[list[Sequence]]:
    chunk: list[Sequence] = []
    size = 0
    for sequence in sequences:
        chunk.append(sequence)
        size += len(sequence)
        if len(chunk) == CHUNK_ITEMS or size >= CHUNK_IDS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _run_length(task: Task, tallies: Mapping[str, Tally]) -> int:
    """Tokens of a run in common that counts: RUN, of RUN_BYTES at least."""
    units = sum(tally.units["byte"] for tally in tallies.values())
    tokens = sum(tally.tokens for tally in tallies.values())
    return max(RUN, math.ceil(RUN_BYTES * tokens / units)) if units else RUN


def _names(task: Task, tally: Tally, items: Items | None, numbers: list[int]) -> tuple[str, ...]:
    """What the first of these items are called: by their side information, by the task, or by their
    number."""
    some = numbers[:NAMED]
    known: dict[int, str] = {}
    if items is not None and any(tally.ids[number] is None for number in some):
        names = task.names(items)
        firsts = (name for name in names if name is not None) if names is not None else ()
        first = enumerate(islice(firsts, max(some) + 1))
        known = {n: f"“{name}”" for n, name in first if n in some}
    return listed([visible(tally.ids[n] or known.get(n) or f"item {n + 1:,}") for n in some])
