"""Forecasts combined with those of ridge regression (--ridge)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from sklearn.linear_model import Ridge
from test_series_scores import NANO, panel

from tfm.core.errors import UsageError
from tfm.tasks._series import linear
from tfm.tasks._series.collection import Collection, Series
from tfm.tasks._series.forecast import check_regression, combined
from tfm.tasks._series.options import SeriesOptions
from tfm.tasks.series import SeriesTask
from tfm.tokenizers.bins import BinsTokenizer, Window

HISTORY, HORIZON, SEASON = 12, 5, 3


def collection(*values: Any) -> Collection:
    series = tuple(Series(f"s{k}", np.asarray(v, float)) for k, v in enumerate(values))
    return Collection(series, tuple(map(len, series)), SEASON, HORIZON, "", "")


@pytest.fixture(scope="module")
def train() -> Collection:
    rng = np.random.default_rng(3)
    walks = rng.normal(size=(3, 80)).cumsum(axis=1) + [[5.0], [50.0], [-7.0]]
    walks[2, 30] = np.nan
    return collection(*walks)


def windows_of(values: Any) -> list[Any]:
    """All complete windows of a series, by a loop."""
    length = HISTORY + HORIZON
    each = [values[start : start + length] for start in range(len(values) - length + 1)]
    return [window for window in each if np.isfinite(window).all()]


def test_the_coefficients_are_those_of_scikit_learn(train: Collection) -> None:
    """Of windows that a loop cuts out and normalises."""
    x, y = [], []
    for window in (w for one in train.series for w in windows_of(one.values)):
        past, future = window[:HISTORY], window[HISTORY:]
        scale = np.abs(past[SEASON:] - past[:-SEASON]).mean()
        x.append((past - past[-SEASON:].mean()) / scale)
        last = [past[-SEASON + step % SEASON] for step in range(HORIZON)]
        y.append(np.clip((future - last) / scale, -6, 6))
    fitted = Ridge(alpha=1e-3 * len(x), fit_intercept=False).fit(x, y)
    found = linear.fit(train, HISTORY, SEASON)
    assert found is not None
    np.testing.assert_allclose(found, fitted.coef_.T, atol=1e-9)
    past = np.linspace(3, 9, HISTORY) + np.tile([0.0, 1, -1], HISTORY // 3)
    scale = np.abs(past[SEASON:] - past[:-SEASON]).mean()
    steps = fitted.predict([(past - past[-SEASON:].mean()) / scale])[0] * scale
    last = np.resize(past[-SEASON:], HORIZON)
    made = linear.forecast(found, np.concatenate(([1e9], past)), SEASON, HORIZON)
    np.testing.assert_allclose(made, last + steps)
    np.testing.assert_allclose(linear.forecast(found, past, SEASON, 2), (last + steps)[:2])


def test_without_windows_there_is_no_regression(train: Collection) -> None:
    assert linear.fit(collection(np.arange(16.0)), HISTORY, SEASON) is None
    assert linear.fit(collection([np.nan] * 60), HISTORY, SEASON) is None
    assert linear.fit(train, 2 * SEASON - 1, SEASON) is None
    coefficients = linear.fit(train, HISTORY, SEASON)
    past = np.arange(float(HISTORY))
    assert linear.forecast(coefficients, past[1:], SEASON, 1) is None, "too short"
    assert linear.forecast(coefficients, past, SEASON, HORIZON + 1) is None, "too long a horizon"
    assert linear.forecast(coefficients, np.where(past == 5, np.nan, past), SEASON, 1) is None
    assert linear.forecast(coefficients, past * 1e307, SEASON, 1) is None, "not finite"


def tokenizer(train: Collection) -> BinsTokenizer:
    edges = np.linspace(-5, 5, 12)
    centres = (edges[1:] + edges[:-1]) / 2
    coefficients = linear.fit(train, HISTORY, SEASON)
    return BinsTokenizer(edges, centres, SEASON, HISTORY, HORIZON, linear=coefficients)


@pytest.mark.parametrize("part", [0.25, 1.0])
def test_paths_move_together(train: Collection, part: float) -> None:
    """By that part of the way from their mean; those of a series without a regression stay."""
    own = tokenizer(train)
    past = train.series[1].values[-HISTORY:]
    histories = [Window(past, HISTORY), Window(past[1:], HISTORY - 1)]
    paths = np.random.default_rng(4).normal(50, 3, size=(2, 9, HORIZON))
    before = paths.copy()
    moved = combined(paths, own, histories, part)
    wanted = linear.forecast(own.linear, past, SEASON, HORIZON)
    assert wanted is not None and (paths == before).all()
    mean = paths[0].mean(0)
    np.testing.assert_allclose(moved[0].mean(0), (1 - part) * mean + part * wanted)
    np.testing.assert_allclose(moved[0] - moved[0].mean(0), paths[0] - mean, atol=1e-12)
    assert (moved[1] == paths[1]).all()


def test_a_tokenizer_keeps_it_for_its_own_windows(train: Collection) -> None:
    own = tokenizer(train)
    state, arrays = own.state()
    assert (BinsTokenizer.from_state(state, arrays).linear == own.linear).all()
    other = BinsTokenizer.from_state({**state, "horizon": HORIZON - 1}, arrays)
    assert other.linear is None and "linear" not in other.state()[1]
    check_regression(own, HORIZON, 0.5)
    del arrays["linear"]  # as of older runs
    with pytest.raises(UsageError, match="--ridge 0.5: the run has no ridge regression"):
        check_regression(BinsTokenizer.from_state(state, arrays), HORIZON, 0.5)


def test_a_run_from_another_has_its_regression_for_its_season(train: Collection) -> None:
    own = tokenizer(train)
    assert SeriesTask(SeriesOptions()).adapt(own).linear is not None
    assert SeriesTask(SeriesOptions(season=SEASON)).adapt(own).linear is not None
    for changed in ({"season": 2}, {"history": 9}, {"horizon": 2}):
        assert SeriesTask(SeriesOptions(**changed)).adapt(own).linear is None


# -- at the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Tfm:
    tfm = Tfm(tmp_path_factory.mktemp("ridge"))
    data = ("--data", panel(tfm.folder, "train.csv", "abc", 0, 180), "--holdout", 0.2)
    shape = ("--season", 7, "--horizon", 7, "--history", 28, "--allow-negative")
    tfm("train", "--task", "series", *data, *shape, *NANO, "--run", "run")
    return tfm


def test_all_of_the_way_the_mean_is_the_baseline(runs: Tfm) -> None:
    """Scores of `eval --ridge 1` and those of the baseline, which is fitted anew; half of the way
    a model of two steps is better than alone."""
    evaluate = ("eval", "run", "--protocol", "rolling", "--json")
    alone, half, all_ = (runs(*evaluate, "--ridge", part).json() for part in (0, 0.5, 1))
    assert all_["mse"] == pytest.approx(all_["floor"]["ridge_mse"], rel=1e-9)
    assert (alone["ridge"], half["ridge"]) == (0.0, 0.5)
    assert half["mse"] < alone["mse"] and half["wql"] < alone["wql"]
    assert alone["floor"] == half["floor"] and alone["nll"] == half["nll"]
    assert alone["mse"] == runs(*evaluate).json()["mse"], "0 is the default"


def test_samples_move_as_those_of_eval(runs: Tfm) -> None:
    written = runs.folder / "forecasts.csv"
    runs("eval", "run", "--ridge", 0.5, "--forecasts", written)
    with written.open() as file:
        wanted = [float(row["mean"]) for row in csv.DictReader(file)]
    runs.folder.joinpath("short.csv").write_text("y\n" + "".join(f"{k}\n" for k in range(9)))
    held = panel(runs.folder, "past.csv", "abc", 0, 173)
    rows = list(csv.DictReader(io.StringIO(runs("sample", "run", "-p", held, "--ridge", 0.5).text)))
    assert [float(row["mean"]) for row in rows] == pytest.approx(wanted, rel=1e-6)
    short = runs("sample", "run", "-p", "short.csv", "--ridge", 0.5)
    assert "1 series have missing values or too short a history for --ridge" in short.err
    assert short.text == runs("sample", "run", "-p", "short.csv").text


def test_what_it_cannot_do_is_one_line(runs: Tfm, tmp_path: Path) -> None:
    for part in (-0.1, 1.5, "nan"):
        assert "--ridge" in runs.error("sample", "run", "--ridge", part)
    said = runs.error("sample", "run", "--ridge", 0.5, "--horizon", 8)
    assert "forecasts 7 points, not 8" in said
    data = ("--data", panel(runs.folder, "few.csv", "a", 0, 20))
    shape = ("--season", 7, "--horizon", 4, "--history", 8)
    runs("train", "--task", "series", *data, *shape, *NANO, "--run", "few")
    assert "the run has no ridge regression" in runs.error("eval", "few", "--ridge", 0.5)
