"""Prompts that are each continued many times: all continuations of a prompt share its KV cache.

The plain way is in torch; with the C library, models of attention layers take the fast one. There
each thread continues prompts of its own, because threads that share a step wait for one another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import SampleConfig
from ..model.attention import KeyValues
from ..model.sequence_model import SequenceModel
from ..ops import native_calls
from ..protocols import Ids
from .native_model import NativeModel, TokensStruct, round_up, supports
from .sampling import Floats, sample_ids_and_fractions

MAX_QUERIES = 5  # of decode_step.c
CHUNK = 8  # of decode_step.c
BATCH_ROWS = 1600  # of a step in torch
NATIVE_ROWS = 512  # of a step in C: their caches stay near the processor
MAX_PREFILL_TOKENS = 32_768  # of prompts, read in one forward pass

Range = npt.NDArray[np.int64]
Features = list[npt.NDArray[np.float32]] | None


class Forks(Protocol):
    """P prompts of any lengths with `times` continuations each: row i continues prompt
    i // times."""

    def sample(self, config: SampleConfig, uniforms: Floats, legal: Range) -> tuple[Ids, Floats]:
        """The next id of each row, and where its uniform number (rows,) lies within the id's
        probability, 0 to 1. legal (P, 2): the half-open range of ids that each prompt allows."""
        ...

    def feed(self, ids: Ids) -> None:
        """Appends an id (rows,) to each row."""
        ...


def native_model(model: SequenceModel) -> NativeModel | None:
    """The model for `NativeForks`; None if C does not compute it, or there is no library."""
    library, config = native_calls.library(), model.config
    alike = all(config.mixer(number) == "attention" for number in range(config.layers))
    shares = alike and not config.window and config.positions != "alibi"
    if library is None or not shares or not supports(model, features=True):
        return None
    return NativeModel(model, library, "float32")


