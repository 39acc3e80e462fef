"""The series that a forecast continues: those of a file, or the held-out series of a run.

Each comes with an `End`, from which the times of the forecast follow: the time of the series' first
point and its frequency (None where unknown), and the index at which the forecast begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...core.protocols import Sequence
from .collection import Series
from .reader import parse
from .table import Columns
from .times import point_times
from .windows import none_to_nan

End = tuple[str | None, str | None, int]
Prompt = tuple[Series, End]


def prompts_of_file(data: bytes, columns: Columns, heldout: Iterable[Sequence]) -> list[Prompt]:
    """The series of a file's bytes. Those of one or two points get the frequency of `heldout`."""
    series = parse(data, "the prompt", columns)
    series = [at_frequency(one, heldout) if len(one) < 3 else one for one in series]
    return [(one, (one.start, one.freq, len(one))) for one in series]


def prompts_of_heldout(heldout: Iterable[Sequence]) -> list[Prompt]:
    """The held-out series of a run, from their last windows."""
    known = []
    for side in (sequence.side for sequence in heldout):
        if side["last"]:
            one = Series(side["id"], none_to_nan([*side["past"], *side["future"]]))
            end = (side["start"], side["freq"], side["first"] + len(side["future"]))
            known.append((one, end))
    return known


def at_frequency(short: Series, own: Iterable[Sequence]) -> Series:
    """A series of one or two points with the frequency of the run's series, if its times fit it.
    So few points do not determine a frequency: 31 days apart may be a month."""
    freq = next((sequence.side["freq"] for sequence in own if sequence.side["freq"]), None)
    last = len(short) - 1
    if freq is None or short.start is None:
        return short
    fits = last == 0 or point_times(short.start, freq, 1, 1) == point_times(
        short.start, short.freq, 1, 1
    )
    return replace(short, freq=freq) if fits else short
