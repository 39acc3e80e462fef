"""What a page shows beside the tensors: the logit lens, norms and attention in figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..capture import capture
from ..config import ModelConfig
from ..decode.sampling import legal_range
from ..errors import UsageError
from ..model.sequence_model import SequenceModel
from ..ops.reference import masked_to_support
from ..protocols import Ids, Sequence, Tokenizer
from .layout import layers, stacks

LENS_IDS = 5  # the likeliest ids that the lens keeps of each position


@dataclass(frozen=True)
class Reading:
    """What the model reads. ids (T,); targets (T,): the id that truly follows each one, -1 if it is
    unknown; counted (T,): whether a score counts it; source (S,): what an encoder reads; legal
    (T, 2): the range of legal next ids; answered: whether the model has written what follows the
    given ids."""

    sequence: Sequence
    ids: Ids
    targets: Ids
    counted: npt.NDArray[np.bool_]
    source: Ids | None
    legal: Ids
    answered: bool = False


def reading(
    model: SequenceModel,
    tokenizer: Tokenizer,
    sequence: Sequence,
    complete: bool,
    answered: bool = False,
) -> Reading:
    """complete: whether the sequence is a whole item, whose last id is only predicted. UsageError
    if it is longer than the context."""
    first = sequence.given - 1 if model.has_encoder else 0
    ids = sequence.ids[first:]
    length = len(ids) - (1 if complete and len(ids) > 1 else 0)
    source = sequence.ids[: sequence.given] if model.has_encoder else None
    context = model.config.context
    for what, count in (("the source", 0 if source is None else len(source)), ("the item", length)):
        if count > context:
            raise UsageError(f"{what} has {count:,} tokens, more than the context of {context:,}")
    targets = np.append(ids[1:], -1)[:length]
    counted = np.append(sequence.target_weight()[first + 1 :] > 0, False)[:length]
    support = tokenizer.support(len(sequence.ids) + 1, sequence.side)
    legal = [
        legal_range(support, first + at + 1, tokenizer.vocab_size) for at in range(length)
    ]  # fmt: skip
    ranges = np.array(legal, np.int64)
    return Reading(sequence, ids[:length], targets, counted, source, ranges, answered)


def captured(model: SequenceModel, tokenizer: Tokenizer, read: Reading) -> dict[str, Tensor]:
    """See `capture`."""
    device = model.head.weight.device
    places = tokenizer.positions(len(read.sequence.ids), read.sequence.side)
    source = None if read.source is None else torch.from_numpy(read.source).to(device)
    positions = None
    if places is not None:
        positions = torch.from_numpy(places[: len(read.ids)].copy()).to(device)
    ids = torch.from_numpy(read.ids.copy()).to(device)
    features = None
    if tokenizer.features:
        rows = tokenizer.feature_rows(len(read.sequence.ids), read.sequence.side)
        features = torch.from_numpy(rows[: len(read.ids)].copy()).to(device)
    found = capture(model, ids, positions, source, features)
    return {name: each.float() for name, each in found.items()}


# -- the logit lens --------------------------------------------------------------------------------


@torch.no_grad()
def lens(model: SequenceModel, found: dict[str, Tensor], read: Reading) -> dict[str, Any]:
    """The next-token distribution read off each state of the stream, as if the later blocks were
    not there (nostalgebraist 2020, "interpreting GPT: the logit lens"): final norm and head applied
    to the embedding and to each block's output.

    levels: names. For each level and position: top and p, the likeliest possible ids and their
    probabilities; entropy in nats; rank (0: likeliest), p_true and nll of the id that truly
    follows, None where it is unknown.
    """
    device = found["logits"].device
    legal = torch.from_numpy(read.legal).to(device)
    targets = torch.from_numpy(read.targets.copy()).to(device)
    known = read.targets >= 0
    states = [("embedding", found["blocks.0.hook_resid_pre"])]
    for block in range(model.config.layers):
        states.append((f"block {block}", found[f"blocks.{block}.hook_resid_post"]))
    table: dict[str, list[Any]] = {
        name: [] for name in ("top", "p", "entropy", "rank", "p_true", "nll")
    }
    for number, (_, state) in enumerate(states):
        if number == len(states) - 1:
            logits = found["logits"]
        else:
            logits = model.logits(state if model.norm is None else model.norm(state))
        logits = masked_to_support(logits.float(), legal)
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        best = p.topk(min(LENS_IDS, p.shape[-1]), dim=-1)
        own = log_p.gather(-1, targets.clamp(min=0)[:, None])
        rank = (log_p > own).sum(-1)
        entropy = -torch.where(p > 0, p * log_p, 0.0).sum(-1)
        possible = [max(1, int(each)) for each in (best.values > 0).sum(-1)]
        for name, found_ids in (("top", best.indices.tolist()), ("p", short(best.values))):
            table[name].append([x[:most] for x, most in zip(found_ids, possible, strict=True)])
        table["entropy"].append(short(entropy))
        for name, values in (("rank", rank), ("p_true", own[:, 0].exp()), ("nll", -own[:, 0])):
            kept = zip(short(values), known, strict=True)
            table[name].append([value if is_known else None for value, is_known in kept])
    return {"levels": [name for name, _ in states], **table}


def last_logits(found: dict[str, Tensor], read: Reading) -> Tensor:
    """(V,) the logits after the last id, -inf where an id is not legal."""
    return masked_to_support(
        found["logits"][-1], torch.from_numpy(read.legal[-1]).to(found["logits"].device)
    )


# -- norms and attention ---------------------------------------------------------------------------


def flow(config: ModelConfig, found: dict[str, Tensor], read: Reading) -> list[dict[str, Any]]:
    """For each block: `stream`, the norm of what it reads at each position; for each of its layers,
    the `norm` of what it writes and the `cosine` between that and the stream it is added to; and of
    attention, for each head and query position, the `entropy` of its weights in nats and, where
    keys are positions of the same sequence, their mean `distance`."""
    table = []
    source = 0 if read.source is None else len(read.source)
    for stack, _, blocks, _ in stacks(config, len(read.ids), source):
        for block in range(blocks):
            at = f"{stack}.{block}"
            state = found[f"{at}.hook_resid_pre"]
            row: dict[str, Any] = {
                "stack": stack,
                "block": block,
                "stream": short(state.norm(dim=-1)),
            }
            row["layers"] = []
            for layer in layers(config, stack, block, len(read.ids), source):
                written = found[f"{at}.hook_{layer.name}_out"]
                entry: dict[str, Any] = {
                    "part": layer.part,
                    "name": layer.name,
                    "norm": short(written.norm(dim=-1)),
                    "cosine": short(torch.cosine_similarity(state, written, dim=-1)),
                }
                if "pattern" in layer.within:
                    pattern = found[f"{at}.{layer.name}.hook_pattern"]
                    logs = pattern.clamp(min=1e-30).log()
                    entry["entropy"] = short(-(pattern * logs).sum(-1))
                    if layer.part == "mixer":
                        keys = torch.arange(pattern.shape[-1], device=pattern.device)
                        away = (keys[:, None] - keys).abs().float()
                        entry["distance"] = short((pattern * away).sum(-1))
                row["layers"].append(entry)
                state = found[f"{at}.hook_resid_{layer.after}"]
                if config.norm_position == "post":
                    state = found[f"{at}.{layer.norm}.hook_normalized"]
            table.append(row)
    return table


def short(values: Tensor) -> Any:
    """Nested lists of numbers with five significant digits, None for what is not finite."""

    def cut(value: Any) -> Any:
        if isinstance(value, list):
            return [cut(each) for each in value]
        if isinstance(value, float):
            return float(f"{value:.5g}") if math.isfinite(value) else None
        return value

    return cut(values.tolist())
