"""What a forecast continues: series of a file, or those that a run holds out.

Each comes with its end: the time of its first point (where that is known), its frequency, and how
many points lie from the first one to where the forecast begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...core.protocols import Sequence
from .collection import Series
from .reader import parse
from .table import Columns
from .times import following
from .windows import values_of

End = tuple[str | None, str | None, int]


def of_file(data: bytes, columns: Columns, heldout: Iterable[Sequence]) -> list[tuple[Series, End]]:
    """The series of a file's bytes; very short ones at the frequency of those held out."""
    series = parse(data, "the prompt", columns)
    series = [at_frequency(one, heldout) if len(one) < 3 else one for one in series]
    return [(one, (one.start, one.freq, len(one))) for one in series]


def of_heldout(heldout: Iterable[Sequence]) -> list[tuple[Series, End]]:
    """The run's own series, from their last windows."""
    known = []
    for side in (sequence.side for sequence in heldout):
        if side["last"]:
            one = Series(side["id"], values_of([*side["past"], *side["future"]]))
            end = (side["start"], side["freq"], side["first"] + len(side["future"]))
            known.append((one, end))
    return known


def at_frequency(short: Series, own: Iterable[Sequence]) -> Series:
    """One or two points, which do not say their frequency for sure (a month may be 31 days), at
    that of the run's own series if they fit it."""
    freq = next((sequence.side["freq"] for sequence in own if sequence.side["freq"]), None)
    last = len(short) - 1
    if freq is None or short.start is None:
        return short
    fits = last == 0 or following(short.start, freq, 1, 1) == following(
        short.start, short.freq, 1, 1
    )
    return replace(short, freq=freq) if fits else short
