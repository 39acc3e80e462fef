"""The baselines of series: their forecasts, their time limit, scores relative to seasonal naive."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm

from tfm.cli.eval import table
from tfm.tasks._series import classical, time_limit
from tfm.tasks._series.baselines import floors
from tfm.tasks._series.cases import Case, score_forecasts
from tfm.tasks._series.collection import Collection, Series
from tfm.tasks._series.metrics import METRICS, of_sorted
from tfm.tasks._series.relative import relative, series_of
from tfm.tasks._series.simple import drift, naive, seasonal_naive
from tfm.tasks._series.time_limit import Job, TooSlow, forecast_all
from tfm.tasks.series import TRAINING_POINTS, SeriesOptions, SeriesTask

M4 = Path(__file__).resolve().parents[2] / "shared/data/timeseries/m4_hourly"
needs_statsforecast = pytest.mark.skipif(
    importlib.util.find_spec("statsforecast") is None, reason="statsforecast is not installed"
)


def waves(count: int, length: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        10 + 3 * np.sin(np.arange(length) * np.pi / 2) + rng.normal(size=length)
        for _ in range(count)
    ]


def case(past: np.ndarray, actual: list[float], error: float = 1.0, id: str = "a") -> Case:
    return Case(past, np.array(actual), error, side={"id": id})


# -- forecasts -----------------------------------------------------------------------------------


def test_naive_and_drift_by_hand() -> None:
    history = np.array([1.0, 7, 3, 4])
    np.testing.assert_allclose(naive(history, 2, 3), [4, 4, 4])
    np.testing.assert_allclose(drift(history, 2, 3), [5, 6, 7])  # (4 - 1) / 3 a step
    gaps = np.array([np.nan, 1, np.nan, 3, np.nan])
    np.testing.assert_allclose(naive(gaps, 2, 2), [3, 3])
    np.testing.assert_allclose(drift(gaps, 2, 2), [5, 6])  # through (1, 1) and (3, 3)
    np.testing.assert_allclose(drift(np.array([np.nan, 2.0]), 1, 2), [2, 2])
    np.testing.assert_array_equal(naive(history, 1, 3), seasonal_naive(history, 1, 3))


@pytest.mark.parametrize("name", classical.names(4))
def test_a_series_that_a_method_cannot_fit_is_forecast_by_seasonal_naive(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant, periodic = np.full(30, 5.0), np.resize([1.0, 2, 3, 5], 32)
    for history in (constant, periodic, np.array([np.nan, 4.0])):
        found = classical.forecast(name, history, 4, 6)
        np.testing.assert_array_equal(found, seasonal_naive(history, 4, 6)[None])

    def fails(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
        raise NotImplementedError("tiny datasets")

    (history,) = waves(1)
    for method in (fails, lambda history, season, horizon: np.full((1, horizon), np.nan)):
        monkeypatch.setitem(classical.METHODS, name, method)
        found = classical.forecast(name, history, 4, 6)
        np.testing.assert_array_equal(found, seasonal_naive(history, 4, 6)[None])


def test_statsmodels_leaves_out_ets_of_long_seasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert classical.names(24) == ("theta", "ets") and classical.names(168) == ("theta",)


@needs_statsforecast
@pytest.mark.parametrize("name", ["AutoETS", "AutoTheta"])
@pytest.mark.skipif(not M4.exists(), reason="the M4 data is not there")
def test_the_quantiles_are_those_of_statsforecast(name: str) -> None:
    from statsforecast import models

    with (M4 / "Hourly-train.csv").open() as file:
        rows = list(csv.reader(file))[1:300:150]
    for row in rows:
        y = np.array([float(cell) for cell in row[1:] if cell])[-96:]
        mean, *own = classical.forecast(f"auto_{name[4:].lower()}", y, 24, 12)
        theirs = getattr(models, name)(season_length=24).forecast(y=y, h=12, level=[0, 50, 80])
        np.testing.assert_array_equal(mean, theirs["mean"])
        assert np.shape(own) == (101, 12) and (np.diff(own, axis=0) >= 0).all()
        bounds = {0.1: "lo-80", 0.25: "lo-50", 0.5: "lo-0", 0.75: "hi-50", 0.9: "hi-80"}
        for level, key in bounds.items():
            found = of_sorted(np.array(own), (level,))[0]
            np.testing.assert_allclose(found, theirs[key], rtol=1e-6, err_msg=key)


def test_mse_is_of_the_mean_and_the_rest_of_the_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [np.array([[1.0], *np.full((101, 1), 3.0)]), np.array([[5.0]])]  # one without quantiles
    monkeypatch.setattr("tfm.tasks._series.baselines.forecast_all", lambda *_: made)
    cases = [case(np.zeros(4), [2.0], id="a"), case(np.zeros(4), [7.0], id="b")]
    found = floors(None, cases, 1, 4)
    name = classical.names(1)[0]
    assert found[f"{name}_mse"] == pytest.approx((1 + 4) / 2)
    assert found[f"{name}_mae"] == found[f"{name}_crps"] == pytest.approx((1 + 2) / 2)


# -- the time limit ------------------------------------------------------------------------------


def jobs(count: int) -> list[Job]:
    return [Job(values, 4, 6) for values in waves(count)]


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further processes start after two forecasts."""
    for name in ("SERIAL_SECONDS", "START_SECONDS"):
        monkeypatch.setattr(time_limit, name, -1.0)
    monkeypatch.setattr(time_limit, "allowed_cores", lambda: 2)
    monkeypatch.setattr(time_limit, "HOPELESS", 1e9)


