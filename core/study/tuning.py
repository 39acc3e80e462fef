"""The learning rate of every contestant, by the same small sweep, and the runs that are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..train.request import Request
from .contestant import Contestant, run_name
from .study import Job, Result
from .summary import score

SWEEP_SEED = 0
FURTHER = 2  # more factors, at most, of a contestant whose best one is at the edge of the sweep


@dataclass(frozen=True)
class Rate:
    """The learning rate of a contestant. factor: of the architecture's own train.lr and
    train.adam_lr; edge: it is the lowest or the highest that was tried, beyond which a better one
    may lie; swept: factor -> score of the sweep, None where it diverged; {} without a sweep."""

    factor: float
    edge: bool
    swept: Mapping[str, float | None]

    def record(self) -> dict[str, Any]:
        return asdict(self)


def job(
    contestant: Contestant, base: Request, role: str, factor: float, seed: int, tokens: int
) -> Job:
    """A run of a settled contestant (`Shapes.settled`) at `factor` times its learning rates."""
    own = contestant.sets["train"]
    rates: dict[str, Any] = {"lr": own["lr"], "adam_lr": own["adam_lr"]}
    rated = contestant.with_sets(train={name: rate * factor for name, rate in rates.items()})
    kind = [] if role in ("sweep", "score") else [role]  # one run can be both
    return Job(
        run_name(contestant.name, *kind, f"lr{factor:g}", f"seed{seed}"),
        rated.request(base, tokens=tokens, seed=seed),
        {"contestant": contestant.name, "role": role, "lr": factor, "seed": seed},
    )


def tuned(
    contestants: Iterable[Contestant],
    base: Request,
    factors: Sequence[float],
    tokens: int,
    train: Callable[[Sequence[Job]], list[Result]],
) -> tuple[dict[str, Rate], list[Result]]:
    """The learning rate of each contestant by the sweep, and the results of its runs; none for a
    single factor. While the best factor of a contestant is the lowest or the highest, the next one
    beyond is tried too, at most FURTHER times. train: trains jobs and returns all results.

    The runs are as long as those that are scored: shorter ones prefer rates at which an LSTM falls
    apart later. The best of them is the scored run of its seed.
    """
    everyone, results = list(contestants), list[Result]()
    asked = {each.name: list(factors) for each in everyone} if len(factors) > 1 else {}
    for _ in range(1 + FURTHER):
        if not asked:
            break
        names = [each for each in everyone if each.name in asked]
        jobs = [
            job(each, base, "sweep", factor, SWEEP_SEED, tokens)
            for each in names
            for factor in asked[each.name]
        ]
        results += train(jobs)
        rates = chosen_rates(names, factors, results)
        asked = {name: [_beyond(rate)] for name, rate in rates.items() if rate.edge}
    return chosen_rates(everyone, factors, results), results


def _beyond(rate: Rate) -> float:
    """The factor that follows the best one, which is at the edge, in the ratio of the last two."""
    tried = sorted(map(float, rate.swept))
    low = rate.factor == tried[0]
    next_to = tried[1] if low else tried[-2]
    return float(f"{rate.factor * rate.factor / next_to:.3g}")


def chosen_rates(
    contestants: Iterable[Contestant], factors: Sequence[float], results: Iterable[Result]
) -> dict[str, Rate]:
    """The factor of the lowest score by contestant. results: of the runs of a sweep, among others.
    Where all diverged, the lowest factor."""
    swept: dict[str, dict[float, float | None]] = {each.name: {} for each in contestants}
    for result in results:
        if result.about["role"] == "sweep" and result.about["contestant"] in swept:
            swept[result.about["contestant"]][result.about["lr"]] = score(result)
    found = {}
    for name, scores in swept.items():
        known = {f: math.inf if s is None else s for f, s in scores.items()}
        best = min(known, key=lambda f: (known[f], f)) if known else factors[0]
        edge = len(known) > 1 and best in (min(known), max(known))
        found[name] = Rate(best, edge, {f"{f:g}": scores[f] for f in sorted(scores)})
    return found


def score_jobs(
    contestants: Iterable[Contestant],
    base: Request,
    rates: Mapping[str, Rate],
    seeds: int,
    tokens: Mapping[str, int] | int,
    role: str = "score",
) -> list[Job]:
    """The runs that are scored: seeds 0 ... seeds - 1 of each contestant at its learning rate.
    tokens: of a run, for all or by contestant. Ordered by seed, so that a study that is not over
    has something to say of each contestant."""
    return [
        job(
            each,
            base,
            role,
            rates[each.name].factor,
            seed,
            tokens if isinstance(tokens, int) else tokens[each.name],
        )
        for seed in range(seeds)
        for each in contestants
    ]
