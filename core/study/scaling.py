"""Scaling laws: fits of the loss against size and data, their intervals, and what they predict.

    L(x) = E + sum over j of A_j * x_j ^ -alpha_j

With x = (N, D), parameters and tokens, this is approach 3 of Hoffmann et al. 2022; with x = N and
E = 0 it is equation 1.1 of Kaplan et al. 2020, which `power` fits. `fit` minimises the Huber loss
of log L - log L(x), summed over runs, from a grid of starts. On the data of Besiroglu et al. 2024
(a replication of Hoffmann et al.), with their delta of 1e-3, it finds their minimum: 0.00101827 at
alpha 0.347, beta 0.367, E 1.817.

Intervals are those of a parametric bootstrap: new losses are drawn around the fitted law and fitted
again. The noise of each draw comes from the chi-squared distribution of the residuals, as in
Student's interval: a study has few runs, so its noise is uncertain too. (Where the law is linear,
the interval is Student's.) Besiroglu et al. resample their 240 runs instead; a resample of 15 runs
can lack a size altogether.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.keyed_random import key
from .summary import CONFIDENCE, Estimate

Array = npt.NDArray[np.float64]

DELTA = 0.01  # of the Huber loss: residuals beyond 1 % of the loss count linearly
RESAMPLES = 1000
ITERATIONS = 300  # at most
TOLERANCE = 1e-8  # of the relative decrease of the Huber loss
MAX_STEP = 2.0  # of one iteration, in a logarithm or an exponent
# the grid of starts: shares of the mean loss, and exponents
FLOORS, TERMS, EXPONENTS = (0.2, 0.7), (0.1, 0.4), (0.15, 0.5)


@dataclass(frozen=True)
class Law:
    """One law, or one for each of several draws (the dots). floor: E (...); factors: A (..., k);
    exponents: alpha (..., k)."""

    floor: Array
    factors: Array
    exponents: Array

    def loss(self, *x: npt.ArrayLike) -> Array:
        """L(x) (..., M) of k arrays (M,), each of one variable."""
        terms = [
            self.factors[..., j, None] * np.asarray(each, float) ** -self.exponents[..., j, None]
            for j, each in enumerate(x)
        ]
        return np.asarray(np.asarray(self.floor)[..., None] + sum(terms))

    def compute_exponents(self) -> tuple[Array, Array]:
        """With x = (N, D) and a compute of C ~ N * D: a of the best size N ~ C^a, and gamma of its
        loss above the floor, L - E ~ C^-gamma (Hoffmann et al. 2022, equation 4)."""
        alpha, beta = self.exponents[..., 0], self.exponents[..., 1]
        return beta / (alpha + beta), alpha * beta / (alpha + beta)


@dataclass(frozen=True)
class Fit:
    """A fitted law. draws: those of the bootstrap; noise: the standard deviation of log L about
    the law, with one value for each draw in `noises`; runs: how many were fitted."""

    law: Law
    draws: Law
    noise: float
    noises: Array
    runs: int
    seed: int = 0

    def estimate(self, of: Callable[[Law], Array]) -> Estimate:
        """Any quantity of a law, with its interval."""
        return _estimate(float(of(self.law)), of(self.draws), self.runs)

    def predict(self, *x: float) -> Estimate:
        """The loss of one new run at x, with the interval that its noise makes wider."""
        rng = np.random.default_rng(key(self.seed, "prediction"))
        losses = self.draws.loss(*x)[:, 0]
        losses = losses * np.exp(self.noises * rng.standard_normal(len(losses)))
        return _estimate(float(self.law.loss(*x)[0]), losses, self.runs)


def _estimate(value: float, draws: Array, runs: int) -> Estimate:
    low, high = np.quantile(draws, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Estimate(value, float(low), float(high), runs)


def runs_needed(variables: int) -> int:
    """The fewest runs that a law of so many variables can be fitted to, with an interval."""
    return 2 + 2 * variables


def can_fit(*x: Sequence[float]) -> bool:
    """Whether runs at x, as in `fit`, determine a law: there must be `runs_needed` of them, with at
    least three values of each variable, as each has a factor, an exponent and a share of E."""
    return len(x[0]) >= runs_needed(len(x)) and all(len(set(each)) >= 3 for each in x)


def fit(
    losses: Sequence[float],
    *x: Sequence[float],
    delta: float = DELTA,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Fit:
    """The law of runs with these losses at x: k sequences, each of one variable. ValueError for
    runs that do not determine it (`can_fit`), or values that are not positive."""
    if not can_fit(*x):
        raise ValueError("too few runs, sizes or numbers of tokens for a law")
    y, values = np.log(np.asarray(losses, float)), np.asarray(x, float).T  # (n,), (n, k)
    runs, variables = values.shape
    freedom = runs - (1 + 2 * variables)
    if not np.isfinite(y).all() or not (values > 0).all():
        raise ValueError("losses and variables must be above 0")
    logs = np.log(values)
    centre = logs.mean(0)  # terms are compared where the runs are: a well-conditioned problem
    points = logs - centre
    starts = _starts(float(np.exp(y).mean()), variables)
    found, costs = _minimise(starts, np.tile(y, (len(starts), 1)), points, delta)
    best = found[costs.argmin()]
    fitted = _log_loss(best[None], points)[0]  # (1, n)
    rng = np.random.default_rng(key(seed, "scaling"))
    squares = float(((y - fitted) ** 2).sum())
    noises = np.sqrt(squares / rng.chisquare(freedom, resamples))
    drawn = fitted + noises[:, None] * rng.standard_normal((resamples, runs))
    draws, _ = _minimise(np.tile(best, (resamples, 1)), drawn, points, delta)
    noise = math.sqrt(squares / freedom)
    return Fit(_law(best, centre), _law(draws, centre), noise, noises, runs, seed)


def _starts(mean: float, variables: int) -> Array:
    """The grid (S, 1 + 2k) of starts for runs of this mean loss."""
    logs = [[math.log(share * mean) for share in shares] for shares in (FLOORS, TERMS)]
    axes = [logs[0], *[logs[1]] * variables, *[EXPONENTS] * variables]
    return np.array(list(itertools.product(*axes)))


def _law(parameters: Array, centre: Array) -> Law:
    """The law of parameters (..., 1 + 2k): log E, the logarithm of each term at the centre of the
    runs, and the exponents."""
    k = len(centre)
    exponents = parameters[..., 1 + k :]
    factors = np.exp(parameters[..., 1 : 1 + k] + exponents * centre)
    return Law(np.exp(parameters[..., 0]), factors, exponents)


def _log_loss(parameters: Array, points: Array) -> tuple[Array, Array]:
    """log L (R, n) at points (n, k), and its derivatives (R, n, 1 + 2k)."""
    k = points.shape[1]
    logs = np.concatenate(
        [
            np.broadcast_to(parameters[:, None, :1], (len(parameters), len(points), 1)),
            parameters[:, None, 1 : 1 + k] - parameters[:, None, 1 + k :] * points,
        ],
        axis=-1,
    )
    top = logs.max(-1, keepdims=True)
    shares = np.exp(logs - top)
    total = shares.sum(-1, keepdims=True)
    shares /= total
    slopes = np.concatenate([shares, -shares[..., 1:] * points], axis=-1)
    return (top + np.log(total))[..., 0], slopes


def _huber(residuals: Array, delta: float) -> Array:
    size = np.abs(residuals)
    inside = np.minimum(size, delta)
    return np.asarray((inside * (size - inside / 2)).sum(-1))


def _minimise(starts: Array, y: Array, points: Array, delta: float) -> tuple[Array, Array]:
    """Parameters (R, P) and Huber losses (R,) of R separate fits: of y (R, n), from `starts`.

    Levenberg-Marquardt with the weights of the Huber loss, on all fits at once: a hundred times as
    fast as scipy.optimize on one after the other, so that tests can repeat a study hundreds of
    times.
    """
    best = starts.copy()
    fitted, slopes = _log_loss(best, points)
    costs = _huber(fitted - y, delta)
    damping = np.full(len(best), 1e-3)
    active = np.arange(len(best))
    for _ in range(ITERATIONS):
        residuals = fitted[active] - y[active]
        weights = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
        weighted = slopes[active] * weights[..., None]
        normal = np.swapaxes(slopes[active], 1, 2) @ weighted  # (R, P, P)
        gradient = (weighted * residuals[..., None]).sum(1)
        diagonal = np.einsum("rii->ri", normal)
        diagonal += damping[active, None] * (diagonal + 1e-9) + 1e-14
        step = np.linalg.solve(normal, gradient[..., None])[..., 0]
        moved = best[active] - np.clip(step, -MAX_STEP, MAX_STEP)
        there, slopes_there = _log_loss(moved, points)
        cost = _huber(there - y[active], delta)
        better = cost < costs[active]
        gain = (costs[active] - cost) / np.maximum(costs[active], 1e-300)
        ended = np.where(better, gain < TOLERANCE, damping[active] > 1e6)
        rows = active[better]
        best[rows], costs[rows] = moved[better], cost[better]
        fitted[rows], slopes[rows] = there[better], slopes_there[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.3, 5.0), 1e-10, 1e10)
        active = active[~ended]
        if not len(active):
            break
    return best, costs


# -- predictions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The best of several sizes for a compute. index: of the size; edge: it is the smallest or the
    largest of them; parameters, tokens: with their intervals; loss: of one new run of that size."""

    index: int
    edge: bool
    parameters: Estimate
    tokens: Estimate
    loss: Estimate


