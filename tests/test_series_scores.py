"""Series at the command line: one yardstick for model and baselines, forecasts that others can
score, and plots."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm

from tfm.tasks._series.clock import Clock
from tfm.tasks._series.metrics import QUANTILES
from tfm.tasks._series.output import Forecast
from tfm.tasks._series.plot import MAX_PANELS, fan, plot

NANO = ("--steps", 2, "--size", "nano", "-q")


def panel(
    folder: Path, name: str, ids: str, first: int, count: int, step: int = 1, freq: str = "D"
) -> str:
    """A file with a series for each letter: a weekly wave with noise, of about 10."""
    rng = np.random.default_rng(7)
    lines = ["id,ds,y"]
    for letter in ids:
        noise = rng.normal(size=400)
        for k in range(first, first + count):
            time = np.datetime64("2024-01-01T00" if freq == "h" else "2024-01-01") + k * step
            y = 10 + 4 * np.sin(k * 2 * np.pi / (24 if freq == "h" else 7)) + noise[k]
            lines.append(f"{letter},{time},{y:.6f}")
    (folder / name).write_text("\n".join(lines) + "\n")
    return name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Tfm:
    tfm = Tfm(tmp_path_factory.mktemp("scores"))
    panel(tfm.folder, "train.csv", "abc", 0, 120)
    panel(tfm.folder, "test.csv", "abc", 120, 7)
    data = ("--data", "train.csv", "--test", "test.csv", "--season", 7, "--horizon", 7)
    tfm("train", "--task", "series", *data, "--history", 28, *NANO, "--run", "run")
    return tfm


def floor_of(scores: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores["floor"].items() if "ets" not in name}


def test_the_same_windows_have_the_same_baselines_whatever_the_flags(runs: Tfm) -> None:
    plain = runs("eval", "run", "--json").json()
    strided = runs("eval", "run", "--stride", 7, "--json").json()
    split = runs("eval", "run", "--split", "test", "--json").json()
    panel(runs.folder, "all.csv", "abc", 0, 127)
    data = runs("eval", "run", "--data", "all.csv", "--json").json()
    for other in (strided, split, data):
        assert other["windows"] == plain["windows"] == 3
        assert floor_of(other) == pytest.approx(floor_of(plain), rel=1e-9)
        for name in ("mase", "wql", "crps", "mse", "mae", "smape"):
            assert other[name] == pytest.approx(plain[name], rel=1e-5)


def test_a_run_from_another_keeps_its_season_and_horizon(runs: Tfm) -> None:
    panel(runs.folder, "hours.csv", "xy", 0, 200, freq="h")
    start = ("train", "--init", "run", "--data", "hours.csv", "--steps", 2, "-q")
    kept = runs(*start, "--run", "kept", "--json").json()
    config = json.loads((runs.folder / "kept/config.json").read_text())
    options = config["task_options"]
    assert (options["season"], options["horizon"], options["history"]) == (7, 7, 28)
    assert kept["data"]["season"] == kept["data"]["horizon"] == 7
    again = runs("eval", "kept", "--stride", 7, "--json").json()
    assert floor_of(again)["seasonal_naive_mase"] == pytest.approx(
        kept["floor"]["seasonal_naive_mase"]
    )
    asked = runs(*start, "--season", 24, "--horizon", 5, "--run", "asked", "--json").json()
    assert (asked["data"]["season"], asked["data"]["horizon"]) == (24, 5)
    rows = list(csv.DictReader(io.StringIO(runs("sample", "asked").text)))
    assert len(rows) == 2 * 5 and rows[0]["time"] == "2024-01-09T08"
    too_long = runs.error(*start, "--horizon", 30, "--run", "long")
    assert "shorter --history or --horizon" in too_long


def test_the_metrics_of_eval_are_those_of_utilsforecast(runs: Tfm) -> None:
    """Of the forecast that `sample` writes for the same history, by the code of others."""
    losses = pytest.importorskip("utilsforecast.losses")
    import pandas as pd

    scores = runs("eval", "run", "--json").json()
    frame = pd.read_csv(
        io.StringIO(runs("sample", "run", "-p", "train.csv", "--paths", 100).text)
    ).rename(columns={"time": "ds", "id": "unique_id"})
    actual = pd.read_csv(runs.folder / "test.csv").rename(columns={"id": "unique_id"})
    past = pd.read_csv(runs.folder / "train.csv").rename(columns={"id": "unique_id"})
    both = frame.merge(actual, on=["unique_id", "ds"])
    assert len(both) == len(actual) == 21

    def mean(found: pd.DataFrame) -> float:
        return float(found[found.columns[-1]].mean())

    median = both.rename(columns={"0.5": "model"})[["unique_id", "ds", "y", "model"]]
    point = both.rename(columns={"mean": "model"})[["unique_id", "ds", "y", "model"]]
    assert mean(losses.mae(median, ["model"])) == pytest.approx(scores["mae"], rel=1e-4)
    assert mean(losses.mse(point, ["model"])) == pytest.approx(scores["mse"], rel=1e-4)
    mase = losses.mase(median, ["model"], 7, past)
    assert mean(mase) == pytest.approx(scores["mase"], rel=1e-4)
    # WQL: the sum of quantile losses over that of the values, averaged over quantiles
    total = both["y"].abs().sum()
    wql = np.mean(
        [
            2 * len(both) * np.average(
                losses.quantile_loss(
                    both.rename(columns={str(q): "model"})[["unique_id", "ds", "y", "model"]],
                    {"model": "model"},
                    q,
                )["model"]
            ) / total
            for q in QUANTILES
        ]
    )  # fmt: skip
    assert wql == pytest.approx(scores["wql"], rel=1e-4)


# -- tables --------------------------------------------------------------------------------------


def test_scores_by_series_and_by_step_are_parts_of_the_whole(runs: Tfm) -> None:
    plain = runs("eval", "run", "--json").json()
    by_series = runs("eval", "run", "--by", "series", "--json").json()["by_series"]
    by_step = runs("eval", "run", "--by", "step", "--json").json()["by_step"]
    assert [row["series"] for row in by_series] == ["a", "b", "c"]
    assert [(row["step"], row["windows"]) for row in by_step] == [(n, 3) for n in range(1, 8)]
    for rows in (by_series, by_step):  # every row has as many points as the others
        for name in ("mae", "mse", "crps", "coverage_50", "coverage_90"):
            assert np.mean([row[name] for row in rows]) == pytest.approx(plain[name])
    for rows in (by_series,):
        for name in ("mase", "seasonal_naive_mase"):
            whole = {**plain, **plain["floor"]}[name]
            assert np.mean([row[name] for row in rows]) == pytest.approx(whole)
    text = runs("eval", "run", "--by", "step").text
    assert text.count("\n") > 20 and "seasonal naive wql" in text


def test_forecasts_are_written_with_the_actual_values(runs: Tfm) -> None:
    """CSV and parquet have the same figures, and those are the ones that are scored."""
    import pandas as pd

    flags = ("--protocol", "rolling", "--quantiles", "0.05,0.5,0.95")
    panel(runs.folder, "more.csv", "abc", 0, 141)
    data = ("--data", "more.csv", "--stride", 7)
    scores = runs("eval", "run", *data, *flags, "--forecasts", "all.csv", "--json").json()
    runs("eval", "run", *data, *flags, "--forecasts", "f.parquet")
    text = pd.read_csv(runs.folder / "all.csv", dtype={"id": str})
    typed = pd.read_parquet(runs.folder / "f.parquet")
    figures = ["actual", "mean", "0.05", "0.5", "0.95"]
    assert list(text) == list(typed) == ["id", "cutoff", "time", *figures]
    assert len(text) == scores["windows"] * 7
    assert text["id"].tolist() == typed["id"].tolist()
    for name in ("cutoff", "time"):
        assert pd.to_datetime(text[name]).tolist() == typed[name].tolist()
    np.testing.assert_allclose(text[figures], typed[figures], rtol=1e-9)
    ahead = (typed["time"] - typed["cutoff"]).dt.days
    assert ahead.tolist() == [1, 2, 3, 4, 5, 6, 7] * scores["windows"]
    known = pd.read_csv(runs.folder / "more.csv").rename(columns={"ds": "time", "y": "true"})
    both = text.merge(known.astype({"id": str}), on=["id", "time"])
    np.testing.assert_allclose(both["actual"], both["true"])
    inside = typed["actual"].between(typed["0.05"], typed["0.95"])
    assert inside.mean() == pytest.approx(scores["coverage_90"])


def test_the_forecasts_of_eval_are_evaluated_by_other_libraries(runs: Tfm) -> None:
    evaluation = pytest.importorskip("utilsforecast.evaluation")
    losses = pytest.importorskip("utilsforecast.losses")
    import pandas as pd

    scores = runs("eval", "run", "--forecasts", "g.parquet", "--json").json()
    frame = pd.read_parquet(runs.folder / "g.parquet")
    named = {"id": "unique_id", "time": "ds", "actual": "y", "0.5": "tfm"}
    found = evaluation.evaluate(
        frame.rename(columns=named)[["unique_id", "ds", "cutoff", "y", "tfm"]],
        metrics=[losses.mae, losses.smape],
    )
    means = found.groupby("metric")["tfm"].mean()
    assert means["mae"] == pytest.approx(scores["mae"])
    assert 200 * means["smape"] == pytest.approx(scores["smape"])


def test_the_forecasts_of_eval_are_evaluated_by_gluonts(runs: Tfm) -> None:
    """The table, with the history from the file of training data, gives the WQL and MASE of eval.
    gluonts needs an older pandas, so that this test is skipped beside a newer one."""
    evaluation = pytest.importorskip("gluonts.evaluation")
    forecast = pytest.importorskip("gluonts.model.forecast")
    import pandas as pd

    scores = runs("eval", "run", "--forecasts", "g.csv", "--json").json()
    table = pd.read_csv(runs.folder / "g.csv", parse_dates=["time"])
    past = pd.read_csv(runs.folder / "train.csv", parse_dates=["ds"])
    wholes, forecasts = [], []
    for name, rows in table.groupby("id"):
        before = past[past["id"] == name].set_index("ds")["y"]
        whole = pd.concat((before, rows.set_index("time")["actual"])).to_frame(0)
        whole.index = whole.index.to_period("D")
        wholes.append(whole)
        keys = list(map(str, QUANTILES))
        arrays, start = rows[keys].to_numpy().T, pd.Period(rows["time"].iloc[0], "D")
        forecasts.append(forecast.QuantileForecast(arrays, start, keys, item_id=name))
    evaluator = evaluation.Evaluator(quantiles=list(QUANTILES), seasonality=7, num_workers=0)
    found, _ = evaluator(iter(wholes), iter(forecasts))
    assert found["mean_wQuantileLoss"] == pytest.approx(scores["wql"], rel=1e-5)
    assert found["MASE"] == pytest.approx(scores["mase"], rel=1e-5)


def test_sample_paths_and_quantiles_are_written(runs: Tfm) -> None:
    import pandas as pd

    flags = ("--paths", 40, "--quantiles", "0.025,0.5,0.975")
    done = runs("sample", "run", *flags, "--paths-out", "p.csv")
    table = pd.read_csv(io.StringIO(done.text))
    assert list(table) == ["id", "time", "mean", "0.025", "0.5", "0.975"]
    runs("sample", "run", *flags, "--paths-out", "p.parquet")
    for paths in (
        pd.read_csv(runs.folder / "p.csv"),
        pd.read_parquet(runs.folder / "p.parquet").assign(time=lambda t: t["time"].astype(str)),
    ):
        assert list(paths) == ["id", "time", *map(str, range(1, 41))]
        assert (paths[["id", "time"]] == table[["id", "time"]]).all(axis=None)
        values = paths[list(map(str, range(1, 41)))].to_numpy()
        np.testing.assert_allclose(values.mean(1), table["mean"])
        np.testing.assert_allclose(np.quantile(values, 0.975, axis=1), table["0.975"])
    record = json.loads(runs("sample", "run", *flags, "--json").text.splitlines()[0])
    assert list(record["quantiles"]) == ["0.025", "0.5", "0.975"]


def test_wrong_tables_are_refused_before_the_work(runs: Tfm) -> None:
    for flags, message in (
        (("sample", "run", "--quantiles", "0.1,2"), "'2' is not a number between 0 and 1"),
        (("sample", "run", "--quantiles", "0.1,0.10"), "0.10 is named twice"),
        (("sample", "run", "--paths-out", "p.txt"), "must end in .csv or .parquet"),
        (("eval", "run", "--forecasts", "no/such/f.csv"), "there is no folder no/such"),
        (("eval", "run", "--forecasts", "f.json"), "must end in .csv or .parquet"),
        (("eval", "run", "--by", "day"), "'day' is not one of 'series', 'step'"),
        (("eval", "run", "--paths", 0), "--paths 0: must be at least 1"),
    ):
        assert message in runs.error(*flags)


# -- comparing and stopping by forecast metrics ----------------------------------------------------


def test_runs_are_compared_by_forecast_metrics(runs: Tfm) -> None:
    """Also runs with other tokenizers, whose likelihoods are not comparable."""
    data = ("--data", "train.csv", "--test", "test.csv", "--season", 7, "--horizon", 7)
    start = ("train", "--task", "series", *data, "--size", "nano", "-q")
    few = ("--steps", 60, "--set", "train.batch=16")
    runs(*start, "--history", 21, "--tokenizer", "bins:64", *few, "--run", "other")
    assert "compare them by --metric mase, wql, crps" in runs.error("compare", "run", "other")
    for metric in ("mase", "wql", "crps"):
        scores = [runs("eval", name, "--json").json()[metric] for name in ("run", "other")]
        found = runs("compare", "other", "run", "--metric", metric, "--margin", 9, "--json").json()
        assert [found[f"{metric}_b"], found[f"{metric}_a"]] == pytest.approx(scores)
        assert found["difference"] == pytest.approx(scores[0] - scores[1])
        assert found["low"] <= found["difference"] <= found["high"]
        assert found["metric"] == metric and found["items"] == 3
    same = runs("compare", "run", "run", "--metric", "mase", "--json").json()
    assert (same["low"], same["high"], same["worse"]) == (0, 0, False)
    assert "--metric mae: run and run have mase, wql, crps" in runs.error(
        "compare", "run", "run", "--metric", "mae"
    )
    other = ("--data", "train.csv", "--test", "test.csv", "--season", 5, "--horizon", 7)
    runs("train", "--task", "series", *other, *NANO, "--run", "season")
    assert "measure mase by other standards" in runs.error(
        "compare", "run", "season", "--metric", "mase"
    )
    assert "--protocol: needs --metric" in runs.error(
        "compare", "run", "run", "--protocol", "rolling"
    )


def test_new_data_is_backtested_and_compared(runs: Tfm) -> None:
    """Windows some points apart over a part of the data, also of a single series."""
    panel(runs.folder, "new.csv", "a", 100, 200)
    rolling = ("--data", "new.csv", "--holdout", 0.2, "--stride", 7, "--protocol", "rolling")
    scores = runs("eval", "run", *rolling, "--json").json()
    assert scores["windows"] == 200 * 0.2 // 7 and scores["series"] == 1
    same = runs("compare", "run", "run", *rolling, "--metric", "wql", "--json").json()
    assert same["items"] == scores["windows"] and same["block"] == "item"
    assert same["wql_a"] == pytest.approx(scores["wql"])
    one = ("compare", "run", "run", "--data", "new.csv", "--metric", "wql")
    assert "--protocol rolling has more windows" in runs.error(*one)
    assert "--holdout 0.2 scores a fifth of --data" in runs.error(*one, "--protocol", "rolling")
    assert "--holdout: a part of --data" in runs.error("eval", "run", "--holdout", 0.2)
    assert "--stride: needs --metric" in runs.error("compare", "run", "run", "--stride", 7)


def test_training_stops_at_a_forecast_metric(runs: Tfm) -> None:
    panel(runs.folder, "whole.csv", "abc", 0, 200)
    start = ("train", "--task", "series", "--data", "whole.csv", "--season", 7, "--horizon", 7)
    flags = ("--size", "nano", "--history", 28, "--steps", 200, "--set", "train.eval_every=10")
    done = runs(*start, *flags, "--until", "mase<5", "--run", "until", "--json").json()
    assert done["ended_by"] == "until" and done["reached"] and done["step"] < 200
    assert "less is better, write mase<NUMBER" in runs.error(
        *start, *flags, "--until", "mase>5", "--run", "no"
    )
    never = runs(*start, "--steps", 4, *flags[:4], "--until", "wql<0.0001", "--run", "x", code=5)
    assert "--until wql<0.0001: not reached" in never.err


def test_runs_are_listed_with_the_metrics_of_their_task(runs: Tfm) -> None:
    listed = runs("runs", "--runs", ".", "--json").json()["runs"]
    entry = next(e for e in listed if e["run"].endswith("run"))
    scores = runs("eval", "run", "--json").json()
    assert entry["headline"] == pytest.approx({n: scores[n] for n in ("mase", "wql")})
    assert f"mase {scores['mase']:.4g}, wql" in runs("runs", "--runs", ".").text


# -- signs ---------------------------------------------------------------------------------------


def test_series_without_negative_values_have_no_negative_forecasts(runs: Tfm) -> None:
    body = "".join(f"{np.datetime64('2024-01-01') + k},{max(0, k % 9 - 5)}\n" for k in range(60))
    (runs.folder / "counts.csv").write_text(f"ds,y\n{body}")
    done = runs("sample", "run", "-p", "counts.csv", "--temperature", 3)
    rows = [row for row in csv.reader(io.StringIO(done.text)) if row[0] == "y"]
    figures = [float(cell) for row in rows for cell in row[2:]]
    assert len(figures) == 70 and min(figures) == 0
    assert "1 series never were negative" in done.err
    free = runs("sample", "run", "-p", "counts.csv", "--temperature", 3, "--allow-negative")
    assert "-" in free.text.replace("2024-", "") and "negative" not in free.err


def test_a_picture_that_fails_costs_a_warning_only(runs: Tfm) -> None:
    (runs.folder / "p.png").symlink_to("/dev/full")
    done = runs("sample", "run", "--plot", "p.png", "--out", "f.csv", "-q")
    assert (runs.folder / "f.csv").read_text().count("\n") == 22
    done = runs("sample", "run", "--plot", "p.png")
    assert done.text.count("\n") == 22 and "warning: no plot: --plot p.png" in done.err
    assert "no folder no/such" in runs.error("sample", "run", "--plot", "no/such/p.png")


# -- plots ---------------------------------------------------------------------------------------


def forecast(id: str, clock: Clock, horizon: int, history: int = 30) -> Forecast:
    rng = np.random.default_rng(0)
    return Forecast(id, rng.normal(size=history), rng.normal(size=(20, horizon)), clock, history)


@pytest.mark.parametrize(
    "clock",
    [
        Clock(),
        Clock("5", "2", form="count"),
        Clock("2024-01-31", "ME"),
        Clock("1960-01-01", "YS", form="%Y"),
        Clock("2024-03-30T00:00:00+01:00", "h", "Europe/Berlin"),
        Clock("2024-01-01", "250ms"),
    ],
)
@pytest.mark.parametrize("horizon", [1, 2, 12])
def test_history_and_forecast_stand_at_their_times(
    tmp_path: Path, clock: Clock, horizon: int
) -> None:
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
        plot([forecast("x", clock, horizon)], tmp_path / "p.png")
    history = drawn[0].axes[0].lines[0]
    x = history.get_xdata(orig=False)
    steps = np.diff(np.asarray(x, np.float64))
    assert (steps > 0).all() and len(x) == max(24, 2 * horizon)
    median = next(line for line in drawn[0].axes[0].lines if line.get_label() == "median")
    gap = float(median.get_xdata(orig=False)[0]) - float(x[-1])
    assert 0.8 * steps.min() <= gap <= 1.2 * steps.max(), "one step after the history"
    pyplot.close("all")
    plot([forecast("x", clock, horizon)], tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    assert fan(forecast("x", clock, horizon), 60).splitlines()[0].startswith("x: forecast ")


@pytest.mark.parametrize(
    "id", ["US$/EUR$", r"cost $\foo$", "東京 😀", "a" * 300, "tab\tnew\nline", "_x"]
)
def test_any_id_is_a_title(tmp_path: Path, id: str) -> None:
    plot([forecast(id, Clock("2024-01-01", "D"), 6)] * 3, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    assert max(map(len, fan(forecast(id, Clock(), 6), 60).splitlines())) <= 61


def test_series_that_are_not_drawn_are_counted(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    many = [forecast(str(k), Clock("2024-01-01", "D"), 6) for k in range(MAX_PANELS + 5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
        plot(many, tmp_path / "p.svg")
        plot(many[:MAX_PANELS], tmp_path / "p.svg")
    notes = [figure.get_supxlabel() for figure in drawn]
    assert notes == ["and 5 more series that are not drawn", ""]


def test_eval_scores_no_negative_forecast_of_a_series_without_negatives() -> None:
    from helpers import small_model

    from tfm.tasks._series.cases import forecast_cases, forecasts
    from tfm.tasks._series.collection import Collection, Series
    from tfm.tasks.series import SeriesOptions, SeriesTask

    values = np.maximum(0, np.arange(60.0) % 9 - 5)
    items = Collection((Series("counts", values),), (0,), 9, 3, "test", "test")
    task = SeriesTask(SeriesOptions(season=9, horizon=3, history=8))
    train, held = task.split(items, 0.1)
    tokenizer = task.fit_tokenizer("bins:64", train)
    model = small_model(vocab_size=tokenizer.vocab_size, context=12)
    windows = list(task.sequences(held, tokenizer))
    lowest = []
    for allowed in (False, True):
        cases = forecast_cases(windows, None, tokenizer, allowed)
        ((_, paths),) = forecasts(model, tokenizer, cases, 100)
        lowest.append(float(paths.min()))
    assert lowest[0] == 0 > lowest[1]


def test_baselines_see_the_history_of_the_model_and_no_more() -> None:
    from tfm.tasks._series.cases import forecast_cases
    from tfm.tasks._series.collection import Collection, Series
    from tfm.tasks.series import SeriesOptions, SeriesTask

    items = Collection((Series("x", np.sin(np.arange(60.0))),), (0,), 4, 3, "test", "test")
    task = SeriesTask(SeriesOptions(season=4, horizon=3, history=8))
    train, held = task.split(items, 0.3)
    tokenizer = task.fit_tokenizer("bins:64", train)
    cases = forecast_cases(task.sequences(held, tokenizer), "rolling", tokenizer)
    assert len(cases) == 6
    for case in cases:
        first = case.side["first"]
        np.testing.assert_array_equal(case.past, items.series[0].values[first - 8 : first])


def test_slow_baselines_are_left_to_eval_if_the_budget_is_short(tfm: Tfm) -> None:
    tfm("train", "--task", "series", "--budget", "0.5s", "--run", "run", "-q")
    kept = json.loads((tfm.folder / "run" / "config.json").read_text())
    assert kept["quick_floor"] and {"seasonal_naive_mase", "ridge_mase"} <= set(kept["floor"])
    assert not any("theta" in name for name in kept["floor"])
    floor = tfm("eval", "run", "--json").json()["floor"]
    assert set(kept["floor"]) < set(floor) and any("theta" in name for name in floor)
