"""Many draws side by side: rows of one batch that begin and end each in its own time.

What a row draws must not depend on what its neighbours do, to the last bit. So a step always has
the same shapes, `rows` x the whole context, however few rows are busy, and a prompt is read by
itself, padded to a length that depends on the prompt alone. (Measured: bits agree where a head's
width is a multiple of 4, as every named size has it.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import SampleConfig
from .errors import DataError
from .hashing import uniform
from .model import DecodingState, SequenceModel, masked_to_support
from .protocols import Ids, Sequence, Tokenizer
from .sample import clip_prompt, pick, range_at
from .traced import Step, traced

ALIGNED = 16  # positions: where a row begins in memory must not change how products are summed
SHORTEST = 16  # ids that a prompt is padded to; then the next power of two


def _padded(length: int) -> int:
    """The next power of two, or SHORTEST."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


@dataclass
class _Row:
    ids: list[int]  # in the window
    given: int
    first: int  # ids of the prompt
    record: str
    draw: int
    support: Any
    positions: Ids | None
    drawn: int = 0
    unread: bool = False  # whether the last of `ids` is not in the memory yet


class Decoder:
    """`begin` a prompt where there is a `free` row, `step` all, `end` a row when it has enough.

    `config.length` is not looked at. The draw is a function of (seed, record, draw, position).
    """

    def __init__(
        self,
        model: SequenceModel,
        tokenizer: Tokenizer,
        config: SampleConfig,
        rows: int = 32,
        length: int | None = None,
    ) -> None:
        """length: ids that a row will have at most (none: the context, where its window slides)."""
        self.model, self.tokenizer, self.config, self.rows = model.eval(), tokenizer, config, rows
        self.context, self.device = model.config.context, model.head.weight.device
        length = self.context if length is None else min(_padded(length), self.context)
        self.state = model.start(rows, -(-length // ALIGNED) * ALIGNED)
        self._steps: dict[bool, Step] = {}
        self.hidden = torch.zeros(rows, model.config.width, device=self.device)
        self.busy: dict[int, _Row] = {}
        self.last: tuple[Sequence, DecodingState, Tensor] | None = None  # the prompt last read

    @property
    def free(self) -> int:
        return self.rows - len(self.busy)

    def begin(self, prompt: Sequence, length: int, record: str = "", draw: int = 0) -> int:
        """The row that goes on from `prompt`, for up to `length` ids. DataError as `generate`."""
        clipped = clip_prompt(prompt, self.context)
        if len(clipped) > self.context:
            raise DataError(f"the prompt has {len(clipped)} tokens, the context {self.context}")
        total = len(clipped) + length
        number = next(n for n in range(self.rows) if n not in self.busy)
        row = _Row(
            clipped.ids.tolist(), clipped.given, len(clipped), record, draw,
            self.tokenizer.support(total, prompt.side),
            self.tokenizer.positions(total, prompt.side),
        )  # fmt: skip
        if self.last is None or self.last[0] is not prompt:  # draws of one prompt share it
            self.last = (prompt, *self._read(row))
        self._put(number, *self.last[1:])
        self.busy[number] = row
        return number

    def end(self, row: int) -> None:
        del self.busy[row]

    @torch.no_grad()
    def step(self) -> dict[int, tuple[int, float] | None]:
        """Of each busy row its next id and the model's own logprob of it; none where no id is
        legal. DataError where an item with positions of its own outgrows the context."""
        self._feed()
        everything = (0, self.tokenizer.vocab_size)
        ranges = {
            n: range_at(row.support, row.first + row.drawn, self.tokenizer.vocab_size)
            for n, row in self.busy.items()
        }
        legal = {n for n, (low, high) in ranges.items() if low < high}
        support = [ranges[n] if n in legal else everything for n in range(self.rows)]
        uniforms = [
            uniform(self.config.seed, row.record, row.draw, row.drawn) if row else 0.0
            for row in map(self.busy.get, range(self.rows))
        ]
        logits = self.model.logits(self.hidden)
        if any(each != everything for each in support):
            logits = masked_to_support(logits, torch.tensor(support, device=self.device))
        chosen = pick(logits, self.config, [] if self.config.greedy else uniforms)
        logprobs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        out: dict[int, tuple[int, float] | None] = {}
        ids = chosen.tolist()
        for number, row in self.busy.items():
            out[number] = (ids[number], logprobs[number]) if number in legal else None
            if number in legal:
                row.ids.append(ids[number])
                row.drawn += 1
                row.unread = True
        return out

    def _feed(self) -> None:
        """Reads the last id of each row that has not been read."""
        ids, at = np.zeros((self.rows, 1), np.int64), np.zeros(self.rows, np.int64)
        places: Ids | None = None
        fed = np.zeros(self.rows, bool)
        for number, row in self.busy.items():
            if row.unread and len(row.ids) > self.context:
                self._slide(number, row)
            # a row that is not fed writes where its next id will
            at[number] = min(len(row.ids) - row.unread, self.context - 1)
            if not row.unread:
                continue
            fed[number] = True
            ids[number] = row.ids[-1]
            if row.positions is not None:
                places = np.zeros((self.rows, 1, self.tokenizer.axes), np.int64) if (
                    places is None
                ) else places  # fmt: skip
                places[number] = row.positions[at[number]]
            row.unread = False
        if not fed.any():
            return
        inputs = [torch.from_numpy(a).to(self.device) for a in (ids, at, places) if a is not None]
        if (places is None) not in self._steps:
            self._steps[places is None] = traced(self.model, self.state, *inputs)
        hidden = self._steps[places is None](*inputs)
        if fed.all():
            self.hidden = hidden[:, 0]
        else:
            chosen = torch.from_numpy(fed).to(self.device)[:, None]
            self.hidden = torch.where(chosen, hidden[:, 0], self.hidden)

    def _slide(self, number: int, row: _Row) -> None:
        """The window moves on, as in `generate`: the given part and the last half, read again."""
        if row.positions is not None:
            raise DataError(f"an item needs more than the context of {self.context}: --context")
        half = max(1, self.context // 2)
        row.ids = row.ids[: min(row.given, self.context - half)] + row.ids[-half:]
        row.unread = False
        self._put(number, *self._read(row))

    @torch.no_grad()
    def _read(self, row: _Row) -> tuple[DecodingState, Tensor]:
        """A state that has read the row's ids, and the hidden state (D,) of the last."""
        length = len(row.ids)
        padded = min(self.context, _padded(length))
        ids = np.zeros((1, padded), np.int64)
        ids[0, :length] = row.ids
        places = None
        if row.positions is not None:
            places = np.zeros((1, padded, self.tokenizer.axes), np.int64)
            places[0, :length] = row.positions[:length]
        state = self.model.start(1, padded)
        hidden = self.model.step(
            torch.from_numpy(ids).to(self.device), state,
            None if places is None else torch.from_numpy(places).to(self.device),
        )  # fmt: skip
        return state, hidden[0, length - 1]

    def _put(self, number: int, state: DecodingState, hidden: Tensor) -> None:
        self.model.adopt(self.state, number, state)
        self.hidden[number] = hidden
