"""How far attention reaches and how evenly it spreads, per layer and head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..capture import capture
from ..progress import tracked
from .estimate import Estimate, Floats, ratio
from .layers import layers_of
from .sample import Sample

PATTERN = ".hook_pattern"


@dataclass(frozen=True)
class HeadAttention:
    """distance: the mean number of tokens between a position and those it attends to, each counted
    by its attention weight; None where source and target have no common positions. entropy: of the
    weights of a position, in nats: 0 if they are on one token, ln n if they are even over n.
    first: the share of the weight that is on the first token of the window, on which heads with
    nothing to do often rest (Xiao et al. 2023, attention sinks). All are means over positions."""

    distance: Estimate | None
    entropy: Estimate
    first: Estimate


@dataclass(frozen=True)
class LayerAttention:
    """even: what a head would have that attends evenly to all that it sees."""

    heads: list[HeadAttention]
    even: HeadAttention


def attention_by_head(sample: Sample) -> dict[str, LayerAttention]:
    """Of each attention layer, by its name in core/capture.py: blocks.0.attn, blocks.0.cross_attn,
    encoder.0.attn. Empty for a model without attention."""
    if not any(layer.heads for layer in layers_of(sample.model)):
        return {}
    sums: dict[str, list[tuple[Floats, int]]] = {}
    for number in tracked(range(len(sample)), len(sample), "windows, attention"):
        batch = sample.group([number]).batch
        found = capture(
            sample.model,
            batch.ids[0, :-1],
            None if batch.positions is None else batch.positions[0, :-1],
            None if batch.source is None else batch.source[0],
            None if batch.features is None else batch.features[0, :-1],
        )
        for name, pattern in found.items():
            if name.endswith(PATTERN):
                layer = name.removesuffix(PATTERN)
                seen = found[f"{layer}.hook_attn_scores"].isfinite()
                even = seen / seen.sum(-1, keepdim=True)
                both = torch.cat((pattern, even[:1]))  # (heads + 1, T, S)
                sums.setdefault(layer, []).append(_of_window(both))
    return {layer: _estimates(layer, windows) for layer, windows in sums.items()}


def _of_window(pattern: Tensor) -> tuple[Floats, int]:
    """The sums over the positions of distance, entropy and weight on the first token, (3, heads),
    and the number of positions."""
    p = pattern.double()
    queries, keys = (torch.arange(size, device=p.device) for size in p.shape[1:])
    distance = (p * (queries[:, None] - keys).abs()).sum((1, 2))
    entropy = torch.special.entr(p).sum((1, 2))
    values = torch.stack((distance, entropy, p[:, :, 0].sum(1))).cpu().numpy()
    return values, p.shape[1]


def _estimates(layer: str, windows: list[tuple[Floats, int]]) -> LayerAttention:
    values = np.stack([value for value, _ in windows])  # (N, 3, heads + 1)
    counts = np.array([count for _, count in windows], np.float64)  # (N,)
    heads = []
    for head in range(values.shape[2]):
        distance, entropy, first = (ratio(values[:, at, head], counts) for at in range(3))
        assert entropy is not None and first is not None
        far = None if layer.endswith("cross_attn") else distance
        heads.append(HeadAttention(far, entropy, first))
    return LayerAttention(heads[:-1], heads[-1])
