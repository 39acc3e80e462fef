"""Series: the formats of tables, what is read from them, and the times of their points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfm.core.data.source import Source
from tfm.core.errors import DataError
from tfm.tasks._series.clock import Clock
from tfm.tasks._series.collection import Series
from tfm.tasks._series.frequency import find_season, season_and_horizon
from tfm.tasks._series.prompts import at_frequency
from tfm.tasks._series.reader import parse, read
from tfm.tasks._series.reading import Columns


def text(data: str, **asked: object) -> list[Series]:
    return parse(data.encode(), "x.csv", Columns(**asked)).series  # type: ignore[arg-type]


def clock_times(start: str | None, freq: str | None, first: int, count: int) -> list[str]:
    return Clock(start, freq).times(first, count)


# -- formats -------------------------------------------------------------------------------------


def test_wide_with_times() -> None:
    a, b = text("date,a,b\n2024-01-01,1,4\n2024-01-02,,5\n2024-01-03,3,6\n")
    assert (a.id, a.clock.start, a.clock.freq) == ("a", "2024-01-01T00:00:00", "D")
    np.testing.assert_array_equal(a.values, [1, np.nan, 3])
    np.testing.assert_array_equal(b.values, [4, 5, 6])


def test_wide_without_header_or_time() -> None:
    one, two = text("1.5,2\n2.5,3\n3.5,4\n")
    np.testing.assert_array_equal(one.values, [1.5, 2.5, 3.5])
    assert one.clock.start is None and two.id == "column 2"


def test_one_column_and_other_marks() -> None:
    np.testing.assert_array_equal(text("value\n1\n2\n3\n")[0].values, [1, 2, 3])
    np.testing.assert_array_equal(text("1\n2\n3\n")[0].values, [1, 2, 3])
    assert [s.id for s in text("time;x;y\n2020;1;2\n2021;3;4\n2022;5;6\n")] == ["x", "y"]
    assert text("time\tx\n202001\t1\n202002\t3\n202003\t5\n")[0].clock.freq == "MS"
    assert text("time;x\n2020;1,5\n2021;2\n2022;2,5\n")[0].values.tolist() == [1.5, 2, 2.5]
    assert [s.id for s in text(",x\n0,3\n1,4\n2,5\n")] == ["x"]
    (noted,) = text("date,x,note\n2024-01-01,1,a\n2024-01-02,2,b\n2024-01-03,3,c\n")
    assert (noted.id, len(noted)) == ("x", 3)


def test_long() -> None:
    a, b = text(
        "unique_id,ds,y\nA,2024-01-01,1\nA,2024-01-02,2\nA,2024-01-03,3\n"
        "B,2024-02-01,7\nB,2024-02-02,8\nB,2024-02-03,9\n"
    )
    assert (a.id, b.id, b.clock.start) == ("A", "B", "2024-02-01T00:00:00")
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
    assert (a.id, a.clock.start, a.clock.freq) == ("T1", "2020-01-01T00:30:00", "30min")
    np.testing.assert_array_equal(a.values, [1, 2, np.nan, 4])
    assert clock_times(a.clock.start, a.clock.freq, 4, 1) == ["2020-01-01T02:30:00"]
    assert b.values.tolist() == [5, 6]
    assert season_and_horizon(a.clock.freq) == (48, 48)


def test_parquet_and_gz(tmp_path: Path) -> None:
    import gzip

    import pandas as pd

    frame = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=5, freq="h"), "y": range(5)})
    frame.to_parquet(tmp_path / "x.parquet")
    (one,) = read(Source((str(tmp_path / "x.parquet"),)), Columns()).series
    assert (one.id, one.clock.freq, one.values.tolist()) == ("y", "h", [0, 1, 2, 3, 4])
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    (two,) = read(Source((str(tmp_path / "x.csv.gz"),)), Columns()).series
    assert two.clock.start == one.clock.start and two.values.tolist() == one.values.tolist()


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
    with pytest.raises(DataError, match="--id dow if .* several series, or --target sales"):
        text(f"date,dow,sales\n{once_more}\n", resample=True)
    assert len(text(f"date,dow,sales\n{once_more}\n", resample=True, target="sales")) == 1
    both = "\n".join(f"{t},{shop},{i}" for shop in "ab" for i, t in enumerate(times(5)))
    assert [(s.id, len(s)) for s in text(f"date,shop,sales\n{both}\n")] == [("a", 5), ("b", 5)]


def test_a_year_and_a_month_are_one_time() -> None:
    months = "Jan Feb March April May June July Aug Sep October Nov Dec Jan".split()
    rows = [f"{1949 + i // 12},{name},{i}" for i, name in enumerate(months)]
    (one,) = text("year,month,passengers\n" + "\n".join(rows))
    assert (one.id, one.clock.start, one.clock.freq, len(one)) == (
        "passengers",
        "1949-01-01T00:00:00",
        "MS",
        13,
    )
    (two,) = text("x,month,year,day\n1,12,2023,30\n2,12,2023,31\n3,1,2024,1\n")
    assert (two.id, two.clock.start, two.clock.freq) == ("x", "2023-12-30T00:00:00", "D")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_thousands_are_not_taken_for_fractions(mark: str) -> None:
    assert text(f"1{mark}0,125\n2{mark}1,250\n")[1].values.tolist() == [0.125, 1.25]
    with pytest.raises(DataError, match="row 2, column x: '1,002' is 1002 or 1.002; use --decimal"):
        text(f"t{mark}x\n1{mark}1,002\n2{mark}993\n3{mark}1,004\n")
    with pytest.raises(DataError, match="'1,002' is 1002 or 1.002"):
        text('t,y,x\n1,5,"1,002"\n2,6,993\n')


def test_decimal_commas_without_a_heading() -> None:
    rows = "\n".join(f"{t};{i},5" for i, t in enumerate(times(4)))
    (one,) = text(rows)
    assert one.clock.start == "2024-01-01T00:00:00" and one.values.tolist() == [0.5, 1.5, 2.5, 3.5]


@pytest.mark.parametrize(
    "counts", [range(1, 6), range(0, 25, 5), (0.0, 0.1, 0.2, 0.3, 0.4), range(1000, 1005)]
)
def test_times_that_only_count(counts: range) -> None:
    rows = "".join(f"{name},{at},{at}\n" for name in "ab" for at in counts)
    found = text(f"unique_id,ds,y\n{rows}")
    assert [(s.id, s.clock.form, len(s)) for s in found] == [("a", "count", 5), ("b", "count", 5)]
    step = counts[1] - counts[0]
    assert [float(t) for t in found[0].clock.times(5, 2)] == pytest.approx(
        [counts[4] + step, counts[4] + 2 * step], rel=1e-12
    )
    assert text("year,y\n1990,1\n1991,2\n1992,3\n")[0].clock.start == "1990-01-01T00:00:00"


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
    assert (one.clock.start, one.clock.freq, len(one)) == (f"{start}T00:00:00", freq, count)


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
    assert clock_times(start, freq, 1, 1) == [second]
    assert clock_times(start, freq, 0, 3)[1] == second


def test_one_or_two_points_are_at_the_frequency_of_the_run() -> None:
    own = Clock("2020-01-01", "MS")
    (two,) = text("t,x\n2024-01-01,1\n2024-02-01,2\n")
    assert two.clock.freq == "31D" and at_frequency(two, own).clock.freq == "MS"
    (other,) = text("t,x\n2024-01-01,1\n2024-01-02,2\n")
    assert at_frequency(other, own).clock.freq == "D", "which is not the run's"
    (one,) = text("t,x\n2024-01-01,1\n")
    assert one.clock.freq is None and at_frequency(one, own).clock.freq == "MS"


def test_month_ends_stay_month_ends() -> None:
    ends = times(9, freq="ME")
    rows = "".join(f"{t},{i}\n" for i, t in enumerate(ends) if i != 4)
    (one,) = text(f"t,x\n{rows}", resample=True)
    assert (one.clock.freq, one.clock.start, len(one)) == ("ME", f"{ends[0]}T00:00:00", 9)


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
    assert one.clock.freq == "D"


def test_times_go_on_at_their_frequency() -> None:
    assert clock_times("2024-01-31", "ME", 1, 2) == ["2024-02-29", "2024-03-31"]
    assert clock_times("2024-01-05", "B", 0, 2) == ["2024-01-05", "2024-01-08"]
    assert clock_times("2024-01-01T22:00:00", "h", 2, 1) == ["2024-01-02T00:00:00"]
    assert clock_times(None, None, 7, 2) == ["7", "8"]


def test_seasons_are_found() -> None:
    rng = np.random.default_rng(0)
    daily = np.sin(np.arange(500) * 2 * np.pi / 24) + 0.1 * rng.normal(size=500)
    assert find_season([daily]) == 24
    assert find_season([rng.normal(size=500).cumsum()]) == 1
    found = [season_and_horizon(freq) for freq in ("h", "W-SAT", "15min")]
    assert found == [(24, 48), (52, 52), (96, 48)]
