"""Series: kinds of tables that people have, each with what is read from it or the error it gives,
and that the advice of an error can be followed."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Tfm

from tfm.core.data.source import Source
from tfm.core.errors import DataError, TfmError
from tfm.tasks._series.metrics import seasonal_error
from tfm.tasks._series.reader import Read, parse, read
from tfm.tasks._series.reading import Columns, lines
from tfm.tasks._series.training_rows import Windows
from tfm.tasks.series import SeriesOptions, SeriesTask

FAULTS = Path(__file__).parent.parent.parent / "shared" / "faults" / "make.py"


def table(heading: str, rows: Any, delimiter: str = ",") -> str:
    body = "".join(delimiter.join(map(str, row)) + "\n" for row in rows)
    return f"{heading}\n{body}"


def dates(count: int, freq: str = "D", form: str = "%Y-%m-%d", **more: Any) -> list[str]:
    start = more.pop("start", "2024-01-01")
    return list(pd.date_range(start, periods=count, freq=freq, **more).strftime(form))


def dated(count: int, freq: str = "D", form: str = "%Y-%m-%d", **more: Any) -> str:
    """A table of t and y = 0, 1, 2 ..."""
    return table("t,y", zip(dates(count, freq, form, **more), range(count), strict=True))


def said(found: Read) -> str:
    return "\n".join(lines(found.readings))


# name, data, flags, ids, the next two times of the first series, a word of what is said
OFFSET = "%Y-%m-%dT%H:%M:%S%z"
PANEL = [(s, d, t, 9 * s + k) for s in (1, 2) for d in (1, 2) for k, t in enumerate(dates(5))]
NEW_YORK = {"tz": "America/New_York"}
READ: list[tuple[str, str | bytes, dict[str, Any], list[str], list[str], str]] = [
    # encodings
    ("utf-8 with a mark", b"\xef\xbb\xbft,\xc3\xa9\n2024-01-01,1\n2024-01-02,2\n", {}, ["é"],
     ["2024-01-03", "2024-01-04"], ""),
    ("utf-16", dated(5).encode("utf-16"), {}, ["y"], ["2024-01-06", "2024-01-07"], "utf-16"),
    ("utf-16 without a mark", dated(5).encode("utf-16-le"), {}, ["y"],
     ["2024-01-06", "2024-01-07"], "utf-16-le"),
    ("cp1252", dated(5).replace("y", "caf\xe9").encode("cp1252"), {}, ["café"],
     ["2024-01-06", "2024-01-07"], "read as cp1252"),
    ("latin-1", dated(5).replace("y", "\x81").encode("latin-1"), {}, ["\x81"],
     ["2024-01-06", "2024-01-07"], "read as latin-1"),
    # cells
    ("a comment before the heading", "# from a logger\n" + dated(4), {}, ["y"],
     ["2024-01-05", "2024-01-06"], "1 lines before the heading"),
    ("ids that begin with #", table("id,t,y", [(i, t, 1) for i in ("#1", "#2") for t in dates(4)]),
     {}, ["#1", "#2"], ["2024-01-05", "2024-01-06"], ""),
    ("decimal commas", "t;y\n2024-01-01;1,5\n2024-01-02;2,25\n", {}, ["y"],
     ["2024-01-03", "2024-01-04"], "semicolons"),
    ("decimal commas in quotes", 't,y\n2024-01-01,"1,5"\n2024-01-02,"2,25"\n', {}, ["y"],
     ["2024-01-03", "2024-01-04"], ""),
    ("thousands in German", "t;y\n01.02.2024;1.234,5\n02.02.2024;2.000\n03.02.2024;3,25\n", {},
     ["y"], ["04.02.2024", "05.02.2024"], ""),
    ("marks of missing values", "t,y\n2024-01-01,.\n2024-01-02,#N/A\n2024-01-03,-\n2024-01-04,5\n",
     {}, ["y"], ["2024-01-05", "2024-01-06"], "'#N/A', '-', '.'"),
    ("a short row", "t,a,b\n2024-01-01,1,2\n2024-01-02,3\n2024-01-03,5,6\n", {}, ["a", "b"],
     ["2024-01-04", "2024-01-05"], "first: row 3"),
    ("words beside values", table("t,y,note", [(t, 1, "fine") for t in dates(4)]), {}, ["y"],
     ["2024-01-05", "2024-01-06"], "note (words)"),
    ("numbers in few rows", table("t,y,z", [(t, 1, k if k % 2 else "low")
                                            for k, t in enumerate(dates(10))]), {}, ["y"],
     ["2024-01-11", "2024-01-12"], "z (no number in 50% of its rows)"),
    ("a calendar column", table("t,month,dow,y", [(t, int(t[5:7]), k % 7, k)
                                                  for k, t in enumerate(dates(50))]), {}, ["y"],
     ["2024-02-20", "2024-02-21"], "month, dow (a part of the time)"),
    # headings
    ("years as a heading", "land,1960,1961,1962\nPeru,1,2,3\nChad,4,5,6\n", {}, ["Peru", "Chad"],
     ["1963", "1964"], "the heading (1960 to 1962)"),
    ("dates as a heading", "sku,2024-01-31,2024-02-29,2024-03-31\na,1,2,3\n", {}, ["a"],
     ["2024-04-30", "2024-05-31"], "a series a row"),
    ("province, country, position, days",
     "Province/State,Country/Region,Lat,Long,1/22/20,1/23/20,1/24/20\n,Peru,3.9,6.7,0,0,1\n"
     "Hubei,China,3,11,444,444,549\nBeijing,China,4,11,14,22,36\n", {},
     ["Peru", "Hubei/China", "Beijing/China"], ["1/25/20", "1/26/20"], "Lat, Long"),
    ("an empty last column of a heading",
     '"Name","Code","1960","1961","1962",\n"A","B","1","2","",\n', {}, ["A"],
     ["1963", "1964"], "Code"),
    ("row numbers from 100", table(",t,y", [(100 + k, t, k) for k, t in enumerate(dates(4))]), {},
     ["y"], ["2024-01-05", "2024-01-06"], "(unnamed) (row numbers)"),
    ("dates in an unnamed column", dated(4).replace("t,", ","), {}, ["y"],
     ["2024-01-05", "2024-01-06"], ""),
    ("ids that number rows", table("id,t,y", [(k, t, 1) for k, t in enumerate(dates(9))]), {},
     ["y"], ["2024-01-10", "2024-01-11"], "a different one in each row"),
    # ids
    ("ids as they are", table("id,t,y", [(i, t, 1) for i in ("007", "-5", '"a\nb"')
                                         for t in dates(4)]), {}, ["007", "-5", "a\nb"],
     ["2024-01-05", "2024-01-06"], ""),
    ("two id columns", table("Store,Dept,t,y", PANEL), {"id": "Store,Dept"},
     ["1/1", "1/2", "2/1", "2/2"], ["2024-01-06", "2024-01-07"], "ids in Store, Dept"),
    ("two id columns of words", table("land,what,year,value", [
        (c, v, y, y) for c in ("Peru", "Chad") for v in ("gdp", "pop") for y in range(2000, 2006)
    ]), {}, ["Peru/gdp", "Peru/pop", "Chad/gdp", "Chad/pop"], ["2006", "2007"], "land, what"),
    # times
    ("an offset", dated(5, "h", OFFSET, tz="Etc/GMT-2"), {}, ["y"],
     ["2024-01-01T05:00:00+0200", "2024-01-01T06:00:00+0200"], "zone +02:00"),
    ("days over a change of clocks", dated(60, "D", OFFSET, start="2024-03-01", tz="Europe/Berlin"),
     {}, ["y"], ["2024-04-30T00:00:00+0200", "2024-05-01T00:00:00+0200"], "Europe/Berlin"),
    ("hours over a change of clocks", dated(100, "h", OFFSET, start="2024-11-02", **NEW_YORK),
     {}, ["y"], ["2024-11-06T03:00:00-0500", "2024-11-06T04:00:00-0500"], "America/New_York"),
    ("local hours with a zone", dated(100, "h", "%Y-%m-%d %H:%M", start="2024-11-02", **NEW_YORK),
     {"zone": "America/New_York"}, ["y"], ["2024-11-06 03:00", "2024-11-06 04:00"], "--zone"),
    ("a quarter of a second", dated(8, "250ms", "%Y-%m-%d %H:%M:%S.%f"), {}, ["y"],
     ["2024-01-01 00:00:02.000000", "2024-01-01 00:00:02.250000"], ""),
    ("counts", table("t,y", [(k, 1) for k in range(100, 120)]), {}, ["y"], ["120", "121"], ""),
    ("counts of halves", table("t,y", [(k / 2, 1) for k in range(20)]), {}, ["y"],
     ["10.0", "10.5"], ""),
    ("seconds since 1970", table("t,y", [(1704067200 + 60 * k, 1) for k in range(5)]), {}, ["y"],
     ["1704067500", "1704067560"], "min (from the times)"),
    ("milliseconds since 1970", table("t,y", [(1704067200000 + k, 1) for k in range(5)]), {},
     ["y"], ["1704067200005", "1704067200006"], ""),
    ("microseconds since 1970", table("t,y", [(1704067200000000 + k, 1) for k in range(5)]), {},
     ["y"], ["1704067200000005", "1704067200000006"], ""),
    ("nanoseconds since 1970", table("t,y", [(1704067200000000000 + k, 1) for k in range(5)]), {},
     ["y"], ["1704067200000000005", "1704067200000000006"], ""),
    ("days of a spreadsheet", table("date,y", [(45292 + k, 1) for k in range(5)]), {}, ["y"],
     ["45297", "45298"], ""),
    ("months of a spreadsheet", table("t,y", [(d, 1) for d in (45292, 45323, 45352, 45383)]), {},
     ["y"], ["45413", "45444"], ""),
    ("months with an M", dated(14, "MS", "%Y-M%m"), {}, ["y"], ["2025-M03", "2025-M04"], ""),
    ("quarters", table("t,y", [(f"{2019 + k // 4}Q{k % 4 + 1}", 1) for k in range(6)]), {}, ["y"],
     ["2020Q3", "2020Q4"], ""),
    ("quarters first", table("t,y", [(f"Q{k % 4 + 1} {2019 + k // 4}", 1) for k in range(6)]), {},
     ["y"], ["Q3 2020", "Q4 2020"], ""),
    ("weeks", table("t,y", [(f"2019-W{k:02}", 1) for k in range(1, 9)]), {}, ["y"],
     ["2019-W09", "2019-W10"], ""),
    ("months and years of two digits", dated(14, "MS", "%b-%y", start="2015-01-01"), {}, ["y"],
     ["Mar-16", "Apr-16"], ""),
    ("years", table("year,y", [(2015 + k, 1) for k in range(5)]), {}, ["y"], ["2020", "2021"], ""),
    ("names of months", dated(4, "MS", "%B %Y"), {}, ["y"], ["May 2024", "June 2024"], ""),
    ("half days, written apart", "t,y\n2024-01-01,1\n2024-01-01 12:00,2\n2024-01-02,3\n", {},
     ["y"], ["2024-01-02 12:00", "2024-01-03 00:00"], ""),
    ("months from the 15th", table("t,y", [(f"2024-{m:02}-15", 1) for m in range(1, 9)]), {},
     ["y"], ["2024-09-15", "2024-10-15"], ""),
    ("months from the 30th", "t,y\n2024-01-30,1\n2024-02-29,2\n2024-03-30,3\n2024-04-30,4\n", {},
     ["y"], ["2024-05-30", "2024-06-30"], ""),
    ("mornings and afternoons", dated(40, "h", "%m/%d/%Y %I:%M %p"), {}, ["y"],
     ["01/02/2024 04:00 PM", "01/02/2024 05:00 PM"], ""),
    ("date and time of day", table("Date,Time,y", [(f"{t[:10]}", t[11:], 1) for t in
                                                   dates(6, "15min", "%Y-%m-%d %H:%M")]), {}, ["y"],
     ["2024-01-01 01:30", "2024-01-01 01:45"], "Date, Time"),
    ("year, month, day, hour", table("year,month,day,hour,pm", [
        (2024, 1, 1 + k // 24, k % 24, k) for k in range(30)]), {}, ["pm"],
     ["2024-01-02 06:00", "2024-01-02 07:00"], "year, month, day, hour"),
    ("year and week", table("year,week,y", [(2019, k, 1) for k in range(1, 9)]), {}, ["y"],
     ["2019-W09", "2019-W10"], ""),
    ("times of day alone", table("time,y", [(f"00:{15 * k:02}", k) for k in range(4)]), {}, ["y"],
     ["4", "5"], "times of day without a date"),
    ("days first by flag", table("t,y", [(f"{m:02}/01/2024", 1) for m in range(1, 9)]),
     {"dates": "day-first"}, ["y"], ["09/01/2024", "10/01/2024"], ""),
    # resampling
    ("28 days", table("t,y", [(t, 1) for k, t in enumerate(dates(8, "28D")) if k != 3]),
     {"resample": True}, ["y"], ["2024-08-12", "2024-09-09"], "missing: 1"),
    ("quarters that end in January",
     table("t,y", [(t, 1) for k, t in enumerate(dates(8, "QE-JAN")) if k != 3]),
     {"resample": True}, ["y"], ["2026-01-31", "2026-04-30"], "missing: 1"),
    ("days at 17:34", table("t,y", [(t, 1) for k, t in enumerate(
        dates(8, "D", "%Y-%m-%d %H:%M", start="2024-01-01 17:34")) if k != 3]),
     {"resample": True}, ["y"], ["2024-01-09 17:34", "2024-01-10 17:34"], "missing: 1"),
    ("months from the 15th with a gap",
     table("t,y", [(f"2024-{m:02}-15", 1) for m in range(1, 9) if m != 3]),
     {"resample": True}, ["y"], ["2024-09-15", "2024-10-15"], "missing: 1"),
    # thousands and decimals of other columns
    ("thousands beside decimal commas", "t;n;y\n1.1.2024;1.000;0,5\n2.1.2024;1.001;1,5\n", {},
     ["n", "y"], ["3.1.2024", "4.1.2024"], "semicolons"),
    ("thousands beside decimal points", 't,n,y\n2024-01-01,"1,000",0.5\n2024-01-02,"1,010",1.5\n',
     {}, ["n", "y"], ["2024-01-03", "2024-01-04"], ""),
    # more headings
    ("a heading of the World Bank", "What,Code,Land,2000 [YR2000],2001 [YR2001],2002 [YR2002]\n"
     "GDP,N,Peru,1,2,..\nGDP,N,Chad,1,2,4\n", {}, ["Peru", "Chad"], ["2003", "2004"], "'..'"),
    ("a heading of R", "land,X1960,X1961,X1962\nPeru,1,2,3\n", {}, ["Peru"], ["1963", "1964"], ""),
    ("a column after the years", "land,2019,2020,2021,Total\nPeru,1,2,3,6\n", {}, ["Peru"],
     ["2022", "2023"], "Total (after the times of the heading)"),
    ("years that descend", "land,2021,2020,2019\nPeru,3,2,1\n", {}, ["Peru"], ["2022", "2023"],
     "reversed"),
    ("empty rows at the end", "t;y\n2024-01-01;1\n2024-01-02;2\n;\n;\n", {}, ["y"],
     ["2024-01-03", "2024-01-04"], "2 rows without any cell"),
    ("an index of floats", table(",t,y", [(float(k), t, k) for k, t in enumerate(dates(4))]), {},
     ["y"], ["2024-01-05", "2024-01-06"], "row numbers"),
    ("row names without a heading", '"t" "y"\n"1" "2024-01-01" 1\n"2" "2024-01-02" 2\n', {}, ["y"],
     ["2024-01-03", "2024-01-04"], "row numbers"),
    ("lines that end as on old Macintoshs", "# c\rt,y\r2024-01-01,1\r2024-01-02,2\r", {}, ["y"],
     ["2024-01-03", "2024-01-04"], ""),
    ("a column name with a comma", 't,"Load, MW",z\n2024-01-01,1,2\n2024-01-02,2,3\n',
     {"target": "Load, MW"}, ["Load, MW"], ["2024-01-03", "2024-01-04"], "z (not a --target)"),
    ("columns of one name", table("t,n,n,y", [(t, n, n, 1) for n in "ab" for t in dates(4)]), {},
     ["a", "b"], ["2024-01-05", "2024-01-06"], "n (words)"),
    ("four id columns", table("t,a,b,c,d,y", [
        (t, a, b, c, d, 1) for a in "p" for b in "rs" for c in "tu" for d in "vw" for t in dates(4)
    ]), {}, ["r/t/v", "r/t/w", "r/u/v", "r/u/w", "s/t/v", "s/t/w", "s/u/v", "s/u/w"],
     ["2024-01-05", "2024-01-06"], "ids in b, c, d"),
    # more times
    ("times with points", table("Date;Time;y", [
        (t[:10], t[11:], "2,6") for t in dates(30, "h", "%d/%m/%Y %H.%M.%S", start="2004-03-10")
    ], ";"), {}, ["y"], ["11/03/2004 06.00.00", "11/03/2004 07.00.00"], "Date, Time"),
    ("intervals", table("MTU,y", [(f"{t} - {u}", 1) for t, u in zip(
        dates(5, "h", "%d.%m.%Y %H:%M"), dates(6, "h", "%d.%m.%Y %H:%M")[1:], strict=True)]), {},
     ["y"], ["01.01.2024 05:00", "01.01.2024 06:00"], "MTU has intervals"),
    ("a web server's log", dated(4, "h", "%d/%b/%Y:%H:%M:%S +0000"), {}, ["y"],
     ["01/Jan/2024:04:00:00 +0000", "01/Jan/2024:05:00:00 +0000"], "UTC"),
    ("days of a spreadsheet with commas", "Datum;y\n45292,0416666667;1\n45292,0833333333;2\n"
     "45292,125;3\n", {}, ["y"], ["45292.166666667", "45292.208333333"], ""),
    ("digits of hours", table("MESS_DATUM;y", [(t, 1) for t in dates(30, "h", "%Y%m%d%H")], ";"),
     {}, ["y"], ["2024010206", "2024010207"], ""),
    ("seconds since 1970 with a zone", table("t,y", [(1704067200 + 3600 * k, 1) for k in range(5)]),
     {"zone": "Europe/Berlin"}, ["y"], ["1704085200", "1704088800"], "--zone"),
    ("a date and an hour", table("day,hr,y", [(t[:10], int(t[11:]), 1) for t in
                                              dates(30, "h", "%Y-%m-%d %H")]), {}, ["y"],
     ["2024-01-02 6", "2024-01-02 7"], "day, hr"),
    ("no-break spaces", dated(40, "h", "%m/%d/%Y\u00a0%I:%M\u202f%p"), {}, ["y"],
     ["01/02/2024 04:00 PM", "01/02/2024 05:00 PM"], ""),
    ("a column of one time", table("LAST UPDATE,TIME_PERIOD,y", [
        ("2024-05-01T00:00:00", f"2020-{m:02}", m) for m in range(1, 9)]), {}, ["y"],
     ["2020-09", "2020-10"], "LAST UPDATE (other times)"),
    ("an unknown form of times", table("t,y", [(f"{t} CEST", 1) for t in dates(4)]), {}, ["y"],
     ["4", "5"], "no column of times was found"),
    ("ids without times", table("store_id,item_id,p", [(s, i, 1.5) for s in ("CA", "TX")
                                                       for i in ("h1", "h2") for _ in range(9)]),
     {}, ["h1/CA", "h2/CA", "h1/TX", "h2/TX"], ["9", "10"], "item_id, store_id"),
    ("working days with holidays", table("t,y", [(t, 1) for k, t in enumerate(dates(60, "B"))
                                                 if k not in (10, 30)]), {"resample": True}, ["y"],
     ["2024-03-25", "2024-03-26"], "missing: 2"),
    ("the newest first", table("t,y", [(t, 1) for t in reversed(dates(9))]), {"resample": True},
     ["y"], ["2024-01-10", "2024-01-11"], ""),
    ("counts with a gap", table("t,y", [(k, 1) for k in range(30) if k != 5]), {"resample": True},
     ["y"], ["30", "31"], "missing: 1"),
    ("a logger that is not exact", table("t,y", [(f"{t}.{7 * k * k % 97 + 1:03}", 1) for k, t in
                                                 enumerate(dates(60, "min", "%Y-%m-%d %H:%M:%S"))]),
     {"resample": True}, ["y"], ["2024-01-01 01:00:00.000", "2024-01-01 01:01:00.000"], ""),
    ("ends of business months with a gap", table("t,y", [
        (t, 1) for k, t in enumerate(dates(20, "BME")) if k != 5]), {"resample": True}, ["y"],
     ["2025-09-30", "2025-10-31"], "missing: 1"),
]  # fmt: skip


@pytest.mark.parametrize("name, data, flags, ids, following, word", READ, ids=[r[0] for r in READ])
def test_a_table_is_read(
    name: str, data: str | bytes, flags: dict[str, Any], ids: list[str], following: list[str],
    word: str,
) -> None:  # fmt: skip
    content = data.encode() if isinstance(data, str) else data
    found = parse(content, "x.csv", Columns(**flags))
    assert [one.id for one in found.series] == ids
    first = found.series[0]
    assert first.clock.times(len(first), 2) == following
    assert word in said(found) or word in f"{first.clock.freq} (from the times)"


def test_numbers_are_read_as_they_are_meant() -> None:
    cases = {
        't,y\na,"1,500"\nb,"12,225,100"\nc,3.5\n': [1500, 12225100, 3.5],
        "t;y\na;1.234,5\nb;2.000\nc;3,25\n": [1234.5, 2000, 3.25],
        "t;y\na;1 234,5\nb;2\u00a0000\nc;3\n": [1234.5, 2000, 3],
        "t;y\na;1e3\nb;-2.5E-1\nc;.5\n": [1000, -0.25, 0.5],
    }
    for data, values in cases.items():
        data = data.replace("a", "2024-01-01").replace("b", "2024-01-02").replace("c", "2024-01-03")
        assert parse(data.encode(), "x", Columns()).series[0].values.tolist() == values


# name, data, flags, a pattern of the error
REFUSED: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    ("more cells than the heading", "t,y\n2024-01-01,1\n2024-01-02,2,9\n", {}, "row 3 has 3 cells"),
    ("decimal commas without quotes", "date,value\n2024-01-01,50,125\n2024-01-02,50,25\n", {},
     "commas are decimal, separate cells by ;"),
    ("a quote without its end", 't,y\n2024-01-01,"1\n2024-01-02,2\n', {}, "row 2: a quote without"),
    ("an endless cell", b't,y\n2024-01-01,"' + b"x" * 2_000_000 + b'"\n', {},
     "row 2: a quote without its end"),
    ("a comment among the rows", dated(3) + "#2024-01-04,1\n", {}, "row 5.*'#2024-01-04'"),
    ("a sum below the rows", dated(5) + "Total,10\n", {}, "row 7.*'Total' is no time"),
    ("a word among numbers", dated(9).replace(",4", ",oops"), {}, "row 6, column y: 'oops'"),
    ("bytes that are no text", b"\x00\x01\x02\xff" * 50, {}, "not text"),
    ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), {}, "not text"),
    ("UTF-16 cut in half", dated(5).encode("utf-16")[:-1], {}, "damaged utf-16"),
    ("a year of a typing error", dated(50).replace("2024-01-04", "2924-01-04"), {},
     "2924-01-04 00:00:00 .row 5. is later"),
    ("the same, resampled", dated(50).replace("2024-01-04", "2924-01-04"), {"resample": True},
     "2924-01-04 00:00:00 .row 5. is 328,672 steps"),
    ("months below years", "month,2019,2020,2021\nJan,1,2,3\nFeb,3,4,5\n", {}, "both are times"),
    ("days below years", "day,2019,2020,2021\n2024-01-01,1,2,3\n2024-01-02,4,5,6\n", {},
     "both are times"),
    ("a column that is not there", dated(5), {"target": "z"}, "no column 'z'"),
    ("two columns of one name", table("t,a,a", [(t, 1, 2) for t in dates(3)]), {},
     "series a appears twice"),
    ("a zone that is none", dated(5), {"zone": "Mars"}, "--zone Mars"),
    ("a zone of counts", table("t,y", [(k, 1) for k in range(9)]), {"zone": "UTC"},
     "--zone: there are no times"),
    ("an hour that the zone lacks", dated(9, "h", "%Y-%m-%d %H:%M", start="2024-03-10"),
     {"zone": "America/New_York"}, "row 4: 2024-03-10 02:00:00 is no time of the zone"),
    ("offsets in some rows", "t,y\n2024-01-01T00:00,1\n2024-01-01T01:00+02:00,2\n", {},
     "some have none|another form"),
    ("a row without an id", table("id,t,y", [("a", t, 1) for t in dates(3)]) + ",2024-01-01,1\n",
     {}, "row 5 has no id"),
    ("a row without a time", dated(4).replace("2024-01-03", ""), {}, "row 4 has no readable time"),
    ("times of day named as times", "time,y\n00:00,1\n00:15,2\n", {"time": "time"},
     "times of day without dates"),
    ("thousands or decimals, dotted", "t;y\n2024-01-01;950\n2024-01-02;1.000\n", {},
     "'1.000' is 1000 or 1; use --decimal"),
    ("stores written as floats", table("t,store,y", [(t, f"{s}.0", s) for s in (1, 2)
                                                     for t in dates(9)]), {"resample": True},
     "--id store"),
    ("years with a gap", "land,2010,2015,2016,2017\nPeru,1,2,3,4\n", {}, "2015-01-01 .*--resample"),
    ("the newest first", table("t,y", [(t, 1) for t in reversed(dates(9))]), {}, "newest row"),
    ("counts with a gap", table("t,y", [(k, 1) for k in range(30) if k != 5]), {},
     "row 7: 6 is not 1 after the row before"),
    ("a title above the heading", "Sales\n\nt,store,y\n2024-01-01,a,1\n", {}, "delete them"),
    ("prices in dollars", 't,y\n2024-01-01,"$1,200.50"\n2024-01-02,$3\n', {},
     r"'\$1,200.50' is no number"),
    ("ids that are equal when joined", table("a,b,t,y", [
        (a, b, t, 1) for a, b in (("x/y", "z"), ("x", "y/z")) for t in dates(4)]),
     {"id": "a,b"}, "equal when joined"),
    ("two points of a panel with a gap", table("id,t,y", [("a", t, 1) for t in dates(9, "MS")])
     + "b,2024-01-01,1\nb,2024-03-01,1\n", {}, "series b: 2024-03-01 .*2024-02-01 .*expected"),
    ("a workbook", b"PK\x03\x04....", {}, "Excel workbook"),
    ("JSON", b'[{"a": 1}]', {}, "JSON; write"),
    ("two columns of one time", table("t,t,y", [(t, t, 1) for t in dates(4)]), {}, "rename one"),
    ("no values at all", "t,y\n2024-01-01,\n2024-01-02,\n", {}, "no usable series"),
]  # fmt: skip


@pytest.mark.parametrize("name, data, flags, message", REFUSED, ids=[r[0] for r in REFUSED])
def test_a_table_is_refused(
    name: str, data: str | bytes, flags: dict[str, Any], message: str
) -> None:
    content = data.encode() if isinstance(data, str) else data
    with pytest.raises(TfmError, match=message) as caught:
        parse(content, "x.csv", Columns(**flags))
    assert "\n" not in str(caught.value)


# tables whose error names flags: with any of these the same table is read
ADVISED: list[tuple[str, str]] = [
    ("an id column", table("Store,t,y", [(s, t, 1) for s in (1, 2) for t in dates(9)])),
    ("two id columns", table("Store,Dept,t,y", PANEL)),
    ("an id with a blank", table("shop no,t,y", [(s, t, 1) for s in (1, 2) for t in dates(9)])),
    ("two columns of times", table("order,ship,y", [(t, t, k) for k, t in enumerate(dates(9))])),
    ("the day or the month", table("t,y", [(f"{m:02}/01/2024", 1) for m in range(1, 9)])),
    ("thousands or decimals", 't,y\n2024-01-01,"1,002"\n2024-01-02,993\n'),
    ("a gap", dated(9).replace("2024-01-05,4\n", "")),
    ("a time twice", dated(30).replace("2024-01-05", "2024-01-04")),
    ("a word among numbers", table("t,y,z", [(t, "x" if k == 5 else k, k)
                                             for k, t in enumerate(dates(20))])),
    ("an hour that is missing in spring",
     dated(60, "h", "%Y-%m-%d %H:%M", start="2024-03-09", **NEW_YORK)),
    ("an hour that comes twice in autumn",
     dated(60, "h", "%Y-%m-%d %H:%M", start="2024-11-02", **NEW_YORK)),
]  # fmt: skip
FLAG = re.compile(r"--(id|time|dates|decimal) ('[^']+'|\S+)|--(resample|zone|target)")


@pytest.mark.parametrize("name, data", ADVISED, ids=[name for name, _ in ADVISED])
def test_the_advice_of_an_error_can_be_followed(name: str, data: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(data.encode(), "x.csv", Columns())
    advised = FLAG.findall(str(caught.value))
    assert advised
    for flag, value, bare in advised:
        values = {"resample": True, "zone": "America/New_York", "target": "z"}
        asked = {bare: values[bare]} if bare else {flag: value.strip("';")}
        assert parse(data.encode(), "x.csv", Columns(**asked)).series, asked


def test_bad_series_are_skipped_and_named() -> None:
    rows = [("a", t, k) for k, t in enumerate(dates(9))] + [("b", "2024-01-01", 1)] * 2
    data = table("id,t,y", rows).encode()
    with pytest.raises(DataError, match="series b: 2024-01-01 00:00:00 .row 12. appears twice"):
        parse(data, "x.csv", Columns())
    found = parse(data, "x.csv", Columns(skip_bad=True))
    assert [one.id for one in found.series] == ["a"]
    assert "not used: b: 2024-01-01 00:00:00 (row 12) appears twice" in said(found)
    few = table("id,t,y", [("a", t, 1) for t in dates(9)] + [("b", t, 1) for t in dates(3)])
    found = parse(few.encode(), "x.csv", Columns(min_points=4))
    assert [one.id for one in found.series] == ["a"] and "--min-points 4" in said(found)


# -- the files that went wrong -------------------------------------------------------------------


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not FAULTS.exists():
        pytest.skip("the files that went wrong are not beside this repository")
    folder = tmp_path_factory.mktemp("faults")
    subprocess.run([sys.executable, FAULTS, folder], check=True, capture_output=True)
    return folder


Check = Callable[[Read], bool]
RIGHT: dict[str, Check] = {
    "s-zone.csv": lambda r: r.series[0].clock.times(60, 1) == ["2024-04-30T00:00:00+02:00"],
    "s-multiindex.parquet": lambda r: (
        [s.id for s in r.series] == ["A", "B"]
        and r.series[1].clock.times(60, 1) == ["2024-03-01"]
    ),
    "s-halfdays.csv": lambda r: (
        r.series[0].clock.times(96, 3)
        == ["2024-02-18 00:00", "2024-02-18 12:00", "2024-02-19 00:00"]
    ),
    "s-quarter-second.csv": lambda r: (
        r.series[0].clock.freq == "250ms" and len(set(r.series[0].clock.times(96, 4))) == 4
    ),
    "s-count.csv": lambda r: r.series[0].clock.times(120, 2) == ["121", "122"],
    "s-short.csv": lambda r: all(
        s.clock.times(len(s), 2) == ["2024-01-01", "2024-02-01"] for s in r.series
    ),
    "s-hash-ids.csv": lambda r: [s.id for s in r.series] == ["#1", "#2", "A3"],
    "s-years-wide.csv": lambda r: (
        [(s.id, len(s), s.clock.times(0, 1), s.clock.times(49, 1)) for s in r.series]
        == [("Peru", 50, ["1960"], ["2009"]), ("Chad", 50, ["1960"], ["2009"])]
    ),
    "s-row-numbers.csv": lambda r: (
        [(s.id, s.clock.freq) for s in r.series] == [("A", "D"), ("B", "D")]
        and "row numbers" in said(r)
    ),
    "s-dots.csv": lambda r: len(r.series) == 2 and "'.'" in said(r),
    "s-year-months.csv": lambda r: (
        r.series[0].clock.freq == "MS" and r.series[0].clock.times(72, 1) == ["2021-M01"]
    ),
    "s-dead.csv": lambda r: (
        [s.id for s in r.series] == ["ok"] and said(r).count("dead: no value") == 1
    ),
    "s-dollar.csv": lambda r: [s.id for s in r.series] == ["US$/EUR$", r"cost $\foo$"],
    "s-monash-latin.tsf": lambda r: (
        [(len(s), s.clock.freq) for s in r.series] == [(60 + k, "MS") for k in range(4)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_that_went_wrong_is_read(faults: Path, name: str) -> None:
    assert RIGHT[name](parse((faults / name).read_bytes(), name, Columns()))


def test_files_that_went_wrong_are_refused_with_advice(faults: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(DataError) as caught:
            parse((faults / name).read_bytes(), name, Columns())
        return str(caught.value)

    stores = message("s-stores.csv")
    assert stores.endswith("--id Store")
    found = parse((faults / "s-stores.csv").read_bytes(), "x", Columns(id="Store")).series
    assert [(s.id, s.values.max()) for s in found] == [("1", 106), ("2", 206)]
    comma = message("s-decimal-comma-unquoted.csv")
    assert "row 2 has 3 cells, the heading has 2" in comma and "commas are decimal" in comma


def test_files_of_one_name_have_ids_that_differ(faults: Path) -> None:
    found = read(Source((str(faults / "a/data.csv"), str(faults / "b/data.csv"))), Columns())
    assert [one.id for one in found.series] == ["a/data/y", "b/data/y"]


def test_files_that_went_wrong_at_the_command_line(faults: Path, tmp_path: Path) -> None:
    tfm = Tfm(tmp_path)
    train = ("train", "--task", "series", "--steps", 1, "--size", "nano", "--horizon", 6)
    done = tfm(*train, "--data", faults / "s-dead.csv", "--history", 24, "--run", "dead", "--json")
    assert done.err.count("dead: no value in it") == 1
    assert done.json()["data"]["files"][0]["dropped"] == [
        {"series": "dead", "reason": "no value in it"}
    ]
    ends = (faults / "s-ends-missing.csv").read_bytes()
    tfm("sample", "dead", "--horizon", 3, "--out", "o.csv", stdin=ends)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text())))
    assert [row["time"] for row in rows] == ["2025-01-01", "2025-02-01", "2025-03-01"]
    text = tfm("sample", "dead", "-p", faults / "s-dollar.csv", "--plot", "p.png").text
    assert {row["id"] for row in csv.DictReader(io.StringIO(text))} == {"US$/EUR$", r"cost $\foo$"}
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_no_baseline_of_a_constant_is_above_the_seasonal_naive(faults: Path) -> None:
    task = SeriesTask(SeriesOptions(history=24, horizon=6))
    items = task.items(Source((str(faults / "s-constant.csv"),)))
    train, held = task.split(items, 0.1)
    tokenizer = task.fit_tokenizer("bins:16", train)
    floor = task.window_floor(lambda: train, task.sequences(held, tokenizer), tokenizer, None)
    assert floor is not None
    theta = next(name for name in floor if name.endswith("theta_mae"))
    assert floor[theta] == floor["seasonal_naive_mae"] == 0
    fitted = {k: v for k, v in floor.items() if not k.startswith(("naive_", "drift_"))}
    for name, value in fitted.items():
        assert value <= floor.get("seasonal_naive_" + name.rpartition("_")[2], value) + 1e-9


# -- several frequencies -------------------------------------------------------------------------


def frequencies(folder: Path) -> str:
    """Hourly, daily and monthly series in one table, each with a wave of its own season."""
    draw = np.random.default_rng(0)
    kinds = (("h", "2024-01-01T00", 24, 300), ("D", "2022-01-01", 7, 200), ("M", "2010-01", 12, 96))
    rows = ["id,time,value"]
    for freq, start, season, count in kinds:
        for number in range(2):
            wave = 10 * np.sin(2 * np.pi * np.arange(count) / season + number)
            values = 50 + wave + draw.normal(0, 0.1, count)
            times = np.datetime64(start) + np.arange(count)
            rows += [f"{freq}{number},{t},{v:.4f}" for t, v in zip(times, values, strict=True)]
    (folder / "all.csv").write_text("\n".join(rows) + "\n")
    return "all.csv"


def test_each_series_has_the_season_of_its_frequency(tmp_path: Path) -> None:
    task = SeriesTask(SeriesOptions(horizon=12, history=60))
    items = task.items(Source((str(tmp_path / frequencies(tmp_path)),)))
    seasons = {one.id: one.season for one in items.series}
    assert seasons == {"h0": 24, "h1": 24, "D0": 7, "D1": 7, "M0": 12, "M1": 12}
    said = task.describe(items)
    assert said is not None and "seasons 7, 12, 24 (each from its frequency)" in said.lines[-1]
    train, held = task.split(items, 0.1)
    tokenizer = task.fit_tokenizer("bins:256", train)
    data = task.dataset(train, tokenizer, 72, None, 0, tmp_path)
    assert isinstance(data, Windows)
    lags: dict[str, set[int]] = {}
    indices = np.arange(len(data))
    values, history = data.rows(indices)
    found = tokenizer.scales(values, history, data.seasons_of(indices))
    for number, lag in zip(data._series_of(indices), found.lag, strict=True):
        lags.setdefault(train.series[number].id, set()).add(int(lag))
    for name, each in lags.items():
        assert each <= {0, seasons[name]} and seasons[name] in each, "differences to its season"
    windows = {w.side["id"]: w for w in task.sequences(held, tokenizer) if w.side["last"]}
    for one in held.series:
        before = one.values[: windows[one.id].side["first"]]
        error = seasonal_error(before, seasons[one.id])
        assert windows[one.id].side["seasonal_error"] == pytest.approx(error)
    floor = task.window_floor(lambda: train, windows.values(), tokenizer, None, quick=True)
    assert floor["seasonal_naive_mase"] < 2 < floor["naive_mase"], "in units of its own season"


def test_a_season_that_is_named_is_that_of_all(tmp_path: Path) -> None:
    task = SeriesTask(SeriesOptions(season=12, horizon=12, history=60))
    items = task.items(Source((str(tmp_path / frequencies(tmp_path)),)))
    assert items.season == 12 and not any(one.season for one in items.series)


def test_forecasts_of_several_frequencies(tfm: Tfm) -> None:
    flags = ("--horizon", 12, "--history", 60, "--size", "nano", "--steps", 3, "-q")
    tfm("train", "--task", "series", "--data", frequencies(tfm.folder), *flags, "--run", "r")
    rows = list(csv.DictReader(io.StringIO(tfm("sample", "r", "--paths", 10).text)))
    last = {row["id"]: row["time"] for row in rows}
    assert len(rows) == 6 * 12
    assert (last["h0"][:10], last["D0"][:10], last["M0"][:7]) == (
        "2024-01-13",
        "2022-07-31",
        "2018-12",
    )
    again = tfm("sample", "r", "-p", "all.csv", "--paths", 10)
    assert again.text.count("\n") == 1 + 6 * 12
    by = tfm("eval", "r", "--by", "series", "--paths", 10, "--json").json()["by_series"]
    assert {row["series"] for row in by} == set(last)
    assert all(row["seasonal_naive_mase"] < 2 for row in by)


def test_files_have_the_shares_of_their_weights(tmp_path: Path, tfm: Tfm) -> None:
    """A short file counts as much as a long one where their weights are equal, every window of each
    is drawn, and without weights each counts by its number of windows."""
    for name, length, level in (("long", 400, 0), ("short", 60, 1000)):
        rows = zip(dates(length), np.arange(length) % 7 + level, strict=True)
        (tmp_path / f"{name}.csv").write_text(table("t,y", rows))
    paths = tuple(str(tmp_path / f"{name}.csv") for name in ("long", "short"))

    def share_of_short(weights: str | None) -> float:
        task = SeriesTask(SeriesOptions(weights=weights, horizon=7))
        items = task.items(Source(paths))
        tokenizer = task.fit_tokenizer("bins:31", items)
        rows = task.dataset(items, tokenizer, 100, None, 0, tmp_path)
        assert isinstance(rows, Windows)
        places, history = rows._places(np.arange(4000))
        short = places[:, 0] >= 400
        if weights == "1,1":
            seen = set(zip(places[short, 0], history[short], strict=True))
            assert len(seen) == int(np.diff(rows.file_ends)[0])  # every window of the short file
        return float(short.mean())

    assert share_of_short("1,1") == pytest.approx(0.5, abs=0.03)
    assert share_of_short("3,1") == pytest.approx(0.25, abs=0.03)
    assert share_of_short("0,2") == 1
    assert share_of_short(None) == pytest.approx(47 / (47 + 387), abs=0.02)
    flags = ("--horizon", 7, "--steps", 2, "--size", "nano", "-q")
    for weights, word in (("1", "1 numbers for 2 files"), ("1,x", "such as 2,1,1"),
                          ("0,0", "some above 0"), ("-1,2", "such as 2,1,1")):  # fmt: skip
        failed = tfm("train", "--task", "series", *paths, *flags, f"--weights={weights}", code=2)
        assert word in failed.err and len(failed.err.splitlines()) == 1