def test_processes_make_the_same_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    name = classical.names(4)[0]
    plain = forecast_all(name, jobs(9), 60.0)
    at_once(monkeypatch)
    started = []
    start = time_limit._start
    monkeypatch.setattr(time_limit, "_start", lambda: started.append(start()) or started[-1])
    for one, other in zip(plain, forecast_all(name, jobs(9), 60.0), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_forecasts_of_a_process_that_died_are_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)

    def dead() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", ""], stdin=pipe, stdout=pipe, text=True)

    monkeypatch.setattr(time_limit, "_start", dead)
    name = classical.names(4)[0]
    assert len(forecast_all(name, jobs(5), 60.0)) == 5


def test_a_baseline_is_scored_on_all_windows_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(values[:-2], values[-2:].tolist()) for values in waves(7)]
    notes: list[str] = []
    found = floors(None, cases, 4, 38, note=notes.append, limit=1e-9)
    assert not any(name.startswith(classical.names(4)) for name in found)
    assert {name.removesuffix("_mase") for name in found if name.endswith("_mase")} == {
        "seasonal_naive", "naive", "drift",
    }  # fmt: skip
    for name, note in zip(classical.names(4), notes, strict=True):
        assert note.startswith(f"{name}: left out, 1 of 7 forecasts took ")
        assert note.endswith(" s, all would take more than 1e-09 s (--baseline-seconds)")

    assert floors(None, cases, 4, 38, note=notes.append, limit=0.0) == found
    assert len(notes) == len(classical.names(4)), "nothing is said of what is not asked for"

    def slow(name: str, jobs: Any, limit: float) -> Any:
        raise TooSlow(f"{name}: left out")

    monkeypatch.setattr("tfm.tasks._series.baselines.forecast_all", slow)
    task, train, windows, tokenizer = series_task(2)
    notes.clear()
    task.window_floor(lambda: train, windows, tokenizer, None, note=notes.append)
    assert notes == [f"{name}: left out" for name in classical.names(4)]


