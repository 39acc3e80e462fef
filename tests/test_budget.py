"""A budget from the plan to the last step, by a clock of the test's own: nothing is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import prose

from tfm.core import cores
from tfm.core.config import TrainConfig
from tfm.core.runs.run import Run
from tfm.core.train.budget import (
    EVALUATIONS,
    PROGRESS_TOKENS,
    Plan,
    Speed,
    by_free_cores,
    make_plan,
)
from tfm.core.train.controls import Controls
from tfm.core.train.events import Evaluated, Event, Finished, Replanned, RunLog, Saved, Stepped
from tfm.core.train.fit import SAVE_SECONDS, fit
from tfm.core.train.prepare import Prepared, prepare
from tfm.core.train.request import Deadline, Request
from tfm.core.train.run_config import describe_config
from tfm.core.train.state import State, fresh_state
from tfm.core.train.validation import mean_and_error


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Machine:
    """What `make_plan` measures: seconds a token of each width, and what measuring takes."""

    clock: Clock
    seconds_per_token: float
    measuring: float = 2.0
    target_share: float = 1.0
    measured: list[tuple[int, int]] = field(default_factory=list)  # (width, rows)

    def __call__(self, model: Any, train: TrainConfig, *rest: Any) -> Speed:
        self.clock.now += self.measuring
        self.measured.append((model.width, train.batch))
        tokens = train.batch * train.accumulate * model.context
        step = self.seconds_per_token * tokens * (model.width / 128) ** 1.8
        return Speed(step, 10 / self.seconds_per_token, self.target_share)


def quiet(text: str) -> None: ...


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("data") / "a.txt"
    path.write_text(prose(200_000))
    return prepare(request(path), quiet)


def request(path: Path | None, **fields: Any) -> Request:
    data = (str(path),) if path else ()
    return Request(task="text", data=data, tokenizer="char", device="cpu", **fields)


def plan(
    prepared: Prepared, cache: Path, budget: float, seconds_per_token: float, **fields: Any
) -> tuple[Plan, Machine]:
    machine = Machine(Clock(), seconds_per_token)
    deadline = Deadline(machine.clock.now + budget, machine.clock)
    asked = request(None, budget=budget, **fields)
    return make_plan(asked, prepared, deadline, cache, quiet, machine), machine


def seconds_left(plan: Plan, budget: float, machine: Machine) -> float:
    return budget - machine.measuring * len(machine.measured) - plan.about["reserve_seconds"]


# -- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [30.0, 120.0, 1000.0])
@pytest.mark.parametrize("seconds_per_token", [2e-6, 2e-5, 2e-4])
def test_a_plan_fills_its_budget(
    prepared: Prepared, tmp_path: Path, budget: float, seconds_per_token: float
) -> None:
    """Steps at the measured speed, what was measured, the final score: together the budget."""
    found, machine = plan(prepared, tmp_path, budget, seconds_per_token)
    left = seconds_left(found, budget, machine)
    step = found.about["step_seconds"]
    assert found.train.steps == max(1, int(left / step))
    assert found.about["budget_seconds"] == budget
    assert 0 < found.about["reserve_seconds"] < 0.1 * budget + 1


@pytest.mark.parametrize("seconds_per_token", [2e-6, 2e-3, 2e-2, 0.2])
def test_evaluations_on_the_way_take_little_of_a_budget(
    prepared: Prepared, tmp_path: Path, seconds_per_token: float
) -> None:
    """Where a model is slow there are fewer of them, or none; early stopping keeps all."""
    found, machine = plan(prepared, tmp_path, 600, seconds_per_token, size="tiny")
    every, steps = found.train.eval_every, found.train.steps
    tokens = min(PROGRESS_TOKENS, sum(map(len, prepared.heldout["valid"])))
    count = EVALUATIONS if not every else (steps - 1) // every
    seconds = count * tokens / found.about["eval_tokens_per_second"]
    assert seconds <= 0.1 * steps * found.about["step_seconds"]
    assert (every == 0) == (seconds_per_token < 1e-2)
    sets = {"train": {"patience": 2}}
    asked, _ = plan(prepared, tmp_path, 600, seconds_per_token, size="tiny", sets=sets)
    assert asked.train.eval_every == 0


def test_a_budget_that_is_gone_before_training_is_said(prepared: Prepared, tmp_path: Path) -> None:
    machine, said = Machine(Clock(), 2e-5), list[str]()
    for left, gone in ((-1.0, True), (60.0, False)):
        deadline = Deadline(machine.clock.now + left, machine.clock)
        asked = request(None, budget=5.0)
        said.clear()
        found = make_plan(asked, prepared, deadline, tmp_path, said.append, machine)
        assert any("preparing the data took 5.0 s of the budget" in line for line in said) == gone
        assert (found.train.steps == 1) == gone


def test_more_time_and_a_faster_machine_buy_a_larger_model(
    prepared: Prepared, tmp_path: Path
) -> None:
    widths = [
        plan(prepared, tmp_path, budget, speed)[0].model.width
        for budget, speed in ((10.0, 2e-4), (60.0, 2e-5), (600.0, 2e-6))
    ]
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_rows_with_few_targets_buy_a_smaller_model(prepared: Prepared, tmp_path: Path) -> None:
    asked, sizes = request(None, budget=120.0), []
    for share in (1.0, 0.1):
        machine = Machine(Clock(), 2e-5, target_share=share)
        deadline = Deadline(machine.clock.now + 120.0, machine.clock)
        sizes.append(make_plan(asked, prepared, deadline, tmp_path, quiet, machine).size)
    assert sizes == ["tiny", "nano"]


def test_a_chosen_size_is_measured_and_an_asked_size_is_kept(
    prepared: Prepared, tmp_path: Path
) -> None:
    found, machine = plan(prepared, tmp_path, 600.0, 2e-6)
    assert machine.measured[-1][0] == found.model.width, "the last one measured is the one planned"
    asked, machine = plan(prepared, tmp_path, 600.0, 2e-6, size="nano")
    assert asked.size == "nano" and {width for width, _ in machine.measured} == {64}
    assert asked.train.steps > found.train.steps


def test_an_exhausted_budget_still_takes_a_step(prepared: Prepared, tmp_path: Path) -> None:
    assert plan(prepared, tmp_path, 0.5, 1e-3)[0].train.steps == 1


def test_steps_and_tokens_measure_nothing(prepared: Prepared, tmp_path: Path) -> None:
    def never(*args: Any) -> Speed:
        raise AssertionError("nothing is to be measured")

    steps = make_plan(request(None, steps=7), prepared, None, tmp_path, quiet, never)
    assert (steps.train.steps, steps.size, steps.about) == (7, "tiny", {})
    tokens = make_plan(request(None, tokens=10_000), prepared, None, tmp_path, quiet, never)
    per_step = tokens.train.batch * tokens.train.accumulate * tokens.model.context
    assert tokens.train.steps == round(10_000 / per_step)


# -- from the plan to the end --------------------------------------------------------------------


@dataclass
class Trained:
    run: Run
    events: list[Event]
    state: State
    clock: Clock

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def trained(
    prepared: Prepared,
    folder: Path,
    *,
    steps: int = 40,
    pace: float = 1.0,
    budget: float | None = None,
    reserve: float = 0.0,
    on_step: Callable[[int, Controls], None] = lambda step, controls: None,
    **train: Any,
) -> Trained:
    """A run of a tiny model of which each step takes `pace` seconds of the test's clock."""
    sets = {"model": {"layers": 1, "width": 16, "heads": 2, "context": 16}, "train": {"batch": 2}}
    asked = request(None, steps=steps, size="nano", sets=sets)
    found = make_plan(asked, prepared, None, folder / "cache", quiet)
    found.train = replace(found.train, **train)
    found.about["reserve_seconds"] = reserve
    config = describe_config(asked, prepared, found, [], {})
    run = Run.create(folder / "run", config, prepared.tokenizer, prepared.heldout)
    state = fresh_state(found, None)
    clock, controls, log, events = Clock(), Controls(), RunLog(run), list[Event]()
    deadline = None if budget is None else Deadline(clock.now + budget, clock)
    for event in fit(run, prepared.task, found, state, deadline, controls, clock=clock):
        log.take(event)
        events.append(event)
        if isinstance(event, Stepped):
            clock.now += pace
            on_step(event.step.index, controls)
    return Trained(run, events, state, clock)


