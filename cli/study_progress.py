"""The progress of a study: a table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .render import PRINT_SECONDS, clock, closed_terminal_ignored, say

if TYPE_CHECKING:
    from ..core.study.study import Job, Result, Study

TAIL_BYTES = 4096  # of a log, in which its last entry is


@dataclass
class Row:
    """What is known of one contestant. scores: of its runs that were scored at full length."""

    runs: int = 0
    done: int = 0
    diverged: int = 0
    scores: list[float] = field(default_factory=list)


class StudyProgress:
    """Shows the progress of a study's jobs. `expect` says before the first of them what is to come,
    in seconds of one process, from which the time that is left follows."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.rows: dict[str, Row] = {}
        self.expected = 0.0  # seconds of one process, of all runs
        self.finished = 0.0  # of them, of the runs that are over
        self.known = 0.0  # of those, of the runs that an earlier command had finished
        self.began = self.printed = time.monotonic()
        self.seconds: dict[str, float] = {}  # expected, by name of a job
        self.running: dict[str, tuple[Path, Job]] = {}
        self.live: Any = None

    def expect(self, contestants: Mapping[str, Sequence[float]]) -> None:
        """contestants: name -> the seconds that each of its runs is expected to take."""
        self.began = time.monotonic()
        for name, seconds in contestants.items():
            self.rows.setdefault(name, Row()).runs += len(seconds)
            self.expected += sum(seconds)

    @contextmanager
    def of(self, study: Study, jobs: Sequence[Job], seconds: Mapping[str, float]) -> Iterator[None]:
        """Shows progress while these jobs run. seconds: that each is expected to take, by name."""
        known = study.results()
        self.known += sum(seconds.get(job.name, 0.0) for job in jobs if job.name in known)
        for job in jobs:
            self.rows.setdefault(_contestant(job.about), Row())
            self.seconds[job.name] = seconds.get(job.name, 0.0)
            self.running[job.name] = study.folder / "runs" / job.name / "log.jsonl", job
        if not self.quiet and sys.stderr.isatty() and self.live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            if not console.is_dumb_terminal:
                self.live = Live(
                    get_renderable=self._table,
                    console=console,
                    transient=True,
                    refresh_per_second=2,
                )
                self.live.start()
        try:
            yield
        finally:
            if self.live is not None:
                with closed_terminal_ignored():
                    self.live.stop()
                self.live = None

    def took(self, result: Result) -> None:
        """Records a result."""
        from ..core.study.summary import score

        row = self.rows[_contestant(result.about)]
        row.done += 1
        row.runs = max(row.runs, row.done)
        value = score(result)
        if value is None:
            row.diverged += 1
        elif result.about.get("role", "score") == "score":
            row.scores.append(value)
        self.finished += self.seconds.pop(result.name, 0.0)
        self.running.pop(result.name, None)
        now = time.monotonic()
        if self.live is None and not self.quiet and now - self.printed > PRINT_SECONDS:
            self.printed = now
            said = "diverged" if value is None else f"{value:.3f}"
            say(f"{self._summary(now)}  {result.name} {said}")

    def _summary(self, now: float) -> str:
        done, runs = (
            sum(getattr(row, name) for row in self.rows.values()) for name in ("done", "runs")
        )
        left = self.left(now)
        return f"{done}/{runs} runs" + ("" if left is None else f"  ETA {clock(left)}")

    def left(self, now: float) -> float | None:
        """The seconds that are left; None if nothing speaks for a number yet."""
        ran = sum(
            self.seconds.get(name, 0.0) * _share_done(path, job)
            for name, (path, job) in list(self.running.items())
        )
        progress = self.finished + ran - self.known  # of this command
        left = self.expected - self.finished - ran
        return (now - self.began) / progress * left if progress > 0 and left > 0 else None

    def _table(self) -> Any:
        from rich.table import Table

        now = time.monotonic()
        table = Table(box=None, pad_edge=False, title=self._summary(now), title_justify="left")
        table.add_column("contestant")
        for heading in ("runs", "best", "diverged"):
            table.add_column(heading, justify="right")
        for name, row in self.rows.items():
            best = f"{min(row.scores):.3f}" if row.scores else ""
            table.add_row(name, f"{row.done}/{row.runs}", best, str(row.diverged or ""))
        return table


def _contestant(about: Mapping[str, Any]) -> str:
    return str(about.get("contestant", ""))


def _share_done(log: Path, job: Job) -> float:
    """The part of a run's tokens that its log has seen."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            last = file.read().splitlines()[-2]  # the last line can be incomplete
            config = json.loads((log.parent / "config.json").read_bytes())
        return min(1.0, float(json.loads(last)["step"]) / float(config["train"]["steps"]))
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return 0.0