def best_size(
    found: Fit, parameters: Sequence[float], flops_per_token: Sequence[float], compute: float
) -> Best:
    """The size with the least predicted loss where all train for `compute` FLOPs: a larger one on
    fewer tokens. found: a law of parameters and tokens."""
    sizes = np.asarray(parameters, float)
    tokens = compute / np.asarray(flops_per_token, float)
    index = int(found.law.loss(sizes, tokens).argmin())
    drawn = found.draws.loss(sizes, tokens).argmin(-1)
    return Best(
        index,
        index in (0, len(sizes) - 1),
        _estimate(float(sizes[index]), sizes[drawn], found.runs),
        _estimate(float(tokens[index]), tokens[drawn], found.runs),
        found.predict(float(sizes[index]), float(tokens[index])),
    )


# -- one family of models at equal tokens ---------------------------------------------------------


@dataclass(frozen=True)
class Power:
    """L = A * N ^ -slope, a straight line in logarithms. spread: the standard deviation of log L
    about it: small where the loss follows the line."""

    factor: float
    slope: Estimate
    spread: float | None

    def loss(self, parameters: npt.ArrayLike) -> Array:
        assert self.slope.value is not None
        return np.asarray(self.factor * np.asarray(parameters, float) ** -self.slope.value)


def power(losses: Sequence[float], parameters: Sequence[float]) -> Power:
    """The line through the logarithms by least squares, with Student's interval of its slope: None
    for two runs. ValueError for fewer than two sizes."""
    from scipy import stats

    x, y = np.log(np.asarray(parameters, float)), np.log(np.asarray(losses, float))
    if len(set(x)) < 2:
        raise ValueError("a slope needs two sizes")
    line: Any = stats.linregress(x, y)
    freedom, slope = len(x) - 2, -float(line.slope)
    factor = math.exp(float(line.intercept))
    if not freedom:
        return Power(factor, Estimate(slope, n=2), None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * line.stderr)
    residuals = y - line.intercept - line.slope * x
    spread = math.sqrt(float((residuals**2).sum()) / freedom)
    return Power(factor, Estimate(slope, slope - half, slope + half, len(x)), spread)


def changes(
    groups: Sequence[Sequence[float]], others: Sequence[Sequence[float]] = ()
) -> list[Estimate]:
    """The relative change of the loss from each group to the next, exp(difference of mean log L)
    - 1: each group holds the losses of one model with several seeds. The interval is Student's,
    with the variance between seeds pooled over the groups and over `others`; None with one seed."""
    from scipy import stats

    logs = [np.log(np.asarray(each, float)) for each in (*groups, *others)]
    freedom = sum(len(each) - 1 for each in logs)
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in logs)
    found = []
    for one, two in zip(logs[: len(groups)], logs[1 : len(groups)], strict=False):
        change, count = float(two.mean() - one.mean()), len(one) + len(two)
        if freedom:
            error = math.sqrt(squares / freedom * (1 / len(one) + 1 / len(two)))
            half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
            low, high = (math.expm1(change - half), math.expm1(change + half))
            found.append(Estimate(math.expm1(change), low, high, count))
        else:
            found.append(Estimate(math.expm1(change), n=count))
    return found