def test_a_hopeless_baseline_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """After SERIAL_SECONDS, from the time that the first forecasts took; they are spread evenly
    over all series."""
    clock = [0.0]
    asked: list[int] = []

    def forecast(name: str, history: np.ndarray, season: int, horizon: int) -> np.ndarray:
        clock[0] += 1.0
        asked.append(int(history[0]))
        return np.zeros((1, horizon))

    monkeypatch.setattr(time_limit, "forecast", forecast)
    monkeypatch.setattr(time_limit, "allowed_cores", lambda: 1)
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: clock[0])
    many = [Job(np.array([float(k)]), 1, 1) for k in range(1000)]
    with pytest.raises(TooSlow, match="left out, 4 of 1,000 forecasts took 4 s, all"):
        forecast_all("ets", many, 60.0)
    asked.clear()
    assert len(forecast_all("ets", many[:50], 60.0)) == 50  # 50 s
    assert {at // 10 for at in asked[:5]} == {0, 1, 2, 3, 4}


def series_task(count: int) -> tuple[SeriesTask, Collection, list[Any], Any]:
    series = tuple(Series(str(k), values) for k, values in enumerate(waves(count)))
    items = Collection(series, (0,) * count, 4, 3, "test", "test")
    task = SeriesTask(SeriesOptions(season=4, horizon=3, history=20))
    train, held = task.split(items, 0.1)
    tokenizer = task.fit_tokenizer("bins:16", train)
    return task, train, list(task.sequences(held, tokenizer)), tokenizer


def test_training_leaves_slow_baselines_of_many_series_to_eval() -> None:
    found = []
    for count in (2, TRAINING_POINTS // 20 + 1):
        task, train, windows, tokenizer = series_task(count)
        floor, left_out = task.baselines(train, train, windows, tokenizer, False)
        found.append((left_out, f"{classical.names(4)[0]}_mase" in floor))
    assert found == [(False, True), (True, False)]


# -- relative scores -----------------------------------------------------------------------------


def test_relative_scores_by_hand() -> None:
    """Seasonal naive misses series a by 2, b by 1 and c by nothing; the forecast misses by 1."""
    past = np.zeros(4)
    cases = [case(past, [y], id=id) for id, y in (("a", 2.0), ("b", 1.0), ("c", 0.0), ("a", 2.0))]
    own = score_forecasts((c, c.actual[None] - 1) for c in cases)
    base = score_forecasts((c, np.zeros((1, 1))) for c in cases)
    names, series = series_of(cases)
    assert names == ["a", "b", "c"] and series.tolist() == [0, 1, 2, 0]
    found = relative(own, base, series)
    assert found["mase_ratio"] == pytest.approx(4 / 5)
    assert found["mase_ratio_gmean"] == pytest.approx(np.sqrt(1 / 2 * 1))  # without c
    assert found["wql_ratio_gmean"] == pytest.approx(np.sqrt(1 / 2 * 1))
    one = relative(
        score_forecasts((c, c.actual[None] - 1) for c in cases[:1]),
        score_forecasts((c, np.zeros((1, 1))) for c in cases[:1]),
        series[:1],
    )
    assert one == pytest.approx({"mase_ratio": 1 / 2, "wql_ratio": 1 / 2})


def test_eval_has_model_and_baselines_relative_to_seasonal_naive(tfm: Tfm) -> None:
    lines = ["id,ds,y"]
    for number, values in enumerate(waves(3, 60)):
        first = np.datetime64("2024-01-01")
        lines += [f"{number},{first + k},{value:.5f}" for k, value in enumerate(values)]
    (tfm.folder / "data.csv").write_text("\n".join(lines) + "\n")
    options = ("--season", 4, "--horizon", 4, "--history", 24, "--steps", 2, "--size", "nano")
    tfm("train", "--task", "series", "--data", "data.csv", *options, "-q", "--run", "r")
    scores = tfm("eval", "r", "--json", "--by", "series").json()
    floor, rows = scores["floor"], scores["by_series"]
    for name in ("mase", "wql"):
        base = floor[f"seasonal_naive_{name}"]
        assert scores[f"{name}_ratio"] == pytest.approx(scores[name] / base)
        assert floor[f"drift_{name}_ratio"] == pytest.approx(floor[f"drift_{name}"] / base)
        each = [row[name] / row[f"seasonal_naive_{name}"] for row in rows]
        assert scores[f"{name}_ratio_gmean"] == pytest.approx(np.exp(np.mean(np.log(each))))
        assert floor[f"seasonal_naive_{name}_ratio"] == 1
        assert floor[f"seasonal_naive_{name}_ratio_gmean"] == pytest.approx(1)
    text = tfm("eval", "r").text
    first, second = text.split("\n\n")[:2]
    assert first.split("\n")[0].split() == [*METRICS]
    assert second.split("\n")[0].split() == [
        "mase_ratio", "wql_ratio", "mase_ratio_gmean", "wql_ratio_gmean",
    ]  # fmt: skip
    for block in (first, second):
        labels = [line.split()[0] for line in block.splitlines()[1:]]
        names = {"seasonal_naive", "naive", "drift", "ridge", *classical.names(4)}
        assert labels[0] == "r" and set(labels[1:]) == names


def test_the_table_has_derived_scores_under_the_others() -> None:
    """The name of a baseline can have any number of words, and so can a metric."""
    floor = {f"{label}_{m}": 1.5 for label in ("auto_ets", "ets") for m in ("mase", "mase_ratio")}
    scores = {"run": "r", "unit": "point", "floor": floor, "mase": 2.5, "mase_ratio": 3.5}
    first, second, rest = table({**scores, "bits_per_point": None}).split("\n\n")
    for block, name, value in ((first, "mase", "2.5000"), (second, "mase_ratio", "3.5000")):
        rows = [line.split() for line in block.splitlines()]
        assert rows == [[name], ["r", value], ["auto_ets", "1.5000"], ["ets", "1.5000"]]
    floor.pop("ets_mase_ratio")
    assert "ets                -" in table({**scores, "bits_per_point": None})