class TorchForks:
    """The plain way, for prompts of one length."""

    @torch.no_grad()
    def __init__(
        self,
        model: SequenceModel,
        prompts: list[Ids],
        times: int,
        length: int,
        features: Features = None,
    ) -> None:
        """length: the most ids of a continuation; features: of each prompt, (T + length, F)."""
        self.model, self.times, self.device = model, times, model.head.weight.device
        ids = torch.from_numpy(np.stack(prompts)).to(self.device)
        self.at, self.features = ids.shape[1], None
        if features is not None:
            self.features = torch.from_numpy(np.stack(features)).to(self.device)
        state = model.start(len(ids), self.at + length)
        self.hidden = model.step(ids, state, features=self._features(0, self.at))[:, -1]
        rows = torch.arange(len(ids), device=self.device).repeat_interleave(times)
        self.state = state.select(rows) if times > 1 else state

    def _features(self, first: int, end: int, times: int = 1) -> Tensor | None:
        if self.features is None:
            return None
        return self.features[:, first:end].repeat_interleave(times, 0)

    @torch.no_grad()
    def sample(self, config: SampleConfig, uniforms: Floats, legal: Range) -> tuple[Ids, Floats]:
        first, last = int(legal[:, 0].min()), int(legal[:, 1].max())
        bins = np.arange(first, last)
        outside = torch.from_numpy((bins < legal[:, :1]) | (bins >= legal[:, 1:]))
        logits = self.model.logits(self.hidden, first, last).cpu()
        logits = logits.repeat_interleave(len(uniforms) // len(logits), 0)
        outside = outside.repeat_interleave(self.times, 0)
        chosen, within = sample_ids_and_fractions(
            logits.masked_fill(outside, -torch.inf), config, uniforms
        )
        return chosen + first, within

    @torch.no_grad()
    def feed(self, ids: Ids) -> None:
        tensor = torch.from_numpy(ids)[:, None].to(self.device)
        features = self._features(self.at, self.at + 1, self.times)
        self.hidden = self.model.step(tensor, self.state, features=features)[:, -1]
        self.at += 1


class NativeForks:
    """The same in C, for prompts of any lengths: torch reads the prompts, right-padded, and C makes
    every step. The positions of a prompt in whole vectors are its prefix, which its continuations
    share; each has its own copy of the others."""

    @torch.no_grad()
    def __init__(
        self,
        model: SequenceModel,
        native: NativeModel,
        prompts: list[Ids],
        times: int,
        length: int,
        features: Features = None,
    ) -> None:
        """As of `TorchForks`."""
        self.native, self.times, lanes = native, times, native.lanes
        rows, lengths = len(prompts) * times, np.array(list(map(len, prompts)), np.int64)
        ids = np.zeros((len(prompts), int(lengths.max())), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        state = model.start(len(prompts), ids.shape[1])
        padded, self._later = self._split_features(model, features, lengths, length)
        hidden = model.step(torch.from_numpy(ids), state, features=padded)
        ends = torch.from_numpy(lengths - 1)
        logits = model.logits(hidden[torch.arange(len(prompts)), ends])
        self.logits = torch.zeros(rows, native.logits_stride)
        self.logits[:, : logits.shape[1]] = logits.repeat_interleave(times, 0)

        prefix_lengths = lengths // lanes * lanes
        prefix_positions = max(lanes, int(prefix_lengths.max()))
        positions = round_up(int((lengths - prefix_lengths).max()) + length, lanes)
        self.caches = []
        for cache in state.caches:
            own = native.key_value_cache(rows, positions)
            prefix = native.key_value_cache(len(prompts), prefix_positions)
            self._fill(cache, own, prefix, lengths, prefix_lengths)
            self.caches.append((*own, *prefix))
        self._model, self._buffers = native.struct(
            self.caches, positions, rows, prefix_positions, MAX_QUERIES
        )
        # of each row: its id, number, position in its cache, position, prefix; of prefixes: length
        number = np.arange(rows, dtype=np.int64)
        self._ids, self._sequences, self._prefixes = np.zeros_like(number), number, number // times
        self._prefix_lengths, self._table_rows = prefix_lengths, lengths.repeat(times)
        self._positions = (lengths - prefix_lengths).repeat(times)
        inputs = (
            self._ids,
            self._sequences,
            self._positions,
            self._table_rows,
            self._prefixes,
            self._prefix_lengths,
        )
        self.fed = 0
        # what the embeddings of the next ids get added, the same for all rows of a prompt
        width = native.config.width
        self._additions = None if features is None else torch.zeros(len(prompts), width)
        tables = native.default_tables
        needed = int(lengths.max()) + length
        if needed > native.config.context:
            counting = torch.arange(needed)[:, None].expand(-1, native.config.axes)
            tables = native.position_tables(counting)
        self._tables = tables
        self._tokens = TokensStruct(
            rows,
            rows,
            *(each.ctypes.data for each in inputs),
            native_calls.address(self._additions),
            times,
            *map(native_calls.address, tables),
            native_calls.address(self.logits),
        )
        self._buffer = torch.zeros(native.logits_stride + CHUNK * lanes)

    def _split_features(
        self, model: SequenceModel, features: Features, lengths: Ids, length: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """The features of the prompts, right-padded, (P, T, F), and what the model adds to the
        embeddings of the ids after them, (P, length, width)."""
        if features is None or model.features is None:
            return None, None
        padded = np.zeros((len(lengths), int(lengths.max()), model.config.features), np.float32)
        later = np.zeros((len(lengths), length, model.config.features), np.float32)
        for row, (own, size) in enumerate(zip(features, lengths.tolist(), strict=True)):
            padded[row, :size] = own[:size]
            later[row] = own[size : size + length]
        return torch.from_numpy(padded), model.features(torch.from_numpy(later))

    def _fill(
        self,
        cache: KeyValues,
        own: tuple[Tensor, Tensor],
        prefix: tuple[Tensor, Tensor],
        lengths: Ids,
        prefix_lengths: Ids,
    ) -> None:
        """Copies the keys and values of the prompts to their prefixes, and the last ones of each to
        its rows. cache: keys and values (P, groups, T, w)."""
        lanes, width, times = self.native.lanes, cache.keys.shape[3], self.times
        whole = min(prefix[1].shape[2], cache.keys.shape[2]) // lanes * lanes
        keys = cache.keys[:, :, :whole].reshape(*cache.keys.shape[:2], -1, lanes, width).mT
        prefix[0][:, :, : whole // lanes] = keys
        prefix[1][:, :, :whole, :width] = cache.values[:, :, :whole]
        index = torch.from_numpy(prefix_lengths)[:, None] + torch.arange(lanes)
        index = index.clamp(max=cache.keys.shape[2] - 1)[:, None, :, None]
        for to, source in ((own[0], cache.keys), (own[1], cache.values)):
            rest = source.gather(2, index.expand(-1, source.shape[1], -1, width))
            rest = rest.repeat_interleave(times, 0)  # (rows, groups, lanes, w)
            if to is own[0]:
                to[:, :, 0] = rest.mT
            else:
                to[:, :, :lanes, :width] = rest

    def sample(self, config: SampleConfig, uniforms: Floats, legal: Range) -> tuple[Ids, Floats]:
        native, rows = self.native, len(self._ids)
        legal = legal.repeat(self.times, 0)
        filtered = config.top_k or config.top_p < 1 or config.min_p or config.greedy
        if filtered or config.temperature < 1e-3:
            first, last = int(legal[:, 0].min()), int(legal[:, 1].max())
            bins = np.arange(first, last)
            outside = torch.from_numpy((bins < legal[:, :1]) | (bins >= legal[:, 1:]))
            masked = self.logits[:, first:last].masked_fill(outside, -torch.inf)
            chosen, fractions = sample_ids_and_fractions(masked, config, uniforms)
            return chosen + first, fractions
        low, high = (np.ascontiguousarray(bound) for bound in legal.T)
        ids, within, numbers = np.empty(rows, np.int64), np.empty(rows), uniforms.astype(np.float64)
        native.library.sample_within(
            rows,
            ctypes.c_void_p(native_calls.address(self.logits)),
            native.logits_stride,
            *(ctypes.c_void_p(each.ctypes.data) for each in (low, high, numbers)),
            ctypes.c_float(config.temperature),
            *(ctypes.c_void_p(each.ctypes.data) for each in (ids, within)),
            ctypes.c_void_p(native_calls.address(self._buffer)),
            1,
        )
        return ids, within

    def feed(self, ids: Ids) -> None:
        self._ids[:] = ids
        if self._additions is not None and self._later is not None:
            self._additions.copy_(self._later[:, self.fed])
        self.native.library.step(ctypes.byref(self._model), ctypes.byref(self._tokens), 1)
        self._positions += 1
        self._table_rows += 1
        self.fed += 1


def continue_all(
    model: SequenceModel,
    prompts: list[Ids],
    times: int,
    length: int,
    run: Callable[[Forks, list[int]], None],
    features: Features = None,
) -> None:
    """Calls `run(forks, numbers)` for batches of the prompts, from several threads where that is
    faster: numbers are those of the prompts of a batch. features: of each prompt, (T + length, F),
    for a model that reads them."""

    def of(batch: list[int]) -> tuple[list[Ids], int, int, Features]:
        own = None if features is None else [features[i] for i in batch]
        return [prompts[i] for i in batch], times, length, own

    was_training = model.training
    model.eval()
    try:
        native = native_model(model)
        if native is None:
            for batch in _batches(prompts, BATCH_ROWS // times):
                run(TorchForks(model, *of(batch)), batch)
            return
        threads = torch.get_num_threads()
        waiting = _batches(prompts, NATIVE_ROWS // times, alike=False)
        with ThreadPoolExecutor(threads) as pool:
            while group := list(islice(waiting, threads)):
                forks = [NativeForks(model, native, *of(batch)) for batch in group]
                list(pool.map(run, forks, group))
    finally:
        model.train(was_training)


def _batches(prompts: list[Ids], rows: int, alike: bool = True) -> Iterator[list[int]]:
    """The numbers of the prompts, shortest first, at most `rows` together; alike: of one length."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batch: list[int] = []
    for number in order:
        length = len(prompts[number])
        full = len(batch) >= rows or length * (len(batch) + 1) > MAX_PREFILL_TOKENS
        if batch and (full or (alike and len(prompts[batch[0]]) != length)):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
