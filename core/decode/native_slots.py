"""The slots of a `Decoder` in C, by core/ops/c/decode_step.c: one call decodes all rows of a step.

Weights are in any of quantized_linear.DTYPES; activations, norms, keys and values are float32.
Prefill and decoding share the code, so they compute the same sums.
"""

from __future__ import annotations

import ctypes
import time

import numpy as np
import torch
from torch import Tensor

from ..model.rnn import CELLS
from ..ops.native_calls import address
from ..protocols import Ids
from .native_model import NativeModel, TokensStruct, round_up

PREFILL_TOKENS = 32  # tokens of a prompt in one call
TRIAL_STEPS, TRIAL_PERIOD_STEPS = 4, 64  # the first 4 steps of every 64 time one thread and all
MIN_PARALLEL_MULTIPLY_ADDS = 500_000  # of a step; a smaller one is not worth waking a second thread


class _ThreadChooser:
    """Chooses one thread or all for a step, whichever was faster in the last trial. Threads wait
    for each other some fifty times a step: where other processes keep one of them from running,
    waiting costs many times what threads gain. The results are bit-identical."""

    def __init__(self, all_threads: int) -> None:
        self.all = self.best = all_threads
        self.steps, self.seconds = 0, dict.fromkeys((1, all_threads), 0.0)

    def choose(self) -> int:
        trial = self.steps % TRIAL_PERIOD_STEPS
        return self.best if trial >= TRIAL_STEPS else (1, self.all)[trial % 2]

    def record(self, threads: int, seconds: float) -> None:
        trial, self.steps = self.steps % TRIAL_PERIOD_STEPS, self.steps + 1
        if trial < TRIAL_STEPS:
            self.seconds[threads] += seconds
        if trial == TRIAL_STEPS - 1:
            self.best = min(self.seconds, key=self.seconds.__getitem__)
            self.seconds = dict.fromkeys(self.seconds, 0.0)


def _make_cache(
    native: NativeModel, block: int, rows: int, positions: int
) -> tuple[Tensor, Tensor]:
    """The fields keys and values of a BlockStruct, see decode_step.c."""
    config, nothing = native.config, torch.zeros(0)
    mixer = config.mixer(block)
    if mixer == "attention":
        return native.key_value_cache(rows, positions)
    if mixer == "conv":
        return torch.zeros(rows, positions, config.width), nothing
    return torch.zeros(rows, 2, native.state_width), nothing


class NativeSlots:
    """The KV caches of `rows` rows, up to `length` ids each, and the logits of their next ids."""

    def __init__(self, native: NativeModel, rows: int, length: int) -> None:
        self.native, self.rows = native, rows
        config = native.config
        positions = round_up(length, native.lanes)
        max_tokens = max(rows, PREFILL_TOKENS)
        # the extra row is for prefill: `assign` copies it to the row of the prompt
        self.caches = [
            _make_cache(native, number, rows + 1, positions) for number in range(config.layers)
        ]
        self._thread_choosers: dict[int, _ThreadChooser] = {}  # by the number of tokens of a step
        self.threads = native.threads
        self._model, self._buffers = native.struct(self.caches, positions, max_tokens)
        logits_stride = native.logits_stride
        self._inputs = np.zeros((4, max_tokens), np.int64)  # ids, sequences, positions, table_rows
        self._tokens = self._tokens_with(native.default_tables)
        self._step_logits = torch.zeros(rows, logits_stride)
        self._row_logits = torch.zeros(rows, logits_stride)

    def _tokens_with(self, tables: tuple[Tensor | None, ...]) -> TokensStruct:
        inputs = (each.ctypes.data for each in self._inputs)
        return TokensStruct(0, 0, *inputs, None, None, None, 0, *map(address, tables))

    def _step(
        self, rows: Ids | int, ids: Ids, indices: Ids, positions: Ids | None, logits: Tensor | None
    ) -> None:
        """Runs tokens ids (n,), each at its index (n,) in the cache of a row. positions (n, axes):
        None if they are the indices. logits (N, stride): overwritten with the last N tokens'."""
        native, count, tokens, table_rows = self.native, len(ids), self._tokens, indices
        if positions is not None:
            table_rows = np.arange(count)
            tables = native.position_tables(torch.from_numpy(positions))
            tokens = self._tokens_with(tables)
        for buffer, values in zip(self._inputs, (ids, rows, indices, table_rows), strict=True):
            buffer[:count] = values
        tokens.count, tokens.logits_count = count, 0 if logits is None else len(logits)
        tokens.logits = address(logits)
        multiply_adds = native.multiply_adds_per_token * count
        if self.threads == 1 or multiply_adds < MIN_PARALLEL_MULTIPLY_ADDS:
            native.library.step(ctypes.byref(self._model), ctypes.byref(tokens), 1)
            return
        chooser = self._thread_choosers.setdefault(count, _ThreadChooser(self.threads))
        threads, start = chooser.choose(), time.perf_counter()
        native.library.step(ctypes.byref(self._model), ctypes.byref(tokens), threads)
        chooser.record(threads, time.perf_counter() - start)

    def prefill(self, ids: Ids, positions: Ids | None, given: int) -> tuple[int, Tensor]:
        """Writes the extra row of the cache, which holds one prompt at a time."""
        logits = self._step_logits[:1]
        for number, cache in enumerate(self.caches):
            if self.native.config.mixer(number) in CELLS:
                cache[0][self.rows] = 0
        for first in range(0, len(ids), PREFILL_TOKENS):
            chunk = slice(first, min(first + PREFILL_TOKENS, len(ids)))
            self._step(
                self.rows,
                ids[chunk],
                np.arange(chunk.start, chunk.stop),
                None if positions is None else positions[chunk],
                logits if chunk.stop == len(ids) else None,
            )
        return len(ids), logits[0].clone()

    def assign(self, row: int, prompt: tuple[int, Tensor]) -> None:
        length, logits = prompt
        blocks = -(-length // self.native.lanes)
        for number, (keys, values) in enumerate(self.caches):
            mixer = self.native.config.mixer(number)
            if mixer == "attention":
                keys[row, :, :blocks] = keys[self.rows, :, :blocks]
                values[row, :, :length] = values[self.rows, :, :length]
            elif mixer == "conv":
                keys[row, :length] = keys[self.rows, :length]
            else:
                keys[row] = keys[self.rows]
        self._row_logits[row] = logits

    def feed(self, rows: Ids, ids: Ids, lengths: Ids, positions: Ids | None) -> None:
        if len(rows) == self.rows:
            self._step(rows, ids, lengths, positions, self._row_logits)
            return
        self._step(rows, ids, lengths[rows], positions, self._step_logits[: len(rows)])
        self._row_logits[torch.from_numpy(rows)] = self._step_logits[: len(rows)]

    def logits(self) -> Tensor:
        return self._row_logits[:, : self.native.config.vocab_size]
