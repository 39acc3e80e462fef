"""Parts of the times of a series as covariates: the hour, the day of the week, the month ..."""

from __future__ import annotations

from ...core.errors import DataError
from ...tokenizers._covariates import Column
from .clock import COUNT, Clock

HOUR, DAY, WEEK, YEAR = 3600.0, 86_400.0, 604_800.0, 31_556_952.0  # seconds
PARTS = {"minute": HOUR, "hour": DAY, "weekday": WEEK, "day": WEEK, "month": YEAR}  # their cycles


def name_of(part: str) -> str:
    """The name of a part as a covariate, which no column of a table has."""
    return f"calendar:{part}"


def calendar_columns(name: str, clock: Clock, first: int, count: int) -> dict[str, Column]:
    """All PARTS of the times of points first ... first + count - 1 of series `name`, (count,) each,
    as covariates. DataError for a series without times."""
    if clock.start is None or clock.freq is None or clock.form == COUNT:
        raise DataError(f"--calendar: series {name} has no times with a frequency")
    stamps = clock.stamps(first, count)
    return {name_of(part): getattr(stamps, part).to_numpy().astype("f8") for part in PARTS}


def useful_parts(clocks: list[Clock]) -> list[str]:
    """The parts whose cycles have several steps of one of the clocks."""
    steps = set()
    for clock in {(clock.freq, clock.zone): clock for clock in clocks}.values():
        first, second = clock.stamps(0, 2)
        steps.add(float((second - first).total_seconds()))
    return [
        part
        for part, cycle in PARTS.items()
        if any(2 * step <= cycle and not (part == "minute" and step % HOUR == 0) for step in steps)
    ]
