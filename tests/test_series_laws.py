"""Series: laws of reading and of continued times, over generated tables, frequencies and zones."""

from __future__ import annotations

import csv
import io
import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfm.core.errors import DataError, TfmError
from tfm.tasks._series import delimited
from tfm.tasks._series.clock import Clock
from tfm.tasks._series.reader import parse
from tfm.tasks._series.reading import Columns

much = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Adelaide")
ALIASES = [
    *("h", "min", "s", "ms", "us", "ns", "D", "B", "bh", "W", "MS", "ME", "SMS", "SME", "BMS"),
    *("BME", "QS", "QE", "BQS", "BQE", "YS", "YE", "BYS", "BYE", "C", "CBMS", "CBME"),
    *("2h", "15min", "12h", "3D", "28D", "2W-TUE", "2MS", "QS-FEB", "QE-JAN", "YE-JUN", "YS-APR"),
    *("W-MON", "WOM-2TUE", "LWOM-FRI", "3QS", "250ms"),
]


# -- times continued -----------------------------------------------------------------------------


@pytest.mark.parametrize("freq", ALIASES)
def test_times_continue_as_pandas_does(freq: str) -> None:
    wanted = pd.date_range("2024-01-01", periods=60, freq=freq, unit="ns")
    clock = Clock(wanted[0].isoformat(), freq)
    assert (clock.stamps(0, 60) == wanted).all()
    assert (clock.stamps(40, 20) == wanted[40:]).all()
    written = pd.DatetimeIndex(pd.to_datetime(clock.times(40, 20), format="ISO8601"))
    assert (written == wanted[40:]).all()


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("freq", ["h", "30min", "6h", "D", "W-SUN", "MS", "B", "QE"])
@pytest.mark.parametrize("start", ["2024-03-01", "2024-09-25", "2024-10-30"])
def test_times_continue_over_changes_of_clocks(zone: str, freq: str, start: str) -> None:
    count = 1200 if freq in ("h", "30min", "6h") else 80
    wanted = pd.date_range(start, periods=count, freq=freq, tz=zone)
    known = count // 2
    rows = "".join(f"{t.isoformat()},{k}\n" for k, t in enumerate(wanted[:known]))
    (one,) = parse(f"t,y\n{rows}".encode(), "x", Columns()).series
    assert len(one) == known
    if one.clock.zone != zone:  # another with the same clocks until here, or an offset alone
        zone_of = pd.date_range(start, periods=known, freq=freq, tz=zone)
        assert (one.clock.stamps(0, known) == zone_of).all()
    changes = {t.utcoffset() for t in wanted[:known]}
    if len(changes) > 1:
        assert [pd.Timestamp(t) for t in one.clock.times(known, count - known)] == list(
            wanted[known:]
        )
    named = parse(f"t,y\n{rows}".encode(), "x", Columns(zone=zone)).series[0]
    assert [pd.Timestamp(t) for t in named.clock.times(known, count - known)] == list(
        wanted[known:]
    )


@given(
    start=st.datetimes(pd.Timestamp("1950-01-01"), pd.Timestamp("2050-01-01")),
    freq=st.sampled_from(ALIASES),
    first=st.integers(0, 50),
    form=st.sampled_from([None, "%Y-%m-%d", "%d.%m.%Y", "%b-%y", "%Y", "%m/%d/%Y %H:%M", "%Y%m%d"]),
)
@much
def test_times_are_told_apart_and_can_be_read(
    start: Any, freq: str, first: int, form: str | None
) -> None:
    """Whatever the form of the first point is, as many of its parts are written as are needed."""
    start = start.replace(microsecond=0, second=0)
    clock = Clock(start.isoformat(), freq, form=form)
    times = clock.times(first, 9)
    assert len(set(times)) == 9


