"""What a clip's ids are to a person, for `tfm view`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.protocols import Ids, Sequence
from ...tokenizers._clips import END_ID, FIRST_ID, ClipTokenizer
from ...tokenizers.bins import borders
from ...tokenizers.mulaw import MulawTokenizer, expand


def labels(ids: Ids, tokenizer: ClipTokenizer) -> list[str]:
    """Samples by their values, codes of spectra by stage and number, names of labels."""
    names = {END_ID: "<end>", tokenizer.start: "<start>", tokenizer.begin: "<begin>"}
    ends = FIRST_ID + np.cumsum(tokenizer.stages)

    def label(id: int) -> str:
        if id in names:
            return names[id]
        low, high = tokenizer.label_ids
        if low <= id < high:
            return tokenizer.labels[id - low]
        if isinstance(tokenizer, MulawTokenizer):
            return f"{expand(np.array([id - FIRST_ID]), tokenizer.codes)[0]:+.3f}"
        stage = int(np.searchsorted(ends, id, side="right"))
        return f"{stage + 1}:{id - int(ends[stage]) + tokenizer.stages[stage]}"

    return [label(id) for id in ids.tolist()]


def illustration(sequence: Sequence, tokenizer: ClipTokenizer) -> dict[str, Any]:
    """Samples as a series of values, None at the places of other ids; codes of spectra as ids."""
    if not isinstance(tokenizer, MulawTokenizer):
        return {"form": "ids"}
    low, high = tokenizer.sound_ids
    ids = sequence.ids[1:]
    centres = expand(np.arange(tokenizer.codes), tokenizer.codes).astype(np.float64)
    values = [
        float(f"{centres[id - low]:.6g}") if low <= id < high else None for id in ids.tolist()
    ]
    first = next((n for n, value in enumerate(values) if value is not None), 0)
    times = [f"{1000 * (n - first) / tokenizer.rate:.2f} ms" for n in range(len(ids) + 1)]
    return {
        "form": "series",
        "id": sequence.side.get("id"),
        "values": values,
        "base": [0.0] * len(times),
        "scale": [1.0] * len(times),
        "centres": [float(f"{x:.6g}") for x in centres],
        "edges": [float(f"{x:.6g}") for x in borders(centres)],
        "first_bin": low,
        "times": times,
        "history": len(ids),
    }
