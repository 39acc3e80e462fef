"""The runner of studies: statistics with known answers, equal sizes, kills, damaged files."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from helpers import DECODERS

from tfm.core.architectures import model_config
from tfm.core.config import ModelConfig
from tfm.core.errors import ConfigError, DamagedError, DataError, UsageError
from tfm.core.runs.run import Run
from tfm.core.study import ladder
from tfm.core.study.comparison import Asked, Comparison, Outcome, planned
from tfm.core.study.contestant import Contestant, run_name
from tfm.core.study.equal import TOLERANCE, equalised, parameter_count
from tfm.core.study.plan import (
    MIN_STEPS,
    SCORING_SHARE,
    SLACK,
    Load,
    Shapes,
    Speed,
    equal_time_tokens,
    overrun,
    tokens_within,
)
from tfm.core.study.report import (
    against_floor,
    claim,
    difference_chart,
    floor_verdict,
    step_verdict,
    verdict,
)
from tfm.core.study.study import Job, Result, Study, request_from_json, request_to_json
from tfm.core.study.summary import estimate, mean_interval, paired_difference
from tfm.core.study.tuning import chosen_rates, tuned
from tfm.core.study.worker import Worker, run_job
from tfm.core.task import ignored
from tfm.core.train.prepare import prepare
from tfm.core.train.request import Request

# -- statistics ----------------------------------------------------------------------------------


def test_an_interval_is_students() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t of two degrees of freedom, from a table
    assert found.value == 2 and found.n == 3
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    assert mean_interval([2.0]).record() == {
        "value": 2.0,
        "low": None,
        "high": None,
        "n": 1,
        "diverged": 0,
    }


def test_an_interval_holds_the_mean_95_times_in_100() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(1000):
        found = mean_interval([draw.gauss(5, 2) for _ in range(3)])
        hits += found.low <= 5 <= found.high  # type: ignore[operator]
    assert 930 < hits < 970


def test_a_difference_is_paired_by_seed() -> None:
    """Noise that both have in common cancels, and only seeds that both have count."""
    noise = {seed: float(seed**2) for seed in range(4)}
    found = paired_difference({s: x + 0.5 for s, x in noise.items()}, {**noise, 9: 100.0})
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.5, 0.5, 0.5, 4))


def test_a_seed_that_diverged_leaves_no_mean() -> None:
    assert estimate({0: 1.0, 1: None, 2: 2.0}).record() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 2,
        "diverged": 1,
    }
    found = paired_difference({0: 1.0, 1: None}, {0: 1.0, 1: 1.0})
    assert (found.value, found.diverged) == (None, 1)


# -- plans ---------------------------------------------------------------------------------------


def fields(name: str, size: str = "nano", **more: Any) -> ModelConfig:
    return model_config(name, size, vocab_size=257, context=64, **more)


def test_every_architecture_is_made_as_large_as_the_reference() -> None:
    reference = parameter_count(fields("transformer"))
    contestants = [Contestant(name, name) for name in DECODERS]
    for each in equalised(contestants, reference, lambda c: fields(c.arch)):
        model = each.sets.get("model", {})
        assert set(model) <= {"ffn_width" if each.arch in ("gpt2", "llama", "post-ln") else "width"}
        count = parameter_count(fields(each.arch, **model))
        assert abs(count / reference - 1) <= TOLERANCE, each


def test_a_width_that_a_contestant_sets_stays() -> None:
    wide = Contestant("wide", sets={"model": {"width": 96}})
    (found,) = equalised([wide], 229_824, lambda c: fields("transformer", width=96))
    assert found.sets["model"]["width"] == 96 and "ffn_width" in found.sets["model"]
    deep = {"layers": 40, "width": 96}
    with pytest.raises(ConfigError, match="deep: has .* no width gives it 229,824"):
        equalised(
            [Contestant("deep", sets={"model": deep})],
            229_824,
            lambda c: fields("transformer", **deep),
        )


@pytest.mark.parametrize("vocabulary", [65, 512, 2048, 8192])
@pytest.mark.parametrize("size", ["nano", "tiny"])
def test_the_ladder_is_of_one_size_with_any_vocabulary(size: str, vocabulary: int) -> None:
    """Also where a step of the width, a multiple of the heads, is more than the tolerance."""

    def config(each: Contestant, **more: Any) -> ModelConfig:
        changed = {**each.sets.get("model", {}), **more}
        return model_config(each.arch, size, vocab_size=vocabulary, context=64, **changed)

    reference = parameter_count(config(Contestant("transformer", "transformer")))
    for each in equalised(ladder.ladder(), reference, config):
        assert abs(parameter_count(config(each)) / reference - 1) <= TOLERANCE, each


def test_fewer_and_more_layers_are_of_one_size() -> None:
    layers = [Contestant(str(n), sets={"model": {"layers": n}}) for n in (1, 2, 4)]

    def config(each: Contestant) -> ModelConfig:
        return model_config("transformer", "nano", vocab_size=257, context=64, **each.sets["model"])

    reference = parameter_count(config(layers[0]))
    counts = [parameter_count(config(each)) for each in equalised(layers, reference, config)]
    assert all(abs(count / reference - 1) <= TOLERANCE for count in counts)


def test_a_budget_that_is_too_short_is_said() -> None:
    said = overrun({"a": [10.0] * 3, "b": [20.0] * 3}, 60.0, 2)
    assert said is None, "two processes take 53 s"
    said = overrun({"a": [10.0] * 3, "b": [20.0] * 3}, 20.0, 2)
    assert said is not None and "too short for 6 runs" in said and "about 53 s" in said


def test_a_budget_buys_tokens() -> None:
    """Without slack, two processes of 100 s are 200 s of training, less a second for each of 20
    runs: 180 s for two contestants, of which one is half as fast."""
    loads = [Load(10, 10, 20_000, 768), Load(10, 10, 10_000, 768)]
    assert tokens_within(100.1 * SLACK, loads, 2, scored_tokens=0) == (120_000, 1.0)
    tokens, part = tokens_within(100.1 * SLACK, loads, 2, scored_tokens=30_000)
    assert (tokens < 120_000, part) == (True, 1.0)
    least = (1 - SCORING_SHARE) * 119_000
    tokens, part = tokens_within(100.1 * SLACK, loads, 2, scored_tokens=9_000_000)
    assert tokens >= least and part < 0.1, "few of many items are scored"
    assert tokens_within(1, loads, 2, scored_tokens=9)[0] == MIN_STEPS * 768


def test_equal_time() -> None:
    assert equal_time_tokens(1000, 50.0, 100.0, 0.03) == 500
    assert equal_time_tokens(1000, 200.0, 100.0, 0.03) == 2000
    assert equal_time_tokens(1000, 98.0, 100.0, 0.03) is None


def result(lr: float, bits: float | None, seed: int = 0, role: str = "sweep") -> Result:
    about = {"contestant": "a", "role": role, "lr": lr, "seed": seed}
    scores = {} if bits is None else {"unit": "byte", "bits_per_byte": bits, "nll": 1, "tokens": 1}
    status = "diverged" if bits is None else "done"
    return Result(run_name("a", role, lr, seed), about, status, scores, 1, 1, 1, 1.0, 1.0, "")


def test_the_best_rate_of_the_sweep_is_used() -> None:
    one = [Contestant("a")]
    found = chosen_rates(one, (0.3, 1, 3), [result(0.3, 2.5), result(1, 2.0), result(3, None)])["a"]
    assert (found.factor, found.edge) == (1, False)
    assert found.swept == {"0.3": 2.5, "1": 2.0, "3": None}
    found = chosen_rates(one, (0.3, 1), [result(0.3, 2.5), result(1, 2.0)])["a"]
    assert (found.factor, found.edge) == (1, True)
    found = chosen_rates(one, (3, 1), [result(3, None), result(1, None)])["a"]
    assert (found.factor, found.edge) == (1, True)
    assert chosen_rates(one, (2,), [])["a"].factor == 2


@pytest.mark.parametrize(
    ("best", "tried", "edge"),
    [
        (1.0, [0.5, 1, 2], False),
        (4.0, [0.5, 1, 2, 4, 8], False),
        (16.0, [0.5, 1, 2, 4, 8], True),
        (0.25, [0.125, 0.25, 0.5, 1, 2], False),
    ],
)
def test_a_sweep_goes_on_where_its_edge_is_best(
    text: Path, best: float, tried: list[float], edge: bool
) -> None:
    def train(jobs: Sequence[Job]) -> list[Result]:
        asked = [float(job.about["lr"]) for job in jobs]
        return [result(lr, 2 + abs(math.log(lr / best))) for lr in asked]

    rates = {"train": {"lr": 0.1, "adam_lr": 0.1}}
    contestants = [Contestant("a", sets=rates)]
    found, results = tuned(contestants, request(text), (0.5, 1, 2), 1000, train)
    assert sorted(float(r.about["lr"]) for r in results) == tried
    assert found["a"].edge is edge
    assert found["a"].factor == min(tried, key=lambda lr: abs(math.log(lr / best)))
    alone, none = tuned(contestants, request(text), (2,), 1000, train)
    assert (alone["a"].factor, none) == (2, [])


# -- studies -------------------------------------------------------------------------------------


class HereOneByOne:
    """An executor that runs jobs in this process, one after the other."""

    def __init__(self, cache: Path) -> None:
        self.worker = Worker(1, cache)

    def results(self, jobs: Sequence[Job], folder: Path) -> Iterator[Result]:
        yield from (run_job(job, folder, self.worker) for job in jobs)

    def close(self) -> None:
        pass


def request(text: Path, **changes: Any) -> Request:
    small = {"layers": 1, "width": 16, "heads": 2}
    base = Request("text", data=(str(text),), tokenizer="byte", size="nano", context=16)
    return replace(base, device="cpu", sets={"model": small, "train": {"save_every": 5}}, **changes)


def jobs(text: Path) -> list[Job]:
    """Two runs, one that diverges between them."""
    base = request(text, steps=20)
    broken = {**base.sets, "train": {"lr": 1e30, "adam_lr": 1e30, "clip": 0}}
    return [
        Job("first", base, {"seed": 0}),
        Job("broken", replace(base, sets=broken), {"seed": 0}),
        Job("second", replace(base, seed=1), {"seed": 1}),
    ]


def without_time(results: dict[str, Result]) -> dict[str, Any]:
    found = {name: asdict(each) for name, each in results.items()}
    for each in found.values():
        del each["seconds"]
        each["scores"].pop("tokens_per_second", None)
    return found


def carry_out(study: Study, todo: list[Job], cache: Path) -> dict[str, Result]:
    return {r.name: r for r in study.run(todo, HereOneByOne(cache))}


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that was never interrupted, shared: tests must not change it."""
    folder = tmp_path_factory.mktemp("study")
    study = Study.create(folder / "whole", {"verb": "test"})
    carry_out(study, jobs(text), folder)
    study.unlock()
    return study


