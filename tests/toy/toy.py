"""A task outside the package: small grids of four colours, of any height and width, each labelled
with its most frequent colour. `tfm` finds it only through its two entry points."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfm.core.data.item_list import ItemList, ListTask
from tfm.core.data.source import Source
from tfm.core.protocols import Sequence, Tokenizer

COLOURS = 4
BEGIN = 2 * COLOURS  # ids: the colours of cells, the colours as labels, the begin token
UNSCORED_STEP = 3  # every third cell has weight 0


@dataclass(frozen=True)
class Grid:
    cells: list[list[int]]  # rows of colours
    label: int  # the most frequent colour, the lowest on a tie


def label_of(cells: Any) -> int:
    return int(np.bincount(np.ravel(cells), minlength=COLOURS).argmax())


class GridTokenizer(Tokenizer):
    """Begin token, cells row by row, label. Positions are (row, column), the label below."""

    vocab_size = 2 * COLOURS + 1
    axes = 2
    begin = BEGIN

    def encode(self, item: Grid, like: Sequence | None = None) -> Sequence:
        cells = np.array(item.cells)
        ids = np.concatenate(([BEGIN], cells.ravel(), [COLOURS + item.label])).astype(np.int64)
        weight = np.ones(len(ids), np.float32)
        weight[1:-1][::UNSCORED_STEP] = 0
        return Sequence(ids, 1, weight, {"height": cells.shape[0], "width": cells.shape[1]})

    def decode(self, ids: Any, side: Mapping[str, Any]) -> Grid:
        *cells, label = ids[ids != BEGIN].tolist()
        grid = np.reshape(cells, (side["height"], side["width"]))
        return Grid(grid.tolist(), label - COLOURS)

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


def random_grids(count: int) -> list[Grid]:
    """Grids of one colour with some noise."""
    rng = np.random.default_rng(0)
    grids = []
    for _ in range(count):
        shape = rng.integers(1, 5, 2)
        noise = rng.random(shape) < 0.2
        cells = np.where(noise, rng.integers(0, COLOURS, shape), rng.integers(0, COLOURS))
        grids.append(Grid(cells.tolist(), label_of(cells)))
    return grids


class GridTask(ListTask[Grid]):
    name = "toy"
    about = "small grids of four colours, and the colour of most of each"
    unit = "cell"
    default_tokenizer, Tokenizer = "grid", GridTokenizer
    Options = GridOptions
    SampleOptions = GridSampleOptions

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        return 0.9 if path.suffix == ".grids" else 0.0

    def default_source(self) -> Source:
        return Source((), about="random grids")

    def items(self, source: Source) -> ItemList[Grid]:
        if not source.paths:
            count = self.options.grids
            return ItemList(random_grids(count), f"{count} grids")
        return super().items(source)

    def read(self, data: bytes) -> Iterator[Grid]:
        """Grids from lines of JSON."""
        for line in data.splitlines():
            cells = json.loads(line)
            yield Grid(cells, label_of(cells))

    def longest(self, train: ItemList[Grid], tokenizer: GridTokenizer) -> int:
        return 1 + 4 * 4 + 1

    def floor(self, train: ItemList[Grid], held: ItemList[Grid]) -> dict[str, float]:
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

    def write(self, items: list[Grid], prompt: Any, sampling: Any, out: BinaryIO) -> None:
        for grid in items:
            out.write(json.dumps([grid.cells, grid.label]).encode() + b"\n")

    def preview(self, items: list[Grid], prompt: Any, sampling: Any, width: int) -> str:
        return "\n".join("".join(map(str, row)) for grid in items for row in grid.cells)
