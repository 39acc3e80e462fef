"""Sampling: temperature and filters on logits, sampled ids, and the plain loop `generate`.

A sampled id is a function of the model, the prompt and (seed, record, draw, position). There is no
generator object, and the order of calls does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import SampleConfig
from ..data.keyed_random import uniform
from ..divided import Unit
from ..errors import DataError
from ..model.sequence_model import SequenceModel
from ..protocols import Sequence, Tokenizer

Floats = npt.NDArray[np.float64]


def filter_logits(logits: Tensor, config: SampleConfig) -> Tensor:
    """logits (..., V) divided by the temperature, with -inf for the ids that a filter drops.

    top_p keeps the smallest set of ids whose probabilities sum to top_p, at least one (nucleus
    sampling, Holtzman et al. 2020). min_p keeps the ids that are at least min_p times as likely as
    the likeliest (Nguyen et al. 2024).
    """
    if config.temperature != 1:  # any: in the limit, the likeliest id or an equal chance for all
        logits = logits.double()
        logits = (logits - logits.amax(-1, keepdim=True)) / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        kth = logits.topk(config.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = before >= config.top_p
        drop[..., 0] = False
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    if config.min_p > 0:
        p = logits.softmax(-1)
        logits = logits.masked_fill(p < config.min_p * p.amax(-1, keepdim=True), -torch.inf)
    return logits


def sample_ids(logits: Tensor, config: SampleConfig, uniforms: Floats) -> Tensor:
    """(rows,) ids sampled from logits (rows, V) by inverse transform of the uniform numbers (rows,)
    in [0, 1); the likeliest ids if `config.greedy`."""
    if config.greedy:
        return logits.argmax(-1)
    cumulative, thresholds = _inverse_transform(logits, config, uniforms)
    return torch.from_numpy((cumulative <= thresholds).sum(-1)).to(logits.device)


def sample_ids_and_fractions(
    logits: Tensor, config: SampleConfig, uniforms: Floats
) -> tuple[npt.NDArray[np.int64], Floats]:
    """As `sample_ids`, and the fraction (rows,) in [0, 1] of the id's probability that lies below
    the uniform number: where ids are bins of a quantity, a point within the bin. 0.5 if greedy."""
    if config.greedy:
        chosen = logits.argmax(-1).cpu().numpy()
        return chosen, np.full(len(chosen), 0.5)
    cumulative, thresholds = _inverse_transform(logits, config, uniforms)
    ids = (cumulative <= thresholds).sum(-1)
    rows = np.arange(len(ids))
    below = np.where(ids > 0, cumulative[rows, ids - 1], 0.0)
    return ids, (thresholds[:, 0] - below) / (cumulative[rows, ids] - below)


def _inverse_transform(
    logits: Tensor, config: SampleConfig, uniforms: Floats
) -> tuple[Floats, Floats]:
    """Cumulative sums (rows, V) of unnormalised probabilities in float64, and the uniform numbers
    scaled to their totals, (rows, 1)."""
    filtered = filter_logits(logits, config).cpu().numpy().astype(np.float64)
    cumulative = np.exp(filtered - filtered.max(-1, keepdims=True)).cumsum(-1)
    total = cumulative[:, -1:]
    # below the total, so that a number near 1 that rounds up to it still selects a legal id
    return cumulative, np.minimum(uniforms[:, None] * total, np.nextafter(total, 0))


@dataclass(frozen=True)
class SampledIds:
    """One position of all draws. logprobs: under the model, before temperature and filters."""

    ids: list[int]
    logprobs: list[float]
    ended: list[bool]  # whether the end token was sampled at this position or before


def clip_prompt(prompt: Sequence, context: int) -> Sequence:
    """The prompt cut to the context: it keeps its given part and its last ids."""
    room = context - prompt.given
    if len(prompt) <= context or room < 1:
        return prompt
    ids = np.concatenate((prompt.ids[: prompt.given], prompt.ids[-room:]))
    return Sequence(ids, prompt.given, None, prompt.side)


def as_unit(prompt: Sequence) -> Unit:
    """A prompt as JSON, for `divided`."""
    return {"ids": prompt.ids.tolist(), "given": prompt.given, "side": prompt.side}


def from_unit(fields: Unit) -> Sequence:
    """The prompt of `as_unit`."""
    return Sequence(np.array(fields["ids"], np.int64), fields["given"], None, fields["side"])


@torch.no_grad()
def generate(
    model: SequenceModel,
    tokenizer: Tokenizer,
    prompt: Sequence,
    config: SampleConfig,
    draws: int = 1,
    record: str = "",
    end: int | None = None,
) -> Iterator[SampledIds]:
    """Samples up to `config.length` ids after the prompt, `draws` times: the plain loop that
    `Decoder` is compared with.

    When the context is full, the window shrinks to the given part and the last half of the context,
    which are prefilled anew. Sampling stops early once `end` was sampled in every draw, or where no
    id is legal. DataError where an item with its own positions outgrows the context.
    """
    model.eval()
    context, device = model.config.context, model.head.weight.device
    first = prompt.given - 1 if model.has_encoder else 0  # of the ids in the context
    if not model.has_encoder:
        prompt = clip_prompt(prompt, context)
    total = len(prompt) + config.length
    support = tokenizer.support(total, prompt.side)
    positions = tokenizer.positions(total, prompt.side)
    if max(len(prompt) - first, prompt.given) > context:
        raise DataError(f"the prompt has {len(prompt)} tokens, the context {context}")

    rows = torch.from_numpy(prompt.ids).to(device).expand(draws, -1)
    fed = 0  # ids of each row that are in the KV cache
    state = model.start(draws, context)
    ended = [False] * draws
    for position in range(config.length):
        low, high = legal_range(support, len(prompt) + position, tokenizer.vocab_size)
        if low >= high:
            return
        if rows.shape[1] - first > context:
            if positions is not None:
                raise DataError(f"an item needs more than the context of {context}: --context")
            half = max(1, context // 2)
            given = rows[:, : prompt.given if first else min(prompt.given, context - half)]
            rows, fed = torch.cat((given, rows[:, -half:]), dim=1), 0
            state = model.start(draws, context)
        new = rows[:, fed:]
        new_positions = None
        if positions is not None:
            new_positions = torch.from_numpy(positions[fed : rows.shape[1]])[None].to(device)
        if fed:
            hidden = model.step(new, state, new_positions)
        else:
            hidden = model.prefill(new, state, new_positions, prompt.given)
        fed = rows.shape[1]
        logits = model.logits(hidden[:, -1], low, high)
        uniforms = [uniform(config.seed, record, draw, position) for draw in range(draws)]
        chosen = sample_ids(logits, config, np.array(uniforms))
        logprobs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        ids = chosen + low
        rows = torch.cat((rows, ids[:, None]), dim=1)
        ended = [before or id == end for before, id in zip(ended, ids.tolist(), strict=True)]
        yield SampledIds(ids.tolist(), logprobs.tolist(), ended)
        if all(ended):
            return


def legal_range(support: object, position: int, vocab_size: int) -> tuple[int, int]:
    """The half-open range of ids that are legal at a position."""
    if support is None:
        return 0, vocab_size
    if isinstance(support, tuple):
        return support
    low, high = support[position]  # type: ignore[index]
    return int(low), int(high)