def test_a_job_is_an_ordinary_run(whole: Study) -> None:
    found = whole.results()
    assert [(r.name, r.status) for r in found.values()] == [
        ("first", "done"),
        ("broken", "diverged"),
        ("second", "done"),
    ]
    run = Run(whole.folder / found["first"].run)
    run.check()
    final = run.status()["final"]["scores"]
    assert final["bits_per_byte"] == found["first"].scores["bits_per_byte"]
    assert found["first"].scores["run"] == "runs/first"
    train = run.train_config()
    assert (found["first"].steps, found["first"].tokens) == (20, 20 * train.batch * 16)
    assert found["first"].parameters == run.load_model().parameter_count()
    assert train.threads == 1
    assert found["broken"].scores == {} and found["broken"].steps < 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_study_killed_and_continued_has_the_same_results(
    whole: Study, text: Path, tmp_path: Path
) -> None:
    """Killed in the middle of the last run: after its checkpoint of step 10, before that of 15."""
    study = Study.create(tmp_path / "study", {"verb": "test"})
    study.unlock()

    def work() -> None:
        carry_out(Study.open(study.folder), jobs(text), tmp_path)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    log, until = study.folder / "runs/second/log.jsonl", time.monotonic() + 60
    while not log.exists() or '"step": 12,' not in log.read_text():
        assert time.monotonic() < until and process.is_alive()
    process.kill()
    process.join()
    assert list(study.results()) == ["first", "broken"]
    with (study.folder / "results.jsonl").open("a") as file:
        file.write('{"name": "second", "ab')  # as if killed while writing

    again = carry_out(Study.open(study.folder), jobs(text), tmp_path)
    assert without_time(again) == without_time(whole.results())
    assert without_time(study.results()) == without_time(whole.results())
    assert [e["step"] for e in Run(log.parent).log() if "loss" in e] == list(range(1, 21))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_two_studies_side_by_side_do_not_disturb_each_other(
    whole: Study, text: Path, tmp_path: Path
) -> None:
    """At the same time, with one cache."""
    studies = [Study.create(tmp_path / name, {"verb": "test"}) for name in ("one", "other")]
    for study in studies:
        study.unlock()

    def work(folder: Path) -> None:
        carry_out(Study.open(folder), jobs(text), tmp_path)

    fork = multiprocessing.get_context("fork").Process
    processes = [fork(target=work, args=(study.folder,)) for study in studies]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for study in studies:
        assert without_time(study.results()) == without_time(whole.results())


