"""Generated pairs that every machine has: dates in many formats, and the same in ISO 8601."""

from __future__ import annotations

import calendar
import datetime
import random
from collections.abc import Iterator
from pathlib import Path

COUNT = 40_000
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
MONTHS, SHORT_MONTHS = calendar.month_name, calendar.month_abbr
DAYS, SHORT_DAYS = calendar.day_name, calendar.day_abbr


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th ... 11th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 20 else ending}"


def formats(day: datetime.date) -> list[str]:
    """The date in each format. With slashes the month comes first, with full stops the day; years
    of two digits are 1950 to 2049."""
    d, m, y = day.day, day.month, day.year
    month, short = MONTHS[m], SHORT_MONTHS[m]
    weekday, short_weekday = DAYS[day.weekday()], SHORT_DAYS[day.weekday()]
    return [
        f"{d} {month} {y}",
        f"{d} {short} {y}",
        f"{month} {d}, {y}",
        f"{short} {d}, {y}",
        f"{month} {ordinal(d)}, {y}",
        f"the {ordinal(d)} of {month} {y}",
        f"{weekday}, {d} {month} {y}",
        f"{short_weekday} {short} {d} {y}",
        f"{short_weekday}, {d:02d} {short} {y}",
        f"{d}.{m}.{y}",
        f"{d:02d}.{m:02d}.{y % 100:02d}",
        f"{m}/{d}/{y}",
        f"{m:02d}/{d:02d}/{y % 100:02d}",
        f"{d:02d}-{short.upper()}-{y % 100:02d}",
        f"{y}/{m}/{d}",
        f"{y}{m:02d}{d:02d}",
    ]


def dates(count: int = COUNT, seed: int = 0) -> Iterator[tuple[str, str]]:
    """`count` random dates, each in a random format, with its ISO form."""
    draw = random.Random(seed)
    span = (LAST - FIRST).days
    for _ in range(count):
        day = FIRST + datetime.timedelta(days=draw.randint(0, span))
        yield draw.choice(formats(day)), day.isoformat()


def write(path: Path) -> None:
    """Writes the pairs as tab-separated lines."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(f"{source}\t{target}\n" for source, target in dates())
