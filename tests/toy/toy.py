"""A task outside the package: small grids of four colours, of any height and width, each labelled
with its most frequent colour. `tfm` finds it only through its two entry points."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfm.core.data.datasets import Packed
from tfm.core.data.sequence_store import cached_store
from tfm.core.data.source import Source
from tfm.core.errors import DataError
from tfm.core.protocols import Sequence
from tfm.core.task import Task

COLOURS = 4
BEGIN = 2 * COLOURS  # ids: the colours of cells, the colours as labels, the begin token
UNSCORED_STEP = 3  # every third cell has weight 0


@dataclass(frozen=True)
class Grid:
    cells: list[list[int]]  # rows of colours
    label: int  # the most frequent colour, the lowest on a tie


def label_of(cells: Any) -> int:
    return int(np.bincount(np.ravel(cells), minlength=COLOURS).argmax())


class GridTokenizer:
    """Begin token, cells row by row, label. Positions are (row, column), the label below."""

    vocab_size = 2 * COLOURS + 1
    axes = 2
    lossless = True
    begin = BEGIN
    ordered = ()

    def encode(self, item: Grid, like: Sequence | None = None) -> Sequence:
        cells = np.array(item.cells)
        ids = np.concatenate(([BEGIN], cells.ravel(), [COLOURS + item.label])).astype(np.int64)
        weight = np.ones(len(ids), np.float32)
        weight[1:-1][::UNSCORED_STEP] = 0
        return Sequence(ids, 1, weight, {"height": cells.shape[0], "width": cells.shape[1]})

    def decode(self, ids: Any, side: Mapping[str, Any]) -> Grid:
        height, width = side["height"], side["width"]
        cells = np.asarray(ids[1 : 1 + height * width]).reshape(height, width)
        return Grid(cells.tolist(), int(ids[1 + height * width]) - COLOURS)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, Any]) -> GridTokenizer:
        return cls()

    def support(self, length: int, side: Mapping[str, Any]) -> Any:
        """Colours are legal for cells, labels for the label, no id after it."""
        cells = side["height"] * side["width"]
        legal = np.zeros((length, 2), np.int64)
        legal[0] = BEGIN, BEGIN + 1
        legal[1 : cells + 1] = 0, COLOURS
        legal[cells + 1 : cells + 2] = COLOURS, BEGIN
        return legal

    def positions(self, length: int, side: Mapping[str, Any]) -> Any:
        at = np.maximum(np.arange(length) - 1, 0)
        return np.stack((at // side["width"], at % side["width"]), axis=1)


@dataclass(frozen=True)
class GridOptions:
    grids: int = field(default=200, metadata={"help": "Number of grids."})


@dataclass(frozen=True)
class GridSampleOptions:
    height: int = field(default=3, metadata={"help": "Rows of the sampled grid."})


@dataclass(frozen=True)
class Grids:
    grids: list[Grid]
    about: str

    @property
    def size(self) -> int:
        return sum(len(row) for grid in self.grids for row in grid.cells)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self.grids).encode()).hexdigest()


def random_grids(count: int) -> Grids:
    """Grids of one colour with some noise."""
    rng = np.random.default_rng(0)
    grids = []
    for _ in range(count):
        shape = rng.integers(1, 5, 2)
        noise = rng.random(shape) < 0.2
        cells = np.where(noise, rng.integers(0, COLOURS, shape), rng.integers(0, COLOURS))
        grids.append(Grid(cells.tolist(), label_of(cells)))
    return Grids(grids, f"{count} grids")


class GridTask(Task):
    name = "toy"
    about = "small grids of four colours, and the colour of most of each"
    unit = "cell"
    default_tokenizer = "grid"
    Options = GridOptions
    SampleOptions = GridSampleOptions

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        return 0.9 if path.suffix == ".grids" else 0.0

    def default_source(self) -> Source:
        return Source((), about="random grids")

    def items(self, source: Source) -> Grids:
        """Grids from lines of JSON, or else random grids."""
        if source.paths:
            try:
                read = [json.loads(line) for p in source.files() for line in p.open()]
            except ValueError as error:
                raise DataError(f"--data {source.describe()}: not lines of JSON") from error
            return Grids([Grid(cells, label_of(cells)) for cells in read], source.describe())
        return random_grids(self.options.grids)

    def split(self, items: Grids, holdout: float | None) -> tuple[Grids, Grids]:
        count = max(1, int(len(items.grids) * (holdout or 0.1)))
        if count >= len(items.grids):
            raise DataError(f"--data {items.about}: need at least 2 grids")
        parts = items.grids[:-count], items.grids[-count:]
        train, held = (Grids(part, f"{len(part)} grids") for part in parts)
        return train, held

    def fit_tokenizer(self, spec: str, train: Grids) -> GridTokenizer:
        return GridTokenizer()

    def longest(self, train: Grids, tokenizer: GridTokenizer) -> int:
        return 1 + 4 * 4 + 1

    def dataset(
        self,
        train: Grids,
        tokenizer: GridTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> Packed:
        name = train.fingerprint[:32]
        sequences = self.sequences(train, tokenizer)
        store = cached_store(cache / "toy", name, sequences, tokenizer.vocab_size)
        return Packed(store, tokenizer, context)

    def sequences(self, items: Grids, tokenizer: GridTokenizer) -> Iterator[Sequence]:
        return (tokenizer.encode(grid) for grid in items.grids)

    def floor(self, train: Grids, held: Grids) -> dict[str, float]:
        return {"uniform": 2.0}

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        shapes = [(s.side["height"], s.side["width"]) for s in sequences]
        return {"cell": sum(height * width for height, width in shapes), "grid": len(shapes)}

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        return {"nats_per_cell": nll / units["cell"], "grids": units["grid"]}

    def prompt(self, data: bytes | None, tokenizer: Any, sampling: GridSampleOptions) -> Sequence:
        return Sequence(np.array([BEGIN]), 1, None, {"height": sampling.height, "width": 3})

    def new_tokens(self, prompt: Sequence, sampling: GridSampleOptions) -> int:
        return sampling.height * 3 + 1

    def write(
        self, items: list[Grid], prompt: Sequence, sampling: GridSampleOptions, out: BinaryIO
    ) -> None:
        for grid in items:
            out.write(json.dumps([grid.cells, grid.label]).encode() + b"\n")

    def preview(
        self, items: list[Grid], prompt: Sequence, sampling: GridSampleOptions, width: int
    ) -> str:
        return "\n".join("".join(map(str, row)) for grid in items for row in grid.cells)
