"""A window of a series as the model sees it, in characters: a plot over its bins."""

from __future__ import annotations

import numpy as np

from ...core.display import BRAILLE_DOTS, marked, visible
from ...core.protocols import Sequence
from ...tokenizers._scales import Values
from ...tokenizers.bins import BinsTokenizer
from .clock import Clock

LINES = 8  # height of the plot
BIN_LINES = 2  # of bins


def window_plot(
    sequence: Sequence, labels: list[str], tokenizer: BinsTokenizer, width: int, colour: bool
) -> str:
    """The values that the ids decode to, history and horizon apart; below it the bins of the last
    of them. labels (T,): of the ids."""
    values = tokenizer.decode(sequence.ids, sequence.side).values
    history = int(sequence.side["history"])
    first = int(sequence.side.get("first", history)) - history
    times = Clock.of(sequence.side).times(first, len(values))
    plot = _plot(values, history, width) if np.isfinite(values).any() else ["(no value)"]
    ends = f", {times[0]} … {times[-1]}" if times else ""
    size = max(1, BIN_LINES * width // (max(map(len, labels)) + 1) - 1)
    cut = "…" if len(labels) > size else ""
    return "\n".join(
        [
            visible(f"{history} points of history, {len(values) - history} of horizon{ends}"),
            *plot,
            f"bins, in units of the scale{', the last ones' if cut else ''}:",
            marked(labels[-size:], width, colour, BIN_LINES),
        ]
    )


def _plot(values: Values, history: int, width: int) -> list[str]:
    """A line of Braille dots, with a bar between history and horizon."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    scale = max(abs(low), abs(high)) or 1.0  # their difference could overflow
    shares = (values / scale - low / scale) / ((high / scale - low / scale) or 1.0)
    marks = [f"{high:.6g}", *[""] * (LINES - 2), f"{low:.6g}"]
    margin = max(map(len, marks))
    cells = max(8, min(width - margin - 2, 3 * len(values)))
    split = round(cells * history / len(values))
    dots = np.zeros((LINES, cells), int)
    last: int | None = None
    for x in range(2 * cells):
        share = shares[min(len(values) - 1, x * len(values) // (2 * cells))]
        if np.isnan(share):
            last = None
            continue
        y = round((1 - float(share)) * (4 * LINES - 1))
        for between in range(min(y, y if last is None else last), max(y, last or y) + 1):
            dots[between // 4, x // 2] |= BRAILLE_DOTS[between % 4][x % 2]
        last = y
    lines = []
    for mark, row in zip(marks, dots, strict=True):
        drawn = "".join(chr(0x2800 + dot) for dot in row)
        bar = "│" if history < len(values) else ""
        lines.append(f"{mark:>{margin}} {drawn[:split]}{bar}{drawn[split:]}")
    return lines
