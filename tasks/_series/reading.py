"""What was read from the data of series, as lines for people and as an object for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_NAMED = 5  # items of a list in a line for people; JSON has all


@dataclass(frozen=True)
class Columns:
    """The flags that say how series are read, under the same names; None: found in the data."""

    time: str | None = None
    target: str | None = None
    id: str | None = None
    freq: str | None = None
    zone: str | None = None
    dates: str | None = None
    decimal: str | None = None
    resample: bool = False
    skip_bad: bool = False
    min_points: int = 1
    past: str | None = None
    known: str | None = None
    future: bool = False  # whether the table has --known columns and no values


def names_of(columns: str | None) -> list[str]:
    """The names in a flag of columns, separated by commas."""
    return [name.strip() for name in columns.split(",")] if columns else []


@dataclass
class Reading:
    """How one file was read."""

    where: str
    encoding: str | None = None
    delimiter: str | None = None
    layout: str = "wide"  # wide, long, rows (a series a row), tsf
    time: str | None = None
    id: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    left_out: list[tuple[str, str]] = field(default_factory=list)  # column, reason
    zone: str | None = None
    zone_from: str | None = None
    marks: set[str] = field(default_factory=set)  # cells that stand for missing values
    notes: list[str] = field(default_factory=list)
    averaged: int = 0  # points that share a step with another, with --resample
    filled: int = 0  # steps without a point, with --resample
    dropped: list[tuple[str, str]] = field(default_factory=list)  # series, reason


LAYOUTS = {
    "wide": "a series a column",
    "long": "series one below another",
    "rows": "a series a row",
    "tsf": "a series a line",
}


def lines(readings: Sequence[Reading]) -> list[str]:
    """What was read, in a few lines; equal files are described once."""
    groups: dict[str, tuple[Reading, list[str]]] = {}
    for reading in readings:
        key = repr((reading.layout, reading.time, reading.id, reading.target, reading.left_out))
        groups.setdefault(key, (reading, []))[1].append(reading.where)
    out = []
    for reading, names in list(groups.values())[:MAX_NAMED]:
        out.append(f"{_shortened(names)}: {_roles(reading)}")
        if reading.left_out:
            why: dict[str, list[str]] = {}
            for name, reason in reading.left_out:
                why.setdefault(reason, []).append(name or "(unnamed)")
            parts = (f"{_shortened(names)} ({reason})" for reason, names in why.items())
            out.append(f"left out: {'; '.join(parts)}")
    if len(groups) > MAX_NAMED:
        out.append(f"and {len(groups) - MAX_NAMED:,} more kinds of files (--json has all)")
    notes = Counter(note for reading in readings for note in reading.notes)
    out += [note if n == 1 else f"{note} (in {n:,} files)" for note, n in notes.items()]
    encodings = {r.encoding for r in readings if r.encoding not in (None, "utf-8")}
    if encodings:
        out.append(f"not UTF-8: read as {', '.join(sorted(map(str, encodings)))}")
    dropped = [item for reading in readings for item in reading.dropped]
    reasons = Counter(reason for _, reason in dropped)
    for reason in list(reasons)[:MAX_NAMED]:
        out.append(
            f"not used: {_shortened([name for name, why in dropped if why == reason])}: {reason}"
        )
    if len(reasons) > MAX_NAMED:
        out.append(f"not used: {len(reasons) - MAX_NAMED:,} more series (--json has all)")
    return out


def _roles(reading: Reading) -> str:
    parts = [LAYOUTS[reading.layout]]
    if reading.time:
        parts.append(f"times in {reading.time}")
    if reading.id:
        parts.append(f"ids in {', '.join(reading.id)}")
    if reading.target:
        parts.append(f"values in {_shortened(list(reading.target))}")
    if reading.past:
        parts.append(f"known until the forecast: {_shortened(list(reading.past))}")
    if reading.known:
        parts.append(f"also known of the future: {_shortened(list(reading.known))}")
    if reading.delimiter not in (None, ","):
        from .delimited import DELIMITER_NAMES

        parts.append(f"separated by {DELIMITER_NAMES[reading.delimiter or '']}")
    if reading.zone:
        parts.append(f"time zone {reading.zone} (from {reading.zone_from})")
    marks = sorted(mark for reading in [reading] for mark in reading.marks)
    if marks:
        parts.append(f"missing values written as {', '.join(map(repr, marks[:MAX_NAMED]))}")
    return "; ".join(parts)


def _shortened(names: Iterable[str]) -> str:
    """The first names of a list, and the number of the others."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMED:,} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more


def record(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """The same as objects for JSON, one a file."""
    return [
        {
            "file": reading.where,
            "encoding": reading.encoding,
            "delimiter": reading.delimiter,
            "layout": reading.layout,
            "time": reading.time,
            "id": list(reading.id),
            "target": list(reading.target),
            "past": list(reading.past),
            "known": list(reading.known),
            "left_out": [{"column": name, "reason": why} for name, why in reading.left_out],
            "zone": reading.zone,
            "zone_from": reading.zone_from,
            "missing_marks": sorted(reading.marks),
            "notes": reading.notes,
            "averaged": reading.averaged,
            "filled": reading.filled,
            "dropped": [{"series": name, "reason": why} for name, why in reading.dropped],
        }
        for reading in readings
    ]


def _seasons(facts: dict[str, Any]) -> str:
    if not facts["season_from"]:
        return "no season"
    if len(facts["seasons"]) == 1:
        return f"season {facts['season']} (from {facts['season_from']})"
    return f"seasons {', '.join(map(str, facts['seasons']))} (each from its frequency)"


def summary(facts: dict[str, Any]) -> str:
    """The numbers of all that was read (`SeriesTask.describe`), in a line."""
    missing, short = facts["missing"], facts["too_short_to_score"]
    parts = [
        f"{facts['series']:,} series, {facts['points']:,} points"
        + (f", {missing:,} missing" if missing else "")
        + (f", {short:,} too short to score" if short else ""),
        f"frequency {facts['frequency']} (from {facts['frequency_from']})"
        if facts["frequency"]
        else "no frequency",
        _seasons(facts),
        f"horizon {facts['horizon']}",
    ]
    return "; ".join(parts)
