"""The series that a forecast continues: those of a file, or the held-out series of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UsageError
from ...core.protocols import Sequence
from ...tokenizers._covariates import Covariates
from ...tokenizers._scales import Values
from ...tokenizers.bins import BinsTokenizer, Window
from .clock import Clock
from .collection import Series, at_frequency
from .covariates import add_known, codes_ahead, missing_ahead, with_calendar, without_future
from .reader import parse, read_known
from .reading import Columns, lines, names_of
from .windows import codes_of, none_to_nan, season_side

MAX_GAP_HORIZONS = 4  # missing points at the end of a series that a forecast passes through


@dataclass(frozen=True)
class Prompt:
    """A series (or its last points), the index of the first point to forecast, whether its whole
    history is known to be without negative values, and the codes of its covariates from its first
    point on, of more points where the future is known."""

    series: Series
    first: int
    nonnegative: bool
    codes: Mapping[str, Values] = field(default_factory=dict)

    @property
    def offset(self) -> int:
        """The index of the series' first point on its clock."""
        return self.first - len(self.series)

    def history(self, length: int, season: int, horizon: int) -> tuple[slice, int]:
        """(the last `length` points, points between them and the forecast). Where these points are
        all missing: the points before them; a long gap counts as its rest of whole seasons."""
        values = self.series.values
        if np.isfinite(values[-length:]).any():
            return slice(max(0, len(values) - length), len(values)), 0
        end = int(np.flatnonzero(np.isfinite(values))[-1]) + 1
        gap = len(values) - end
        gap = gap if gap <= MAX_GAP_HORIZONS * horizon else gap % season
        return slice(max(0, end - length), end), gap

    def window(self, part: slice, about: dict[str, Any]) -> Window:
        """A window of these points, all of them history, with its covariates and those after it."""
        values = self.series.values[part]
        codes = {name: own[part.start :] for name, own in self.codes.items()}
        about = {**about, **season_side(self.series)}
        return Window(values, len(values), {**about, **({"covariates": codes} if codes else {})})


def prompts_of_file(
    data: bytes,
    columns: Columns,
    heldout: Iterable[Sequence],
    covariates: Covariates,
    note: Callable[[str], None],
) -> list[Prompt]:
    """The series of a file's bytes. `note` receives what was left out, and series that cannot be
    forecast. Series of one or two points take the frequency of `heldout`."""
    read = parse(data, "the prompt", columns)
    _, *notable = lines(read.readings)  # the first line only has the roles of the columns
    for line in notable:
        note(line)
    clock = next((Clock.of(s.side) for s in heldout if s.side["freq"]), Clock())
    series = [at_frequency(one, clock) if len(one) < 3 else one for one in read.series]
    known = names_of(columns.known)
    kept = [without_future(one, known) for one in series]
    if any(one.kind == "calendar" for one in covariates.each):
        kept = [with_calendar(one) for one in kept]
    return [
        Prompt(one, len(one), not (one.values < 0).any(), codes_of(one, covariates)) for one in kept
    ]


def prompts_of_heldout(heldout: Iterable[Sequence]) -> list[Prompt]:
    """The held-out series of a run, from their last windows."""
    known = []
    for side in (sequence.side for sequence in heldout):
        if side["last"]:
            missing = [None] * side.get("gap", 0)
            values = none_to_nan([*side["past"], *side["future"], *missing])
            end = side["first"] + len(side["future"]) + len(missing)
            nonnegative = bool(side.get("nonnegative", False)) and not (values < 0).any()
            codes = {name: none_to_nan(own) for name, own in side.get("covariates", {}).items()}
            series = Series(side["id"], values, Clock.of(side), season=side.get("season", 0))
            known.append(Prompt(series, end, nonnegative, codes))
    return known


def with_future(
    prompts: list[Prompt],
    tokenizer: BinsTokenizer,
    horizon: int,
    known_data: Path | None,
    columns: Columns,
    note: Callable[[str], None],
) -> list[Prompt]:
    """The prompts with what is known of the points to forecast: by their own rows, by those of the
    table `known_data`, and by their times. `note` receives what is not known."""
    covariates = tokenizer.covariates
    table = None
    if known_data is not None:
        if not any(one.kind == "known" for one in covariates.each):
            raise UsageError("--known-data: this run was trained without --known")
        table = read_known(known_data, columns)
    if not covariates.each:
        return prompts
    ahead = horizon + MAX_GAP_HORIZONS * tokenizer.horizon
    out, missing = [], dict[str, int]()
    for prompt in prompts:
        codes, series, offset = prompt.codes, prompt.series, prompt.offset
        if table is not None:
            codes = add_known(codes, series, offset, table, covariates)
        codes = codes_ahead(codes, series, offset, ahead, covariates)
        for name in missing_ahead(codes, len(series), horizon, covariates):
            missing[name] = missing.get(name, 0) + 1
        out.append(replace(prompt, codes=codes))
    if missing:
        note(
            f"not known of all points to forecast: {', '.join(missing)}, in up to "
            f"{max(missing.values()):,} of {len(prompts):,} series; the model takes them as "
            "missing (--known-data FILE, or further rows without a value, say them)"
        )
    return out
