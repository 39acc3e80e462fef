"""Series: formats, times, windows, metrics, forecasts, and the command line around them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Tfm
from helpers import small_model

from tfm.core.config import ModelConfig, SampleConfig
from tfm.core.data.source import Source
from tfm.core.errors import DataError, UsageError
from tfm.core.model.sequence_model import SequenceModel
from tfm.tasks._series import classical, training_rows
from tfm.tasks._series.baselines import floors
from tfm.tasks._series.cases import forecast_cases
from tfm.tasks._series.collection import MIXED_POINTS, Collection, Series, follow, split
from tfm.tasks._series.forecast import HISTORY_VIEWS, encode_views, forecast_values, sample_paths
from tfm.tasks._series.frequency import season_and_horizon
from tfm.tasks._series.metrics import METRICS, QUANTILES, of_sorted, seasonal_error, sums
from tfm.tasks._series.output import digits_for
from tfm.tasks._series.reader import parse
from tfm.tasks._series.reading import Columns
from tfm.tasks._series.simple import seasonal_naive
from tfm.tasks._series.training_rows import Windows
from tfm.tasks.series import SeriesOptions, SeriesTask
from tfm.tokenizers._scales import Values
from tfm.tokenizers.bins import FIRST_BIN_ID, MISSING_ID, BinsTokenizer, Window

PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "data" / "timeseries"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published series are not beside this repository"
)


def collection(*values: list[float] | np.ndarray, season: int = 4, horizon: int = 3) -> Collection:
    series = tuple(Series(f"s{i}", np.array(v, np.float64)) for i, v in enumerate(values))
    return Collection(series, (0,) * len(series), season, horizon, "test", "test")


def days(count: int) -> list[str]:
    return [str(np.datetime64("2024-01-01") + number) for number in range(count)]


def text(data: str, **asked: object) -> list[Series]:
    return parse(data.encode(), "x.csv", Columns(**asked)).series  # type: ignore[arg-type]


# -- data ---------------------------------------------------------------------------------------


def test_what_cannot_be_judged_is_refused_before_training() -> None:
    late = collection([1.0, 2, 3, 4, 5, 6, 7, 8, 9, *[np.nan] * 6])
    with pytest.raises(DataError, match="no value among the last 3 points"):
        split(late, 0.1)


def test_a_series_trained_on_whole_is_forecast_from_too() -> None:
    task = SeriesTask(SeriesOptions(season=4, horizon=3, history=8))
    items = collection(np.sin(np.arange(60.0)), np.arange(5.0))
    train, held = split(items, 0.1)
    assert held.starts[1] == 5, "too short to lose a horizon"
    tokenizer = task.fit_tokenizer("bins:16", train)
    windows = list(task.sequences(held, tokenizer))
    short = [w for w in windows if w.side["id"] == "s1"]
    assert [(w.side["first"], w.side["future"], w.side["past"]) for w in short] == [
        (5, [], [0, 1, 2, 3, 4])
    ]
    assert not short[0].target_weight().any(), "nothing to score"
    model = SequenceModel(
        ModelConfig(vocab_size=tokenizer.vocab_size, context=12, layers=1, width=8, heads=1)
    )
    notes: list[str] = []
    forecasts = task.draw(
        model, tokenizer, None, windows, SampleConfig(length=0), task.SampleOptions(), notes.append
    )
    assert [(f.id, f.times) for f in forecasts] == [
        ("s0", ["60", "61", "62"]),
        ("s1", ["5", "6", "7"]),
    ]
    assert len(task.slide(windows, tokenizer, 1)) == 4


@pytest.mark.parametrize(
    "values", [[1e12 + 0.5, 1e12 + 1.5], [1e12 + 1], [0.1], [3, 5.25], [0.0], [-1e308, 1e308]]
)
def test_what_moves_little_far_from_nothing_is_written_out(values: list[float]) -> None:
    digits = digits_for(np.array(values))
    assert [float(f"{value:.{digits}g}") for value in values] == values
    assert len(f"{0.1:.{digits_for(np.array([0.1]))}g}") == 3


def test_the_season_is_that_of_most_series() -> None:
    rows = "".join(
        f"{name},{t},1\n" for name, n in (("new", 1), ("a", 9), ("b", 9)) for t in days(n)
    )
    task = SeriesTask(SeriesOptions())
    items = task._collect(parse(f"id,t,y\n{rows}".encode(), "x", Columns()), "x")
    assert (items.season, items.horizon) == season_and_horizon("D")


# -- windows -------------------------------------------------------------------------------------


def test_split_is_by_time_and_at_least_a_horizon() -> None:
    train, held = split(collection(list(range(40)), list(range(5))), 0.1)
    assert [len(s) for s in train.series] == [36, 5]
    assert held.starts == (36, 5) and train.size == 41 and held.size == 4
    with pytest.raises(DataError, match="more than 6"):
        split(collection(list(range(6))), 0.1)


def test_held_out_series_follow_by_id() -> None:
    train, held = collection([1, 2], [3, 4]), collection([5], [6])
    held = Collection(held.series[::-1], (0, 0), 4, 3, "t", "t")
    joined = follow(train, held)
    assert [s.values.tolist() for s in joined.series] == [[3, 4, 6], [1, 2, 5]]
    assert joined.starts == (2, 2)
    later = follow(train, collection([7], [8]), joined)
    assert [s.values.tolist() for s in later.series] == [[1, 2, 5, 7], [3, 4, 6, 8]]
    assert (later.starts, later.trained) == ((3, 3), (2, 2))
    (days,) = text("date,x\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n")
    with pytest.raises(DataError, match="where 2024-01-04 is due"):
        follow(replace(train, series=(days,), starts=(0,)), replace(held, series=(days,)))


def fitted(items: Collection, history: int) -> BinsTokenizer:
    windows = Windows(items, None, history)
    values, known = windows.rows(np.arange(len(windows)))
    return BinsTokenizer.fit("bins:255", values, known, items.season, history)


def test_windows_are_a_pure_function_of_their_index() -> None:
    items = collection(np.random.default_rng(0).normal(size=50), np.arange(20.0))
    data = Windows(items, fitted(items, 8), 8, 3)
    together = data.batch(np.array([5, 40, 41]))
    alone = data.batch(np.array([40]))
    np.testing.assert_array_equal(together.ids[1], alone.ids[0])
    assert together.ids.shape == (3, 1 + 8 + 3)
    values, history = data.rows(np.arange(len(data)))
    assert len(data) == (50 - 3 - 5 + 1) + (20 - 3 - 5 + 1)
    assert history.min() == 5 and history.max() == 8
    first = values[0]
    np.testing.assert_array_equal(first[:8], items.series[0].values[:8])
    assert np.isnan(first[8:]).all()  # a window with a short history is padded at its end


def test_half_of_the_windows_are_the_mean_of_two() -> None:
    """Each mixed window is a convex combination of two normalised windows of equal length. Other
    windows are unchanged, and missing values stay missing."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=150).cumsum()
    values[70] = np.nan
    items = collection(values, 1e6 + rng.normal(size=50), np.full(30, 7.0))
    tokenizer = fitted(items, 8)
    data = Windows(items, tokenizer, 8, 3)
    index = np.arange(len(data))
    plain, history = data.rows(index)
    mixed = plain.copy()
    at, others, share = data._mix_windows(index, mixed, history, tokenizer)
    assert len(at) == len(others) == len(share)
    scales = tokenizer.scales(plain, history)
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = (plain - scales.location[:, None]) / scales.scale[:, None]
    changed = [i for i in index if not np.array_equal(mixed[i], plain[i], equal_nan=True)]
    possible = (scales.scale > 0) & (history == 8)
    assert all(scales.scale[i] > 0 for i in changed)
    assert 0.35 < np.isin(changed, index[possible]).sum() / possible.sum() < 0.6
    shares = []
    for i in changed:
        found = []
        for j in np.flatnonzero(history == history[i]):
            apart = normal[j] - normal[i]
            known = np.isfinite(apart)
            if not (np.isfinite(mixed[i]) == known).all() or not known.any() or j == i:
                continue
            share = (mixed[i] - normal[i])[known] @ apart[known] / (apart[known] @ apart[known])
            if np.allclose(mixed[i][known], (normal[i] + share * apart)[known], atol=1e-9):
                found.append(share)
        assert found or np.allclose(mixed[i], normal[i], equal_nan=True)  # or with itself
        shares += found[:1]
    assert -1e-9 < min(shares) < 0.1 and 0.9 < max(shares) < 1 + 1e-9


