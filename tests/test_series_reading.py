"""Series: the formats of tables, what is read from them, and the times of their points."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.data.source import Source
from tfm.core.errors import DataError, TfmError
from tfm.tasks._series import delimited, fast_table, fast_times, forms
from tfm.tasks._series import encoding as encodings
from tfm.tasks._series.arrow_columns import ArrowCells, ArrowColumn, encode
from tfm.tasks._series.clock import Clock
from tfm.tasks._series.collection import Series, at_frequency
from tfm.tasks._series.delimited import read_table
from tfm.tasks._series.encoding import Content, as_utf8
from tfm.tasks._series.frequency import find_season, season_and_horizon
from tfm.tasks._series.reader import parse, read
from tfm.tasks._series.reading import Columns
from tfm.tasks._series.transposed import is_heading
from tfm.tasks._series.zones import offset_minutes


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
        ("time,v\n2024-01-01,1\n2024-01-02,1\n-0,2\n", "row 4, column time: .*'-0' is no time"),
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


# -- large tables --------------------------------------------------------------------------------

FORMS = [
    ("%Y-%m-%d %H:%M:%S", "h"), ("%Y-%m-%dT%H:%M:%SZ", "h"), ("%Y-%m-%dT%H:%M:%S+02:00", "h"),
    ("%Y-%m-%d %H:%M:%S.%f", "250ms"), ("%d.%m.%Y %H:%M", "h"), ("%m/%d/%Y %H:%M", "h"),
    ("%d/%m/%y", "D"), ("%-m/%-d/%Y %-H:%M", "h"), ("%d-%b-%Y %H:%M", "h"), ("%Y-%m-%d", "D"),
    ("%Y%m%d%H%M", "min"), ("%Y%m%d", "D"), ("%s", "h"), ("%s000", "s"), ("count", ""),
    ("halves", ""), ("%I:%M %p", "min"), ("%Y-%m-%d %H:%M - %Y-%m-%d %H:%M", "h"),
]  # fmt: skip
ODD = [
    *("", " ", "NA", "NaN", "nan", "null", "?", "-", "--", ".", "1e5", "1e999", "inf", "-inf"),
    *("-0", "+5", "0x10", "1,5", '"1,5"', "1.234", "12.500", "1 000", "1,234.5", "abc", "\u00e9"),
    *('"a""b"', 'a"b', '"open', "1_0", "2024-02-30", "2024-01-01", "1.1.2024", "\u22125", "1."),
    *(".5", "  7  ", "\u00a07", "7\u2003", "#", "#5", "1\r", "a\nb", '"a\nb"', "\0", "\ufeff"),
    *("@data", "24:00", "2024-01-01 24:00:00", "1.2.5", "1/2/5", "20240101", "1" * 10, "9" * 13),
]  # fmt: skip
NUMBERS = [
    lambda at: f"{np.sin(at):.6f}", lambda at: f"{at * 7 % 1009 + 1}.{at % 997:03}",
    lambda at: str(at * at), lambda at: str(at % 5), lambda at: f"{at / 4:g}".replace(".", ","),
    lambda at: f"{at:,}", lambda at: ("NA", "", f"{at}.25")[at % 3], lambda at: f'"{at}.5"',
]  # fmt: skip


@st.composite
def odd_tables(draw: Any) -> bytes:
    """A table of a few hundred rows, with and without faults in a few of them."""
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    form, freq = rng.choice(FORMS)
    names, rows = rng.choice([0, 0, 1, 3, 40]), rng.choice([260, 500])
    each = rows // max(1, names)
    if form in ("count", "halves"):
        when = [f"{at if form == 'count' else at / 2}" for at in range(each)]
    else:
        when = times(each, form, freq, "2012-03-28")
    mark = rng.choice([",", ",", ",", ";", "\t", "|"])
    kinds = rng.sample(NUMBERS, rng.choice([1, 1, 2, 3]))
    table = [
        [*([f"s {name}"] if names else []), time, *(kind(at + 1000 * name) for kind in kinds)]
        for name in range(max(1, names))
        for at, time in enumerate(when)
    ]
    if rng.random() < 0.3:
        rng.shuffle(table)
    if rng.random() < 0.2:
        table = [[str(at), *row] for at, row in enumerate(table)]
    heading = ["id", rng.choice(["time", "date", "x", "index"]), "a", "b", "c"][not names :]
    heading = ["", *heading] if len(table[0]) > len(kinds) + 1 + bool(names) else heading
    lines = [heading[: len(table[0])], *table] if rng.random() < 0.9 else table
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        row = lines[rng.choice([1, rng.randrange(len(lines)), -1])]
        if row:
            row[rng.randrange(len(row))] = rng.choice(ODD)
    for _ in range(rng.choice([0, 0, 0, 1])):
        at = rng.randrange(len(lines))
        lines[at : at + 1] = rng.choice(
            [[], [[]], [lines[at]] * 2, [lines[at][:-1]], [[*lines[at], "1"]], [[""] * 3], [["#"]]]
        )
    end = rng.choice(["\n", "\n", "\n", "\r\n"])
    text = end.join(mark.join(row) for row in lines)
    text = rng.choice(["", "", "", "# about\n", "\n", "sep=,\n", "\ufeff"]) + text
    text += rng.choice(["", end, end, end * 3, " "])
    return text.encode(rng.choice(["utf-8"] * 6 + ["cp1252", "utf-16"]), "replace")


def outcome(data: bytes, columns: Columns) -> Any:
    try:
        found = parse(data, "x", columns)
    except TfmError as error:
        return str(error)
    return [(s.id, s.clock, s.values.tobytes()) for s in found.series], repr(found.readings)


@given(
    odd_tables(),
    st.sampled_from([{}, {}, {"resample": True}, {"decimal": "."}, {"dates": "day-first"},
                     {"skip_bad": True}, {"zone": "Europe/Berlin"}, {"target": "a"}]),
    st.sampled_from([1 << 13, 1 << 14, 1 << 20]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_large_table_is_read_or_refused_as_row_by_row(
    data: bytes, asked: dict[str, Any], block: int
) -> None:
    columns = Columns(**asked)
    plain = outcome(data, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "FAST_CHARACTERS", 0)
        patch.setattr(fast_table, "BLOCK", block)
        patch.setattr(fast_table, "BLOCK_ROWS", 0)
        assert outcome(data, columns) == plain


@pytest.mark.parametrize("form, freq", FORMS[:-2])
def test_large_tables_of_usual_forms_are_read_fast(
    form: str, freq: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither row by row, nor time by time."""
    counts = form in ("count", "halves")
    when = [str(at) for at in range(600)] if counts else times(600, form, freq, "2012-03-28")
    rows = "".join(f'"a",{t},{at % 9 / 8},{"NaN" if at == 500 else at / 8}\n'
                   for at, t in enumerate(when))  # fmt: skip
    data = f"id,time,x,y\n{rows}".encode()
    monkeypatch.setattr(delimited, "FAST_CHARACTERS", 0)
    monkeypatch.setattr(fast_table, "BLOCK", 1 << 14)
    monkeypatch.setattr(fast_table, "BLOCK_ROWS", 0)
    monkeypatch.setattr(delimited, "_plain_table", None)
    found = parse(data, "x", Columns(dates="day-first" if "/%y" in form else None))
    assert [(s.id, len(s)) for s in found.series] == [("a/x", 600), ("a/y", 600)]
    assert found.readings[0].marks == {"NaN"}
    table = read_table(Content(data), "x", is_heading)
    kinds = [(c._pair is not None, c._text is not None, c._numbers is not None)
             for c in table.columns if isinstance(c, ArrowColumn)]  # fmt: skip
    digits = when[0].replace(".", "").isdigit()
    coded, text, numbers = (True, False, False), (False, True, False), (False, False, True)
    assert kinds == [coded, numbers if digits else text, coded, numbers]


