"""`tfm scale`: its statistics on laws that are known, and the command itself."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from scipy.optimize import minimize
from scipy.stats import binom

from tfm.core.errors import ConfigError
from tfm.core.model.sequence_model import on_meta
from tfm.core.study import scaling
from tfm.core.study.findings import findings
from tfm.core.study.scaling import Law, best_size, changes, fit, power
from tfm.core.study.sizes import (
    DEEPER,
    FEWER,
    TRANSFORMER,
    WIDER,
    Counted,
    Plan,
    families,
    shapes_of,
)
from tfm.core.study.study import Result
from tfm.core.study.summary import Estimate
from tfm.core.study.tuning import Rate

SIZES = np.geomspace(1e4, 1e6, 6)
GRID = [each.ravel() for each in np.meshgrid(SIZES, 1.2e6 / 4.0 ** np.arange(3))]  # N, D of 18 runs
LAW = Law(np.array(1.2), np.array([15.0, 60.0]), np.array([0.35, 0.33]))
ONE = Law(np.array(1.5), np.array([30.0]), np.array([0.4]))  # of parameters alone
NOISE = 0.01  # of the logarithm of a loss


def inside(estimate: Estimate, value: float) -> bool:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low <= value <= estimate.high


def noisy(law: Law, *x: Any, seed: int, noise: float = NOISE) -> Any:
    losses = law.loss(*x)
    return losses * np.exp(noise * np.random.default_rng(seed).standard_normal(losses.size))


# -- intervals -----------------------------------------------------------------------------------

STUDIES = 200
# how many of so many 95 % intervals hold the truth, 999 times in 1000
LEAST, MOST = binom.interval(0.999, STUDIES, 0.95)


def coverage(law: Law, x: list[Any]) -> dict[str, int]:
    """How often each interval holds the truth, in simulated studies of runs at x."""
    sizes = np.geomspace(3e3, 1e7, 100)
    flops = 6 * sizes + 3e5  # per token
    compute = 4 * flops[70] * x[-1].max()
    best = sizes[law.loss(sizes, compute / flops).argmin()] if len(x) == 2 else 0.0
    far = [3 * each.max() for each in x]
    counts: dict[str, int] = {}
    for seed in range(STUDIES):
        found = fit(noisy(law, *x, seed=seed), *x, resamples=200, seed=seed)
        new = noisy(law, *map(np.atleast_1d, far), seed=STUDIES + seed)[0]
        held = {
            "E": inside(found.estimate(lambda law: law.floor), float(law.floor)),
            "prediction": inside(found.predict(*far), new),
        }
        for j, exponent in enumerate(law.exponents):
            own = found.estimate(lambda law, j=j: law.exponents[..., j])  # type: ignore[misc]
            held[f"exponent {j}"] = inside(own, exponent)
        if len(x) == 2:
            held["best size"] = inside(best_size(found, sizes, flops, compute).parameters, best)
        for name, value in held.items():
            counts[name] = counts.get(name, 0) + value
    return counts


@pytest.mark.parametrize(
    ("law", "x"),
    [(LAW, GRID), (ONE, [np.tile(SIZES, 3)])],
    ids=["parameters and tokens", "parameters"],
)
def test_intervals_hold_the_truth_95_times_in_100(law: Law, x: list[Any]) -> None:
    for name, count in coverage(law, x).items():
        rounded = name == "best size"  # outwards, to the sizes that there are
        assert LEAST <= count and (count <= MOST or rounded), f"{name}: {count} of {STUDIES}"


def test_intervals_that_are_too_narrow_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 % intervals fail the test above."""
    monkeypatch.setattr(scaling, "CONFIDENCE", 0.8)
    assert max(coverage(ONE, [np.tile(SIZES, 3)]).values()) < LEAST


def test_slopes_and_changes_have_students_intervals() -> None:
    sizes = np.repeat(np.geomspace(1e4, 1e6, 4), 2)
    line = Law(np.array(0.0), np.array([9.0]), np.array([0.1]))
    slopes = deeper = 0
    for seed in range(STUDIES):
        losses = noisy(line, sizes, seed=seed)
        slopes += inside(power(losses, sizes).slope, 0.1)
        pairs = losses.reshape(4, 2)
        change, *_ = changes(pairs[:2], pairs[2:])
        deeper += inside(change, (sizes[2] / sizes[0]) ** -0.1 - 1)
    assert LEAST <= slopes <= MOST and LEAST <= deeper <= MOST


def test_with_one_seed_a_change_has_no_interval() -> None:
    (change,) = changes([[2.0], [1.0]])
    assert change.value == pytest.approx(-0.5) and change.low is change.high is None


# -- fits ------------------------------------------------------------------------------------------


def test_a_law_without_noise_is_found() -> None:
    found = fit(LAW.loss(*GRID), *GRID, resamples=2).law
    assert found.floor == pytest.approx(1.2, rel=1e-3)
    assert found.factors == pytest.approx([15, 60], rel=0.02)
    assert found.exponents == pytest.approx([0.35, 0.33], rel=2e-3)


