"""Many times at once: the same as those of forms.py and zones.py, cell by cell."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ...core.protocols import Ids
from . import forms
from .arrow_columns import ArrowCells, as_bytes
from .zones import offset_minutes

CHUNK = 65_536
# of directives written with all digits, in the order of ISO 8601
WIDTHS = {"%Y": 4, "%m": 2, "%d": 2, "%H": 2, "%M": 2, "%S": 2}
BEFORE = {"%m": "-", "%d": "-", "%H": "T", "%M": ":", "%S": ":", "%f": "."}
LEAST = {"%m": "01", "%d": "01", "%H": "00", "%M": "00"}
ZONES = ("Z", " UTC", " GMT")
YEARS = (1600, 2261)  # others are left to pandas
SUFFIX = 10  # characters at the end of a time that hold its offset


def parse(cells: ArrowCells, form: str) -> Any:
    """The same as `forms.parse`, for cells of which none is empty."""
    unit = forms.parse(cells[:1], form).unit
    parts = []
    for chunk in cells.array.chunks:
        for at in range(0, len(chunk), CHUNK):
            array = chunk[at : at + CHUNK]
            found = _numeric(array, form, unit)
            parts.append(forms.parse(array.to_pylist(), form) if found is None else found)
    return parts[0].append(parts[1:]) if len(parts) > 1 else parts[0]


def epochs(cells: ArrowCells, unit: str) -> Any:
    """The same as `forms.epochs`, for cells of digits that are not too late."""
    import pandas as pd
    import pyarrow
    from pyarrow import compute

    ticks = compute.cast(cells.array, pyarrow.int64()).to_numpy() * forms.NANOSECONDS[unit]
    return pd.DatetimeIndex(ticks.view("M8[ns]"))


def _numeric(array: Any, form: str, unit: str) -> Any:
    """A DatetimeIndex of cells whose form has digits at the same places in all; None where they are
    not of that kind, or one is no time."""
    import pandas as pd
    import pyarrow
    from pyarrow import compute

    zone = next((z for z in ZONES if form.endswith(z)), "")
    pieces = re.findall(r"%[A-Za-z]|.", form.removesuffix(zone))
    known = {*WIDTHS, "%y", "%b", "%f", "%z"}
    if any(piece[0] == "%" and piece not in known for piece in pieces):
        return None
    lengths = compute.binary_length(array)
    low, high = compute.min_max(lengths).values()
    if low != high and "%f" not in form and not _short_years(array, pieces):
        array = compute.replace_substring_regex(array, r"\b(\d)\b", r"0\1")
        low, high = compute.min_max(compute.binary_length(array)).values()
    width = low.as_py()
    if low != high or not compute.all(compute.string_is_ascii(array)).as_py():
        return None
    cells = as_bytes(array, width)
    places = _places(pieces, width - len(zone), array[0].as_py())
    if places is None:
        return None
    for at, text in [*places.pop("", []), *([(width - len(zone), zone)] if zone else [])]:
        if (cells[:, at : at + len(text)] != np.frombuffer(text.encode(), np.uint8)).any():
            return None
    out = _iso(cells, places)
    if out is None:
        return None
    kind = pyarrow.timestamp(unit, "UTC" if "%z" in places else None)
    fixed = pyarrow.FixedSizeBinaryArray.from_buffers(
        pyarrow.binary(out.shape[1]), len(out), [None, pyarrow.py_buffer(out)]
    )
    try:
        ticks = fixed.cast(pyarrow.binary()).cast(pyarrow.string()).cast(kind)
    except pyarrow.ArrowInvalid:
        return None
    times = pd.DatetimeIndex(ticks.cast(pyarrow.int64()).to_numpy().view(f"M8[{unit}]"))
    if not YEARS[0] < times.min().year <= times.max().year < YEARS[1]:
        return None
    return times.tz_localize("UTC") if zone or "%z" in places else times


def _short_years(array: Any, pieces: list[str]) -> bool:
    """Whether a year, of two digits at the end of a date, may have only one, which is an error."""
    from pyarrow import compute

    short = compute.match_substring_regex(array, r"^\d+\D\d+\D\d(\D|$)")
    return "%y" in pieces and bool(short.true_count)


def _places(pieces: list[str], width: int, cell: str) -> dict[str, Any] | None:
    """directive -> (begin, end); "" -> (begin, text) of what is between them."""
    zone = 0
    if "%z" in pieces:
        found = re.search(r"[+-]\d{2}(:?\d{2})?$", cell)
        if not found or pieces[-1] != "%z":
            return None
        zone = len(found[0])
    widths = {**WIDTHS, "%y": 2, "%b": 3, "%z": zone}
    rest = width - sum(widths.get(piece, len(piece)) for piece in pieces if piece != "%f")
    if rest != 0 and not ("%f" in pieces and 1 <= rest <= 6):
        return None
    places: dict[str, Any] = {"": []}
    at = 0
    for piece in pieces:
        size = rest if piece == "%f" else widths.get(piece, 1)
        if piece[0] != "%":
            places[""].append((at, piece))
        elif piece in places:
            return None
        else:
            places[piece] = (at, at + size)
        at += size
    return places


def _iso(cells: Any, places: dict[str, Any]) -> Any:
    """(N, width) the bytes of times in ISO 8601."""
    columns = list[Any]()
    count = len(cells)

    def text(value: str) -> Any:
        return np.broadcast_to(np.frombuffer(value.encode(), np.uint8), (count, len(value)))

    if "%y" in places:
        begin, end = places["%y"]
        recent = cells[:, begin] < ord("0") + (forms.PIVOT + 1) % 100 // 10
        columns += [np.where(recent[:, None], text("20"), text("19")), cells[:, begin:end]]
    elif "%Y" in places:
        columns.append(cells[:, slice(*places["%Y"])])
    else:
        return None
    if "%b" in places:
        months = _months(cells[:, slice(*places["%b"])])
        if months is None or "%m" in places:
            return None
        columns += [text("-"), months]
    for piece, mark in BEFORE.items():
        if piece == "%m" and "%b" in places:
            continue
        if piece in places:
            columns += [text(mark), cells[:, slice(*places[piece])]]
        elif piece in LEAST:
            columns.append(text(mark + LEAST[piece]))
    if "%z" in places:
        columns.append(cells[:, slice(*places["%z"])])
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


def _months(names: Any) -> Any:
    """(N, 2) the digits of months by the first three letters (N, 3) of their names."""
    letters = names.astype(np.uint32) | 32  # in lower case
    codes = letters[:, 0] << 16 | letters[:, 1] << 8 | letters[:, 2]
    digits = np.zeros((len(names), 2), np.uint8)
    for number, name in enumerate(forms.MONTHS, 1):
        same = codes == int.from_bytes(name[:3].lower().encode(), "big")
        digits[same] = np.frombuffer(f"{number:02}".encode(), np.uint8)
    return digits if digits.all() else None


def offsets(cells: ArrowCells) -> Ids | None:
    """(len(cells),) `offset_minutes` of each cell, 0 where it has none; None where that takes more
    than the end of each cell."""
    from pyarrow import compute

    if not compute.all(compute.match_substring(cells.array, ":")).as_py():
        return None
    found = np.empty(len(cells), np.int64)
    known, at = dict[str, int](), 0
    for chunk in cells.array.chunks:
        ends = compute.utf8_slice_codeunits(chunk, -SUFFIX).dictionary_encode()
        each = ends.dictionary.to_pylist()
        known.update({end: offset_minutes(f"0:{end}") or 0 for end in each if end not in known})
        if 2 * len(known) > len(cells):
            return None
        found[at : at + len(chunk)] = np.array([known[end] for end in each])[
            ends.indices.to_numpy()
        ]
        at += len(chunk)
    return found
