"""What a window of a series is to a person, for `tfm view`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.protocols import Ids, Sequence
from ...tokenizers._scales import Scales
from ...tokenizers.bins import FIRST_BIN_ID, MISSING_ID, BinsTokenizer, iterate_seasons
from .clock import Clock


def labels(ids: Ids, tokenizer: BinsTokenizer) -> list[str]:
    """Bins by their centres, in units of the scale from the base."""

    def label(id: int) -> str:
        if id >= FIRST_BIN_ID:
            return f"{tokenizer.centres[id - FIRST_BIN_ID]:+.3g}"
        return "<missing>" if id == MISSING_ID else "<begin>"

    return [label(id) for id in ids.tolist()]


def illustration(sequence: Sequence, tokenizer: BinsTokenizer) -> dict[str, Any]:
    """values (T,): of the ids after the begin token, None where missing; base, scale and times
    (T + 1,): the id FIRST_BIN_ID + b in such a place stands for base + scale * centres[b]; the last
    one is the next place. history: how many of the values are known to a forecast."""
    known_values = tokenizer.decode(sequence.ids, sequence.side).values
    values = np.append(known_values, np.nan)
    scales = Scales.of([sequence.side])
    base, scale = np.zeros(len(values)), np.zeros(len(values))
    pieces = iterate_seasons((1, len(values)), scales, int(scales.lag[0]))
    for at, own_base, own_scale, known in pieces:
        base[at], scale[at] = own_base[0], own_scale[0]
        now = values[None, at]
        known[:] = np.where(np.isnan(now), known, now)
    history = int(sequence.side["history"])
    first = int(sequence.side.get("first", history)) - history
    return {
        "form": "series",
        "id": sequence.side.get("id"),
        "values": [None if np.isnan(x) else float(x) for x in known_values],
        "base": base.tolist(),
        "scale": scale.tolist(),
        "centres": [float(f"{x:.6g}") for x in tokenizer.centres],
        "edges": [float(f"{x:.6g}") for x in tokenizer.edges],
        "first_bin": FIRST_BIN_ID,
        "times": list(Clock.of(sequence.side).times(first, len(values))),
        "history": history,
    }