@pytest.mark.parametrize("pace", [0.5, 1.0, 2.0, 4.0])
def test_steps_are_replanned_to_end_with_the_budget(
    prepared: Prepared, tmp_path: Path, pace: float
) -> None:
    """40 steps were planned at a second each, with two seconds for the final score."""
    found = trained(prepared, tmp_path, pace=pace, budget=42, reserve=2.0)
    spent = found.clock.now - 1000.0
    assert 40 - pace <= spent <= 40 + pace
    replans = found.of(Replanned)
    assert bool(replans) == (pace != 1.0)
    logged = [e for e in found.run.log() if e.get("event") == "replan"]
    assert [(e["step"], e["steps"]) for e in logged] == [(e.step, e.steps) for e in replans]
    assert found.state.step == found.state.config.steps == found.of(Stepped)[-1].step.index
    assert len(found.of(Finished)) == 1 and found.run.status()["state"] == "done"


def test_a_machine_that_slows_down_is_noticed_later(prepared: Prepared, tmp_path: Path) -> None:
    paces = iter([1.0] * 20 + [3.0] * 100)
    clock = Clock()

    def slower(step: int, controls: Controls) -> None:
        clock.now += next(paces)

    sets = {"model": {"layers": 1, "width": 16, "heads": 2, "context": 16}, "train": {"batch": 2}}
    asked = request(None, steps=40, size="nano", sets=sets)
    found = make_plan(asked, prepared, None, tmp_path / "cache", quiet)
    config = describe_config(asked, prepared, found, [], {})
    run = Run.create(tmp_path / "run", config, prepared.tokenizer, prepared.heldout)
    state = fresh_state(found, None)
    for event in fit(run, prepared.task, found, state, Deadline(1040.0, clock), clock=clock):
        if isinstance(event, Stepped):
            slower(event.step.index, Controls())
    assert 1037 <= clock.now <= 1043 and 20 < state.step < 40