@pytest.mark.parametrize("form, freq", [pair for pair in FORMS if pair[0][:1] == "%"])
def test_many_times_are_parsed_as_each(form: str, freq: str) -> None:
    import pyarrow

    if form.startswith("%s") or " - " in form:
        return
    rng = random.Random(0)
    plain = form.replace("%-", "%").replace("+02:00", "%z")
    good = times(300, form, freq, "1995-01-28")
    for _ in range(200):
        cells = rng.sample(good, rng.choice([1, 2, 20]))
        if rng.random() < 0.7:  # one with a fault
            at, cell = rng.randrange(len(cells)), list(rng.choice(good))
            for _ in range(rng.choice([1, 1, 2])):
                where = rng.randrange(len(cell) + 1)
                cell[where : where + rng.choice([0, 1])] = rng.choice(["", *"0123459-/. :TtZz+aé"])
            cells[at] = "".join(cell)
        array = ArrowCells(pyarrow.chunked_array([cells[:1], cells[1:]], pyarrow.string()))
        try:
            wanted = forms.parse(cells, plain)
        except (ValueError, TypeError):
            continue
        found = fast_times.parse(array, plain)
        assert found.equals(wanted), (cells, wanted, found)
        assert wanted.hasnans or found.dtype == wanted.dtype
        offsets = fast_times.offsets(array)
        if offsets is not None:
            assert offsets.tolist() == [offset_minutes(cell) or 0 for cell in cells]


