"""The .tsf format of the Monash archive."""

from __future__ import annotations

import re

import numpy as np

from ...core.errors import DataError
from .clock import Clock
from .collection import Series
from .encoding import Content
from .frequency import monash_frequency, offset
from .id_columns import ID_NAMES
from .numbers import INFINITE, PLAIN, is_missing
from .reading import Columns


def is_tsf(content: Content) -> bool:
    """Whether a line of a text in UTF-8 is @data."""
    line = re.compile(rb"^@data\b", re.MULTILINE | re.IGNORECASE)
    if not any(b"@" in block and line.search(block) for block in content.blocks()):
        return False
    return bool(re.search(r"^@data\s*$", content.text(), re.MULTILINE | re.IGNORECASE))


def from_tsf(text: str, where: str, columns: Columns) -> tuple[list[Series], list[str]]:
    """(series, notes) of a .tsf file (Monash archive, Godahewa et al. 2021): @attribute lines, then
    one series a line after @data. Colons separate attributes and values; ? is a missing value."""
    import pandas as pd

    attributes: list[tuple[str, str]] = []
    notes, freq = list[str](), columns.freq
    series, in_data = list[Series](), False
    for line_number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or (line.startswith("#") and not (in_data and ":" in line)):
            continue
        if not in_data:
            words = line.split()
            if words[0].lower() == "@attribute" and len(words) >= 3:
                attributes.append((words[1], words[2].lower()))
            elif words[0].lower() == "@frequency" and len(words) > 1 and freq is None:
                known = monash_frequency(words[1])
                freq = known and str(offset(known).freqstr)
                if not known:
                    notes.append(f"@frequency {words[1]} is not known; give --freq")
            in_data = words[0].lower() == "@data"
            continue
        *heads, body = line.split(":")
        if len(heads) > len(attributes) > 0 and attributes[0][1] == "string":
            extra = len(heads) - len(attributes)  # colons in the name
            heads = [":".join(heads[: extra + 1]), *heads[extra + 1 :]]
        if len(heads) != len(attributes):
            raise DataError(
                f"{where}: line {line_number} has {len(heads)} attributes, the header names "
                f"{len(attributes)}"
            )
        cells = body.split(",")
        values = np.array([_number(c, where, line_number, at) for at, c in enumerate(cells, 1)])
        label, start = f"T{len(series) + 1}", None
        for (name, kind), head in zip(attributes, heads, strict=True):
            if kind == "date":
                form = "%Y-%m-%d %H-%M-%S" if " " in head else "%Y-%m-%d"
                try:
                    start = pd.to_datetime(head, format=form).isoformat()
                except ValueError:
                    raise DataError(
                        f"{where}: line {line_number}: {head!r} is not a time of the form "
                        "1990-01-31 00-00-00"
                    ) from None
            elif kind == "string" and name.lower() in ID_NAMES:
                label = head
        series.append(Series(label, values, Clock(start, freq)))
    if freq is None and any(one.clock.start for one in series):
        notes.append("no @frequency: the points have no times; give --freq")
    names = [one.id for one in series]
    if len(set(names)) < len(names):
        raise DataError(
            f"{where}: series {next(n for n in names if names.count(n) > 1)} appears twice"
        )
    return series, notes


def _number(cell: str, where: str, line: int, at: int) -> float:
    text = cell.strip()
    if is_missing(text):
        return float("nan")
    if PLAIN.fullmatch(text) and np.isfinite(value := float(text)):
        return value
    what = "is not a number; write missing values as ?"
    if PLAIN.fullmatch(text) or INFINITE.fullmatch(text):
        what = "infinite; write it as ? if it is missing"
        raise DataError(f"{where}: row {line}, column value {at}: {what}")
    raise DataError(f"{where}: row {line}, column value {at}: {text!r} {what}")
