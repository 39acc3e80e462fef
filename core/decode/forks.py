"""Prompts that are each continued many times: all continuations of a prompt share its KV cache.

The plain way is in torch; with the C library, models of attention layers take the fast one. There
each thread continues prompts of its own, because threads that share a step wait for one another.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import SampleConfig
from ..data.keyed_random import U64, key, mix
from ..divided import Unit, divided, processes
from ..model.sequence_model import SequenceModel
from ..ops import native_calls
from ..protocols import Ids
from .native_model import NativeModel, TokensStruct, round_up, supports
from .sampling import Floats, sample_ids_and_fractions

CHUNK = 8  # of decode_step.c
BATCH_ROWS = 1600  # of a step in torch
NATIVE_ROWS = 80  # of a step in C: their caches stay near the processor
MAX_PREFILL_TOKENS = 32_768  # of prompts, read in one forward pass of torch
PREFILL_TOKENS = 512  # of prompts, read in one call of C

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


def has_library() -> bool:
    """Whether C may continue prompts in this process."""
    return native_calls.library() is not None


def runs_in_c(model: SequenceModel) -> bool:
    """Whether C continues the prompts of this model, in this process."""
    config = model.config
    alike = all(config.mixer(number) == "attention" for number in range(config.layers))
    shares = alike and not config.window and config.positions != "alibi"
    return has_library() and shares and supports(model, features=True)


def native_model(model: SequenceModel, dtype: str | None = None) -> NativeModel | None:
    """The model for `NativeForks`; None if torch continues its prompts. dtype: of its weights, keys
    and values; None: bfloat16, in which keys and values take half the time to read, but for weights
    that no tiles multiply."""
    library = native_calls.library()
    if library is None or not runs_in_c(model):
        return None
    of_weights = "bfloat16" if native_calls.has_tiles() else "float32"
    return NativeModel(model, library, dtype or of_weights, dtype or "bfloat16")


def _range_of(legal: Range) -> tuple[int, int]:
    """The smallest half-open range with all that is legal."""
    return int(legal[:, 0].min()), int(legal[:, 1].max())


def _sample_legal(
    logits: Tensor, config: SampleConfig, uniforms: Floats, legal: Range
) -> tuple[Ids, Floats]:
    """`Forks.sample` from the logits (rows, ids) of `_range_of(legal)`; legal (rows, 2)."""
    first, last = _range_of(legal)
    bins = np.arange(first, last)
    outside = torch.from_numpy((bins < legal[:, :1]) | (bins >= legal[:, 1:]))
    masked = logits.masked_fill(outside, -torch.inf)
    chosen, within = sample_ids_and_fractions(masked, config, uniforms)
    return chosen + first, within


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
        first, last = _range_of(legal)
        logits = self.model.logits(self.hidden, first, last).cpu()
        logits = logits.repeat_interleave(len(uniforms) // len(logits), 0)
        return _sample_legal(logits, config, uniforms, legal.repeat(self.times, 0))

    @torch.no_grad()
    def feed(self, ids: Ids) -> None:
        tensor = torch.from_numpy(ids)[:, None].to(self.device)
        features = self._features(self.at, self.at + 1, self.times)
        self.hidden = self.model.step(tensor, self.state, features=features)[:, -1]
        self.at += 1


class NativeForks:
    """The same in C, for prompts of any lengths. The positions of a prompt in whole vectors are its
    prefix, which its continuations share; each has its own copy of the others."""

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
        self._tables = native.default_tables
        needed = int(lengths.max()) + length - 1  # the last id is not fed
        if needed > native.config.context:
            counting = torch.arange(needed)[:, None].expand(-1, native.config.axes)
            self._tables = native.position_tables(counting)
        before, self._later = self._split_features(model, features, lengths, length)
        whole = lengths // lanes  # vectors of each prefix
        prefixes, logits = self._read(prompts, lengths, before)
        self.logits = torch.zeros(rows, native.logits_stride)
        self.logits[:] = logits.repeat_interleave(times, 0)

        positions = round_up(int((lengths % lanes).max()) + length, lanes)
        self.caches = []
        for keys, values in prefixes:
            own_keys, own_values = native.key_value_cache(rows, positions)
            each = torch.arange(len(prompts))
            rest = keys[each, :, torch.from_numpy(whole)]  # the vector that is not whole
            own_keys[:, :, 0] = rest.repeat_interleave(times, 0)
            blocks = values.unflatten(2, (-1, lanes))  # type: ignore[no-untyped-call]
            rest = blocks[each, :, torch.from_numpy(whole)]
            own_values[:, :, :lanes] = rest.repeat_interleave(times, 0)
            self.caches.append((own_keys, own_values, keys, values))
        prefix_positions = prefixes[0][1].shape[2]
        self._model, self._buffers = native.struct(self.caches, positions, rows, prefix_positions)
        number = np.arange(rows, dtype=np.int64)
        # of each row: its id, position in its cache, position
        self._ids, self._positions = np.zeros_like(number), (lengths % lanes).repeat(times)
        self._table_rows = lengths.repeat(times)
        # C reads the memory of these arrays, so they live as long as the rows
        self._kept = number, number // times, whole * lanes
        self.fed = 0
        # what the embeddings of the next ids get added, the same for all rows of a prompt
        width = native.config.width
        self._additions = None if features is None else torch.zeros(len(prompts), width)
        self._tokens = self._struct(
            (self._ids, number, self._positions, self._table_rows, *self._kept[1:]),
            self._additions,
            times,
            self.logits,
        )
        self._buffer = torch.zeros(native.logits_stride + CHUNK * lanes)

    def _struct(
        self, inputs: tuple[Ids, ...], additions: Tensor | None, times: int, logits: Tensor | None
    ) -> TokensStruct:
        """inputs: of each token its id, sequence, position in the cache, position and prefix, and
        of each prefix its length."""
        return TokensStruct(
            len(inputs[0]),
            0 if logits is None else len(inputs[0]),
            *(each.ctypes.data for each in inputs),
            native_calls.address(additions),
            times,
            *map(native_calls.address, self._tables),
            native_calls.address(logits),
        )

    def _read(
        self, prompts: list[Ids], lengths: Ids, additions: list[Tensor] | None
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """(keys and values of each layer, logits of the ids after each prompt (P, stride)). The
        last ids, whose logits are wanted, are read after all others."""
        native = self.native
        positions = (int(lengths.max()) // native.lanes + 1) * native.lanes
        layers = range(native.config.layers)
        caches = [native.key_value_cache(len(prompts), positions) for _ in layers]
        tokens_at_once = max(PREFILL_TOKENS, len(prompts))
        model, buffers = native.struct(caches, positions, tokens_at_once)  # C writes to `buffers`
        logits = torch.zeros(len(prompts), native.logits_stride)
        sequence = np.arange(len(prompts)).repeat(lengths - 1)
        place = np.concatenate([np.arange(size - 1) for size in lengths])
        all_ids = np.concatenate([prompt[:-1] for prompt in prompts])
        beside = None if additions is None else torch.cat([rows[:-1] for rows in additions])

        def run(ids: Ids, rows: Ids, at: Ids, added: Tensor | None, wanted: Tensor | None) -> None:
            number = np.arange(len(ids))
            inputs = tuple(np.ascontiguousarray(x, np.int64) for x in (ids, rows, at, at, number))
            tokens = self._struct((*inputs, number), added, 0, wanted)
            native.library.step(ctypes.byref(model), ctypes.byref(tokens), 1)

        for first in range(0, len(all_ids), PREFILL_TOKENS):
            chunk = slice(first, first + PREFILL_TOKENS)
            added = None if beside is None else beside[chunk].contiguous()
            run(all_ids[chunk], sequence[chunk], place[chunk], added, None)
        last = None if additions is None else torch.stack([rows[-1] for rows in additions])
        ends = np.array([prompt[-1] for prompt in prompts])
        run(ends, np.arange(len(prompts)), lengths - 1, last, logits)
        del buffers  # not before
        return caches, logits

    def _split_features(
        self, model: SequenceModel, features: Features, lengths: Ids, length: int
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """What the model adds to the embeddings of the ids of each prompt, (T, width) each, and to
        those of the ids after it, (P, length, width)."""
        if features is None or model.features is None:
            return None, None
        added = [model.features(torch.from_numpy(own)) for own in features]
        sizes = lengths.tolist()
        later = [own[size : size + length] for own, size in zip(added, sizes, strict=True)]
        return [own[:size] for own, size in zip(added, sizes, strict=True)], torch.stack(later)

    def sample(self, config: SampleConfig, uniforms: Floats, legal: Range) -> tuple[Ids, Floats]:
        native, rows = self.native, len(self._ids)
        legal = legal.repeat(self.times, 0)
        filtered = config.top_k or config.top_p < 1 or config.min_p or config.greedy
        if filtered or config.temperature < 1e-3:
            first, last = _range_of(legal)
            return _sample_legal(self.logits[:, first:last], config, uniforms, legal)
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
    names: list[str],
    times: int,
    length: int,
    legal: Range,
    config: SampleConfig,
    features: Features = None,
) -> Iterator[tuple[list[int], Ids, Floats]]:
    """`times` continuations of `length` ids of each prompt: (numbers of some of the prompts, their
    ids (n, times, length), where each uniform number lies within its id's probability, alike).

    names: of the prompts, which their random numbers depend on (`hypercubes`); legal (P, 2): the
    half-open range of ids that each allows; features: of each, (T + length, F), for a model that
    reads them."""
    if runs_in_c(model):
        batches = list(_batches(prompts, NATIVE_ROWS // times, alike=False))
    else:
        batches = list(_batches(prompts, BATCH_ROWS // times))
    shares = [batches[rank :: processes()] for rank in range(min(processes(), len(batches)))]
    numbers = [[number for batch in share for number in batch] for share in shares]

    def units() -> Iterator[Unit]:
        for share, own in zip(shares, numbers, strict=True):
            yield {
                "ids": np.concatenate([prompts[i] for i in own]),
                "lengths": [len(prompts[i]) for i in own],
                "sizes": list(map(len, share)),
                "names": [names[i] for i in own],
                "times": times,
                "length": length,
                "legal": legal[own],
                "config": asdict(config),
                "features": None
                if features is None
                else np.concatenate([features[i] for i in own]),
            }

    for own, found in zip(numbers, divided(continue_batches, (model,), units()), strict=True):
        yield own, found["sampled"], found["within"]


def continue_batches(
    model: SequenceModel,
    ids: Ids,
    lengths: list[int],
    sizes: list[int],
    names: list[str],
    times: int,
    length: int,
    legal: Range,
    config: Mapping[str, Any],
    features: npt.NDArray[np.float32] | None,
) -> Unit:
    """`sampled` and `within` of all prompts, in batches of `sizes`; from several threads where that
    is faster. ids, features: one prompt after another, of these lengths; the rest: see
    `continue_all`."""
    sampling = SampleConfig(**config)
    ends = np.cumsum(lengths)
    prompts = np.split(ids, ends[:-1])
    more = np.arange(1, len(lengths) + 1) * length  # features reach to the end of a continuation
    rows = None if features is None else np.split(features, (ends + more)[:-1])
    shape = len(prompts), times, length
    sampled, within = np.empty(shape, np.int64), np.empty(shape)
    firsts = np.cumsum([0, *sizes])
    batches = [slice(*pair) for pair in itertools.pairwise(firsts.tolist())]
    was_training = model.training
    model.eval()
    native = native_model(model)

    def run(some: slice) -> None:
        of = prompts[some], times, length, None if rows is None else rows[some]
        forks: Forks
        if native is None:
            forks = TorchForks(model, *of)
        else:
            forks = NativeForks(model, native, *of)
        uniforms = hypercubes(sampling.seed, names[some], times, length).reshape(-1, length)
        chosen = np.empty(uniforms.shape, np.int64)
        inside = np.empty(uniforms.shape)
        for step in range(length):
            found = forks.sample(sampling, uniforms[:, step], legal[some])
            chosen[:, step], inside[:, step] = found
            if step + 1 < length:
                forks.feed(chosen[:, step])
        sampled[some] = chosen.reshape(-1, times, length)
        within[some] = inside.reshape(-1, times, length)

    try:
        if native is None:
            for batch in batches:
                run(batch)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(run, batches))
    finally:
        model.train(was_training)
    return {"sampled": sampled, "within": within}


def hypercubes(seed: int, names: list[str], times: int, length: int) -> Floats:
    """(len(names), times, length) random numbers, for each name and at each step one in each of
    `times` parts of [0, 1): Latin hypercube sampling (McKay et al. 1979)."""
    cells = np.arange(times * length, dtype=np.uint64).reshape(times, length)

    def random(purpose: str) -> U64:
        keys = np.array([key(seed, name, purpose) for name in names], np.uint64)
        return mix(cells + keys[:, None, None], 0)

    order = random("order").argsort(axis=1).argsort(axis=1)
    inside = random("inside") / 2.0**64
    found: Floats = np.minimum((order + inside) / times, np.nextafter(1, 0))
    return found


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
