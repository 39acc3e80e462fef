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
from tfm.core.protocols import Sequence
from tfm.tasks._series import collection as series_collection
from tfm.tasks._series.baselines import floors, last_cases, seasonal_naive
from tfm.tasks._series.collection import MIXED_POINTS, Collection, Series, Windows, follow, split
from tfm.tasks._series.forecast import HISTORY_VIEWS, encode_views, forecast_values, sample_paths
from tfm.tasks._series.metrics import METRICS, QUANTILES, scores, seasonal_error
from tfm.tasks._series.output import digits_for
from tfm.tasks._series.prompts import at_frequency
from tfm.tasks._series.reader import parse, read
from tfm.tasks._series.table import Columns
from tfm.tasks._series.times import find_season, point_times, season_and_horizon
from tfm.tasks.series import SeriesOptions, SeriesTask
from tfm.tokenizers.bins import FIRST_BIN_ID, MISSING_ID, BinsTokenizer, Window

PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "data" / "timeseries"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published series are not beside this repository"
)


def collection(*values: list[float] | np.ndarray, season: int = 4, horizon: int = 3) -> Collection:
    series = tuple(Series(f"s{i}", np.array(v, np.float64)) for i, v in enumerate(values))
    return Collection(series, (0,) * len(series), season, horizon, "test", "test")


def text(data: str, **asked: object) -> list[Series]:
    return parse(data.encode(), "x.csv", Columns(**asked))  # type: ignore[arg-type]


# -- formats -------------------------------------------------------------------------------------


def test_wide_with_times() -> None:
    a, b = text("date,a,b\n2024-01-01,1,4\n2024-01-02,,5\n2024-01-03,3,6\n")
    assert (a.id, a.start, a.freq) == ("a", "2024-01-01T00:00:00", "D")
    np.testing.assert_array_equal(a.values, [1, np.nan, 3])
    np.testing.assert_array_equal(b.values, [4, 5, 6])


def test_wide_without_header_or_time() -> None:
    one, two = text("1.5,2\n2.5,3\n3.5,4\n")
    np.testing.assert_array_equal(one.values, [1.5, 2.5, 3.5])
    assert one.start is None and two.id == "column 2"


def test_one_column_and_other_marks() -> None:
    np.testing.assert_array_equal(text("value\n1\n2\n3\n")[0].values, [1, 2, 3])
    np.testing.assert_array_equal(text("1\n2\n3\n")[0].values, [1, 2, 3])
    assert [s.id for s in text("time;x;y\n2020;1;2\n2021;3;4\n2022;5;6\n")] == ["x", "y"]
    assert text("time\tx\n202001\t1\n202002\t3\n202003\t5\n")[0].freq == "MS"
    assert text("time;x\n2020;1,5\n2021;2\n2022;2,5\n")[0].values.tolist() == [1.5, 2, 2.5]
    assert [s.id for s in text(",x\n0,3\n1,4\n2,5\n")] == ["x"]
    (noted,) = text("date,x,note\n2024-01-01,1,a\n2024-01-02,2,b\n2024-01-03,3,c\n")
    assert (noted.id, len(noted)) == ("x", 3)


def test_long() -> None:
    a, b = text(
        "unique_id,ds,y\nA,2024-01-01,1\nA,2024-01-02,2\nA,2024-01-03,3\n"
        "B,2024-02-01,7\nB,2024-02-02,8\nB,2024-02-03,9\n"
    )
    assert (a.id, b.id, b.start) == ("A", "B", "2024-02-01T00:00:00")
    np.testing.assert_array_equal(b.values, [7, 8, 9])


def test_long_with_columns_named() -> None:
    found = text(
        "when,what,shop,other\n2024-01-01,1,x,q\n2024-01-02,2,x,q\n2024-01-03,3,x,r\n",
        time="when",
        id="shop",
        target="what",
    )
    assert [(s.id, s.values.tolist()) for s in found] == [("x", [1, 2, 3])]


def test_one_series_a_row() -> None:
    a, b = text('"V1","V2","V3","V4"\n"H1","1","2","3"\n"H2","4","5",""\n')
    assert (a.id, a.values.tolist()) == ("H1", [1, 2, 3])
    assert (b.id, b.values.tolist()) == ("H2", [4, 5])


