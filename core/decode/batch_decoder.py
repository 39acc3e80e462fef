"""Many draws side by side: rows of one batch that begin and end each in its own time.

The ids sampled for a row must not depend on its neighbours, to the last bit: `slots.py` sees to the
logits, and sampling from them is a function of the row alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..config import SampleConfig
from ..data.keyed_random import uniform
from ..errors import DataError
from ..model.sequence_model import SequenceModel
from ..ops.reference import masked_to_support
from ..protocols import Ids, Sequence, Tokenizer
from .native_slots import Native, NativeSlots, supports
from .quantized_linear import decoding_dtype, with_weights_in
from .sampling import clip_prompt, pick, range_at
from .slots import Slots, TorchSlots

if TYPE_CHECKING:
    from ctypes import CDLL


FEW = 1 << 20  # logits of a step that are taken off a GPU


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


def for_decoding(
    model: SequenceModel, rows: int, dtype: str | None = None, library: CDLL | None = None
) -> tuple[SequenceModel | Native, str]:
    """What a `Decoder` of so many rows decodes the model with, and what its weights are in:
    `dtype` (of packed.DTYPES; none: the fastest of those that cost no quality). By step.c where
    there is a library (of compiled.py) and it knows the model, else by torch."""
    if library is not None and supports(model):
        dtype = dtype or decoding_dtype(model, rows, native=True)
        return Native(model, library, dtype), dtype
    dtype = dtype or decoding_dtype(model, rows)
    return with_weights_in(model, dtype, rows), dtype


class Decoder:
    """`begin` a prompt where there is a `free` row, `step` all, `end` a row when it has enough.

    `config.length` is not looked at. The draw is a function of (seed, record, draw, position).
    """

    def __init__(
        self,
        model: SequenceModel | Native,
        tokenizer: Tokenizer,
        config: SampleConfig,
        rows: int = 32,
        length: int | None = None,
    ) -> None:
        """length: ids that a row will have at most (none: the context, where its window slides)."""
        self.tokenizer, self.config, self.rows = tokenizer, config, rows
        self.context = model.config.context
        length = self.context if length is None else min(length, self.context)
        self.slots: Slots = (
            NativeSlots(model, rows, length)
            if isinstance(model, Native)
            else TorchSlots(model, rows, length)
        )
        self.busy: dict[int, _Row] = {}
        self.last: tuple[Sequence, Any] | None = None  # the prompt last read

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
            clipped.ids.tolist(),
            clipped.given,
            len(clipped),
            record,
            draw,
            self.tokenizer.support(total, prompt.side),
            self.tokenizer.positions(total, prompt.side),
        )
        if self.last is None or self.last[0] is not prompt:  # draws of one prompt share it
            self.last = prompt, self._read(row)
        self.slots.assign(number, self.last[1])
        self.busy[number] = row
        return number

    def end(self, row: int) -> None:
        del self.busy[row]

    @torch.no_grad()
    def step(self) -> dict[int, tuple[int, float] | None]:
        """Of each busy row its next id and the model's own logprob of it; none where no id is
        legal. DataError where an item with positions of its own outgrows the context."""
        self._feed()
        numbers = sorted(self.busy)
        rows = [self.busy[number] for number in numbers]
        if not rows:
            return {}
        everything = (0, self.tokenizer.vocab_size)
        support = [range_at(row.support, row.first + row.drawn, everything[1]) for row in rows]
        legal = [low < high for low, high in support]
        uniforms = [uniform(self.config.seed, row.record, row.draw, row.drawn) for row in rows]
        logits = self.slots.logits()
        if len(rows) < self.rows:
            logits = logits[numbers]
        if logits.numel() <= FEW:  # from here on a GPU would only be asked, and waited for
            logits = logits.cpu()
        if any(each != everything for each in support):
            kept = [each if ok else everything for each, ok in zip(support, legal, strict=True)]
            logits = masked_to_support(logits, torch.tensor(kept, device=logits.device))
        chosen = pick(logits, self.config, np.array(uniforms))
        logprobs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        out: dict[int, tuple[int, float] | None] = dict.fromkeys(numbers)
        for number, row, ok, id, logprob in zip(
            numbers, rows, legal, chosen.tolist(), logprobs, strict=True
        ):
            if ok:
                out[number] = id, logprob
                row.ids.append(id)
                row.drawn += 1
                row.unread = True
        return out

    def _feed(self) -> None:
        """Reads the last id of each row that has not been read."""
        for number, row in self.busy.items():
            if row.unread and len(row.ids) > self.context:
                self._slide(number, row)
        fed = sorted(number for number, row in self.busy.items() if row.unread)
        if not fed:
            return
        at = np.zeros(self.rows, np.int64)
        for number, row in self.busy.items():
            at[number] = min(len(row.ids) - row.unread, self.context - 1)
        unread = [self.busy[number] for number in fed]
        positions = None
        if any(row.positions is not None for row in unread):
            nowhere = np.zeros((self.context, self.tokenizer.axes), np.int64)
            positions = np.array(
                [
                    (nowhere if row.positions is None else row.positions)[at[number]]
                    for number, row in zip(fed, unread, strict=True)
                ]
            )
        ids = np.array([row.ids[-1] for row in unread])
        self.slots.feed(np.array(fed), ids, at, positions)
        for row in unread:
            row.unread = False

    def _slide(self, number: int, row: _Row) -> None:
        """The window moves on, as in `generate`: the given part and the last half, read again."""
        if row.positions is not None:
            raise DataError(f"an item needs more than the context of {self.context}: --context")
        half = max(1, self.context // 2)
        row.ids = row.ids[: min(row.given, self.context - half)] + row.ids[-half:]
        row.unread, self.last = (
            False,
            None,
        )  # its cached prompt shares the buffer that is read into now
        self.slots.assign(number, self._read(row))

    def _read(self, row: _Row) -> Any:
        """What reading the row's ids leaves."""
        positions = None if row.positions is None else row.positions[: len(row.ids)]
        return self.slots.read(np.array(row.ids), positions, row.given)
