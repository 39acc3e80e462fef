"""Sample paths of many series at once."""

from __future__ import annotations

import numpy as np
import torch

from ..core.errors import DataError
from ..core.hashing import key, mix
from ..core.model import SequenceModel
from ..core.protocols import Sequence
from ..tokenizers.bins import BinsTokenizer, Scales, Values

ROWS = 1600  # paths that are drawn side by side


def forecast(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Sequence],
    horizon: int,
    paths: int,
    seed: int = 0,
    temperature: float = 1.0,
) -> Values:
    """(N, paths, horizon) values that follow the N histories (begin and history ids, no more).

    The uniform numbers that decide a step are spread evenly over the paths of a series (a Latin
    hypercube, McKay et al. 1979): each path is a fair draw, and quantiles of a hundred are as
    steady as of many more.
    """
    if horizon + max(map(len, histories)) > model.config.context + 1:
        raise DataError(
            f"--horizon {horizon}: the model sees {model.config.context} points, of which the "
            f"history is {max(map(len, histories)) - 1}"
        )
    out = np.empty((len(histories), paths, horizon))
    groups: dict[int, list[int]] = {}
    for index, sequence in enumerate(histories):
        groups.setdefault(len(sequence), []).append(index)
    together = max(1, ROWS // paths)
    was_training = model.training
    model.eval()
    try:
        for group in groups.values():
            for start in range(0, len(group), together):
                chosen = group[start : start + together]
                out[chosen] = _draw(
                    model, tokenizer, [histories[i] for i in chosen], horizon, paths, seed,
                    temperature,
                )  # fmt: skip
    finally:
        model.train(was_training)
    return out


@torch.no_grad()
def _draw(
    model: SequenceModel, tokenizer: BinsTokenizer, histories: list[Sequence], horizon: int,
    paths: int, seed: int, temperature: float,
) -> Values:  # fmt: skip
    """(N, paths, horizon) for histories of one length."""
    device = model.head.weight.device
    past = np.stack([sequence.ids for sequence in histories])
    count, length = past.shape
    supports = [tokenizer.support(length, sequence.side) for sequence in histories]
    first = min(support[0] for support in supports)  # type: ignore[index]
    last = max(support[1] for support in supports)  # type: ignore[index]
    legal = np.zeros((count, 1, last - first), bool)
    for row, support in enumerate(supports):
        legal[row, 0, support[0] - first : support[1] - first] = True  # type: ignore[index]
    forbidden = None if legal.all() else torch.from_numpy(~legal).to(device)

    uniforms = np.stack([_hypercube(seed, s.side.get("id", ""), paths, horizon) for s in histories])
    state = model.start(count, length + horizon)
    hidden = model.step(torch.from_numpy(past).to(device), state)[:, -1:]
    hidden = hidden.repeat_interleave(paths, 0)
    state = model.fork(state, paths)
    drawn = np.empty((count, paths, horizon), np.int64)
    within = np.empty((count, paths, horizon))
    for step in range(horizon):
        logits = model.logits(hidden[:, -1], first, last).view(count, paths, -1) / temperature
        if forbidden is not None:
            logits = logits.masked_fill(forbidden, -torch.inf)
        upto = logits.double().softmax(-1).cumsum(-1)
        at = torch.from_numpy(uniforms[:, :, step]).to(device)[..., None] * upto[..., -1:]
        bins = torch.searchsorted(upto, at, right=True).clamp(max=last - first - 1)
        # where in its bin the number fell: a value, not only a bin
        above = upto.gather(-1, bins)
        below = torch.where(bins > 0, upto.gather(-1, (bins - 1).clamp(min=0)), 0.0)
        part = (at - below) / (above - below).clamp(min=1e-12)
        within[:, :, step] = part[..., 0].clamp(0, 1).cpu().numpy()
        ids = bins[..., 0] + first
        drawn[:, :, step] = ids.cpu().numpy()
        if step + 1 < horizon:
            hidden = model.step(ids.view(-1, 1), state)

    scales = Scales.of([s.side for s in histories for _ in range(paths)])
    whole = np.concatenate((past.repeat(paths, 0), drawn.reshape(count * paths, horizon)), axis=1)
    inside = np.full((count * paths, whole.shape[1] - 1), 0.5)
    inside[:, -horizon:] = within.reshape(count * paths, horizon)
    values = tokenizer.decode_rows(whole, scales, inside)[:, -horizon:]
    return values.reshape(count, paths, horizon)


def _hypercube(seed: int, name: str, paths: int, horizon: int) -> Values:
    """(paths, horizon) numbers in [0, 1), one in each of `paths` equal parts at every step."""
    cells = np.arange(paths * horizon, dtype=np.int64).reshape(paths, horizon)
    order = mix(cells, key(seed, name, "order")).argsort(axis=0).argsort(axis=0)
    inside = mix(cells, key(seed, name, "inside")) / 2.0**64
    return np.minimum((order + inside) / paths, np.nextafter(1, 0))
