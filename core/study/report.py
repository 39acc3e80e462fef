"""What a comparison has found: a sentence, and a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..chart import Axis, Bars, Chart
from .comparison import Outcome

Row = Mapping[str, Any]


def verdict(outcome: Outcome, rows: Sequence[Row]) -> str:
    """Whether the reference is better than the other contestants: which are worse or better, those
    whose interval of the paired difference has only one sign."""
    reference, unit = outcome.comparison.reference, outcome.score_unit
    own = next(row["score"] for row in rows if row["contestant"] == reference)
    if own["value"] is None:
        return f"{reference} diverged, so that nothing can be compared with it."
    first = f"{reference}: {own['value']:.3f} {unit}"
    others = {row["contestant"]: _kind(row["difference"]) for row in rows if row["difference"]}
    if others:
        against = f"Against {reference} ({own['value']:.3f} {unit}), "
        first = _decided(against, others, {"worse", "diverged"}, {"better"})
    return first + _spread(outcome)


def step_verdict(outcome: Outcome, rows: Sequence[Row]) -> str:
    """Which contestants are better or worse than the one that they are a change of."""
    scores = {row["contestant"]: row["score"]["value"] for row in rows}
    steps = {}
    for row in rows:
        name, after = row["contestant"], row["after"]
        if after is not None:
            cured = scores[after] is None and scores[name] is not None
            steps[name] = "better" if cured else _kind(row["change"])
    start = "Each against the one before, "
    return _decided(start, steps, {"better"}, {"worse", "diverged"}) + _spread(outcome)


def _spread(outcome: Outcome) -> str:
    seeds = outcome.comparison.seeds
    return f" (95 % intervals over {seeds} seeds)." if seeds > 1 else ". One seed: no intervals."


def _decided(start: str, kinds: Mapping[str, str], good: set[str], bad: set[str]) -> str:
    """Who is of which kind (`_kind`), after whether a claim held by which all are of a good one."""
    order = ("worse", "better", "no clear difference", "higher", "lower", "diverged")
    by_kind = {kind: [name for name in kinds if kinds[name] == kind] for kind in order}
    said = start + "; ".join(f"{kind}: {', '.join(by)}" for kind, by in by_kind.items() if by)
    if by_kind["higher"] or by_kind["lower"]:  # without intervals nothing is decided
        return said
    return f"{_decision(set(kinds.values()), good, bad)}. {said}"


def _decision(found: set[str], good: set[str], bad: set[str]) -> str:
    """Whether a claim held by which all kinds that were found are good ones."""
    if found & good:
        return "Held" if found <= good else "Held in part"
    return "Did not hold" if found & bad else "Undecided"


def _kind(difference: Row) -> str:
    """How a contestant differs from another one; higher or lower without an interval."""
    if difference["value"] is None:
        return "diverged"
    if difference["low"] is None:
        return "higher" if difference["value"] > 0 else "lower"
    if difference["low"] > 0:
        return "worse"
    return "better" if difference["high"] < 0 else "no clear difference"


def claim(outcome: Outcome) -> str:
    """What a comparison tests, as the title of its chart."""
    reference = outcome.comparison.reference
    others = [each.name for each in outcome.comparison.contestants if each.name != reference]
    if not others:
        return f"{reference} alone"
    names = ", ".join(others)
    than = names if len(names) < 40 else f"the {len(others)} others"
    return f"{reference} learns more from the same tokens than {than}"


def difference_chart(outcome: Outcome, rows: Sequence[Row], title: str) -> Chart:
    """The difference of each other contestant to the reference, paired by seed, with its interval;
    and that of equal time where it is another. The score of a contestant that is alone."""
    reference, unit, said = outcome.comparison.reference, outcome.score_unit, verdict(outcome, rows)
    others = [row for row in rows if row["contestant"] != reference]
    names = [row["contestant"] for row in others or rows]
    if not others:
        alone = bars("", names, [row["score"] for row in rows])
        return Chart(title, said, Axis(f"held-out score ({unit})"), Axis(""), [alone])
    sets = [("equal tokens", [row["difference"] for row in others])]
    if any(row["equal_time_difference"] for row in others):
        timed = [row["equal_time_difference"] or row["difference"] for row in others]
        sets.append(("equal time", timed))
    parts = [bars(name if len(sets) > 1 else "", names, each, 0.0) for name, each in sets]
    axis = Axis(f"held-out score less that of {reference} ({unit})")
    return Chart(title, said, axis, Axis(""), parts)


def step_chart(outcome: Outcome, rows: Sequence[Row], title: str) -> Chart:
    """The difference of each contestant to the one that it is a change of, paired by seed."""
    steps = [row for row in rows if row["after"]]
    names = [row["contestant"] for row in steps]
    axis = Axis(f"held-out score less that of the one before ({outcome.score_unit})")
    part = bars("", names, [row["change"] for row in steps], 0.0)
    return Chart(title, step_verdict(outcome, rows), axis, Axis(""), [part])


def bars(
    name: str, names: Sequence[str], estimates: Sequence[Row], reference: float | None = None
) -> Bars:
    """A set of bars of estimates (`Estimate.record`); a diverged one is infinite."""
    values = [math.inf if each["value"] is None else each["value"] for each in estimates]

    def ends(end: str) -> list[float] | None:
        found = [v if e[end] is None else e[end] for v, e in zip(values, estimates, strict=True)]
        return found if any(each[end] is not None for each in estimates) else None

    return Bars(names, values, ends("low"), ends("high"), name, reference)


# -- against baselines ---------------------------------------------------------------------------


def against_floor(outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of `Outcome.rows`, in the first headline metric that the scores have, else in bits
    per unit; with the best of the trivial baselines, `floor` and `floor_name`, and whether the
    contestant is better than it: `beats_floor`, None if its interval includes the baseline."""
    planned = outcome.comparison
    scores = next((result.scores for result in outcome.results if result.scores), {})
    metric = next((name for name in planned.headline if scores.get(name) is not None), None)
    higher = bool(metric and planned.measures.get(metric, False))
    ends = f"_{metric}" if metric else ""
    known = {n.removesuffix(ends): x for n, x in planned.floor.items() if n.endswith(ends)}
    if metric is None and outcome.score_unit == "nats per token":
        known = {}  # baselines are in bits per unit
    best = (max if higher else min)(known, key=lambda name: known[name], default=None)
    rows = []
    for row in outcome.rows(metric):
        floor = None if best is None else known[best]
        found = {
            **row,
            "metric": metric or outcome.score_unit,
            "higher_is_better": higher,
            "floor": floor,
            "floor_name": best,
            "beats_floor": _beats(row["score"], floor, higher),
        }
        rows.append(found)
    return rows