TSF = """# a comment
@relation x
@attribute series_name string
@attribute start_timestamp date
@frequency half_hourly
@missing true
@data
T1:2020-01-01 00-30-00:1,2,?,4
T2:2020-02-01 00-00-00:5,6
"""


def test_tsf() -> None:
    a, b = text(TSF)
    assert (a.id, a.start, a.freq) == ("T1", "2020-01-01T00:30:00", "half_hourly")
    np.testing.assert_array_equal(a.values, [1, 2, np.nan, 4])
    assert point_times(a.start, a.freq, 4, 1) == ["2020-01-01T02:30:00"]
    assert b.values.tolist() == [5, 6]
    assert season_and_horizon(a.freq) == (48, 48)


def test_parquet_and_gz(tmp_path: Path) -> None:
    import gzip

    import pandas as pd

    frame = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=5, freq="h"), "y": range(5)})
    frame.to_parquet(tmp_path / "x.parquet")
    (one,) = read(Source((str(tmp_path / "x.parquet"),)), Columns())
    assert (one.id, one.freq, one.values.tolist()) == ("y", "h", [0, 1, 2, 3, 4])
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    (two,) = read(Source((str(tmp_path / "x.csv.gz"),)), Columns())
    assert two.start == one.start and two.values.tolist() == one.values.tolist()


def times(
    count: int, form: str = "%Y-%m-%d", freq: str = "D", start: str = "2024-01-01"
) -> list[str]:
    import pandas as pd

    return [str(t) for t in pd.date_range(start, periods=count, freq=freq).strftime(form)]


def test_a_column_of_words_beside_times_is_no_id() -> None:
    """An unnamed text column is an id column only if times repeat and it distinguishes them."""
    week = ["Mon", "Tue", "Wed", "Thu", "Fri"]
    rows = "\n".join(
        f"{t},{word},{i}" for i, (t, word) in enumerate(zip(times(30), 6 * week, strict=True))
    )
    (one,) = text(f"date,dow,sales\n{rows}\n")
    assert (one.id, len(one)) == ("sales", 30)
    once_more = rows.replace("2024-01-15", "2024-01-14")
    with pytest.raises(DataError, match="appears twice"):
        text(f"date,dow,sales\n{once_more}\n")
    assert len(text(f"date,dow,sales\n{once_more}\n", resample=True)) == 1
    both = "\n".join(f"{t},{shop},{i}" for shop in "ab" for i, t in enumerate(times(5)))
    assert [(s.id, len(s)) for s in text(f"date,shop,sales\n{both}\n")] == [("a", 5), ("b", 5)]


def test_a_year_and_a_month_are_one_time() -> None:
    months = "Jan Feb March April May June July Aug Sep October Nov Dec Jan".split()
    rows = [f"{1949 + i // 12},{name},{i}" for i, name in enumerate(months)]
    (one,) = text("year,month,passengers\n" + "\n".join(rows))
    assert (one.id, one.start, one.freq, len(one)) == (
        "passengers",
        "1949-01-01T00:00:00",
        "MS",
        13,
    )
    (two,) = text("x,month,year,day\n1,12,2023,30\n2,12,2023,31\n3,1,2024,1\n")
    assert (two.id, two.start, two.freq) == ("x", "2023-12-30T00:00:00", "D")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_thousands_are_not_taken_for_fractions(mark: str) -> None:
    assert text(f"1{mark}0,125\n2{mark}1,250\n")[1].values.tolist() == [0.125, 1.25]
    with pytest.raises(DataError, match="row 2, column x: '1,002' is not a number; 1002 or 1.002?"):
        text(f"t{mark}x\n1{mark}1,002\n2{mark}993\n3{mark}1,004\n")
    with pytest.raises(DataError, match="'1,002' is not a number"):
        text('t,y,x\n1,5,"1,002"\n2,6,993\n')


def test_decimal_commas_without_a_heading() -> None:
    rows = "\n".join(f"{t};{i},5" for i, t in enumerate(times(4)))
    (one,) = text(rows)
    assert one.start == "2024-01-01T00:00:00" and one.values.tolist() == [0.5, 1.5, 2.5, 3.5]


@pytest.mark.parametrize(
    "counts", [range(1, 6), range(0, 25, 5), (0.0, 0.1, 0.2, 0.3, 0.4), range(1000, 1005)]
)
def test_times_that_only_count(counts: range) -> None:
    rows = "".join(f"{name},{at},{at}\n" for name in "ab" for at in counts)
    found = text(f"unique_id,ds,y\n{rows}")
    assert [(s.id, s.start, len(s)) for s in found] == [("a", None, 5), ("b", None, 5)]
    assert text("year,y\n1990,1\n1991,2\n1992,3\n")[0].start == "1990-01-01T00:00:00"