@pytest.mark.parametrize("delta", [1e-3, 1e-2])
def test_no_optimizer_of_scipy_finds_a_lower_loss(delta: float) -> None:
    """Hoffmann et al. 2022, equation 3: L-BFGS from a grid of starts."""
    losses = noisy(LAW, *GRID, seed=3)
    logs = np.log(GRID)

    def huber(p: Any) -> float:
        law = np.exp(p[0]) + np.exp(p[1] - p[3] * logs[0]) + np.exp(p[2] - p[4] * logs[1])
        size = np.abs(np.log(law) - np.log(losses))
        return float(np.where(size < delta, size**2 / 2, delta * (size - delta / 2)).sum())

    starts = [(e, a, a, x, x) for e in (-1, 0) for a in (2, 5) for x in (0.2, 0.5)]
    options = {"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-12}
    theirs = min(minimize(huber, s, method="Nelder-Mead", options={}).fun for s in starts)
    theirs = min(
        theirs, *(minimize(huber, s, options=options, method="L-BFGS-B").fun for s in starts)
    )
    law = fit(losses, *GRID, delta=delta, resamples=2).law
    ours = huber([np.log(law.floor), *np.log(law.factors), *law.exponents])
    assert ours <= theirs * (1 + 1e-6)


def test_a_run_that_went_wrong_does_not_bend_the_law() -> None:
    losses = noisy(LAW, *GRID, seed=4, noise=1e-3)
    losses[7] *= 1.3
    robust = fit(losses, *GRID, resamples=2).law
    squares = fit(losses, *GRID, delta=np.inf, resamples=2).law
    errors = [np.abs(law.loss(*GRID) / LAW.loss(*GRID) - 1).max() for law in (robust, squares)]
    assert errors[0] < 0.02 < errors[1]


def test_the_best_size_is_that_of_the_closed_form() -> None:
    """Hoffmann et al. 2022, equation 4, for a compute of 6 N D."""
    found = fit(LAW.loss(*GRID), *GRID, resamples=50)
    compute, (alpha, beta) = 1e15, (0.35, 0.33)
    g = (alpha * 15 / (beta * 60)) ** (1 / (alpha + beta))
    sizes = np.geomspace(1e4, 1e8, 2000)
    best = best_size(found, sizes, 6 * sizes, compute)
    exponent, _ = LAW.compute_exponents()
    assert best.parameters.value == pytest.approx(g * (compute / 6) ** exponent, rel=0.03)
    assert not best.edge
    assert best_size(found, sizes[:100], 6 * sizes[:100], compute).edge


def test_two_numbers_of_tokens_do_not_determine_a_law() -> None:
    few = [each[:12] for each in GRID]
    assert len(set(few[1])) == 2
    with pytest.raises(ValueError):
        fit(LAW.loss(*few), *few)


# -- the models ------------------------------------------------------------------------------------


def test_sizes_are_widths_or_shapes() -> None:
    assert shapes_of("72,12, 4x32") == [(2, 12), (4, 32), (5, 72)]
    for wrong in ("12,20", "12,12,20", "a,b,c", "12,20,33", "0x12,20,32", "12,20,-32", ""):
        with pytest.raises(ConfigError, match="--sizes"):
            shapes_of(wrong)


def test_families_are_of_about_the_same_sizes() -> None:
    from tfm.core.architectures import model_config

    def blocks(contestant: Any) -> int:
        fields = contestant.sets["model"]
        return on_meta(model_config(contestant.arch, "nano", **fields)).blocks_parameter_count()

    found = families(shapes_of("12,20,32,48,80"))
    sizes = {name: [blocks(each) for each in members] for name, members in found.items()}
    assert sizes[TRANSFORMER][-1] / sizes[TRANSFORMER][0] > 100
    for ours, theirs in zip(sizes[TRANSFORMER], [s for s in sizes[WIDER]], strict=False):
        assert theirs < 3 * ours
    assert sizes[WIDER][-1] == pytest.approx(sizes[TRANSFORMER][-1], rel=0.1)
    assert sizes[DEEPER][-1] == pytest.approx(sizes[TRANSFORMER][-1], rel=0.1)
    assert [each.sets["model"]["layers"] for each in found[DEEPER]] == [1, 2, 4, 8]
    assert len({each.sets["model"]["width"] for each in found[DEEPER]}) == 1
    assert {each.name for each in found[WIDER]} & {each.name for each in found[DEEPER]}


def simulated(slopes: dict[str, float], diverged: str = "") -> tuple[Plan, list[Result]]:
    """A plan, and results in which the transformer follows LAW and an LSTM a power of its size."""
    models = families(shapes_of("12,20,32,48,80"))
    everyone = {each.name: each for members in models.values() for each in members}
    sizes = {}
    for name, each in everyone.items():
        layers, width = (int(str(each.sets["model"][key])) for key in ("layers", "width"))
        count = (12 if each.arch == "transformer" else 8) * layers * width**2
        sizes[name] = Counted(layers, width, count, count + 130 * width, 6.0 * count)
    names = {family: [each.name for each in members] for family, members in models.items()}
    candidates = [
        Counted(2, width, 24 * width**2, 0, 144.0 * width**2) for width in range(8, 400, 4)
    ]
    speeds = dict.fromkeys(everyone, 1e4)
    plan = Plan(everyone, names, sizes, candidates, 10**6, (1.0,), 2, speeds, 1e6, "char", True)
    results, rng = [], np.random.default_rng(5)
    for name in everyone:
        family = next(family for family in reversed(names) if name in names[family])
        for divisor in (1, *FEWER) if family == TRANSFORMER else (1,):
            for seed in range(2):
                tokens, size = 10**6 // divisor, sizes[name]
                loss = 4 * size.parameters ** -slopes.get(family, 0.0)
                if family == TRANSFORMER:
                    loss = float(LAW.loss([size.parameters], [tokens])[0])
                loss *= float(np.exp(0.003 * rng.standard_normal()))
                scores = {"unit": "char", "bits_per_char": loss, "nll": 1.0, "tokens": 1}
                status = "diverged" if name == diverged else "done"
                about = {"contestant": name, "seed": seed, "lr": 1.0, "role": "score"}
                results.append(
                    Result(
                        "", about, status, scores, 1, tokens, 0, size.flops_per_token, 1.0, "runs/x"
                    )
                )
    return plan, results


def test_the_findings_say_what_was_simulated() -> None:
    plan, results = simulated({WIDER: 0.02, DEEPER: -0.01})
    rates = {name: Rate(1.0, False, {}) for name in plan.contestants}
    found = findings(plan, results, rates, 10.0)
    assert found.law is not None and found.prediction is not None
    assert inside(found.law.estimate(lambda law: law.exponents[..., 0]), 0.35)
    assert found.powers[WIDER].slope.value == pytest.approx(0.02, abs=0.02)
    assert found.powers[DEEPER].slope.value == pytest.approx(-0.01, abs=0.02)
    assert [(one, two) for one, two, _ in found.depths] == [(1, 2), (2, 4), (4, 8)]
    best = found.prediction
    assert best.compute == 10 * max(run.flops for run in found.runs if TRANSFORMER in run.families)
    assert best.tokens * best.size.flops_per_token == pytest.approx(best.compute, rel=1e-3)
    truth = float(LAW.loss([best.size.parameters], [best.tokens])[0])
    assert inside(best.best.loss, truth)
    assert Plan.from_record(plan.record()).record() == plan.record()


def test_a_run_that_diverged_is_left_out_and_told() -> None:
    plan, results = simulated({}, diverged="lstm 8x77")
    rates = {name: Rate(1.0, False, {}) for name in plan.contestants}
    found = findings(plan, results, rates, 4.0)
    assert found.record()["families"][DEEPER]["diverged"] == 2
    assert [(one, two) for one, two, _ in found.depths] == [(1, 2), (2, 4)]


# -- the command ---------------------------------------------------------------------------------

SMALL = ("--task", "text", "--tokenizer", "char", "--sizes", "1x4,1x6,1x8", "--tokens", "16k")


def test_it_trains_fits_predicts_and_checks(tfm: Tfm, text: Path) -> None:
    flags = ("--seeds", 1, "--lr", 1, "--jobs", 2, "--predict", 1.5)
    done = tfm("scale", text, *SMALL, *flags, "--study", "s", "--plot", "s.svg", "--json", "-q")
    assert done.err == ""
    found = done.json()
    assert found["schema"] == 1 and len(found["runs"]) == 3 * 3 + 3 + 3
    assert {run["tokens"] for run in found["runs"]} == {768 * steps for steps in (21, 7, 2)}
    assert found["loss"] == "bits per byte" and "without embeddings" in found["counted"]
    assert set(found["families"]) == {TRANSFORMER, WIDER, DEEPER}
    assert found["law"]["runs"] == 9 and found["law"]["E"]["low"] <= found["law"]["E"]["high"]
    assert found["check"] is None
    later = tfm("scale", "--resume", "s", "--check", "--json", "-q").json()
    assert (later["runs"], later["law"]) == (found["runs"], found["law"])
    found = later
    assert (tfm.folder / "s" / found["check"]["run"] / "config.json").exists()
    name, *trained = shlex.split(found["command"])
    same = tfm(*trained, "--run", "same", "--json", "-q").json()
    assert name == "tfm" and same["bits_per_byte"] == pytest.approx(found["check"]["loss"])
    assert found["check"]["flops"] == pytest.approx(found["prediction"]["compute"], rel=0.2)
    assert "<svg" in (tfm.folder / "s.svg").read_text()
    again = tfm("scale", "--resume", "s", "--check", "-q")  # nothing is left to train
    table = again.text
    assert "transformer 1x8" in table and "without embeddings" in table and "measured" in table
    for run in found["runs"]:
        assert f"{run['loss']:.4f}" in table


@pytest.mark.parametrize(
    "flags", [("--sizes", "8,16"), ("--predict", "1"), ("--lr", "0"), ("--plot", "a.gif")]
)
def test_a_wrong_flag_is_one_line(tfm: Tfm, text: Path, flags: tuple[str, str]) -> None:
    assert flags[0] in tfm.error("scale", text, *SMALL[:4], *flags)
    assert not (tfm.folder / "studies").exists()
