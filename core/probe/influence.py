"""How far back a token still moves the prediction: the effect of replacing one, by its distance."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..model.sequence_model import SequenceModel
from ..progress import tracked
from ..protocols import Batch, Ids
from .estimate import Estimate, Floats, half_octaves, resampled_mean
from .predictions import legal_logits
from .sample import Sample, moved

LEAST_WINDOWS = 5  # a distance that fewer windows have is left out, unless the sample is smaller


@dataclass(frozen=True)
class Influence:
    """The mean KL divergence, in nats, after replacing the token at a distance: 1 is the last one
    that the model has read before it predicts. windows: how many were measured."""

    distance: int
    windows: int
    kl: Estimate


@dataclass(frozen=True)
class Influences:
    """by_distance: 1, 2, 3, 4, 6, 8, 12 ... tokens; floor: the noise floor, the mean KL divergence
    between the predictions in float64 and in float32 when nothing is replaced."""

    by_distance: list[Influence]
    floor: float

    def farthest(self, share: float = 0.0) -> int | None:
        """The longest distance whose KL divergence is above the noise floor by the lower end of its
        interval, and above this share of that at the shortest distance; None if none is."""
        least = share * self.by_distance[0].kl.value if self.by_distance else 0.0
        above = [i for i in self.by_distance if i.kl.surely > self.floor and i.kl.value > least]
        return max((influence.distance for influence in above), default=None)


def influence_by_distance(sample: Sample, seed: int) -> Influences:
    """KL(p || q), p the model's prediction after the tokens of a window and q that after the same
    tokens, of which one is another. It becomes the token that another window of the sample has at
    the same place, drawn at random among those that differ; so it is a likely one, also where ids
    of different kinds have their places. One prediction of each window is compared, drawn among
    the scored ones of its second half.

    Both predictions are computed in batches of the same shape, so that a token which the model
    cannot see changes exactly nothing.
    """
    draw = np.random.default_rng([seed, 1])
    ends = _ends(sample, draw)
    distances = half_octaves(int(ends.max()) + 1)
    kl = np.zeros((len(sample), len(distances)))
    measured = np.zeros(kl.shape, np.bool_)
    for numbers, at, found in _divergences(sample, ends, distances, draw):
        kl[numbers, at], measured[numbers, at] = found, True
    by_distance = []
    for at, distance in enumerate(distances):
        values = kl[measured[:, at], at]
        if len(values) >= min(LEAST_WINDOWS, len(sample)):
            by_distance.append(Influence(distance, len(values), resampled_mean(values, seed)))
    return Influences(by_distance, noise_floor(sample, ends))


def _ends(sample: Sample, draw: np.random.Generator) -> Ids:
    """(N,) the place of each window after which the prediction is compared."""
    ends = []
    for scored, ids in zip(sample.scored(), sample.ids(), strict=True):
        last = int((ids >= 0).sum()) - 1
        late = scored[scored >= last // 2]
        ends.append(int(draw.choice(late)) if len(late) else int(max(scored, default=last)))
    return np.array(ends, np.int64)


def _divergences(
    sample: Sample, ends: Ids, distances: list[int], draw: np.random.Generator
) -> Iterator[tuple[Ids, int, Floats]]:
    """For each batch of windows and each distance: the numbers of the windows in which a token
    could be replaced, which distance, and the divergences."""
    ids = sample.ids()
    steps = ((group, at) for group in sample.groups() for at in range(len(distances)))
    for group, at in tracked(steps, len(sample.batches()) * len(distances), "replacements"):
        own = ends[group.numbers]
        if at == 0:
            before = log_probabilities(sample.model, group.batch, own)
        places = own + 1 - distances[at]
        changed, rows = group.batch.ids.clone(), []
        for row, (number, place) in enumerate(zip(group.numbers, places, strict=True)):
            other = _other(ids, number, place, draw)
            if other is not None:
                changed[row, place] = other
                rows.append(row)
        after = log_probabilities(sample.model, replace(group.batch, ids=changed), own)
        yield group.numbers[rows], at, divergence(before, after)[rows]


def _other(ids: Ids, number: int, place: int, draw: np.random.Generator) -> int | None:
    """The id that another window has at this place of window `number`; None if all have the same,
    or if the place is before the window."""
    if place < 0:
        return None
    there = ids[:, place]
    different = there[(there >= 0) & (there != ids[number, place])]
    return int(draw.choice(different)) if len(different) else None


def noise_floor(sample: Sample, ends: Ids) -> float:
    """The mean KL divergence, in nats, that rounding alone causes: from the predictions of the same
    model in float64, on the CPU, to its own."""
    exact = copy.deepcopy(sample.model).cpu().double()
    total = 0.0
    for group in sample.groups("batches, noise floor"):
        own = ends[group.numbers]
        precise = log_probabilities(exact, moved(group.batch, torch.device("cpu")), own)
        rounded = log_probabilities(sample.model, group.batch, own)
        total += float(divergence(precise, rounded).sum())
    return total / len(sample)


@torch.no_grad()
def log_probabilities(model: SequenceModel, batch: Batch[Tensor], ends: Ids) -> Tensor:
    """(B, V) float64 on the CPU: of the id after place ends[row] of each row; -inf where an id is
    not legal."""
    rows = torch.arange(len(ends), device=batch.ids.device)
    places = torch.from_numpy(ends).to(batch.ids.device)
    return legal_logits(model, batch, rows, places).cpu().double().log_softmax(-1)


def divergence(p: Tensor, q: Tensor) -> Floats:
    """(B,) KL(p || q), in nats, of log probabilities (B, V); 0 where p and q are equal."""
    terms = torch.where(p == q, 0.0, p.exp() * (p - q))
    found: Floats = torch.where(p == -torch.inf, 0.0, terms).sum(-1).numpy()
    return found
