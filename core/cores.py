"""How many of its CPU cores a process has to itself."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

STATISTICS = Path("/proc/stat")  # proc(5); elsewhere than on Linux no use by others is seen
IDLE = (3, 4)  # of a core's columns there: idle, and waiting for a disk
COLUMNS = 8  # the later ones are part of the first


def allowed_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Usage:
    """The cores' use by other processes, from when this is made."""

    began: float = field(default_factory=time.monotonic)
    all_before: float = field(default_factory=lambda: _busy_seconds())
    own_before: float = field(default_factory=time.process_time)

    def by_others(self) -> float:
        """How many cores other processes have used on average, of those that this one may use."""
        own = time.process_time() - self.own_before
        seconds = max(time.monotonic() - self.began, 1e-9)
        return min(max(0.0, (_busy_seconds() - self.all_before - own) / seconds), allowed_cores())


def _busy_seconds() -> float:
    """The seconds since the machine's start in which this process's cores were busy, summed over
    them; 0 where that is not known."""
    try:
        lines = STATISTICS.read_text().splitlines()
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = [[int(n) for n in line.split()[1:]] for line in lines if line.split(" ")[0] in names]
        ticks = sum(sum(row[:COLUMNS]) - sum(row[at] for at in IDLE) for row in rows)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