@pytest.mark.parametrize(
    "form, freq, start, count",
    [
        ("%d.%m.%Y", "D", "2015-01-05", 8),
        ("%d/%m/%Y", "D", "2015-01-05", 20),
        ("%m/%d/%Y", "D", "2015-01-05", 20),
        ("%d/%m/%Y", "MS", "2015-01-01", 24),
        ("%m/%d/%Y", "MS", "2015-01-01", 24),
        ("%d-%m-%Y %H:%M", "h", "2015-02-01", 500),
    ],
)
def test_the_day_or_the_month_first(form: str, freq: str, start: str, count: int) -> None:
    (one,) = text("t,x\n" + "".join(f"{t},1\n" for t in times(count, form, freq, start)))
    assert (one.start, one.freq, len(one)) == (f"{start}T00:00:00", freq, count)


def test_a_day_that_may_be_a_month_is_refused() -> None:
    rows = "".join(f"{t},1\n" for t in times(8, "%m/%d/%Y", "MS", "2015-05-01"))
    with pytest.raises(DataError, match="may have the day first or the month .05/01/2015."):
        text(f"t,x\n{rows}")


@pytest.mark.parametrize(
    "start, freq, second",
    [
        ("1996-03-18T00:00:00", "weekly", "1996-03-25"),
        ("1979-01-31T00:00:00", "monthly", "1979-02-28"),
        ("1979-01-15T00:00:00", "monthly", "1979-02-15"),
        ("1975-12-31T00:00:00", "yearly", "1976-12-31"),
        ("1975-11-15T00:00:00", "quarterly", "1976-02-15"),
        ("2020-01-01T00:15:00", "15_minutes", "2020-01-01T00:30:00"),
        ("2020-01-01T00:00:00", "monthly", "2020-02-01"),
    ],
)
def test_times_go_on_from_where_a_series_begins(start: str, freq: str, second: str) -> None:
    assert point_times(start, freq, 1, 1) == [second]
    assert point_times(start, freq, 0, 3)[1] == second


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
    forecasts = task.draw(
        model, tokenizer, None, windows, SampleConfig(length=0), task.SampleOptions()
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


def test_one_or_two_points_are_at_the_frequency_of_the_run() -> None:
    own = [Sequence(np.zeros(1, np.int64), 1, None, {"freq": "MS"})]
    (two,) = text("t,x\n2024-01-01,1\n2024-02-01,2\n")
    assert two.freq == "31D" and at_frequency(two, own).freq == "MS"
    (other,) = text("t,x\n2024-01-01,1\n2024-01-02,2\n")
    assert at_frequency(other, own).freq == "D", "which is not the run's"
    (one,) = text("t,x\n2024-01-01,1\n")
    assert one.freq is None and at_frequency(one, own).freq == "MS"


def test_the_season_is_that_of_most_series() -> None:
    rows = "".join(
        f"{name},{t},1\n" for name, n in (("new", 1), ("a", 9), ("b", 9)) for t in times(n)
    )
    task = SeriesTask(SeriesOptions())
    items = task._collect(text(f"id,t,y\n{rows}"), "x")
    assert (items.season, items.horizon) == season_and_horizon("D")


def test_month_ends_stay_month_ends() -> None:
    ends = times(9, freq="ME")
    rows = "".join(f"{t},{i}\n" for i, t in enumerate(ends) if i != 4)
    (one,) = text(f"t,x\n{rows}", resample=True)
    assert (one.freq, one.start, len(one)) == ("ME", f"{ends[0]}T00:00:00", 9)


@pytest.mark.parametrize(
    "data, message",
    [
        ("date,x\n2024-01-01,1\n2024-01-02,inf\n", "row 3, column x: infinite"),
        ("date,x\n2024-01-01,1\n2024-01-02,-Infinity\n", "row 3, column x: infinite"),
        ("date,x\n2024-01-01,1\n2024-01-02,1\n2024-01-03,abc\n", "is not a number|no column with"),
        ("", "empty"),
        ("date,x\n2024-01-01,\n2024-01-02,\n", "no (series|value|column)"),
        ("id,time,v\na,2024-01-01,1\na,xx,2\n", "not readable as times"),
        (TSF.replace("T2:2020-02-01 00-00-00:", "T2:"), "line 9 has 1 attributes"),
        (TSF.replace("5,6", "5,inf"), "row 9, column value 2: infinite"),
    ],
)
def test_what_cannot_be_read_is_named(data: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        text(data)


# -- times ---------------------------------------------------------------------------------------


def days(*numbers: int) -> str:
    return "date,x\n" + "".join(f"2024-01-{n:02},{n}\n" for n in numbers)


@pytest.mark.parametrize(
    "data, message",
    [
        (days(1, 2, 3, 5, 6), r"2024-01-05 00:00:00 \(row 5\) is 2 days"),
        (days(1, 2, 2, 3), r"2024-01-02 00:00:00 \(row 4\) appears twice"),
        (days(1, 3, 2, 4), r"2024-01-02 00:00:00 \(row 4\) goes back in time"),
        # the start of daylight saving time
        (
            "time,x\n2024-03-31T00:00,1\n2024-03-31T01:00,2\n2024-03-31T03:00,3\n"
            "2024-03-31T04:00,4\n",
            r"2024-03-31 03:00:00 \(row 4\)",
        ),
    ],
)
def test_irregular_times_are_named(data: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        text(data)
    assert "--resample" in str(caught.value)


def test_resample_sorts_averages_and_leaves_gaps() -> None:
    (one,) = text(days(3, 1, 2, 2, 5), resample=True)
    np.testing.assert_array_equal(one.values, [1, 2, 3, np.nan, 5])
    assert one.freq == "D"


def test_times_go_on_at_their_frequency() -> None:
    assert point_times("2024-01-31", "ME", 1, 2) == ["2024-02-29", "2024-03-31"]
    assert point_times("2024-01-05", "B", 0, 2) == ["2024-01-05", "2024-01-08"]
    assert point_times("2024-01-01T22:00:00", "h", 2, 1) == ["2024-01-02T00:00:00"]
    assert point_times(None, None, 7, 2) == ["7", "8"]


def test_seasons_are_found() -> None:
    rng = np.random.default_rng(0)
    daily = np.sin(np.arange(500) * 2 * np.pi / 24) + 0.1 * rng.normal(size=500)
    assert find_season([daily]) == 24
    assert find_season([rng.normal(size=500).cumsum()]) == 1
    found = [season_and_horizon(freq) for freq in ("h", "W-SAT", "15min")]
    assert found == [(24, 48), (52, 52), (96, 48)]


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
    mixed = data._mix_windows(index, plain.copy(), history, tokenizer)
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
    monkeypatch.setattr(series_collection, "MIX_PROBABILITY", 0.0)
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
    found = floors(train, last_cases(held), held.season, 16)
    assert set(found) == {
        f"{m}_{k}" for m in ("seasonal_naive", "theta", "ets", "ridge") for k in METRICS
    }
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
    model = model_for(tokenizer)
    last = task.model_metrics(model, tokenizer, sequences, None)
    rolling = task.model_metrics(model, tokenizer, sequences, "rolling")
    assert (last["protocol"], last["windows"]) == ("last", 1)
    assert (rolling["protocol"], rolling["windows"]) == ("rolling", 4)
    with pytest.raises(UsageError, match="last and rolling"):
        task.model_metrics(model, tokenizer, sequences, "middle")

    every = task.slide(sequences, tokenizer, 1)
    assert task.model_metrics(model, tokenizer, every, "rolling")["windows"] == len(every) == 10
    starts = np.arange(48, 58)
    assert [s.side["first"] for s in every] == starts[::-1].tolist()
    z = (values - values[:48].mean()) / values[:48].std()
    errors = z[starts[:, None] + np.arange(3)] - z[starts[:, None] - 4 + np.arange(3)]
    found = task.window_floor(lambda: train, every, tokenizer, "rolling")
    assert found["seasonal_naive_mse"] == pytest.approx((errors**2).mean())
    assert found["seasonal_naive_mae"] == pytest.approx(np.abs(errors).mean())
    assert {name.rpartition("_")[0] for name in found} == {"seasonal_naive", "theta", "ridge"}
    unlearned = task.window_floor(lambda: None, sequences, tokenizer, None)
    assert set(unlearned) < set(task.floor(train, held))


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
    assert "seasonal_naive_mase" in done.err
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
