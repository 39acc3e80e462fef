"""The texts of tables of `ablate`, `probe` and `scale`, and their charts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .data_text import colours
from .render import say

if TYPE_CHECKING:
    from ..core.chart import Chart
    from ..core.study.comparison import Outcome

MAX_WIDTH = 100  # columns of a chart


def estimate_text(estimate: Mapping[str, Any] | None, signed: bool = False) -> str:
    """An estimate (`Estimate.record`) with half of its interval: 2.104 ± 0.013."""
    if estimate is None:
        return ""
    if estimate["value"] is None:
        return f"diverged ({estimate['diverged']} of {estimate['n'] + estimate['diverged']})"
    half = None if estimate["low"] is None else (estimate["high"] - estimate["low"]) / 2
    digits = 3 if not half else min(6, max(3, 1 - math.floor(math.log10(half))))
    value = f"{estimate['value']:{'+' if signed else ''}.{digits}f}"
    return value if half is None else f"{value} ± {half:.{digits}f}"


def factor_text(row: Mapping[str, Any]) -> str:
    """The factor of the learning rate, with a mark at the edge of the sweep."""
    return f"x{row['lr_factor']:g}{'*' if row['lr_at_edge'] else ''}"


def memory_text(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f} MB"


def legend(outcome: Outcome, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines below a table: what was equal, how rates were tuned, what the intervals are."""
    planned = outcome.comparison
    seeds = planned.seeds
    spread = f"± half a 95 % interval (Student) over {seeds} seeds, differences paired by seed"
    same = f"; parameters within 2 % of {planned.reference}'s, embeddings included"
    lines = [
        f"every run: {planned.tokens:,} tokens{same if len(rows) > 1 else ''}",
        spread if seeds > 1 else "one seed: no intervals",
    ]
    parts = [each.scores["part"] for each in outcome.results if "part" in each.scores]
    if parts:
        lines.append(f"scores of {max(parts):.1%} of the held-out tokens, the same for all")
    factors = ", ".join(f"x{factor:g}" for factor in planned.factors)
    if len(planned.factors) > 1:
        edge = "; * at the edge of the sweep" if any(row["lr_at_edge"] for row in rows) else ""
        lines.append(
            f"learning rates: the best of {factors} of the architecture's own, and of those beyond "
            f"while the last is the best, by the run of seed 0{edge}"
        )
    else:
        lines.append(f"learning rates: {factors} of the architecture's own, not tuned")
    return lines


def show_charts(charts: Sequence[Chart], plot: str | None, as_json: bool, quiet: bool) -> None:
    """Draws charts on stdout, unless JSON is there, and into the file of --plot."""
    if not as_json:
        from ..core.chart_terminal import in_terminal

        width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
        for chart in charts:
            click.echo("\n" + in_terminal(chart, width, colours()))
    if plot:
        from ..core.chart_file import to_file

        to_file(charts, Path(plot))
        say(f"{plot}: drawn", quiet)
