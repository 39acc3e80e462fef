"""A comparison of contestants on the same data: equal parameters, equal tokens, tuned learning
rates, and by wish equal time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import CDLL
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..train.request import Request
from .contestant import Contestant
from .equal import equalised, parameter_count
from .plan import Load, Shapes, Speed, equal_time_tokens, measured_speed, overrun, tokens_within
from .study import Job, Result
from .summary import by_seed, estimate, paired_difference
from .tuning import Rate, score_jobs, tuned

NEAR = 0.03  # of a speed: contestants that differ by less have no runs of equal time


@dataclass(frozen=True)
class Asked:
    """What a comparison is to do. factors: of the sweep of learning rates; tokens: of a run, or
    None for what fits into `seconds`, on `processes` processes; threads: of each process."""

    factors: tuple[float, ...]
    seeds: int
    processes: int
    threads: int
    tokens: int | None = None
    seconds: Callable[[], float] = float
    equal_parameters: bool = True
    equal_time: bool = False


@dataclass(frozen=True)
class Comparison:
    """A comparison as planned. request: what all contestants share; contestants: settled
    (`Shapes.settled`), the reference among them; tokens: of a run; equal_time: the tokens of a run
    that takes as long as the reference's, of the contestants whose speed differs; floor: scores of
    trivial baselines; headline: names of the metrics that the task is judged by; measures:
    metrics of the task, and whether more of each is better; unit: of the task; part: of the
    held-out items that every run is scored on, the same for all."""

    request: Request
    contestants: tuple[Contestant, ...]
    reference: str
    tokens: int
    factors: tuple[float, ...]
    seeds: int
    speeds: Mapping[str, Speed]
    equal_time: Mapping[str, int]
    floor: Mapping[str, float]
    headline: tuple[str, ...]
    measures: Mapping[str, bool]
    unit: str
    part: float = 1.0

    def record(self) -> dict[str, Any]:
        """As JSON, for the definition of a study; without the request."""
        found = {**vars(self), "contestants": [asdict(each) for each in self.contestants]}
        found["speeds"] = {name: speed.record() for name, speed in self.speeds.items()}
        return {name: value for name, value in found.items() if name != "request"}

    @classmethod
    def from_record(cls, request: Request, record: Mapping[str, Any]) -> Comparison:
        lists = {name: tuple(record[name]) for name in ("factors", "headline")}
        contestants = tuple(Contestant(**each) for each in record["contestants"])
        speeds = {name: Speed(**each) for name, each in record["speeds"].items()}
        changed = {**lists, "contestants": contestants, "speeds": speeds}
        return cls(request=request, **{**record, **changed})

    def expected(self) -> dict[str, list[float]]:
        """By contestant, the seconds that each of its runs is expected to train."""
        swept = len(self.factors) if len(self.factors) > 1 else 0
        found = {}
        for each in self.contestants:
            seconds = self.tokens / self.speeds[each.name].tokens_per_second
            found[each.name] = runs_of(seconds, swept, self.seeds)
            if each.name in self.equal_time:
                same = self.tokens / self.speeds[self.reference].tokens_per_second
                found[each.name] += [same] * self.seeds
        return found

    def seconds(self, job: Job) -> float:
        """The seconds that a run is expected to train."""
        return (job.request.tokens or 0) / self.speeds[job.about["contestant"]].tokens_per_second

    def run(self, train: Callable[[Sequence[Job]], list[Result]]) -> Outcome:
        """Runs the sweep, then the scored runs, then those of equal time. train: trains jobs and
        returns all results."""
        base, everyone = replace(self.request, final_part=self.part), self.contestants
        rates, results = tuned(everyone, base, self.factors, self.tokens, train)
        results += train(score_jobs(everyone, base, rates, self.seeds, self.tokens))
        others = [each for each in everyone if each.name in self.equal_time]
        results += train(score_jobs(others, base, rates, self.seeds, self.equal_time, "equal-time"))
        return Outcome(self, rates, results)


def planned(
    shapes: Shapes,
    contestants: Sequence[Contestant],
    reference: str,
    asked: Asked,
    library: CDLL | None,
    note: Callable[[str], None],
    measure: Callable[..., Speed] = measured_speed,
) -> Comparison:
    """Equalises the contestants, measures their speed, and plans the tokens of a run. library: the
    C library, see `native_calls.load`; ConfigError names a contestant that cannot be equalised."""
    first = next(each for each in contestants if each.name == reference)
    if asked.equal_parameters:
        size = parameter_count(shapes.model(first))
        contestants = equalised(contestants, size, shapes.model)
    for each in contestants:
        shapes.configs(each)  # an impossible config is found before anything is measured

    def speed(contestant: Contestant, tokens: float | None) -> Speed:
        note(f"measuring {contestant.name} ...")
        return measure(shapes, contestant, tokens, asked.threads, library)

    tokens, part = asked.tokens, 1.0
    if tokens is None:  # a first guess: it decides the batch, on which speeds depend
        one = speed(first, None)
        tokens, _ = _tokens(
            dict.fromkeys((c.name for c in contestants), one), reference, asked, shapes
        )
    settled = [shapes.settled(each, tokens) for each in contestants]
    speeds = {each.name: speed(each, tokens) for each in settled}
    if asked.tokens is None:
        tokens, part = _tokens(speeds, reference, asked, shapes)
    equal_time = {}
    for name, own in speeds.items() if asked.equal_time else ():
        same = speeds[reference].tokens_per_second
        count = equal_time_tokens(tokens, own.tokens_per_second, same, NEAR)
        if count is not None and name != reference:
            equal_time[name] = count
    prepared = shapes.prepared
    found = Comparison(
        request=shapes.request,
        contestants=tuple(settled),
        reference=reference,
        tokens=tokens,
        factors=asked.factors,
        seeds=asked.seeds,
        speeds=speeds,
        equal_time=equal_time,
        floor=prepared.floor,
        headline=tuple(prepared.task.headline),
        measures=dict(prepared.task.measures(prepared.tokenizer)),
        unit=prepared.task.unit,
        part=part,
    )
    if asked.tokens is None:
        said = overrun(found.expected(), asked.seconds(), asked.processes)
        if said:
            note(said)
    return found


def _tokens(
    speeds: Mapping[str, Speed], reference: str, asked: Asked, shapes: Shapes
) -> tuple[int, float]:
    """The tokens of a run that fit into the time that is left, and the part of the held-out items
    that it is scored on."""
    swept = len(asked.factors) if len(asked.factors) > 1 else 0
    runs = asked.seeds + swept  # one of both, and one beyond the edge of the sweep
    loads = []
    for name, speed in speeds.items():
        rate, step = speed.tokens_per_second, speed.step_tokens
        loads.append(Load(runs, runs, rate, step))
        if asked.equal_time and name != reference:
            same = speeds[reference].tokens_per_second
            loads.append(Load(asked.seeds, asked.seeds, same, step))
    return tokens_within(asked.seconds(), loads, asked.processes, shapes.scored_tokens)


def runs_of(seconds: float, swept: int, seeds: int) -> list[float]:
    """The seconds of each run of a contestant: a sweep of so many factors, and so many seeds, the
    first of which is of the sweep."""
    return [seconds] * swept + ([0.0] if swept else [seconds]) + [seconds] * (seeds - 1)


@dataclass(frozen=True)
class Outcome:
    """The results of a comparison. rates: the learning rate of each contestant."""

    comparison: Comparison
    rates: Mapping[str, Rate]
    results: Sequence[Result]

    @property
    def score_unit(self) -> str:
        """The unit of scores without a metric: bits per unit, or nats per token where the tokenizer
        is not lossless."""
        unit = self.comparison.unit
        scores = [result.scores for result in self.results if result.scores]
        exact = not scores or scores[0].get(f"bits_per_{unit}") is not None
        return f"bits per {unit}" if exact else "nats per token"

    def rows(self, metric: str | None = None) -> list[dict[str, Any]]:
        """A row for each contestant, as JSON. metric: see `summary.score`. The equal_time_* of a
        contestant about as fast as the reference are None: its other scores answer."""
        planned = self.comparison
        everyone = {
            each.name: by_seed(self.results, each.name, metric=metric)
            for each in planned.contestants
        }
        reference = everyone[planned.reference]
        rows = []
        for each in planned.contestants:
            scores = everyone[each.name]
            timed = by_seed(self.results, each.name, "equal-time", metric)
            rate, speed = self.rates[each.name], planned.speeds[each.name]
            model = each.sets.get("model", {})
            train = each.sets["train"]
            rows.append(
                {
                    "contestant": each.name,
                    "arch": each.arch,
                    "model": dict(model),
                    "parameters": self._of(each.name, "parameters") or speed.parameters,
                    "score": estimate(scores).record(),
                    "difference": None
                    if each.name == planned.reference
                    else paired_difference(scores, reference).record(),
                    "after": each.after,
                    "change": None
                    if each.after is None
                    else paired_difference(scores, everyone[each.after]).record(),
                    "lr_factor": rate.factor,
                    "lr_at_edge": rate.edge,
                    "lr_sweep": dict(rate.swept),
                    "batch": train["batch"],
                    "dtype": train["dtype"],
                    "tokens": planned.tokens,
                    "tokens_per_second": speed.tokens_per_second,
                    "peak_bytes": speed.peak_bytes,
                    "equal_time_tokens": planned.equal_time.get(each.name),
                    "equal_time_score": estimate(timed).record() if timed else None,
                    "equal_time_difference": paired_difference(timed, reference).record()
                    if timed
                    else None,
                    "runs": self._runs(each.name),
                }
            )
        return rows

    def _of(self, contestant: str, field: str) -> Any:
        found = (r for r in self.results if r.about["contestant"] == contestant)
        result = next(found, None)
        return None if result is None else getattr(result, field)

    def _runs(self, contestant: str) -> list[str]:
        return sorted(
            r.run
            for r in self.results
            if r.about["contestant"] == contestant and r.about["role"] != "sweep"
        )