def test_windows_are_mixed_where_points_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of larger data sets are only perturbed, not mixed."""
    rng = np.random.default_rng(0)
    few = collection(rng.normal(size=200))
    many = collection(few.series[0].values, rng.normal(size=MIXED_POINTS))
    tokenizer = fitted(few, 8)

    def ids_of(items: Collection) -> np.ndarray:
        return Windows(items, tokenizer, 8, 3).batch(np.arange(100)).ids

    mixed, alone = ids_of(few), ids_of(many)
    monkeypatch.setattr(training_rows, "MIX_PROBABILITY", 0.0)
    plain = ids_of(few)
    np.testing.assert_array_equal(alone, plain)
    assert 0.3 < (mixed == plain).all(1).mean() < 0.7


def test_missing_values_and_padding_have_no_weight() -> None:
    values = np.random.default_rng(0).normal(size=60)
    values[30:40] = np.nan
    items = collection(values)
    batch = Windows(items, fitted(items, 8), 8).batch(np.arange(40))
    assert (batch.weight[batch.ids == MISSING_ID] == 0).all()
    counted = batch.weight.any(axis=1)  # not windows with a constant history
    assert 30 <= counted.sum() < len(counted)
    assert (batch.weight[counted][batch.ids[counted] >= FIRST_BIN_ID] > 0).all()


def test_held_out_windows_tile_what_is_held_out() -> None:
    values = np.random.default_rng(0).normal(size=60)
    task = SeriesTask(SeriesOptions(season=4, horizon=3, history=8))
    train, held = split(collection(values), 0.2)
    tokenizer = task.fit_tokenizer("bins:255", train)
    sequences = list(task.sequences(held, tokenizer))
    future = [v for s in reversed(sequences) for v in s.side["future"]]
    assert future == values[48:].tolist()
    assert [s.side["last"] for s in sequences] == [True, False, False, False]
    assert sequences[0].side["seasonal_error"] == pytest.approx(
        np.abs(values[4:57] - values[:53]).mean()
    )


# -- metrics -------------------------------------------------------------------------------------


def scores(paths: list[Values], actual: list[Values], error: Values) -> dict[str, float]:
    return sums(iter(zip(paths, actual, error.tolist(), strict=True))).scores()


def test_metrics_of_a_case_worked_by_hand() -> None:
    """History 1 3 2 6 at season 2: seasonal error (|2 - 1| + |6 - 3|) / 2 = 2. Two points 4, 10
    forecast as 5, 8: absolute errors 1, 2."""
    history = np.array([1.0, 3, 2, 6])
    error = np.array([seasonal_error(history, 2)])
    assert error[0] == 2
    found = scores([np.array([[5.0, 8.0]])], [np.array([4.0, 10.0])], error)
    assert found["mase"] == pytest.approx((1 + 2) / 2 / 2)
    assert found["mae"] == pytest.approx(1.5)
    assert found["mse"] == pytest.approx((1 + 4) / 2)
    assert found["crps"] == pytest.approx(1.5)  # of one path: the absolute error
    assert found["wql"] == pytest.approx(3 / 14)  # of a point forecast: sum |e| / sum |y|
    assert found["smape"] == pytest.approx(100 * (1 / 4.5 + 2 / 9) / 2)


def test_quantile_loss_and_crps_of_paths() -> None:
    paths = np.linspace(0, 1, 11)[:, None]  # its quantiles are 0.1 ... 0.9 exactly
    found = scores([paths], [np.array([0.25])], np.array([1.0]))
    loss = [2 * (q * (0.25 - q) if 0.25 > q else (1 - q) * (q - 0.25)) for q in QUANTILES]
    assert found["wql"] == pytest.approx(np.mean(loss) / 0.25)
    pairs = np.abs(paths - paths.T).mean()
    assert found["crps"] == pytest.approx(np.abs(paths - 0.25).mean() - pairs / 2)


def test_coverage_is_the_share_of_values_inside_the_central_interval() -> None:
    paths = np.linspace(0, 1, 101)[:, None]
    inside = {0.25: (50, 80, 90), 0.2499: (80, 90), 0.1: (80, 90), 0.06: (90,), 0.04: (), 1.5: ()}
    found = [scores([paths], [np.array([y])], np.ones(1)) for y in inside]
    for percents, each in zip(inside.values(), found, strict=True):
        assert [each[f"coverage_{p}"] for p in (50, 80, 90)] == [
            p in percents for p in (50, 80, 90)
        ]
    whole = scores([paths] * 6, [np.array([y]) for y in inside], np.ones(6))
    assert whole["coverage_80"] == pytest.approx(3 / 6)


def test_quantiles_of_sorted_paths_are_those_of_numpy() -> None:
    paths = np.random.default_rng(0).normal(size=(13, 5))
    wanted = (0.001, 0.1, 0.25, 0.5, 0.77, 0.999)
    np.testing.assert_allclose(
        of_sorted(np.sort(paths, axis=0), wanted), np.quantile(paths, wanted, axis=0)
    )


def test_missing_points_and_constant_histories_do_not_count() -> None:
    paths = [np.array([[1.0, 5.0]]), np.array([[2.0, 2.0]])]
    actual = [np.array([2.0, np.nan]), np.array([2.0, 4.0])]
    found = scores(paths, actual, np.array([0.5, 0.0]))
    assert found["mase"] == pytest.approx(1 / 0.5)
    assert found["mae"] == pytest.approx((1 + 0 + 2) / 3)


def test_seasonal_naive_looks_past_gaps() -> None:
    history = np.array([1.0, 2, 3, 4, np.nan, 6])
    np.testing.assert_array_equal(seasonal_naive(history, 3, 5), [4, 2, 6, 4, 2])
    np.testing.assert_array_equal(seasonal_naive(np.array([7.0]), 24, 2), [7, 7])


@needs_published
@pytest.mark.parametrize(
    "name, horizon, season, mase, wql",
    [("m4_hourly", 48, 24, 1.1932, 0.0483), ("exchange_rate", 30, 5, 1.7402, 0.01298)],
)
def test_seasonal_naive_equals_the_published_figures(
    name: str, horizon: int, season: int, mase: float, wql: float
) -> None:
    task = SeriesTask(SeriesOptions(season=season, horizon=horizon))
    if name == "m4_hourly":
        parts = [str(PUBLISHED / name / f"Hourly-{part}.csv") for part in ("train", "test")]
        train, held = (task.items(Source((part,))) for part in parts)
        assert len(train.series) == 414
        held = task.follow(train, held)
    else:
        _, held = task.split(task.items(Source((str(PUBLISHED / f"{name}.txt"),))), 0.001)
    paths = [seasonal_naive(s.values[:-horizon], season, horizon)[None] for s in held.series]
    actual = [s.values[-horizon:] for s in held.series]
    error = np.array([seasonal_error(s.values[:-horizon], season) for s in held.series])
    found = scores(paths, actual, error)
    assert found["mase"] == pytest.approx(mase, abs=5e-5)
    assert found["wql"] == pytest.approx(wql, abs=5e-5)


def test_floors_are_finite_and_named_by_metric() -> None:
    rng = np.random.default_rng(0)
    values = np.sin(np.arange(120) * np.pi / 2) + 0.1 * rng.normal(size=120)
    values[50] = np.nan
    train, held = split(collection(values), 0.1)
    tokenizer = SeriesTask(SeriesOptions(history=16)).fit_tokenizer("bins:16", train)
    windows = SeriesTask(SeriesOptions()).sequences(held, tokenizer)
    found = floors(train, forecast_cases(windows, None, tokenizer), held.season, 16)
    names = ("seasonal_naive", "naive", "drift", "ridge", *classical.names(held.season))
    metrics = (*METRICS, "mase_ratio", "wql_ratio")
    assert set(found) == {f"{name}_{metric}" for name in names for metric in metrics}
    assert all(np.isfinite(v) for v in found.values())


# -- forecasts -----------------------------------------------------------------------------------


def model_for(tokenizer: BinsTokenizer) -> SequenceModel:
    return small_model(vocab_size=tokenizer.vocab_size, context=12)


@pytest.mark.parametrize("value", [5.0, 0.0, -1e8])
def test_a_constant_series_is_forecast_as_itself(value: float) -> None:
    items = collection(np.random.default_rng(0).normal(size=60))
    tokenizer = fitted(items, 8)
    past = Window(np.full(8, value), 8)
    paths = forecast_values(model_for(tokenizer), tokenizer, [past], 7, 5)
    np.testing.assert_array_equal(paths, np.full((1, 5, 7), value))


def test_a_history_is_seen_in_several_ways() -> None:
    rng = np.random.default_rng(0)
    tokenizer = fitted(collection(rng.normal(size=60)), 8)
    model = model_for(tokenizer)
    pasts = [Window(rng.normal(size=8), 8, {"id": str(number)}) for number in range(2)]
    views = encode_views(tokenizer, pasts[1], HISTORY_VIEWS)
    assert len({tuple(view.ids) for view in views}) > HISTORY_VIEWS // 2
    for view in views:
        decoded = tokenizer.decode(view.ids, view.side).values
        np.testing.assert_allclose(decoded, pasts[1].values, atol=0.1)
    np.testing.assert_array_equal(
        encode_views(tokenizer, pasts[1], 1)[0].ids, tokenizer.encode(pasts[1]).ids
    )
    paths = forecast_values(model, tokenizer, pasts, 3, 25)
    assert paths.shape == (2, 25, 3)
    each = sample_paths(model, tokenizer, views, 3, 3)  # 25 paths of 10 views: 3 of the first 5
    np.testing.assert_allclose(paths[1], each.swapaxes(0, 1).reshape(30, 3)[:25], atol=1e-4)


def test_a_forecast_does_not_depend_on_its_company() -> None:
    rng = np.random.default_rng(0)
    tokenizer = fitted(collection(rng.normal(size=60)), 8)
    model = model_for(tokenizer)
    prompts = [
        tokenizer.encode(Window(rng.normal(size=size), size, {"id": str(number)}))
        for number, size in enumerate((8, 8, 5))
    ]
    together = sample_paths(model, tokenizer, prompts, 4, 6)
    assert together.shape == (3, 6, 4) and np.isfinite(together).all()
    for number, prompt in enumerate(prompts):
        alone = sample_paths(model, tokenizer, [prompt], 4, 6)[0]
        np.testing.assert_allclose(alone, together[number], rtol=1e-4, atol=1e-4)


def test_paths_follow_the_model_s_distribution() -> None:
    rng = np.random.default_rng(0)
    items = collection(rng.normal(size=60))
    windows = Windows(items, None, 8)
    values, known = windows.rows(np.arange(len(windows)))
    tokenizer = BinsTokenizer.fit("bins:uniform:5", values, known, 4, 8)
    model = model_for(tokenizer)
    prompt = tokenizer.encode(Window(rng.normal(size=8), 8))
    with torch.no_grad():
        p = model.logits(model(torch.from_numpy(prompt.ids)[None])[0, -1], FIRST_BIN_ID).softmax(-1)
    paths = sample_paths(model, tokenizer, [prompt], 1, 2000)[0, :, 0]
    drawn = np.concatenate((prompt.ids, [0]))
    counts = np.zeros(5)
    for value in paths:
        again = tokenizer.encode(
            Window(np.append(tokenizer.decode(prompt.ids, prompt.side).values, value), 8), prompt
        )
        counts[again.ids[len(drawn) - 1] - FIRST_BIN_ID] += 1
    np.testing.assert_allclose(counts / 2000, p.numpy(), atol=2e-3)


def test_protocols_and_their_floors() -> None:
    values = np.random.default_rng(0).normal(3, 2, 60)
    task = SeriesTask(SeriesOptions(season=4, horizon=3, history=8))
    train, held = split(collection(values), 0.2)
    tokenizer = task.fit_tokenizer("bins:255", train)
    sequences = list(task.sequences(held, tokenizer))
    model, plain = model_for(tokenizer), task.EvalOptions()
    last = task.model_metrics(model, tokenizer, sequences, None, plain)
    rolling = task.model_metrics(model, tokenizer, sequences, "rolling", plain)
    assert (last["protocol"], last["windows"]) == ("last", 1)
    assert (rolling["protocol"], rolling["windows"]) == ("rolling", 4)
    with pytest.raises(UsageError, match="last and rolling"):
        task.model_metrics(model, tokenizer, sequences, "middle", plain)

    every = task.slide(sequences, tokenizer, 1)
    strided = task.model_metrics(model, tokenizer, every, "rolling", plain)
    assert strided["windows"] == len(every) == 10
    starts = np.arange(48, 58)
    assert [s.side["first"] for s in every] == starts[::-1].tolist()
    z = (values - values[:48].mean()) / values[:48].std()
    errors = z[starts[:, None] + np.arange(3)] - z[starts[:, None] - 4 + np.arange(3)]
    found = task.window_floor(lambda: train, every, tokenizer, "rolling")
    assert found["seasonal_naive_mse"] == pytest.approx((errors**2).mean())
    assert found["seasonal_naive_mae"] == pytest.approx(np.abs(errors).mean())
    names = {"seasonal_naive", "naive", "drift", "ridge", *classical.names(4)}
    assert {name.removesuffix("_mae") for name in found if name.endswith("_mae")} == names
    unlearned = task.window_floor(lambda: None, sequences, tokenizer, None)
    learned = task.window_floor(lambda: train, sequences, tokenizer, None)
    assert unlearned is not None and learned is not None and set(unlearned) < set(learned)


# -- the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two daily series, their continuation, and a run `r` trained on them."""
    folder = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(0)
    a = np.sin(np.arange(134) * 2 * np.pi / 7) + 0.1 * rng.normal(size=134)
    b = 1e6 + a
    times = np.datetime64("2024-01-01") + np.arange(134)
    for name, part in (("train.csv", slice(0, 120)), ("test.csv", slice(120, 134))):
        rows = [
            f"{label},{t},{v}"
            for label, values in (("a", a), ("b", b))
            for t, v in zip(times[part], values[part], strict=True)
        ]
        (folder / name).write_text("id,date,value\n" + "\n".join(rows) + "\n")
    data = ("--data", "train.csv", "--test", "test.csv")
    done = Tfm(folder)(
        "train", "--task", "series", *data, *("--steps", 3, "--size", "nano", "--run", "r")
    )
    assert done.out == b"r\n"
    assert "baselines: mase seasonal_naive" in done.err
    return folder


