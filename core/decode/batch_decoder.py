"""Batched decoding: the rows of a batch start and end independently (continuous batching).

The ids sampled for a row do not depend on the other rows, to the last bit: slots.py guarantees that
for the logits, and sampling from them is a function of the row alone.
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
from .native_model import NativeModel, supports
from .native_slots import NativeSlots
from .quantized_linear import decoding_dtype, with_weights_in
from .sampling import clip_prompt, legal_range, sample_ids
from .slots import Slots, TorchSlots

if TYPE_CHECKING:
    from ctypes import CDLL


MAX_CPU_LOGITS = 1 << 20  # of a step: up to so many are sampled from on the CPU


@dataclass
class _Row:
    ids: list[int]  # in the context window
    given: int
    first: int  # position of the first sampled id: the length of the prompt
    record: str
    draw: int
    support: Any
    positions: Ids | None
    sampled: int = 0  # ids
    unfed: bool = False  # whether the last of `ids` is not in the KV cache yet


def for_decoding(
    model: SequenceModel, rows: int, dtype: str | None = None, library: CDLL | None = None
) -> tuple[SequenceModel | NativeModel, str]:
    """The model that a `Decoder` of `rows` rows takes, and the dtype of its weights. dtype: one of
    quantized_linear.DTYPES; None: the fastest that loses no quality. library: of native_library.py;
    C code decodes the models that it supports, torch the others."""
    dtype = chosen_dtype(model, rows, dtype, library)
    if library is not None and supports(model):
        return NativeModel(model, library, dtype), dtype
    return with_weights_in(model, dtype, rows), dtype


def chosen_dtype(model: SequenceModel, rows: int, dtype: str | None, library: CDLL | None) -> str:
    """The dtype of `for_decoding`."""
    native = library is not None and supports(model)
    return dtype or decoding_dtype(model, rows, native)


class Decoder:
    """`begin` a prompt while there are `free` rows, `step` all rows, `end` a row to free it.

    A sampled id depends on the prompt and (seed, record, draw, position). `config.length` is
    ignored."""

    def __init__(
        self,
        model: SequenceModel | NativeModel,
        tokenizer: Tokenizer,
        config: SampleConfig,
        rows: int = 32,
        length: int | None = None,
    ) -> None:
        """length: the most ids of a row, prompt included; None: the context. Beyond the context the
        window slides."""
        self.tokenizer, self.config, self.rows = tokenizer, config, rows
        self.has_encoder = isinstance(model, SequenceModel) and model.has_encoder
        self.context = model.config.context
        length = self.context if length is None else min(length, self.context)
        self.slots: Slots = (
            NativeSlots(model, rows, length)
            if isinstance(model, NativeModel)
            else TorchSlots(model, rows, length)
        )
        self.busy: dict[int, _Row] = {}
        self.last_prompt: tuple[Sequence, Any] | None = None  # with its prefill, for all its draws

    @property
    def free(self) -> int:
        return self.rows - len(self.busy)

    def begin(self, prompt: Sequence, length: int, record: str = "", draw: int = 0) -> int:
        """Starts sampling up to `length` ids after `prompt`, and returns the row. draw: the number
        of the sample among those of one prompt. DataError as in `generate`."""
        clipped = prompt if self.has_encoder else clip_prompt(prompt, self.context)
        if max(self._window(clipped), clipped.given) > self.context:
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
        if self.last_prompt is None or self.last_prompt[0] is not prompt:
            self.last_prompt = prompt, self._prefill(row)
        self.slots.assign(number, self.last_prompt[1])
        self.busy[number] = row
        return number

    def end(self, row: int) -> None:
        del self.busy[row]

    @torch.no_grad()
    def step(self) -> dict[int, tuple[int, float] | None]:
        """Samples one id for each busy row: row -> (id, its logprob under the model, before
        temperature and filters), or None where no id is legal. DataError where an item with its own
        positions outgrows the context."""
        self._feed()
        numbers = sorted(self.busy)
        rows = [self.busy[number] for number in numbers]
        if not rows:
            return {}
        all_ids = (0, self.tokenizer.vocab_size)
        support = [legal_range(row.support, row.first + row.sampled, all_ids[1]) for row in rows]
        legal = [low < high for low, high in support]
        uniforms = [uniform(self.config.seed, row.record, row.draw, row.sampled) for row in rows]
        logits = self.slots.logits()
        if len(rows) < self.rows:
            logits = logits[numbers]
        if logits.numel() <= MAX_CPU_LOGITS:  # on a GPU, launches and waits would cost more
            logits = logits.cpu()
        if any(each != all_ids for each in support):
            ranges = [each if ok else all_ids for each, ok in zip(support, legal, strict=True)]
            logits = masked_to_support(logits, torch.tensor(ranges, device=logits.device))
        chosen = sample_ids(logits, self.config, np.array(uniforms))
        logprobs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        out: dict[int, tuple[int, float] | None] = dict.fromkeys(numbers)
        for number, row, ok, id, logprob in zip(
            numbers, rows, legal, chosen.tolist(), logprobs, strict=True
        ):
            if ok:
                out[number] = id, logprob
                row.ids.append(id)
                row.sampled += 1
                row.unfed = True
        return out

    def _feed(self) -> None:
        """Feeds each row the id that was sampled for it last."""
        for number, row in self.busy.items():
            if row.unfed and self._window(row) > self.context:
                self._slide_window(number, row)
        fed = sorted(number for number, row in self.busy.items() if row.unfed)
        if not fed:
            return
        lengths = np.zeros(self.rows, np.int64)
        for number, row in self.busy.items():
            lengths[number] = min(self._window(row) - row.unfed, self.context - 1)
        fed_rows = [self.busy[number] for number in fed]
        positions = None
        if any(row.positions is not None for row in fed_rows):
            unused = np.zeros((self.context, self.tokenizer.axes), np.int64)
            positions = np.array(
                [
                    (unused if row.positions is None else row.positions)[lengths[number]]
                    for number, row in zip(fed, fed_rows, strict=True)
                ]
            )
        ids = np.array([row.ids[-1] for row in fed_rows])
        self.slots.feed(np.array(fed), ids, lengths, positions)
        for row in fed_rows:
            row.unfed = False

    def _slide_window(self, number: int, row: _Row) -> None:
        """As in `generate`: keeps the given part and the last half of the context, and prefills
        them anew."""
        if row.positions is not None:
            raise DataError(f"an item needs more than the context of {self.context}: --context")
        half = max(1, self.context // 2)
        given = row.given if self.has_encoder else min(row.given, self.context - half)
        row.ids = row.ids[:given] + row.ids[-half:]
        row.unfed = False
        self.last_prompt = None  # its cache may share the buffer that this prefill overwrites
        self.slots.assign(number, self._prefill(row))

    def _window(self, row: _Row | Sequence) -> int:
        """The number of ids in the context: with an encoder, those from the last given one on."""
        return len(row.ids) - (row.given - 1 if self.has_encoder else 0)

    def _prefill(self, row: _Row) -> Any:
        """The row's ids as a cached prompt, for `Slots.assign`."""
        positions = None if row.positions is None else row.positions[: len(row.ids)]
        return self.slots.prefill(np.array(row.ids), positions, row.given)