@given(st.lists(st.text("ab0\u00e9 ", max_size=3), max_size=30), st.booleans(), st.integers(1, 5))
def test_cells_are_encoded_by_their_first_rows(cells: list[str], order: bool, size: int) -> None:
    import pyarrow

    cells = sorted(cells) if order else cells
    chunks = [cells[at : at + size] for at in range(0, len(cells), size)]
    if not chunks:
        return
    codes, distinct = encode(pyarrow.chunked_array(chunks, pyarrow.string()))
    assert list(distinct) == list(dict.fromkeys(cells))
    assert [distinct[int(code)] for code in codes] == cells


@pytest.mark.parametrize(
    "data, encoding",
    [
        (b"\xef\xbb\xbft,x\n", "utf-8"),
        ("t,x\n1,\u00e9\n".encode(), "utf-8"),
        ("t,x\n1,\u00e9\n".encode("cp1252"), "cp1252"),
        ("t,x\n1,\u00e9\n".encode("utf-16"), "utf-16"),
    ],
)
def test_content_is_read_from_a_file_as_from_memory(
    data: bytes, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "BLOCK", 0)  # else small files are read into memory
    (tmp_path / "x").write_bytes(data)
    for content in (Content(data), Content.of(tmp_path / "x")):
        found, name = as_utf8(content, "x")
        assert name == encoding and found.text()[:3] == "t,x"
        assert b"".join(found.blocks(2)) == found.data() == found.head(99)
        assert all(block.endswith(b"\n") for block in found.blocks(2))
        assert found.size() == len(found.data())
    on_disk = Content.of(tmp_path / "x")
    (tmp_path / "x").write_bytes(data * 2)
    with pytest.raises(DataError, match="changed while it was read"):
        on_disk.text()


@pytest.mark.parametrize("resample", (False, True))
@pytest.mark.parametrize("cells", (("1e999", "1"), ("1", "1e999"), ("1e999", "-1e999")))
def test_a_time_that_is_infinite_is_refused(cells: tuple[str, ...], resample: bool) -> None:
    body = "".join(f"{cell},0\n" for cell in (*cells, *map(str, range(2, 40))))
    with pytest.raises(DataError, match="row .*, column time: -?1e999 is too large for a time"):
        parse(f"time,a\n{body}".encode(), "x", Columns(time="time", resample=resample))