def test_eval_has_the_metrics_of_forecasters(trained: Path) -> None:
    found = Tfm(trained)("eval", "r", "--json").json()
    for name in ("mase", "wql", "crps", "mse", "mae", "smape"):
        assert found[name] > 0
    assert found["unit"] == "point" and found["bits_per_point"] is None
    assert found["units"] == found["tokens"] == 28
    assert (found["split"], found["series"], found["protocol"]) == ("test", 2, "last")
    assert found["floor"]["seasonal_naive_mase"] > 0
    table = Tfm(trained)("eval", "r", "--protocol", "rolling").text
    assert "seasonal_naive" in table and "rolling" in table


def test_sample_goes_on_with_the_runs_own_series(trained: Path) -> None:
    done = Tfm(trained)("sample", "r", "--horizon", "20", "--paths", "10", "--plot", "fan.png")
    rows = list(csv.DictReader(io.StringIO(done.text)))
    assert list(rows[0]) == ["id", "time", "mean", *map(str, QUANTILES)]
    assert [r["id"] for r in rows] == ["a"] * 20 + ["b"] * 20
    assert rows[0]["time"] == "2024-05-14" and rows[19]["time"] == "2024-06-02"
    for row in rows:
        quantiles = [float(row[str(q)]) for q in QUANTILES]
        assert quantiles == sorted(quantiles) and np.isfinite(quantiles).all()
    assert 1e6 - 10 < float(rows[-1]["mean"]) < 1e6 + 10
    assert (trained / "fan.png").read_bytes()[:4] == b"\x89PNG"


