"""From logits to ids: filters, then `generate`.

Which id is drawn is a function of (seed, record, draw, position) and the model: no generator
object, no order of calls.
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
from ..errors import DataError
from ..model.sequence_model import SequenceModel
from ..protocols import Sequence, Tokenizer

Floats = npt.NDArray[np.float64]


def filtered(logits: Tensor, config: SampleConfig) -> Tensor:
    """(..., V) logits at the temperature, with -inf where a filter drops an id.

    top_p keeps the smallest set that holds the probability, at least one id (Holtzman et al.
    2020); min_p is Nguyen et al. 2024.
    """
    if config.temperature != 1:
        logits = logits / config.temperature
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


def pick(logits: Tensor, config: SampleConfig, uniforms: Floats) -> Tensor:
    """(rows,) ids from (rows, V) logits: the likeliest, or where each uniform number (rows,) falls
    in the cumulative distribution."""
    if config.greedy:
        return logits.argmax(-1)
    upto, at = _inverse(logits, config, uniforms)
    return torch.from_numpy((upto <= at).sum(-1)).to(logits.device)


def pick_within(
    logits: Tensor, config: SampleConfig, uniforms: Floats
) -> tuple[npt.NDArray[np.int64], Floats]:
    """As `pick`, and how far into the id's own probability each number fell, (rows,) in [0, 1]:
    where ids are bins of a quantity, a point of the bin. Where `greedy`, its middle."""
    if config.greedy:
        chosen = logits.argmax(-1).cpu().numpy()
        return chosen, np.full(len(chosen), 0.5)
    upto, at = _inverse(logits, config, uniforms)
    ids = (upto <= at).sum(-1)
    rows = np.arange(len(ids))
    below = np.where(ids > 0, upto[rows, ids - 1], 0.0)
    return ids, (at[:, 0] - below) / (upto[rows, ids] - below)


def _inverse(logits: Tensor, config: SampleConfig, uniforms: Floats) -> tuple[Floats, Floats]:
    """Cumulative weights (rows, V) in float64, and the place (rows, 1) of each uniform number."""
    kept = filtered(logits, config).cpu().numpy().astype(np.float64)
    upto = np.exp(kept - kept.max(-1, keepdims=True)).cumsum(-1)
    # below the sum, so that a number just below 1, rounded, falls on the last that can be drawn
    at = np.minimum(uniforms[:, None] * upto[:, -1:], np.nextafter(upto[:, -1:], 0))
    return upto, at


@dataclass(frozen=True)
class Drawn:
    """One position of every draw. logprobs are the model's own, before temperature and filters."""

    ids: list[int]
    logprobs: list[float]
    over: list[bool]  # whether the draw's item ended at or before this position


def clip_prompt(prompt: Sequence, context: int) -> Sequence:
    """The prompt as it fits the context: its given part, and the last of the rest."""
    room = context - prompt.given
    if len(prompt) <= context or room < 1:
        return prompt
    ids = np.concatenate((prompt.ids[: prompt.given], prompt.ids[-room:]))
    return Sequence(ids, prompt.given, None, prompt.side)


@torch.no_grad()
def generate(
    model: SequenceModel,
    tokenizer: Tokenizer,
    prompt: Sequence,
    config: SampleConfig,
    draws: int = 1,
    record: str = "",
    end: int | None = None,
) -> Iterator[Drawn]:
    """Up to `config.length` further ids behind the prompt, for each of `draws` draws: the plain
    loop that `Decoder` is compared with.

    When the context is full, the window becomes the given part and
    the last half of the context, and is read again. It stops early where every draw has ended:
    `end` was drawn, or no id is legal. DataError where an item with positions of its own outgrows
    the context.
    """
    model.eval()
    context, device = model.config.context, model.head.weight.device
    prompt = clip_prompt(prompt, context)
    total = len(prompt) + config.length
    support = tokenizer.support(total, prompt.side)
    positions = tokenizer.positions(total, prompt.side)
    if len(prompt) > context:
        raise DataError(f"the prompt has {len(prompt)} tokens, the context {context}")

    rows = torch.from_numpy(prompt.ids).to(device).expand(draws, -1)
    fed = 0  # ids of `rows` that the state has read
    state = model.start(draws, context)
    over = [False] * draws
    for position in range(config.length):
        at = len(prompt) + position
        low, high = range_at(support, at, tokenizer.vocab_size)
        if low >= high:
            return
        if rows.shape[1] > context:
            if positions is not None:
                raise DataError(f"an item needs more than the context of {context}: --context")
            half = max(1, context // 2)
            given = rows[:, : min(prompt.given, context - half)]
            rows, fed = torch.cat((given, rows[:, -half:]), dim=1), 0
            state = model.start(draws, context)
        new = rows[:, fed:]
        places = None
        if positions is not None:
            places = torch.from_numpy(positions[fed : rows.shape[1]])[None].to(device)
        if fed:
            hidden = model.step(new, state, places)
        else:
            hidden = model.read(new, state, places, prompt.given)
        fed = rows.shape[1]
        logits = model.logits(hidden[:, -1], low, high)
        uniforms = [uniform(config.seed, record, draw, position) for draw in range(draws)]
        chosen = pick(logits, config, np.array(uniforms))
        logprobs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        ids = chosen + low
        rows = torch.cat((rows, ids[:, None]), dim=1)
        over = [was or id == end for was, id in zip(over, ids.tolist(), strict=True)]
        yield Drawn(ids.tolist(), logprobs.tolist(), over)
        if all(over):
            return


def range_at(support: object, at: int, vocab_size: int) -> tuple[int, int]:
    """The ids that are legal at a position: from the first up to the second."""
    if support is None:
        return 0, vocab_size
    if isinstance(support, tuple):
        return support
    low, high = support[at]  # type: ignore[index]
    return int(low), int(high)
