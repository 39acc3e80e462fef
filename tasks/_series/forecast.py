"""Sample paths of many series in batches, each history encoded under several normalisations."""

from __future__ import annotations

import numpy as np
import torch

from ...core.config import SampleConfig
from ...core.data.keyed_random import key, mix
from ...core.decode.sampling import sample_ids_and_fractions
from ...core.model.sequence_model import SequenceModel
from ...core.protocols import Sequence
from ...tokenizers._scales import Scales, Values
from ...tokenizers.bins import BinsTokenizer, Window
from .collection import JITTER

UNFILTERED = SampleConfig()
MAX_BATCH_PATHS = 1600  # sampled in one batch
MAX_PREFILL_TOKENS = 32_768  # history tokens read in one forward pass
HISTORY_VIEWS = 10
GOLDEN_RATIO = 0.6180339887498949  # its fractional part: multiples of it spread evenly modulo 1


def forecast_values(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Window],
    horizon: int,
    paths: int,
    config: SampleConfig = UNFILTERED,
) -> Values:
    """(N, paths, horizon) sampled values that follow N histories (windows without a future). The
    normalisation of a history decides its bins but carries no information about the series. So each
    history is encoded several times (views), with normalisations perturbed as in training, and the
    paths are divided among the views. The errors of the views differ, so that their mixture
    forecasts better than each of them. Greedy decoding uses a single, unperturbed view."""
    count = 1 if config.greedy else min(HISTORY_VIEWS, paths)
    views = [view for history in histories for view in encode_views(tokenizer, history, count)]
    sampled = sample_paths(model, tokenizer, views, horizon, -(-paths // count), config)
    shape = len(histories), count, -1, horizon
    mixed = sampled.reshape(shape).swapaxes(1, 2)  # (N, paths a view, views, horizon): interleaved
    return mixed.reshape(len(histories), -1, horizon)[:, :paths]


def encode_views(tokenizer: BinsTokenizer, history: Window, count: int) -> list[Sequence]:
    """`count` encodings of a history whose perturbations are spread evenly over the range used in
    training. A single view is not perturbed."""
    at = (np.arange(count) + 0.5).astype(np.float64)
    size, shift = 2 * at / count - 1, 2 * (at * GOLDEN_RATIO % 1) - 1
    values = np.repeat(np.asarray(history.values, np.float64)[None], count, 0)
    scales = tokenizer.scales(values, np.full(count, len(history.values)))
    if count > 1:
        scales = scales.perturbed(JITTER * size, JITTER * shift)
    ids = tokenizer.encode_rows(values, scales)
    name = history.about.get("id", "")
    return [
        Sequence(
            row,
            len(row),
            None,
            {**scales.side(number), "id": f"{name}/{number}", "history": len(history.values)},
        )
        for number, row in enumerate(ids)
    ]


def sample_paths(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Sequence],
    horizon: int,
    paths: int,
    config: SampleConfig = UNFILTERED,
) -> Values:
    """(N, paths, horizon) sampled values that follow N histories (sequences of the begin token and
    the history's ids only). The uniform random numbers of a step are stratified over the paths of a
    series (Latin hypercube sampling, McKay et al. 1979): each path remains an unbiased sample, and
    the quantiles of a hundred paths vary as little as those of many more independent ones. A
    horizon longer than the tokenizer's is sampled in parts, each path continuing from its own
    values."""
    part = min(horizon, tokenizer.horizon)
    out = np.empty((len(histories), paths, part))
    groups: dict[int, list[int]] = {}
    for index, sequence in enumerate(histories):
        groups.setdefault(len(sequence), []).append(index)
    was_training = model.training
    model.eval()
    try:
        for length, group in groups.items():
            batch_size = max(1, min(MAX_BATCH_PATHS // paths, MAX_PREFILL_TOKENS // length))
            for start in range(0, len(group), batch_size):
                chosen = group[start : start + batch_size]
                batch = [histories[i] for i in chosen]
                out[chosen] = _sample_batch(model, tokenizer, batch, part, paths, config)
    finally:
        model.train(was_training)
    if part == horizon:
        return out

    longer = []
    for sequence, sampled in zip(histories, out, strict=True):
        past = tokenizer.decode(sequence.ids, sequence.side).values
        for number, path in enumerate(sampled):
            values = np.concatenate((past, path))[-tokenizer.history :]
            name = f"{sequence.side.get('id', '')}/{number}/{horizon}"
            longer.append(tokenizer.encode(Window(values, len(values), {"id": name})))
    rest = sample_paths(model, tokenizer, longer, horizon - part, 1, config)
    return np.concatenate((out, rest.reshape(len(histories), paths, -1)), axis=2)


@torch.no_grad()
def _sample_batch(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Sequence],
    horizon: int,
    paths: int,
    config: SampleConfig,
) -> Values:
    """`sample_paths` for histories of one length and a horizon of at most the tokenizer's."""
    device = model.head.weight.device
    past = np.stack([sequence.ids for sequence in histories])
    count, length = past.shape
    supports = np.array([tokenizer.support(length, sequence.side) for sequence in histories])
    first, last = int(supports[:, 0].min()), int(supports[:, 1].max())
    bins = np.arange(first, last)
    outside = (bins < supports[:, :1]) | (bins >= supports[:, 1:])  # (N, bins)
    illegal = torch.from_numpy(outside.repeat(paths, 0))
    uniforms = np.concatenate(
        [_hypercube(config.seed, s.side.get("id", ""), paths, horizon) for s in histories]
    )
    state = model.start(count, length + horizon)
    hidden = model.step(torch.from_numpy(past).to(device), state)[:, -1:]
    row_of_path = torch.arange(count).repeat_interleave(paths)
    hidden, state = hidden[row_of_path], state.select(row_of_path)
    sampled = np.empty((count * paths, horizon), np.int64)
    within = np.empty((count * paths, horizon))  # position of each value in its bin, 0 to 1
    for step in range(horizon):
        logits = model.logits(hidden[:, -1], first, last).cpu()
        logits = logits.masked_fill(illegal, -torch.inf)
        chosen, within[:, step] = sample_ids_and_fractions(logits, config, uniforms[:, step])
        sampled[:, step] = chosen + first
        if step + 1 < horizon:
            hidden = model.step(torch.from_numpy(sampled[:, step, None]).to(device), state)

    scales = Scales.of([s.side for s in histories for _ in range(paths)])
    ids = np.concatenate((past.repeat(paths, 0), sampled), axis=1)
    inside = np.full((count * paths, ids.shape[1] - 1), 0.5)
    inside[:, -horizon:] = within
    values = tokenizer.decode_rows(ids, scales, inside)[:, -horizon:]
    return values.reshape(count, paths, horizon)


def _hypercube(seed: int, name: str, paths: int, horizon: int) -> Values:
    """(paths, horizon) random numbers, at each step one in each of `paths` parts of [0, 1)."""
    cells = np.arange(paths * horizon, dtype=np.int64).reshape(paths, horizon)
    order = mix(cells, key(seed, name, "order")).argsort(axis=0).argsort(axis=0)
    inside = mix(cells, key(seed, name, "inside")) / 2.0**64
    return np.minimum((order + inside) / paths, np.nextafter(1, 0))
