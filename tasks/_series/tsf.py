"""The .tsf format of the Monash archive."""

from __future__ import annotations

import numpy as np

from ...core.errors import DataError
from .collection import Series
from .table import ID_COLUMN_NAMES, Columns, parse_number
from .times import monash_frequency


def from_tsf(text: str, where: str, columns: Columns) -> list[Series]:
    """The series of a .tsf file (Monash archive, Godahewa et al. 2021): @attribute lines, then one
    series a line after @data. Colons separate attributes and values; ? is a missing value."""
    import pandas as pd

    attributes: list[tuple[str, str]] = []
    freq, series, in_data = columns.freq, list[Series](), False
    for line_number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not in_data:
            words = line.split()
            if words[0].lower() == "@attribute" and len(words) >= 3:
                attributes.append((words[1], words[2].lower()))
            elif words[0].lower() == "@frequency" and len(words) > 1 and freq is None:
                freq = words[1] if monash_frequency(words[1]) else None
            in_data = words[0].lower() == "@data"
            continue
        *heads, body = line.split(":")
        if len(heads) != len(attributes):
            raise DataError(
                f"{where}: line {line_number} has {len(heads)} attributes, the header names "
                f"{len(attributes)}"
            )
        values = np.array(
            [
                parse_number(cell, where, line_number, f"value {at + 1}")
                for at, cell in enumerate(body.split(","))
            ]
        )
        label, start = f"T{len(series) + 1}", None
        for (name, kind), head in zip(attributes, heads, strict=True):
            if kind == "date":
                try:
                    start = pd.to_datetime(head, format="%Y-%m-%d %H-%M-%S").isoformat()
                except ValueError:
                    raise DataError(
                        f"{where}: line {line_number}: {head!r} is not a time of the form "
                        "1990-01-31 00-00-00"
                    ) from None
            elif kind == "string" and name.lower() in ID_COLUMN_NAMES:
                label = head
        series.append(Series(label, values, start, freq))
    return series
