"""Sample paths of many series at once, each history seen in several ways."""

from __future__ import annotations

import numpy as np
import torch

from ...core.config import SampleConfig
from ...core.data.keyed_random import key, mix
from ...core.decode.sampling import sample_ids_and_fractions
from ...core.model.sequence_model import SequenceModel
from ...core.protocols import Sequence
from ...tokenizers.bins import BinsTokenizer, Scales, Values, Window
from .collection import JITTER

PLAIN = SampleConfig()  # nothing filtered
ROWS = 1600  # paths that are drawn side by side
READ = 32_768  # ids of histories that are read at once
VIEWS = 10  # of a history
GOLDEN = 0.6180339887498949


def forecast_values(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Window],
    horizon: int,
    paths: int,
    config: SampleConfig = PLAIN,
) -> Values:
    """(N, paths, horizon) values that follow N histories (windows of nothing else).

    Its normalisation, and with it which bin a value falls into, says nothing of a series: a history
    is encoded several times, moved as far as in training, and the paths are shared out among these
    views. What they err in differs, so that the mixture is better than each.
    """
    count = 1 if config.greedy else min(VIEWS, paths)
    views = [view for history in histories for view in seen(tokenizer, history, count)]
    drawn = forecast(model, tokenizer, views, horizon, -(-paths // count), config)
    shape = len(histories), count, -1, horizon
    mixed = drawn.reshape(shape).swapaxes(1, 2)  # (N, each, views, horizon): as many of each
    return mixed.reshape(len(histories), -1, horizon)[:, :paths]


def seen(tokenizer: BinsTokenizer, history: Window, count: int) -> list[Sequence]:
    """`count` encodings, sizes and shifts spread evenly over what training moves by; one: as it
    is."""
    at = (np.arange(count) + 0.5).astype(np.float64)
    size, shift = 2 * at / count - 1, 2 * (at * GOLDEN % 1) - 1
    values = np.repeat(np.asarray(history.values, np.float64)[None], count, 0)
    scales = tokenizer.scales(values, np.full(count, len(history.values)))
    if count > 1:
        scales = scales.moved(JITTER * size, JITTER * shift)
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


def forecast(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Sequence],
    horizon: int,
    paths: int,
    config: SampleConfig = PLAIN,
) -> Values:
    """(N, paths, horizon) values that follow the N histories (begin and history ids, no more).

    The uniform numbers that decide a step are spread evenly over the paths of a series (a Latin
    hypercube, McKay et al. 1979): each path is a fair draw, and quantiles of a hundred are as
    steady as of many more. A horizon beyond the tokenizer's is drawn a part at a time, each path
    going on from what it drew.
    """
    part = min(horizon, tokenizer.horizon)
    out = np.empty((len(histories), paths, part))
    groups: dict[int, list[int]] = {}
    for index, sequence in enumerate(histories):
        groups.setdefault(len(sequence), []).append(index)
    was_training = model.training
    model.eval()
    try:
        for length, group in groups.items():
            together = max(1, min(ROWS // paths, READ // length))
            for start in range(0, len(group), together):
                chosen = group[start : start + together]
                known = [histories[i] for i in chosen]
                out[chosen] = _draw(model, tokenizer, known, part, paths, config)
    finally:
        model.train(was_training)
    if part == horizon:
        return out

    longer = []
    for sequence, drawn in zip(histories, out, strict=True):
        past = tokenizer.decode(sequence.ids, sequence.side).values
        for number, path in enumerate(drawn):
            values = np.concatenate((past, path))[-tokenizer.history :]
            name = f"{sequence.side.get('id', '')}/{number}/{horizon}"
            longer.append(tokenizer.encode(Window(values, len(values), {"id": name})))
    rest = forecast(model, tokenizer, longer, horizon - part, 1, config)
    return np.concatenate((out, rest.reshape(len(histories), paths, -1)), axis=2)


@torch.no_grad()
def _draw(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Sequence],
    horizon: int,
    paths: int,
    config: SampleConfig,
) -> Values:
    """(N, paths, horizon) for histories of one length."""
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
    drawn = np.empty((count * paths, horizon), np.int64)
    within = np.empty((count * paths, horizon))  # where in its bin a value lies
    for step in range(horizon):
        logits = model.logits(hidden[:, -1], first, last).cpu()
        logits = logits.masked_fill(illegal, -torch.inf)
        chosen, within[:, step] = sample_ids_and_fractions(logits, config, uniforms[:, step])
        drawn[:, step] = chosen + first
        if step + 1 < horizon:
            hidden = model.step(torch.from_numpy(drawn[:, step, None]).to(device), state)

    scales = Scales.of([s.side for s in histories for _ in range(paths)])
    ids = np.concatenate((past.repeat(paths, 0), drawn), axis=1)
    inside = np.full((count * paths, ids.shape[1] - 1), 0.5)
    inside[:, -horizon:] = within
    values = tokenizer.decode_rows(ids, scales, inside)[:, -horizon:]
    return values.reshape(count, paths, horizon)


def _hypercube(seed: int, name: str, paths: int, horizon: int) -> Values:
    """(paths, horizon) numbers in [0, 1), one in each of `paths` equal parts at every step."""
    cells = np.arange(paths * horizon, dtype=np.int64).reshape(paths, horizon)
    order = mix(cells, key(seed, name, "order")).argsort(axis=0).argsort(axis=0)
    inside = mix(cells, key(seed, name, "inside")) / 2.0**64
    return np.minimum((order + inside) / paths, np.nextafter(1, 0))
