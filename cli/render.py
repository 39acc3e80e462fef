"""Output for people: notes and progress on stderr, tables, loss curves."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ..core.display import BRAILLE_DOTS

SHOW_SECONDS = 1.0  # after which the progress of a loop is shown
PRINT_SECONDS = 10  # between progress lines, if stderr is not a terminal


def say(text: str, quiet: bool = False) -> None:
    """Prints a note on stderr, unless `quiet`."""
    if not quiet:
        with closed_terminal_ignored():
            click.echo(text, err=True)


@contextmanager
def closed_terminal_ignored() -> Iterator[None]:
    """A terminal that was closed takes no output: its process is told so by SIGHUP, and must still
    be able to save."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def columns(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Rows as aligned columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if numbers and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Seconds as 0:05 or 1:02:03."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def printable(text: str) -> str:
    """Text safe for a terminal: control characters except newline and tab become \\xNN."""
    return "".join(
        c if c in "\n\t" or (c.isprintable() or c == " ") else f"\\x{ord(c):02x}" for c in text
    )


def curve(values: Sequence[float], width: int = 60, height: int = 8) -> str:
    """A line chart in Braille characters, with the maximum and minimum on the left."""
    finite = [v for v in values if v == v and abs(v) != float("inf")]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    columns_, rows = width * 2, height * 4
    cells = [[0] * width for _ in range(height)]
    last = None
    for x in range(columns_):
        value = finite[min(len(finite) - 1, x * len(finite) // columns_)]
        y = round((high - value) / ((high - low) or 1) * (rows - 1))
        for between in range(min(y, y if last is None else last), max(y, last or y) + 1):
            cells[between // 4][x // 2] |= BRAILLE_DOTS[between % 4][x % 2]
        last = y
    labels = [f"{high:.2f}", *[""] * (height - 2), f"{low:.2f}"]
    label_width = max(map(len, labels))
    return "\n".join(
        f"{label:>{label_width}} {''.join(chr(0x2800 + cell) for cell in row)}"
        for label, row in zip(labels, cells, strict=True)
    )


class CodingProgress:
    """How much of a file is coded, with the time that is left: a live bar on a terminal, a plain
    line every PRINT_SECONDS elsewhere. Nothing for work that takes less."""

    def __init__(self, size: int, quiet: bool, unit: str = "bytes") -> None:
        self.size, self.quiet, self.unit = size, quiet, unit
        self.began = self.printed = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> CodingProgress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            console = Console(stderr=True)
            if not console.is_dumb_terminal:
                self.bar = Progress(
                    BarColumn(bar_width=20),
                    TextColumn("{task.fields[numbers]}"),
                    console=console,
                    transient=True,
                )
                self.bar.start()
                self.task = self.bar.add_task("", total=1.0, numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            with closed_terminal_ignored():
                self.bar.stop()

    def show(self, fraction: float) -> None:
        now = time.monotonic()
        left = (now - self.began) * (1 - fraction) / max(fraction, 1e-9)
        numbers = f"{int(fraction * self.size):,} of {self.size:,} {self.unit}  ETA {clock(left)}"
        if self.bar is not None:
            with closed_terminal_ignored():
                self.bar.update(self.task, completed=fraction, numbers=numbers)
        elif not self.quiet and now - self.printed > PRINT_SECONDS:
            self.printed = now
            say(numbers)


class LoopProgress:
    """The progress of `core.progress.tracked` loops that take more than SHOW_SECONDS, one after the
    other."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.began = time.monotonic()
        self.shown: CodingProgress | None = None
        self.loop: tuple[int, str] | None = None

    def show(self, done: int, total: int, unit: str) -> None:
        if self.loop != (total, unit):
            self.close()
            self.loop, self.began = (total, unit), time.monotonic()
        if self.shown is None and time.monotonic() - self.began > SHOW_SECONDS:
            self.shown = CodingProgress(total, self.quiet, unit).__enter__()
            self.shown.began = self.began
        if self.shown is not None:
            self.shown.show(min(1.0, done / max(1, total)))

    def close(self) -> None:
        if self.shown is not None:
            self.shown.__exit__()
        self.shown = None


@contextmanager
def loops_shown(quiet: bool) -> Iterator[None]:
    """Shows the progress of long loops within: a live bar, or lines, on stderr."""
    from ..core.progress import showing

    progress = LoopProgress(quiet)
    try:
        with showing(progress.show):
            yield
    finally:
        progress.close()


class TrainingProgress:
    """A live progress bar on a terminal; otherwise a plain line every PRINT_SECONDS."""

    def __init__(self, steps: int, start: int, quiet: bool) -> None:
        self.steps, self.start, self.quiet = steps, start, quiet
        self.began = self.printed = time.monotonic()
        self.heldout = ""  # the last score of held-out items
        self.loss: float | None = None
        self.rate: float | None = None
        self.bar: Any = None
        self.live = not quiet and sys.stderr.isatty()

    def __enter__(self) -> TrainingProgress:
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            console = Console(stderr=True)
            self.live = not console.is_dumb_terminal
            if self.live:
                self.bar = Progress(
                    TextColumn("{task.fields[at]}"),
                    BarColumn(bar_width=20),
                    TextColumn("{task.fields[numbers]}"),
                    console=console,
                    transient=True,
                )
                self.bar.start()
                self.task = self.bar.add_task("", total=self.steps, at="", numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            with closed_terminal_ignored():
                self.bar.stop()

    def step(self, step: Any) -> None:
        decay = 0.9 if step.index - self.start > 10 else 0.5
        self.loss = step.loss if self.loss is None else decay * self.loss + (1 - decay) * step.loss
        rate = step.tokens_per_second
        self.rate = rate if self.rate is None else decay * self.rate + (1 - decay) * rate
        now = time.monotonic()
        if self.bar is not None:
            at = f"step {step.index:,}/{self.steps:,}"
            with closed_terminal_ignored():
                self.bar.update(
                    self.task,
                    completed=step.index,
                    total=self.steps,
                    at=at,
                    numbers=self._numbers(step.index, now),
                )
        elif not self.quiet and (now - self.printed > PRINT_SECONDS or step.index == self.steps):
            self.printed = now
            say(f"step {step.index:,}/{self.steps:,}  {self._numbers(step.index, now)}")

    def _numbers(self, index: int, now: float) -> str:
        left = (now - self.began) / max(index - self.start, 1) * (self.steps - index)
        heldout = f"  {self.heldout}" if self.heldout else ""
        return f"loss {self.loss:.3f}{heldout}  {self.rate:,.0f} tokens/s  ETA {clock(left)}"