# -- tables --------------------------------------------------------------------------------------

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp", "Nd")),
    min_size=1,
    max_size=8,
).filter(lambda name: name.strip("#").lower() not in ("", "index", "month", "day", "week", "hour"))
FORMS = {
    "h": ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%d.%m.%Y %H:%M", "%Y/%m/%d %H:%M:%S"],
    "15min": ["%Y-%m-%d %H:%M", "%d.%m.%Y %H:%M:%S"],
    "D": ["%Y-%m-%d", "%d.%m.%Y", "%Y%m%d", "%d-%b-%Y", "%b %d, %Y"],
    "W-SUN": ["%Y-%m-%d", "%d.%m.%Y"],
    "MS": ["%Y-%m-%d", "%Y-%m", "%Y-M%m", "%b-%y", "%B %Y", "%m/%Y", "%Y%m"],
    "QS": ["%Y-%m-%d"],
    "YS": ["%Y-%m-%d", "%Y"],
    "250ms": ["%Y-%m-%d %H:%M:%S.%f"],
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    freq = draw(st.sampled_from(sorted(FORMS)))
    zone = draw(st.sampled_from([None, *ZONES])) if freq in ("h", "15min", "D") else None
    form = "%Y-%m-%dT%H:%M:%S%z" if zone else draw(st.sampled_from(FORMS[freq]))
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    count = draw(st.integers(5, 60))
    comma = delimiter != "," and draw(st.booleans())
    number = st.floats(-1e6, 1e6).map(lambda x: round(x, 3)) | st.none()
    names = draw(st.lists(NAMES, min_size=2, max_size=3, unique_by=lambda name: name.lower()))
    values = [draw(st.lists(number, min_size=count, max_size=count)) for _ in names[1:]]
    if comma:  # so that no comma can separate thousands
        for column in values:
            column[0] = 0.5
    start = draw(st.dates(pd.Timestamp("1980-01-01").date(), pd.Timestamp("2030-01-01").date()))
    return {
        "times": pd.date_range(str(start), periods=count, freq=freq, tz=zone),
        "form": form,
        "delimiter": delimiter,
        "comma": comma,
        "names": names,
        "values": values,
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        "missing": draw(st.sampled_from(["", "NA", ".", "-", "#N/A", "null"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "gap": draw(st.none() | st.integers(1, count - 2)),
    }


def written(made: dict[str, Any]) -> bytes:
    def cell(value: float | None) -> str:
        if value is None:
            return str(made["missing"])
        return repr(value).replace(".", ",") if made["comma"] else repr(value)

    out = io.StringIO()
    table = csv.writer(
        out, delimiter=made["delimiter"], lineterminator=made["end"], quoting=made["quoting"]
    )
    table.writerow(made["names"])
    for row, time in enumerate(made["times"].strftime(made["form"])):
        if row != made["gap"]:
            table.writerow([time, *(cell(column[row]) for column in made["values"])])
    return out.getvalue().encode(made["encoding"])


@given(tables())
@much
def test_what_is_read_is_what_was_written(made: dict[str, Any]) -> None:
    """Or it is refused in one line, which names a row or what can be read in two ways."""
    data, gap, values = written(made), made["gap"], made["values"]
    columns = Columns(time=made["names"][0], resample=gap is not None)
    try:
        found = parse(data, "x", columns)
    except DataError as error:
        line = str(error)
        assert "\n" not in line
        assert re.search(
            r"row \d+|day-first|--decimal|no series|no usable series|no column|--id", line
        ), line
        return
    times = made["times"]
    for one in found.series:
        index = made["names"][1:].index(one.id) if len(values) > 1 else 0
        wanted = np.array([np.nan if v is None else v for v in values[index]])
        if gap is not None:
            wanted[gap] = np.nan
        np.testing.assert_array_equal(one.values, wanted)
        stamps = one.clock.stamps(0, len(times))
        if made["form"] == "%b-%y":  # the century of two digits is a convention
            stamps = stamps.map(lambda t: t.replace(year=2000 + t.year % 100))
            times = times.map(lambda t: t.replace(year=2000 + t.year % 100))
        assert (stamps == times).all()
        assert one.clock.times(0, len(times)) == list(made["times"].strftime(made["form"])) or (
            made["times"].tz is not None
        )
    reasons = [why for reading in found.readings for _, why in reading.left_out + reading.dropped]
    assert len(found.series) + len(reasons) == len(values), "nothing vanishes without a word"


@given(tables())
@much
def test_the_fast_path_reads_what_the_plain_one_reads(made: dict[str, Any]) -> None:
    data = written(made)
    columns = Columns(time=made["names"][0], resample=made["gap"] is not None)

    def outcome() -> Any:
        try:
            found = parse(data, "x", columns)
        except TfmError as error:
            return str(error)
        return [(s.id, s.clock, s.values.tobytes()) for s in found.series]

    plain = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "FAST_CHARACTERS", 0)
        assert outcome() == plain


# -- extremes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        np.full(90, 1e307),
        1e307 * np.sin(np.arange(90)),
        1e307 * (1 + np.arange(90) % 11),
        1e15 + np.sin(np.arange(90)),
        1e-310 * np.arange(90),
        5e-324 * (np.arange(90) % 3),
        np.where(np.arange(90) == 50, 1e300, 1.0),
        np.zeros(90),
        np.r_[np.full(80, np.nan), np.arange(10)],
        np.r_[np.arange(10.0), np.full(80, np.nan)],
    ],
    ids=["large", "waves", "steps", "1e15", "denormals", "least", "spike", "zero", "late", "gone"],
)
def test_extreme_values_are_forecast_or_refused_without_warnings(values: np.ndarray) -> None:
    from helpers import small_model

    from tfm.core.config import SampleConfig
    from tfm.tasks._series.cases import forecast_cases
    from tfm.tasks.series import SeriesOptions, SeriesTask

    rows = "".join(
        f"{np.datetime64('2024-01-01') + k},{'' if np.isnan(v) else repr(float(v))},{k % 7}\n"
        for k, v in enumerate(values)
    )
    task = SeriesTask(SeriesOptions(horizon=3, history=8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        items = task._collect(parse(f"t,x,usual\n{rows}".encode(), "x", Columns()), "x")
        train, held = task.split(items, 0.1)
        tokenizer = task.fit_tokenizer("bins:64", train)
        dataset = task.dataset(train, tokenizer, 12, None, 0, None)  # type: ignore[arg-type]
        assert np.isfinite(dataset.batch(np.arange(64)).weight).all()
        sequences = list(task.sequences(held, tokenizer))
        assert {s.side["id"] for s in sequences} == {"x", "usual"}, "no series vanishes"
        model = small_model(vocab_size=tokenizer.vocab_size, context=12)
        forecasts = task.draw(
            model, tokenizer, None, sequences, SampleConfig(length=0), task.SampleOptions(),
            lambda text: None,
        )  # fmt: skip
        out = io.BytesIO()
        task.write(forecasts, None, task.SampleOptions(), out)
        assert out.getvalue().count(b"\n") == 7
        assert all(np.isfinite(f.paths).all() for f in forecasts)
        assert task.preview(forecasts, None, task.SampleOptions(), 80)
        task.model_metrics(model, tokenizer, sequences, None, task.EvalOptions())
        task.window_floor(lambda: train, sequences, tokenizer, None)
        assert forecast_cases(sequences, "rolling", tokenizer)


def test_blank_rows_of_a_large_table_are_skipped_as_in_a_small_one() -> None:
    data = b"t,y\n2024-01-01,1\n2024-01-02,2\n,\n2024-01-03,4\n,\n"
    with pytest.MonkeyPatch.context() as patch:
        for size in (1 << 20, 0):
            patch.setattr(delimited, "FAST_CHARACTERS", size)
            found = parse(data, "x", Columns())
            assert found.series[0].values.tolist() == [1, 2, 4]
            assert "2 rows without any cell were skipped" in found.readings[0].notes
