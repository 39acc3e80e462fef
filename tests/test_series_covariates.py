"""Covariates of series: what the model reads beside each value, and that it is nothing of the
future but what is known."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from helpers import small_model

from tfm.core.config import SampleConfig
from tfm.core.protocols import Sequence
from tfm.tasks._series.cases import forecast_cases, forecasts
from tfm.tasks._series.clock import Clock
from tfm.tasks._series.collection import Collection, Series
from tfm.tasks._series.training_rows import Windows
from tfm.tasks.series import SeriesOptions, SeriesTask
from tfm.tokenizers._covariates import Covariate
from tfm.tokenizers.bins import BinsTokenizer

HISTORY, HORIZON, POINTS = 8, 3, 60
FLAGS: dict[str, Any] = dict(season=4, horizon=HORIZON, history=HISTORY)


def collection(**columns: Any) -> Collection:
    values = 5 + np.sin(np.arange(POINTS)) + 0.1 * np.random.default_rng(0).normal(size=POINTS)
    series = Series("x", values, Clock("2024-01-01", "D"), columns)
    return Collection((series,), (0,), 4, HORIZON, "test", "test")


def columns() -> dict[str, Any]:
    draw = np.random.default_rng(1)
    kind = np.array(["a", "b", ""], object)[draw.integers(0, 3, POINTS)]
    return {"price": draw.normal(9, 2, POINTS), "seen": draw.normal(size=POINTS), "kind": kind}


def fitted(**changed: Any) -> tuple[SeriesTask, Collection, Collection, BinsTokenizer]:
    task = SeriesTask(SeriesOptions(past="seen", known="price,kind", **FLAGS))
    train, held = task.split(collection(**{**columns(), **changed}), 0.2)
    return task, train, held, task.fit_tokenizer("bins:64", train)


# -- features ------------------------------------------------------------------------------------


def test_features_stand_beside_the_value_before() -> None:
    """Known values one place ahead of the past ones; past ones end with the history."""
    task, _, held, tokenizer = fitted()
    assert [(c.name, c.kind, c.width) for c in tokenizer.covariates.each] == [
        ("seen", "past", 3), ("price", "known", 3), ("kind", "known", 2),
    ]  # fmt: skip
    assert tokenizer.features == 8
    window = next(iter(task.sequences(held, tokenizer)))
    rows = tokenizer.feature_rows(len(window), window.side)
    assert rows.shape == (1 + HISTORY + HORIZON, 8) == (len(window), 8)
    first = window.side["first"] - HISTORY
    own = columns()
    seen, price, _ = tokenizer.covariates.each
    span = slice(first, first + HISTORY + HORIZON)
    np.testing.assert_allclose(rows[:-1, 3], (own["price"][span] - price.mean) / price.scale, 1e-5)
    past = (own["seen"][first : first + HISTORY] - seen.mean) / seen.scale
    np.testing.assert_allclose(rows[1 : HISTORY + 1, 0], past, 1e-5)
    assert (rows[HISTORY + 1 :, 2] == 1).all() and not rows[HISTORY + 1 :, :2].any()
    letters = own["kind"][span]
    np.testing.assert_array_equal(rows[:-1, 6:], letters[:, None] == np.array(["a", "b"]))


def test_training_windows_have_the_features_of_scored_ones() -> None:
    task, train, _, tokenizer = fitted()
    data = task.dataset(train, tokenizer, HISTORY + HORIZON, None, 0, Path())
    assert isinstance(data, Windows)
    indices = np.arange(0, len(data))
    found, (values, history) = data._features(indices, tokenizer.covariates), data.rows(indices)
    ahead = found[:, HISTORY:-1, 5]  # whether the price of a point of the horizon is missing
    forgotten = (history == HISTORY) & ahead.all(axis=1)
    assert 1 <= forgotten.sum() <= 0.3 * len(indices), "in a part of the windows"
    assert not ahead[~forgotten & (history == HISTORY)].any()
    kept = ~forgotten & (history == HISTORY)
    indices, found, values, history = indices[kept], found[kept], values[kept], history[kept]
    (series,) = train.series
    codes = {one.name: one.codes(series.columns[one.name]) for one in tokenizer.covariates.each}
    for row, own, past in zip(found, values, history.tolist(), strict=True):
        start = int(np.flatnonzero(series.values == own[0])[0])
        length = past + HORIZON
        beside = {name: each[start : start + length] for name, each in codes.items()}
        side = {"history": past, "covariates": beside}
        wanted = tokenizer.feature_rows(1 + length, side)
        np.testing.assert_allclose(row[:length], wanted[:length], atol=1e-6)
    batch = data.batch(indices)
    assert batch.features is not None and batch.features.shape == found.shape
    plain = SeriesTask(SeriesOptions(**FLAGS))
    alone = plain.dataset(train, plain.fit_tokenizer("bins:64", train), 11, None, 0, Path())
    assert alone.batch(np.arange(3)).features is None


def test_kinds_of_columns() -> None:
    number = Covariate.fit("n", "known", [np.array([1.0, 2, 3, np.nan])])
    assert number.levels is None and number.mean == 2
    flag = Covariate.fit("f", "known", [np.array([0.0, 1, 1, np.nan])])
    assert flag.levels == ("0", "1")
    np.testing.assert_array_equal(flag.codes(np.array([1.0, 0, np.nan, 7])), [1, 0, np.nan, np.nan])
    many = [f"w{n}" for n in range(100) for _ in range(n + 1)]
    words = Covariate.fit("w", "past", [np.array(many, object)])
    assert words.levels is not None and len(words.levels) == 64 and "w99" in words.levels
    np.testing.assert_array_equal(words.codes(np.array(["w0", "w99", ""], object))[[0, 2]], np.nan)
    both = Covariate.fit("b", "known", [np.array([1.0, 2, 3]), np.array(["x", "2"], object)])
    assert both.levels == ("1", "2", "3", "x"), "words in one file are words in all"
    constant = Covariate.fit("c", "known", [np.full(9, 3.0)])
    assert constant.width == 1, "a category"


# -- nothing of the future -----------------------------------------------------------------------


def outcome(changed: dict[str, Any]) -> tuple[list[Sequence], list[Any], list[Any]]:
    """The scored windows, their features, and the forecasts of a fixed model."""
    task, _, held, tokenizer = fitted(**changed)
    model = small_model(
        vocab_size=tokenizer.vocab_size, context=HISTORY + HORIZON, features=tokenizer.features
    )
    windows = list(task.sequences(held, tokenizer))
    cases = forecast_cases(windows, "rolling", tokenizer)
    rows = [tokenizer.feature_rows(len(window), window.side) for window in windows]
    return windows, rows, [paths for _, paths in forecasts(model, tokenizer, cases, 20)]


def test_past_covariates_of_the_points_to_forecast_change_nothing() -> None:
    """Of the last window: what the past column has from its horizon on is never read."""
    plain = outcome({})
    column = columns()["seen"]
    column[-HORIZON:] = 1e6
    planted = outcome({"seen": column})
    for ours, theirs in zip(plain[1], planted[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(plain[2], planted[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    column[-HORIZON - 1] = 1e6  # the last point that is known
    changed = outcome({"seen": column})
    assert not np.array_equal(changed[2][0], plain[2][0])


def test_known_covariates_change_the_forecast_from_their_time_on() -> None:
    plain = outcome({})
    column = columns()["price"]
    column[-1] += 5
    moved = outcome({"price": column})
    last, other = plain[2][0], moved[2][0]  # the last window comes first
    np.testing.assert_array_equal(last[:, :-1], other[:, :-1])
    assert not np.array_equal(last[:, -1], other[:, -1])


def test_a_longer_horizon_continues_with_its_own_covariates() -> None:
    task, _, _, tokenizer = fitted()
    model = small_model(
        vocab_size=tokenizer.vocab_size, context=HISTORY + HORIZON, features=tokenizer.features
    )
    values, own = collection().series[0].values, columns()
    head = "day,y,price,seen,kind"
    days = [np.datetime64("2024-01-01") + k for k in range(POINTS)]

    def forecast(price_of_last: float) -> Any:
        rows = [
            f"{day},{y if k < 50 else ''},{price_of_last if k == 57 else own['price'][k]:.6f},"
            f"{own['seen'][k] if k < 50 else ''},{own['kind'][k]}"
            for k, (day, y) in enumerate(zip(days, values, strict=True))
        ]
        sampling = task.SampleOptions(horizon=8, paths=10)
        text = "\n".join([head, *rows]).encode()
        (found,) = task.draw(
            model, tokenizer, text, [], SampleConfig(length=0), sampling, lambda text: None
        )
        return found

    one, other = forecast(9.0), forecast(30.0)
    assert one.times[0] == "2024-02-20" and one.paths.shape == (10, 8)
    np.testing.assert_array_equal(one.paths[:, :7], other.paths[:, :7])
    assert not np.array_equal(one.paths[:, 7], other.paths[:, 7])


# -- at the command line -------------------------------------------------------------------------


def table(seed: int, days: int, ids: str = "ab") -> list[str]:
    """Sales that follow a promotion two days later, and the price of the day; a leak: the sales
    themselves."""
    draw = np.random.default_rng(seed)
    rows = []
    for name in ids:
        promo = (draw.random(days + 2) < 0.25).astype(int)
        noise = draw.normal(0, 1, days)
        for k in range(days):
            day = np.datetime64("2024-01-01") + k
            sales = 50 + 20 * promo[k] + noise[k]
            shop = ("north", "south")[k % 3 == 0]
            rows.append(f"{name},{day},{sales:.3f},{promo[k + 2]},{sales:.3f},{shop}")
    return ["id,day,sales,promo,leak,shop", *rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Tfm:
    tfm = Tfm(tmp_path_factory.mktemp("covariates"))
    (tfm.folder / "t.csv").write_text("\n".join(table(0, 160)) + "\n")
    train = ("train", "--task", "series", "--data", "t.csv", "--target", "sales", "--horizon", 7)
    shape = ("--season", 7, "--history", 28, "--size", "nano", "--tokenizer", "bins:128", "-q")
    small = ("--set", "train.batch=16")
    few = ("--steps", 40, *small)
    tfm(*train, *shape, *few, "--run", "none")
    tfm(*train, *shape, "--steps", 200, *small, "--known", "promo,shop", "--run", "known")
    tfm(*train, *shape, *few, "--past", "leak", "--calendar", "--run", "past")
    return tfm


def test_a_known_covariate_helps_and_a_leak_does_not(runs: Tfm) -> None:
    flags = ("--protocol", "rolling", "--json")
    none, known, past = (runs("eval", name, *flags).json() for name in ("none", "known", "past"))
    assert known["wql"] < 0.6 * none["wql"]
    assert past["wql"] > 0.9 * none["wql"], "the values themselves, until the forecast, are no news"


def test_known_values_come_from_further_rows_or_a_file(runs: Tfm) -> None:
    head, *rows = table(0, 167)
    cells = [row.split(",") for row in rows]
    past = [",".join(c) for c in cells if c[1] <= "2024-06-08"]
    ahead = [",".join([c[0], c[1], "", c[3], "", c[5]]) for c in cells if c[1] > "2024-06-08"]
    (runs.folder / "past.csv").write_text("\n".join([head, *past]) + "\n")
    (runs.folder / "both.csv").write_text("\n".join([head, *past, *ahead]) + "\n")
    (runs.folder / "ahead.csv").write_text("\n".join([head, *ahead]) + "\n")
    sample = ("sample", "known", "--quantiles", "0.5")
    both = runs(*sample, "-p", "both.csv")
    assert "not known" not in both.err
    file = runs(*sample, "-p", "past.csv", "--known-data", "ahead.csv")
    assert file.text == both.text
    found = list(csv.DictReader(io.StringIO(both.text)))
    assert [row["time"] for row in found if row["id"] == "a"][0] == "2024-06-09"
    true = {(c[0], c[1]): float(c[2]) for c in cells}
    errors = [abs(float(row["0.5"]) - true[row["id"], row["time"]]) for row in found]
    assert len(errors) == 14 and np.mean(errors) < 5, "a promotion is 20"
    without = runs(*sample, "-p", "past.csv")
    assert "not known of all points to forecast: promo, shop, in up to 2 of 2 series" in without.err
    own = runs(*sample)  # the end of the training data, of whose future nothing is known
    assert own.text.count("\n") == 15 and "not known of all" in own.err
    (runs.folder / "two.csv").write_text("\n".join([head, *ahead[:2], *ahead[7:9]]) + "\n")
    first = runs(*sample, "-p", "past.csv", "--known-data", "two.csv", "--horizon", 2)
    assert "not known" not in first.err and first.text.count("\n") == 1 + 2 * 2
    later = "\n".join([head, *ahead[2:]]) + "\n"
    (runs.folder / "later.csv").write_text(later)
    assert "no row for series a at 2024-06-09" in runs.error(
        *sample, "-p", "past.csv", "--known-data", "later.csv"
    )


def test_times_are_covariates_that_are_always_known(runs: Tfm) -> None:
    said = runs("sample", "past", "--quantiles", "0.5")
    assert said.text.count("\n") == 15 and "not known" not in said.err
    config = json.loads((runs.folder / "past" / "config.json").read_text())
    assert config["model"]["features"] > 3 + 7, "of the column and the weekday"


def test_every_verb_reads_covariates(runs: Tfm) -> None:
    for command in (
        ("eval", "known", "--protocol", "rolling", "--stride", 3),
        ("eval", "known", "--data", "t.csv"),
        ("score", "known", "t.csv"),
        ("tokenize", "known", "t.csv"),
        ("data", "known"),
        ("view", "known", "--item", 1, "-o", "v.html"),
        ("train", "--init", "known", "--data", "t.csv", "--steps", 2, "-q", "--run", "again"),
        ("compare", "none", "known", "--metric", "wql"),
        ("verify", "known"),
    ):
        runs(*command)
    again = json.loads((runs.folder / "again" / "config.json").read_text())["task_options"]
    assert again["known"] == "promo,shop"


def test_what_cannot_be_is_told(runs: Tfm) -> None:
    train = ("train", "--task", "series", "--data", "t.csv", "--target", "sales", "--steps", 1)
    for flags, message in (
        (("--known", "prmo"), "no column 'prmo'; --known must be one of"),
        (("--known", "promo", "--past", "promo"), "--past, --known: promo is named in both"),
        (("--past", "leak,sales"), "--target, --past: sales is named in both"),
        (("--init", "known", "--past", "leak"), "--past: the run of --init has other covariates"),
    ):
        assert message in runs.error(*train, *flags)
    assert "trained without --known" in runs.error("sample", "none", "--known-data", "t.csv")
    (runs.folder / "counts.csv").write_text("y\n" + "".join(f"{k % 5}\n" for k in range(60)))
    counts = ("train", "--task", "series", "--data", "counts.csv", "--steps", 1, "--calendar")
    assert "--calendar: series y has no times" in runs.error(*counts)
