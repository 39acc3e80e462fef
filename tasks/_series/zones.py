"""Time zones by name, and found from the offsets of times."""

from __future__ import annotations

import re
from datetime import timedelta, timezone, tzinfo
from typing import Any

import numpy as np

from ...core.errors import ConfigError

# tried first among the zones that have the same offsets, so that a well-known name is found
COMMON_ZONES = (
    "Europe/London", "Europe/Berlin", "Europe/Helsinki", "Europe/Moscow", "America/New_York",
    "America/Chicago", "America/Denver", "America/Phoenix", "America/Los_Angeles",
    "America/Halifax", "America/Sao_Paulo", "America/Santiago", "Asia/Tokyo", "Asia/Shanghai",
    "Asia/Kolkata", "Asia/Jerusalem", "Australia/Sydney", "Australia/Adelaide",
    "Pacific/Auckland",
)  # fmt: skip


def tz(zone: str) -> tzinfo:
    """A time zone from its IANA name or an offset such as +02:00. ConfigError."""
    from zoneinfo import ZoneInfo

    found = re.fullmatch(r"([+-])(\d{2}):?(\d{2})", zone)
    if found:
        delta = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-delta if found[1] == "-" else delta)
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"--zone {zone}: no time zone; give a name such as Europe/Berlin, UTC or +02:00"
        ) from None


def offset_minutes(cell: str) -> int | None:
    """The offset from UTC at the end of a cell, in minutes; None where there is none."""
    if cell.endswith(("Z", "UTC", "GMT")) and any(c.isdigit() for c in cell):
        return 0
    found = re.search(r"\d([+-])(\d{2}):?(\d{2})?$|:\d{2}\s([+-])(\d{2}):?(\d{2})?$", cell)
    if not found or ":" not in cell and "T" not in cell:
        return None
    sign, hours, minutes = (found[1] or found[4], found[2] or found[5], found[3] or found[6])
    value = 60 * int(hours) + int(minutes or 0)
    return -value if sign == "-" else value


def zone_of(stamps: Any, offsets: Any) -> str:
    """The zone with these offsets (N,), in minutes, at these times (N,), in UTC: an offset where
    all are equal, else a zone whose clocks change at the same times, else UTC."""
    from zoneinfo import available_timezones

    known = stamps.notna()
    different = np.unique(offsets[known])
    if len(different) == 1:
        minutes = int(different[0])
        if not minutes:
            return "UTC"
        sign = "-" if minutes < 0 else "+"
        return f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    import pandas as pd

    instants, first = np.unique(stamps[known].asi8, return_index=True)
    wanted = offsets[known][first]
    changes: Any = np.flatnonzero(np.diff(wanted))
    keep = np.unique(np.concatenate((np.linspace(0, len(wanted) - 1, 200).astype(int),
                                     changes, np.add(changes, 1))).astype(int))  # fmt: skip
    at = stamps[known][first][keep]
    for name in (*COMMON_ZONES, *sorted(available_timezones())):
        try:
            local = at.tz_convert(name).tz_localize(None)
        except (KeyError, ValueError, OSError):  # a name that this system has no rules for
            continue
        minutes_there = (local - at.tz_localize(None)) / pd.Timedelta(1, "min")
        if (minutes_there.to_numpy() == wanted[keep]).all():
            return name
    return "UTC"