def _beats(score: Row, floor: float | None, higher: bool) -> bool | None:
    if floor is None or score["value"] is None:
        return None
    low, high = (score[e] if score[e] is not None else score["value"] for e in ("low", "high"))
    if low <= floor <= high and low < high:
        return None
    return bool((score["value"] > floor) is higher)


def floor_verdict(outcomes: Sequence[Outcome]) -> str:
    """On which domains the contestants are better than the best trivial baseline."""
    kinds: dict[str, list[str]] = {"better": [], "not better": [], "within the interval": []}
    for outcome in outcomes:
        for row in against_floor(outcome):
            if row["floor"] is not None:
                at = {True: "better", False: "not better", None: "within the interval"}
                kinds[at[row["beats_floor"]]].append(row["contestant"])
    said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)
    if not said:
        return "No baseline of these domains is known."
    found = {kind for kind, names in kinds.items() if names}
    decision = _decision(found, {"better"}, {"not better"})
    return f"{decision}. Against the best trivial baseline of each domain, {said}."


def floor_chart(outcomes: Sequence[Outcome], said: str) -> Chart:
    """Each score as a part of the best baseline's, below one where it is better (above one for a
    metric of which more is better)."""
    names: list[str] = []
    estimates: list[dict[str, Any]] = []
    for outcome in outcomes:
        for row in against_floor(outcome):
            names.append(f"{row['contestant']} ({row['metric']})")
            estimates.append(
                {
                    end: None if row["score"][end] is None else row["score"][end] / row["floor"]
                    for end in ("value", "low", "high")
                }
                if row["floor"]
                else {"value": math.nan, "low": None, "high": None}
            )
    title = "One core is better than the best trivial baseline on every domain"
    axis = Axis("score / score of the best baseline")
    return Chart(title, said, axis, Axis(""), [bars("", names, estimates, 1.0)])
