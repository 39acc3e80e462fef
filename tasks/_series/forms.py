"""The forms in which times are written, as strptime patterns with a few more directives.

A form is found from a column's cells, parses them, and writes later times in the same way. Beside
the directives of strptime: %q is a quarter, %-m (and %-d %-H %-I) a number without a leading zero,
%3f a fraction of three digits, %L an offset with a colon; `epoch:ms` and `excel` are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

MONTHS = ("January February March April May June July August September October November "
          "December").split()  # fmt: skip
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
EPOCHS = {10: "s", 13: "ms", 16: "us", 19: "ns"}  # number of digits -> unit
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
MAX_NANOSECONDS = 9.2e18  # the year 2261, the last that pandas has in nanoseconds
DIGITS = {  # number of digits -> form
    4: "%Y",
    6: "%Y%m",
    8: "%Y%m%d",
    10: "%Y%m%d%H",
    12: "%Y%m%d%H%M",
    14: "%Y%m%d%H%M%S",
}
EXCEL_DAYS = (10_000, 80_000)  # 1927 to 2119, in days since EXCEL_ZERO
EXCEL_ZERO = "1899-12-30"
PIVOT = 2049  # two digits of a year are at most this one

_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_LONG_MONTH = "(?:" + "|".join(MONTHS).lower() + ")"
_PARTS = {
    "%Y": r"\d{4}",
    "%y": r"\d{2}",
    "%m": r"(?:0?[1-9]|1[0-2])",
    "%d": r"(?:0?[1-9]|[12]\d|3[01])",
    "%b": _MONTH,
    "%B": _LONG_MONTH,
    "%a": "(?:mon|tue|wed|thu|fri|sat|sun)",
    "%q": "[1-4]",
    "%G": r"\d{4}",
    "%V": r"(?:0[1-9]|[1-4]\d|5[0-3])",
    "%u": "[1-7]",
    "%H": r"(?:[01]?\d|2[0-3])",
    "%I": r"(?:0?[1-9]|1[0-2])",
    "%M": r"[0-5]\d",
    "%S": r"[0-5]\d",
    "%f": r"\d{1,9}",
    "%p": "(?:am|pm)",
    "%z": r"(?:[+-]\d{2}:?\d{2}|[+-]\d{2})",
}
_FULL_DATES = [
    *(f"%Y{s}%m{s}%d" for s in "-/."),
    "%Y%m%d",
    *(f"%d{s}%m{s}%{y}" for y in "Yy" for s in "/-."),
    *(f"%m{s}%d{s}%{y}" for y in "Yy" for s in "/-."),
    *(f"%d{s}%{b}{s}%{y}" for y in "Yy" for b in "bB" for s in ("-", " ", "/", "")),
    *(f"%{b} %d, %Y" for b in "bB"),
    *(f"%{b} %d %Y" for b in "bB"),
    *(f"%Y-%{b}-%d" for b in "bB"),
    *("%a %b %d %Y", "%a, %d %b %Y"),
]
_PERIODS = [
    *(f"%Y{s}%m" for s in ("-", "/", ".", "-M", "M", " M")),
    "%Y%m",
    *(f"%m{s}%Y" for s in "/-."),
    *(f"%{b}{s}%Y" for b in "bB" for s in ("-", " ", "/", "")),
    *(f"%Y{s}%{b}" for b in "bB" for s in ("-", " ")),
    *(f"%{b}{s}%y" for b in "bB" for s in ("-", " ", "/", "", " '")),
    *(f"%Y{s}%q" for s in ("Q", "-Q", " Q", "q")),
    *(f"Q%q{s}%Y" for s in (" ", "-", "/", "")),
    *(f"%G{s}%V" for s in ("-W", "W", " W")),
    *("%G-W%V-%u", "%GW%V%u"),
    "%Y",
]
_CLOCKS = [
    "%H:%M",
    "%H:%M:%S",
    "%H:%M:%S.%f",
    "%H:%M:%S,%f",
    "%H.%M.%S",
    "%I:%M %p",
    "%I:%M:%S %p",
    "%I:%M%p",
    "%H.%M",
    "%H",
]
_ZONES = ["", "%z", "Z", " %z", " UTC", " GMT"]
_COMPACT = ["%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ"]
_DIRECTIVE = re.compile(r"%(-?)(\d?)([A-Za-z])")
_WHOLE = (*_FULL_DATES, *_PERIODS, *_COMPACT)
TIME_OF_DAY = re.compile(
    r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?(\s?[ap]m)?|\d{1,2}\.\d{2}\.\d{2}", re.IGNORECASE
)
INTERVAL = re.compile(r"(.*\d.*?)\s*(?: - | \u2013 |/)\s*(.*\d.*)")


@lru_cache(maxsize=65536)
def forms_of(cell: str) -> tuple[str, ...]:
    """The forms that a cell fits, the likely ones first."""
    if len(cell) > 40 or not any(c.isdigit() for c in cell):
        return ()
    letters = any(c.isalpha() for c in cell)
    found = [f for f in _WHOLE if letters >= _has_letters(f) and pattern(f).fullmatch(cell)]
    for separator in ("T", " ", ", ", ":"):
        for split in re.finditer(separator, cell):
            date, rest = cell[: split.start()], cell[split.end() :]
            dates = [f for f in _FULL_DATES if pattern(f).fullmatch(date)] if date else []
            if dates and rest[:1].isdigit():
                clocks = [c + z for c in _CLOCKS for z in _ZONES if pattern(c + z).fullmatch(rest)]
                found += [f"{d}{separator}{clock}" for d in dates for clock in clocks]
    return tuple(found)


def _has_letters(form: str) -> bool:
    return bool(re.search(r"%[bBap]|(?<!%)[A-Za-z]", form))


@lru_cache(maxsize=4096)
def pattern(form: str) -> re.Pattern[str]:
    """The regular expression of a form."""
    parts = re.split(r"(%[A-Za-z])", form)
    text = "".join(_PARTS[p] if p in _PARTS else re.escape(p) for p in parts)
    return re.compile(text, re.IGNORECASE)


def matching_forms(cells: list[str]) -> list[str]:
    """The forms that fit all of these cells."""
    forms = forms_of(cells[0]) if cells else ()
    return [form for form in forms if all(pattern(form).fullmatch(cell) for cell in cells)]


def looks_like_time(cell: str) -> bool:
    """Whether a cell has the form of a date or time, or of an interval, and is no plain number."""
    cell = normal(cell)
    if re.fullmatch(r"[-+]?\d*\.?\d*", cell):
        return False
    return bool(forms_of(cell)) or begin(cell) is not None


def normal(cell: str) -> str:
    """A cell with common blanks only."""
    return re.sub(r"[\s\u00a0\u202f]+", " ", cell)


def begin(cell: str) -> str | None:
    """The begin of an interval, as in 01.01.2024 00:00 - 01.01.2024 01:00."""
    found = INTERVAL.fullmatch(cell)
    return found[1] if found and forms_of(found[1]) and forms_of(found[2]) else None


def parse(cells: list[str], form: str) -> Any:
    """Cells of a form as a DatetimeIndex: naive, or in UTC where the form has an offset. NaT where
    a cell does not fit. Weeks and quarters begin on their first day."""
    import pandas as pd

    if form.startswith("epoch:"):
        return epochs(cells, form.removeprefix("epoch:"))
    if form == "excel":
        seconds = np.array([float(cell) for cell in cells]) * 86400
        # five decimals of a day are a second or so: whole minutes are meant
        minutes = np.round(seconds / 60) * 60
        if (np.abs(seconds - minutes) < 1).all():
            seconds = minutes
        seconds = np.round(seconds * 1000).astype("timedelta64[ms]")
        return pd.DatetimeIndex(np.datetime64(EXCEL_ZERO, "ms") + seconds)
    form = _plain(form)
    if "%q" in form:
        year, quarter = re.compile(r"\d{4}"), re.compile(r"(?<!\d)[1-4](?!\d)")
        cells = [
            f"{year.search(cell)[0]}-{3 * int(quarter.search(year.sub(' ', cell))[0]) - 2:02}"  # type: ignore[index]
            for cell in cells
        ]
        form = "%Y-%m"
    elif "%V" in form and "%u" not in form:
        cells, form = [f"{cell}-1" for cell in cells], f"{form}-%u"
    if form.endswith(("Z", " UTC", " GMT")):
        suffix = "Z" if form.endswith("Z") else form[-4:]
        form = form.removesuffix(suffix) + "%z"
        cells = [cell[: len(cell) - len(suffix)] + "+00:00" for cell in cells]
    utc = "%z" in form
    times = pd.DatetimeIndex(pd.to_datetime(cells, format=form, errors="coerce", utc=utc))
    if "%y" in form:
        late = times.year > PIVOT
        early = times.year < PIVOT - 99
        century = pd.DateOffset(years=100)
        times = times.where(~late, times - century).where(~early, times + century)
    return times


def epochs(cells: Iterable[str], unit: str) -> Any:
    """Numbers since 1970 as times; a fraction is exact to the nanosecond."""
    from decimal import Decimal

    import pandas as pd

    each = NANOSECONDS[unit]
    numbers = np.array([int(Decimal(cell) * each) for cell in cells], "datetime64[ns]")
    return pd.DatetimeIndex(numbers)


def _plain(form: str) -> str:
    """The form with the directives of strptime only."""
    return re.sub(r"%\df", "%f", form).replace("%-", "%").replace("%L", "%z")


def exact_form(form: str, cells: list[str], times: Any) -> str:
    """The variant of a form that writes these times as their cells: with or without leading zeros,
    with so many digits of a fraction."""
    bare = re.sub(r"%([mdHI])", r"%-\1", form)
    variants = [form, bare, re.sub(r"%-([HI])", r"%\1", bare), re.sub(r"%([HI])", r"%-\1", form)]
    if "%f" in form:
        digits = max(len(m[1]) for c in cells if (m := re.search(r"[.,](\d+)(?!.*[.,]\d)", c)))
        variants = [variant.replace("%f", f"%{digits}f") for variant in variants]
    if "%z" in form:
        variants += [variant.replace("%z", "%L") for variant in variants]
    for variant in variants:
        if write(times, variant) == cells:
            return variant
    colon = any(re.search(r"[+-]\d{2}:\d{2}$", cell) for cell in cells)
    return variants[0].replace("%z", "%L") if colon else variants[0]


def write(times: Any, form: str) -> list[str]:
    """Times (a DatetimeIndex) in a form."""
    if form.startswith("epoch:"):
        return _numbers(times, NANOSECONDS[form.removeprefix("epoch:")], 0)
    if form == "excel":
        return _numbers(times, 86400 * 10**9, -_ns(np.datetime64(EXCEL_ZERO)))
    pieces = re.split(r"(%-?\d?[A-Za-z])", form)
    return ["".join(_piece(piece, t) for piece in pieces) for t in times]


def _numbers(times: Any, unit: int, zero: int) -> list[str]:
    from decimal import Decimal

    utc = times.tz_convert("UTC").tz_localize(None) if times.tz is not None else times
    exact = [Decimal(int(value) + zero) / unit for value in utc.as_unit("ns").asi8]
    return [f"{n.quantize(Decimal(1)) if n == n.to_integral() else round(n, 9).normalize():f}"
            for n in exact]  # fmt: skip


def _ns(time: np.datetime64) -> int:
    return int(time.astype("datetime64[ns]").astype(np.int64))


def _piece(piece: str, t: Any) -> str:
    found = _DIRECTIVE.fullmatch(piece)
    if not found:
        return piece
    bare, digits, letter = found.groups()
    if letter == "f":
        fraction = f"{t.microsecond * 1000 + t.nanosecond:09}"
        return fraction[: int(digits or 6)]
    if letter in "zL":
        offset = t.utcoffset()
        minutes = 0 if offset is None else round(offset.total_seconds() / 60)
        sign, minutes = "+-"[minutes < 0], abs(minutes)
        return f"{sign}{minutes // 60:02}{':' if letter == 'L' else ''}{minutes % 60:02}"
    if letter in "bB":
        name = MONTHS[int(t.month) - 1]
        return name[:3] if letter == "b" else name
    if letter == "a":
        return WEEKDAYS[int(t.weekday())][:3]
    if letter == "p":
        return "AM" if t.hour < 12 else "PM"
    number, width = {
        "Y": (t.year, 4),
        "y": (t.year % 100, 2),
        "m": (t.month, 2),
        "d": (t.day, 2),
        "H": (t.hour, 2),
        "I": ((t.hour - 1) % 12 + 1, 2),
        "M": (t.minute, 2),
        "S": (t.second, 2),
        "q": ((t.month - 1) // 3 + 1, 1),
        "G": (t.isocalendar()[0], 4),
        "V": (t.isocalendar()[1], 2),
        "u": (t.isocalendar()[2], 1),
    }[letter]
    return str(number) if bare else f"{number:0{width}}"


# -- resolution ----------------------------------------------------------------------------------


def sufficient(form: str, times: Any) -> str:
    """The form, extended so that it tells these times apart and exactly: by a day, a time of day,
    seconds, a fraction; by the offset where clocks are set back."""
    if form.startswith("epoch:") or form == "excel" or not len(times):
        return form
    local = times.tz_localize(None) if times.tz is not None else times
    day = local.normalize()
    letters = set(_DIRECTIVE.sub(r"\3", piece) for piece in re.findall(r"%-?\d?[A-Za-z]", form))
    whole_days = bool((local == day).all())
    if not letters & set("du") and not _begins_period(day, letters):
        form = "%Y-%m-%d"
    if not whole_days and not letters & set("HI"):
        form += "T%H:%M" if form.startswith("%Y-%m-%d") else " %H:%M"
    seconds = local.second.to_numpy()
    fraction = local.microsecond.to_numpy().astype(np.int64) * 1000 + local.nanosecond.to_numpy()
    if (seconds.any() or fraction.any()) and "S" not in letters:
        form = re.sub(r"(%M)", r"\1:%S", form, count=1)
    if fraction.any():
        need = max(len(f"{value:09}".rstrip("0")) for value in fraction)
        found = re.search(r"%(\d?)f", form)
        have = int(found[1] or 6) if found else 0
        if not found:
            form = form.replace("%S", f"%S.%{need}f", 1)
        elif need > have:
            form = re.sub(r"%\d?f", f"%{need}f", form)
    if times.tz is not None and not letters & set("zL") and local.has_duplicates:
        form += "%L"
    return form


def _begins_period(day: Any, letters: set[str]) -> bool:
    """Whether all days are the first of the period that a form without days can write."""
    if "V" in letters:
        return bool((day.day_of_week == 0).all())
    if not letters & set("mbB") and "q" in letters:
        return bool(((day.day == 1) & (day.month % 3 == 1)).all())
    if not letters & set("mbB"):
        return bool(((day.day == 1) & (day.month == 1)).all())
    return bool((day.day == 1).all())