def test_no_deadline_no_replanning(prepared: Prepared, tmp_path: Path) -> None:
    found = trained(prepared, tmp_path, pace=100.0, steps=12)
    assert not found.of(Replanned) and found.state.step == 12


def test_a_checkpoint_now_and_then(prepared: Prepared, tmp_path: Path) -> None:
    every = trained(prepared, tmp_path / "a", steps=12, save_every=5)
    assert [event.step for event in every.of(Saved)] == [5, 10, 12]
    timed = trained(prepared, tmp_path / "b", steps=12, pace=SAVE_SECONDS / 4 + 1)
    assert [event.step for event in timed.of(Saved)] == [4, 8, 12, 12]
    assert [event.last for event in timed.of(Saved)] == [False, False, False, True]


def test_a_save_may_be_asked_for(prepared: Prepared, tmp_path: Path) -> None:
    def ask(step: int, controls: Controls) -> None:
        controls.save = step == 3

    found = trained(prepared, tmp_path, steps=6, on_step=ask)
    assert [(e.step, e.requested) for e in found.of(Saved)] == [(3, True), (6, False)]
    assert len(found.of(Finished)) == 1


def test_an_end_may_be_asked_for(prepared: Prepared, tmp_path: Path) -> None:
    """All up to that step is saved; there is no final score, and the run can be resumed."""

    def ask(step: int, controls: Controls) -> None:
        controls.stop = step == 3

    found = trained(prepared, tmp_path, steps=6, on_step=ask)
    assert [(e.step, e.last) for e in found.of(Saved)] == [(3, False)]
    assert not found.of(Finished) and found.events[-1] == Saved(3)
    assert found.run.status() == {"state": "interrupted", "step": 3, "steps": 6, "final": None}


def test_events_come_in_the_order_in_which_they_are_logged(
    prepared: Prepared, tmp_path: Path
) -> None:
    found = trained(prepared, tmp_path, steps=8, eval_every=4)
    assert [type(event) for event in found.events] == [
        *[Stepped] * 4, Evaluated, *[Stepped] * 4, Saved, Finished
    ]  # fmt: skip
    log = found.run.log()
    assert [entry.get("event") for entry in log] == [*[None] * 4, "eval", *[None] * 4, "final"]
    assert log[-1]["scores"] == found.of(Finished)[0].scores


