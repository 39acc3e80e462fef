"""What the runs of `tfm scale` say: the fits of each family, the law, and a prediction by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..train.request import Request
from .scaling import Best, Fit, Power, best_size, can_fit, changes, fit, power
from .sizes import DEEPER, FAMILIES, TRANSFORMER, WIDER, Counted, Plan, transformer
from .study import Job, Result
from .summary import Estimate, score
from .tuning import Rate, job

FRONTIER_POINTS = 40


@dataclass(frozen=True)
class Trained:
    """A run. loss: None if it diverged; flops, seconds: of its training."""

    contestant: str
    families: Sequence[str]
    layers: int
    width: int
    parameters: int
    all_parameters: int
    tokens: int
    flops: float
    seconds: float
    lr_factor: float
    seed: int
    loss: float | None
    run: str


@dataclass(frozen=True)
class Prediction:
    """The best size for a larger compute. factor: of the compute of the largest run; size: the
    model; seconds: about, of training it in one process here; lr_factor: that of the transformer
    next to it in size; frontier: (compute, loss) of the best size for each compute up to it."""

    factor: float
    compute: float
    size: Counted
    best: Best
    seconds: float
    lr_factor: float
    frontier: Sequence[tuple[float, float]]

    @property
    def tokens(self) -> int:
        return max(1, round(self.compute / self.size.flops_per_token))


@dataclass(frozen=True)
class Findings:
    """law: of the transformer, of parameters and tokens; powers: by family, at the most tokens;
    depths: the change of the loss from each depth of the stacked LSTM to the next. What too few
    runs determine, as some diverged, is None or missing."""

    runs: Sequence[Trained]
    law: Fit | None
    powers: Mapping[str, Power]
    depths: Sequence[tuple[int, int, Estimate]]
    prediction: Prediction | None

    def family(self, name: str) -> list[Trained]:
        """The runs of a family on the most tokens, without those that diverged."""
        most = max(run.tokens for run in self.runs)
        return [r for r in self.runs if name in r.families and r.tokens == most and r.loss]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "runs": [asdict(run) for run in self.runs],
            "law": None if self.law is None else _law(self.law),
            "families": {
                name: {
                    "slope": found.slope.record(),
                    "factor": found.factor,
                    "spread": found.spread,
                    "diverged": sum(name in r.families and r.loss is None for r in self.runs),
                }
                for name, found in self.powers.items()
            },
            "depths": [
                {"from_layers": one, "to_layers": two, "change": change.record()}
                for one, two, change in self.depths
            ],
            "prediction": None if self.prediction is None else _prediction(self.prediction),
        }


def findings(
    plan: Plan, results: Sequence[Result], rates: Mapping[str, Rate], factor: float
) -> Findings:
    """results: of `Plan.jobs`; factor: of the compute to predict, over that of the largest run."""
    runs = [_trained(plan, result) for result in results]
    runs.sort(key=_place)
    found = Findings(runs, None, {}, [], None)
    powers = {}
    for name in FAMILIES:
        members = found.family(name)
        if len({run.parameters for run in members}) > 1:
            powers[name] = power(_losses(members), [run.parameters for run in members])
    law = _fitted(runs)
    prediction = None if law is None else _predicted(plan, runs, law, rates, factor)
    return Findings(runs, law, powers, _depths(found), prediction)


def _trained(plan: Plan, result: Result) -> Trained:
    name = result.about["contestant"]
    size = plan.sizes[name]
    return Trained(
        contestant=name,
        families=[family for family in FAMILIES if name in plan.families[family]],
        layers=size.layers,
        width=size.width,
        parameters=size.parameters,
        all_parameters=size.all_parameters,
        tokens=result.tokens,
        flops=result.flops_per_token * result.tokens,
        seconds=result.seconds,
        lr_factor=result.about["lr"],
        seed=result.about["seed"],
        loss=score(result),
        run=result.run,
    )


def _place(run: Trained) -> tuple[Any, ...]:
    """Its place in the table: by family, size, tokens and seed."""
    return FAMILIES.index(run.families[0]), run.parameters, run.contestant, -run.tokens, run.seed


def _losses(runs: Sequence[Trained]) -> list[float]:
    return [run.loss for run in runs if run.loss is not None]


def _fitted(runs: Sequence[Trained]) -> Fit | None:
    used = [run for run in runs if TRANSFORMER in run.families and run.loss]
    x = [[float(run.parameters) for run in used], [float(run.tokens) for run in used]]
    return fit(_losses(used), *x) if used and can_fit(*x) else None


def _depths(found: Findings) -> list[tuple[int, int, Estimate]]:
    def by_model(family: str) -> dict[tuple[int, int], list[float]]:
        groups: dict[tuple[int, int], list[float]] = {}
        for run in found.family(family):
            groups.setdefault((run.layers, run.width), []).extend(_losses([run]))
        return groups

    deeper = dict(sorted(by_model(DEEPER).items()))
    others = [losses for model, losses in by_model(WIDER).items() if model not in deeper]
    layers = [layers for layers, _ in deeper]
    pairs = zip(layers, layers[1:], changes(list(deeper.values()), others), strict=False)
    return list(pairs)


def _predicted(
    plan: Plan, runs: Sequence[Trained], law: Fit, rates: Mapping[str, Rate], factor: float
) -> Prediction:
    members = [run for run in runs if TRANSFORMER in run.families]
    flops = [run.flops for run in members]
    compute = factor * max(flops)
    parameters = [float(size.parameters) for size in plan.candidates]
    per_token = [size.flops_per_token for size in plan.candidates]
    best = best_size(law, parameters, per_token, compute)
    size = plan.candidates[best.index]
    near = min(members, key=lambda run: abs(math.log(run.parameters / size.parameters)))
    frontier = [
        (float(each), float(law.law.loss(parameters, each / np.asarray(per_token)).min()))
        for each in np.geomspace(min(flops), compute, FRONTIER_POINTS)
    ]
    return Prediction(
        factor,
        compute,
        size,
        best,
        _seconds(members, size, compute),
        rates[near.contestant].factor,
        frontier,
    )


def predicted_job(plan: Plan, base: Request, found: Prediction) -> Job:
    """The run that was predicted, with the batch and the rates of all others. Its dtype follows
    from its width, as theirs do."""
    like = plan.contestants[plan.families[TRANSFORMER][0]].sets["train"]
    same = {name: like[name] for name in ("batch", "lr", "adam_lr")}
    chosen = transformer(found.size.layers, found.size.width).with_sets(train=same)
    return job(chosen, base, "check", found.lr_factor, 0, found.tokens)


def _seconds(runs: Sequence[Trained], size: Counted, compute: float) -> float:
    """The time of a run, by a power law of the seconds of a token against its FLOPs."""
    per_token = np.log([run.flops / run.tokens for run in runs])
    seconds = np.log([max(run.seconds, 1e-9) / run.tokens for run in runs])
    slope, constant = np.polyfit(per_token, seconds, 1)
    own = np.exp(constant + slope * np.log(size.flops_per_token))
    return float(own * compute / size.flops_per_token)


def _law(law: Fit) -> dict[str, Any]:
    a, gamma = 0, 1
    return {
        "E": law.estimate(lambda law: law.floor).record(),
        "A": law.estimate(lambda law: law.factors[..., 0]).record(),
        "alpha": law.estimate(lambda law: law.exponents[..., 0]).record(),
        "B": law.estimate(lambda law: law.factors[..., 1]).record(),
        "beta": law.estimate(lambda law: law.exponents[..., 1]).record(),
        "best_size_exponent": law.estimate(lambda law: law.compute_exponents()[a]).record(),
        "compute_exponent": law.estimate(lambda law: law.compute_exponents()[gamma]).record(),
        "noise": law.noise,
        "runs": law.runs,
    }


def _prediction(found: Prediction) -> dict[str, Any]:
    return {
        "factor": found.factor,
        "compute": found.compute,
        **asdict(found.size),
        "parameters_interval": found.best.parameters.record(),
        "tokens": found.tokens,
        "tokens_interval": found.best.tokens.record(),
        "loss": found.best.loss.record(),
        "at_edge": found.best.edge,
        "seconds": found.seconds,
        "lr_factor": found.lr_factor,
    }