def test_sample_of_other_data_from_a_file_and_a_pipe(trained: Path) -> None:
    data = "date,x\n" + "".join(f"2020-01-{n:02},{3.5}\n" for n in range(1, 29))
    (trained / "other.csv").write_text(data)
    one = Tfm(trained)("sample", "r", "-p", "other.csv", "--horizon", "3", "--paths", "4")
    two = Tfm(trained)("sample", "r", "--horizon", "3", "--paths", "4", stdin=data.encode())
    assert one.out == two.out
    rows = list(csv.DictReader(io.StringIO(one.text)))
    assert [r["time"] for r in rows] == ["2020-01-29", "2020-01-30", "2020-01-31"]
    assert all(float(r["mean"]) == float(r["0.9"]) == 3.5 for r in rows)
    as_json = Tfm(trained)(
        "sample", "r", "-p", "other.csv", "--horizon", "3", "--paths", "4", "--json"
    ).json()
    assert as_json["quantiles"]["0.5"] == [3.5] * 3


@pytest.mark.parametrize(
    "args, message",
    [
        (["sample", "r", "-p", "none.csv"], "-p none.csv: No such file"),
        (["sample", "r", "--paths", "0"], "--paths 0: must be at least 1"),
        (["sample", "r", "--plot", "x.bmp"], "must end in .png, .svg"),
        (["eval", "r", "--protocol", "middle"], "last and rolling"),
        (["train", "--task", "series", "--data", "bad.csv", "--steps", "1"], "row 3, column x"),
        (["train", "--task", "series", "--horizon", "0", "--steps", "1"], "--horizon 0"),
        (
            ["train", "--task", "series", "--data", "train.csv", "--context", "8", "--steps", "1"],
            "--history",
        ),
        (
            [
                *("train", "--task", "series", "--data", "train.csv", "--season", "7"),
                *("--tokenizer", "bpe", "--steps", "1"),
            ],
            "known: bins",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(
    trained: Path, args: list[str], message: str
) -> None:
    (trained / "bad.csv").write_text("date,x\n2024-01-01,1\n2024-01-02,inf\n")
    assert message in Tfm(trained).error(*args)