def test_the_standard_error_of_a_ratio() -> None:
    """By hand, and as the spread of many samples."""
    assert mean_and_error([2.0, 4.0], [1, 1]) == (3.0, 1.0)
    assert mean_and_error([3.0], [2]) == (1.5, None)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, (2000, 50))
    nats = tokens * (1 + 0.1 * rng.standard_normal((2000, 50)))
    found = [mean_and_error(n, t) for n, t in zip(nats.tolist(), tokens.tolist(), strict=True)]
    means, errors = np.array(found, float).T
    assert errors.mean() == pytest.approx(means.std(), rel=0.05)


# -- a machine that others use too ---------------------------------------------------------------


@pytest.mark.parametrize("slow_from", [0, 3, 20, 30, 37])
def test_a_machine_that_becomes_six_times_as_slow_keeps_the_budget(
    prepared: Prepared, tmp_path: Path, slow_from: int
) -> None:
    """Whenever it does. The final score is slower then, too; what is seen near the end only leaves
    less time for it than it takes."""
    clock = Clock()
    sets = {"model": {"layers": 1, "width": 16, "heads": 2, "context": 16}, "train": {"batch": 2}}
    asked = request(None, steps=160, size="nano", sets=sets)
    found = make_plan(asked, prepared, None, tmp_path / "cache", quiet)
    found.about |= {"reserve_seconds": 2.0, "step_seconds": 0.25}
    config = describe_config(asked, prepared, found, [], {})
    run = Run.create(tmp_path / "run", config, prepared.tokenizer, prepared.heldout)
    state = fresh_state(found, None)
    for event in fit(run, prepared.task, found, state, Deadline(1042.0, clock), clock=clock):
        if isinstance(event, Stepped):
            clock.now += 0.25 if clock.now < 1000 + slow_from else 1.5
    final = 12.0
    assert 1036 <= clock.now + final <= 1045 + (0 if slow_from < 25 else final - 2)


@pytest.mark.parametrize(("others", "speedup"), [(0.1, 2.0), (1.0, 2.0), (1.0, 0.8)])
def test_fewer_threads_are_tried_where_others_use_cores(
    monkeypatch: pytest.MonkeyPatch, others: float, speedup: float
) -> None:
    said, threads = list[str](), [2]
    monkeypatch.setattr("tfm.core.train.budget.allowed_cores", lambda: 2)
    monkeypatch.setattr(cores.Usage, "by_others", lambda self: others)
    monkeypatch.setattr("tfm.core.train.budget.use_threads", threads.append)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads[-1])
    seconds = {2: 1.0, 1: 1 / speedup}
    speed = by_free_cores(lambda: Speed(seconds[threads[-1]], 1.0), said.append)()
    tried, kept = others > 0.5, others > 0.5 and speedup > 1
    assert (1 in threads) == tried
    assert (threads[-1], speed.step_seconds) == ((1, 0.5) if kept else (2, 1.0))
    assert said == ["other processes use 1.0 of 2 cores: train.threads=1 is 2.0 times as fast as 2"
                    ] * kept  # fmt: skip


def test_the_use_of_cores_is_read_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    statistics = tmp_path / "stat"
    monkeypatch.setattr(cores, "STATISTICS", statistics)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 2}, raising=False)
    hertz = os.sysconf("SC_CLK_TCK")
    line = "cpu{} {busy} 1 2 {idle} 5 0 0 7 100 100\n"

    def write(busy: int) -> None:
        own = (line.format(n, busy=busy if n != 1 else 9**9, idle=10**6) for n in (0, 1, 2, 10))
        statistics.write_text("cpu 1 2 3 4\n" + "".join(own) + "intr 5 6\n\n")

    write(0)
    usage = cores.Usage(began=time.monotonic() - 100)
    write(50 * hertz)
    assert usage.by_others() == pytest.approx(1.0, abs=0.1)
    write(500 * hertz)
    assert usage.by_others() == 2.0, "not more than there are"
    statistics.unlink()
    assert usage.by_others() == 0.0


@pytest.mark.skipif(not cores.STATISTICS.exists(), reason="only Linux tells")
def test_a_process_beside_is_seen() -> None:
    usage = cores.Usage()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(0.5)
        other.kill()
    assert usage.by_others() > 0.2