def test_a_run_that_cannot_start_is_named(text: Path, tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", {})
    gone = Job("gone", request(tmp_path / "gone.txt", steps=1))
    with pytest.raises(DataError, match=r"study.runs.gone: --data .*gone.txt"):
        carry_out(study, [gone], tmp_path)
    assert not study.results()


def test_one_process_works_on_a_study(whole: Study, tmp_path: Path) -> None:
    one = Study.open(whole.folder)
    with pytest.raises(UsageError, match=f"process {os.getpid()} works on this study"):
        Study.open(whole.folder)
    one.unlock()
    with pytest.raises(UsageError, match="already exists"):
        Study.create(whole.folder, {})
    with pytest.raises(UsageError, match="not a study"):
        Study.open(tmp_path)


def test_damage_is_found(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", {"verb": "test"})
    study.unlock()
    good = tmp_path / "study/results.jsonl"
    good.write_text('{"name": "a", "check": "00000000"}\n')
    with pytest.raises(DamagedError, match="line 1 is damaged"):
        study.results()
    (tmp_path / "study/study.json").write_text("{")
    with pytest.raises(DamagedError, match="study.json: damaged"):
        Study.open(tmp_path / "study")


def test_a_fact_is_decided_once(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", {})
    assert study.fact("tokens", lambda: 5) == 5
    study.unlock()
    assert Study.open(tmp_path / "study").fact("tokens", lambda: 6) == 5


def test_a_request_survives_json(text: Path) -> None:
    asked = request(text, seed=3, task_options={"each": "line"})
    assert request_from_json(request_to_json(asked)) == asked


# -- a comparison --------------------------------------------------------------------------------


SPEEDS = {"default": 100_000.0, "lstm": 50_000.0, "same": 100_100.0}


def compared(text: Path, folder: Path, **changes: Any) -> tuple[Comparison, Shapes]:
    """A comparison of three contestants, with speeds that were not measured."""
    base = request(text, tokens=None)
    shapes = Shapes(base, prepare(base, ignored), device(), folder)

    def measure(shapes: Shapes, contestant: Contestant, *_: Any) -> Speed:
        return Speed(SPEEDS[contestant.name], None, 1, 1.0, 768)

    contestants = [
        Contestant("default"),
        Contestant("lstm", "lstm", {"model": {"width": 16}}),
        Contestant("same", sets={"train": {"warmup": 0.5}}),
    ]
    asked = Asked((0.5, 1), 2, 1, 1, tokens=6000, equal_parameters=False, equal_time=True)
    asked = replace(asked, **changes)
    return planned(shapes, contestants, "default", asked, None, ignored, measure), shapes


def device() -> Any:
    import torch

    return torch.device("cpu")


def test_a_comparison(text: Path, tmp_path: Path) -> None:
    comparison, _ = compared(text, tmp_path)
    assert Comparison.from_record(comparison.request, comparison.record()) == comparison
    study = Study.create(tmp_path / "study", {})
    outcome = comparison.run(lambda todo: list(study.run(todo, HereOneByOne(tmp_path))))

    roles = [r.about["role"] for r in outcome.results]
    assert [roles.count(role) for role in ("score", "equal-time")] == [6, 2]
    assert 6 <= roles.count("sweep") <= 12
    trained = len(list((study.folder / "runs").iterdir()))
    assert trained == len(roles) - 3, "the best run of each sweep is the scored one of its seed"
    batches = {Run(study.folder / r.run).train_config().batch for r in outcome.results}
    assert len(batches) == 1, "that of the full length also in equal time"
    steps = {(r.about["role"], r.about["contestant"]): r.tokens for r in outcome.results}
    assert steps["score", "lstm"] == pytest.approx(6000, rel=0.1)
    assert steps["sweep", "lstm"] == steps["score", "lstm"]
    assert steps["equal-time", "lstm"] == pytest.approx(3000, rel=0.2)

    rows = {row["contestant"]: row for row in outcome.rows()}
    assert rows["default"]["difference"] is None
    for name in ("lstm", "same"):
        gap = rows[name]["score"]["value"] - rows["default"]["score"]["value"]
        assert rows[name]["difference"]["value"] == pytest.approx(gap)
    lstm = Run(study.folder / rows["lstm"]["runs"][0]).train_config()
    own = comparison.contestants[1].sets["train"]
    assert lstm.lr == rows["lstm"]["lr_factor"] * float(str(own["lr"]))
    assert lstm.adam_lr == rows["lstm"]["lr_factor"] * float(str(own["adam_lr"]))
    assert rows["same"]["equal_time_score"] is None

    said = verdict(outcome, list(rows.values()))
    assert "Against default (" in said and "2 seeds" in said
    chart = difference_chart(outcome, list(rows.values()), "title")
    assert chart.verdict == said and claim(outcome).endswith("tokens than lstm, same")
    assert [part.name for part in chart.bars] == ["equal tokens", "equal time"]
    floors = against_floor(outcome)
    assert floors[0]["floor_name"] in comparison.floor and floors[0]["beats_floor"] is False
    assert floor_verdict([outcome]).startswith("Did not hold. ")
    assert "not better: default" in floor_verdict([outcome])


@pytest.mark.parametrize(
    ("differences", "against", "steps"),
    [
        ([0.2, 0.3], "Held. Against a (1.000 bits per byte), worse: b, c", "Did not hold. "),
        (
            [-0.2, 0.3],
            "Held in part. Against a (1.000 bits per byte), worse: c; better: b",
            "Held ",
        ),
        ([-0.2, -0.3], "Did not hold. Against a (1.000 bits per byte), better: b, c", "Held. "),
        ([0.0, 0.0], "Undecided. Against a (1.000 bits per byte), no clear", "Undecided. "),
        ([None, 0.3], "Held. Against a (1.000 bits per byte), worse: c; diverged: b", "Did not "),
    ],
)
def test_a_verdict_says_whether_the_claim_held(
    text: Path, tmp_path: Path, differences: list[float | None], against: str, steps: str
) -> None:
    comparison, _ = compared(text, tmp_path)
    outcome = Outcome(replace(comparison, reference="a"), {}, [])

    def estimated(value: float | None) -> dict[str, float | None]:
        ends = (None, None) if value is None else (value - 0.1, value + 0.1)
        return {"value": value, "low": ends[0], "high": ends[1]}

    rows: list[dict[str, Any]] = [
        {"contestant": "a", "score": estimated(1.0), "difference": None, "after": None}
    ]
    for name, each in zip("bc", differences, strict=True):
        score = None if each is None else 1 + each
        own = {"contestant": name, "score": estimated(score), "difference": estimated(each)}
        rows.append({**own, "after": "a", "change": estimated(each)})
    assert verdict(outcome, rows).startswith(against)
    assert step_verdict(outcome, rows).startswith(steps)
    if differences[0] is None:  # what trains where the one before diverged is better
        cured = {**rows[2], "after": "b", "change": estimated(None)}
        assert step_verdict(outcome, [*rows[:2], cured]).startswith("Held in part. ")
        assert "better: c; diverged: b" in step_verdict(outcome, [*rows[:2], cured])


def test_a_budget_decides_the_tokens(text: Path, tmp_path: Path) -> None:
    tokens = {}
    for seconds in (100.0, 200.0):
        comparison, _ = compared(text, tmp_path, tokens=None, seconds=lambda s=seconds: s)
        tokens[seconds] = comparison.tokens
        whole = sum(map(sum, comparison.expected().values()))
        assert whole < seconds
    assert tokens[200.0] > 1.8 * tokens[100.0]


def test_names_of_runs_are_legal() -> None:
    assert run_name("+ GLU", "sweep", "lr0.3", "seed0") == "glu-sweep-lr0.3-seed0"
    assert run_name("model.ffn=relu", "score") == "model.ffn-relu-score"
