"""Charts: what both renderers show, where, in which width; what is refused."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tfm.core.chart import Axis, Bars, Chart, Heatmap, Line
from tfm.core.chart_file import SETTINGS, check_plot, figure, to_file
from tfm.core.chart_layout import Scale, aligned, number, spread, tick_labels
from tfm.core.chart_terminal import MARKS, in_terminal
from tfm.core.display import columns_of
from tfm.core.errors import TfmError, UsageError

NAN, INF = math.nan, math.inf
LENGTHS = [64, 256, 1024, 4096]


def chart(
    *parts: Any, log: bool = False, title: str = "a claim", verdict: str = "it holds"
) -> Chart:
    return Chart(title, verdict, Axis("x (tokens)", log), Axis("y (ms)", log), parts)


CHARTS = {
    "lines": chart(
        Line("transformer", LENGTHS, [2, 3, 9, 40], [1, 2, 8, 30], [3, 4, 10, 60], points=True),
        Line("lstm", LENGTHS, [4, 16, 64, 256], points=True),
        Line("lstm", [64, 4096], [4, 256], style="dashed"),
        Line("a name that is much longer than the others", LENGTHS, [1, 1, 1, 1], style="dotted"),
        log=True,
        title="a claim of many words " * 8,
        verdict="found in many words " * 12,
    ),
    "many": chart(*(Line(f"line {n}", [0, 1, 2], [n, 3, 20 - n]) for n in range(14))),
    "long": chart(Line("loss", range(3000), [5 / (n + 1) for n in range(3000)])),
    "one point": chart(Line("a", [3], [2])),
    "flat": chart(Line("a", [1, 2], [7, 7])),
    "gaps": chart(
        Line("a", [1, 2, 3, 4], [NAN, 2, INF, 3], [NAN, -INF, 1, 2], [3, INF, 4, NAN]),
        Line("none", [1, 2], [NAN, -INF]),
    ),
    "nothing": chart(Line("a", [], [])),
    "below zero on log": chart(Line("a", [1, 10], [1, 5], [-1, 0], [2, 9], points=True), log=True),
    "extreme": chart(Line("a", [-1.7e308, 0, 1.7e308], [5e-324, 1e308, -1e308])),
    "wide characters": chart(Line("模型模型模型\x1b[31m", [1, 2], [1, 2]), title="標題" * 40),
    "bars": chart(
        Bars(["post-LN 2017", "default", "rnn", "cnn"], [1.9, 1.7, INF, NAN], [1.8, 1.6, 1, 1],
             [2, 1.8, INF, 3], reference=1.7),
    ),
    "sets of bars": chart(
        Bars(["a", "模" * 60], [3, 2], name="equal tokens"),
        Bars(["a", "模" * 60], [1, 4], name="t"),
    ),
    "heatmap": chart(Heatmap([[0, 0.5], [NAN, 1]], ["layer 0", "layer 1"], ["0", "1"], "nats")),
    "wide heatmap": chart(Heatmap([list(range(500))], ["row " * 30], list(map(str, range(500))))),
}  # fmt: skip


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def grid(text: str) -> list[str]:
    """The rows of the data, right of the axis."""
    return [
        re.split("[│┤]", line, maxsplit=1)[1]
        for line in text.splitlines()
        if re.search("[│┤]", line)
    ]


# -- in a terminal -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("width", [1, 5, 23, 24, 30, 41, 78, 200])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    for colour in (False, True):
        text = in_terminal(CHARTS[name], width, colour)
        assert max(map(columns_of, plain(text).splitlines())) <= width
        assert plain(text) == in_terminal(CHARTS[name], width, False)
        assert ("\x1b" in text) <= colour


def test_points_stand_at_their_values() -> None:
    text = in_terminal(chart(Line("a", [0, 1, 2], [0, 2, 1], points=True, style="none")), 60, False)
    rows = grid(text)
    marks = {(at, row.index("●")) for at, row in enumerate(rows) if "●" in row}
    places = sorted(marks, key=lambda mark: mark[1])
    assert [at for at, _ in places] == [11, 0, 6] or [at for at, _ in places] == [11, 0, 5]
    gaps = [b[1] - a[1] for a, b in pairwise(places)]
    assert abs(gaps[0] - gaps[1]) <= 1
    assert text.startswith("a claim\n\ny (ms)\n") and text.endswith("x (tokens)\n\nit holds")


def test_names_stand_beside_the_ends_of_their_lines() -> None:
    parts = [
        Line(name, [0, 1], [5, end], points=True)
        for name, end in zip("abc", [9, 5, 1], strict=True)
    ]
    rows = grid(in_terminal(chart(*parts), 60, False))
    ends = [at for at, row in enumerate(rows) if re.search("[●■▲] [abc]$", row.rstrip())]
    assert [rows[at].rstrip()[-3:] for at in ends] == ["● a", "■ b", "▲ c"]
    assert ends[0] == 0 and ends[2] == 11


def test_lines_of_one_name_share_a_mark_and_a_label() -> None:
    text = in_terminal(CHARTS["lines"], 80, False)
    assert text.count("lstm") == 1 and "◆" not in text


def test_a_missing_value_is_a_gap() -> None:
    whole, gap = (
        grid(in_terminal(chart(Line("a", [0, 1, 2, 3], [1, 1, y, 1])), 60, False)) for y in (1, NAN)
    )
    (line,) = {row.rstrip() for row in whole if row.strip()}
    (broken,) = {row.rstrip() for row in gap if row.strip()}
    assert " " not in line.strip()[:40] and " " * 20 in broken.strip()
    assert "a: no value" in in_terminal(chart(Line("a", [0], [NAN])), 60, False)


def test_ticks_are_the_lengths_that_were_measured() -> None:
    text = in_terminal(CHARTS["lines"], 80, False)
    (line,) = (line for line in text.splitlines() if "1,024" in line)
    assert line.split() == ["64", "256", "1,024", "4,096"]


def test_bars_are_dots_with_intervals() -> None:
    text = in_terminal(CHARTS["bars"], 80, False)
    post, default, rnn, cnn = grid(text)
    assert post.index("●") > default.index("●") == post.index("┊")
    assert post.index("├") < post.index("●") < post.index("┤") and "1.900 [1.800, 2.000]" in post
    assert "●" not in rnn and rnn.split()[-1] == "infinite"
    assert "●" not in cnn and cnn.endswith("no value")
    both = in_terminal(CHARTS["sets of bars"], 80, False)
    assert "● equal tokens ■ t" in both and both.count("■") == 3


def test_a_heatmap_has_shades_and_numbers() -> None:
    lines = in_terminal(CHARTS["heatmap"], 80, False).splitlines()
    first, second = (line for line in lines if line.startswith("layer "))
    assert lines[2] == "y (ms) ↓  x (tokens) →"
    assert first.split() == ["layer", "0", "0", "▒▒", "0.5"]
    assert second.split() == ["layer", "1", "··", "██", "1"]
    assert "nats: ' ' 0 ░ ▒ ▓ █ 1" in "\n".join(lines)
    assert "each cell is the mean of" in in_terminal(CHARTS["wide heatmap"], 80, False)


# -- what both share -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: chart(Line("lstm", [1, 2], [1, -2]), log=True), "lstm: -2 has no place"),
        (lambda: chart(Line("lstm", [0, 2], [1, 2]), log=True), "logarithmic axis 'x (tokens)'"),
        (lambda: chart(Bars(["a"], [0]), log=True), "bars: 0 has no place"),
        (lambda: Line("lstm", [1, 2], [1]), "lstm: 2 x, 1 y"),
        (lambda: Line("lstm", [1], [1], low=[1, 2]), "1 y, 2 low"),
        (lambda: Bars(["a", "b"], [1]), "2 names, 1 values"),
        (lambda: Heatmap([[1, 2], [1]], ["a", "b"], ["c", "d"]), "row b: 1 values, 2 columns"),
        (lambda: chart(), "parts must be"),
        (lambda: chart(Line("a", [1], [1]), Bars(["a"], [1])), "parts must be"),
        (lambda: chart(Bars(["a"], [1]), Bars(["b"], [1])), "must have the same names"),
    ],
)
def test_a_chart_that_cannot_be_drawn_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert said in str(caught.value)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, max_size=5), st.booleans(), st.integers(2, 9))
@hypothesis_settings(max_examples=150)
def test_scales_hold_their_values_and_ticks(values: list[float], log: bool, count: int) -> None:
    scale = Scale.of(values, log)
    places = [scale.place(value) for value in sorted(values)]
    assert scale.low < scale.high and all(0 <= place <= 1 for place in places)
    assert places == sorted(places)
    ticks = scale.ticks(count)
    room = 1e-9 * max(abs(scale.low), abs(scale.high))
    assert len(ticks) <= count
    assert all(scale.low - room <= tick <= scale.high + room for tick in ticks)
    assert len(set(tick_labels(ticks))) == len(set(ticks))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@hypothesis_settings(max_examples=100)
def test_labels_keep_their_order_and_distance(places: list[float]) -> None:
    found = spread(places, 0.12, 1.0)
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert all(found[b] - found[a] > 0.12 - 1e-9 for a, b in pairwise(order))
    assert -1e-9 < min(found) and max(found) <= 1
    assert spread([0.0, 0.5, 1.0], 0.12, 1.0) == [0.0, 0.5, 1.0]


def test_numbers_are_short() -> None:
    values = [0, 1024, 123456, 3.2e6, 7e9, 0.25, 2e-5, -0.5, INF, NAN]
    said = ["0", "1,024", "123,456", "3.2M", "7B", "0.25", "2e-5", "-0.5", "infinite", "no value"]
    assert list(map(number, values)) == said
    assert aligned([1.5, 12.25, INF]) == ["1.50", "12.25", "infinite"]
    assert aligned([1e-6, 10]) == ["1e-6", "10"]


# -- in a file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PDF"])
def test_a_figure_of_panels_is_written_the_same_twice(tmp_path: Path, suffix: str) -> None:
    charts = [CHARTS["lines"], CHARTS["bars"], CHARTS["heatmap"]]
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    to_file(charts, one)
    to_file(charts, two)
    head = {".png": b"\x89PNG", ".svg": b"<?xml", ".PDF": b"%PDF"}[suffix]
    assert one.read_bytes().startswith(head) and one.read_bytes() == two.read_bytes()


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", CHARTS)
def test_text_lies_outside_of_the_data_and_inside_of_the_figure(name: str) -> None:
    """Names and numbers overlap neither the data nor each other, and none is cut off."""
    with matplotlib.rc_context(SETTINGS):
        drawn = figure([CHARTS[name]])
        drawn.draw_without_rendering()
        axes = drawn.subfigs[0].axes[0]
        inside = axes.get_window_extent()
        boxes = [text.get_window_extent() for text in axes.texts]
        page = drawn.bbox
        titles = [drawn.subfigs[0]._suptitle, drawn.subfigs[0]._supxlabel]  # type: ignore[attr-defined]
        assert all(box.x0 > inside.x1 for box in boxes) or CHARTS[name].heatmap
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, *titles]
        for box in [*boxes, *(label.get_window_extent() for label in labels)]:
            assert page.x0 <= box.x0 and box.x1 <= page.x1
            assert page.y0 <= box.y0 and box.y1 <= page.y1
        assert not any(a.overlaps(b) for at, a in enumerate(boxes) for b in boxes[:at])


def test_lines_can_be_told_apart_in_grey() -> None:
    with matplotlib.rc_context(SETTINGS):
        axes = figure([CHARTS["many"]]).subfigs[0].axes[0]
    looks = [(line.get_marker(), str(line.get_linestyle())) for line in axes.lines[:8]]
    assert len(set(looks)) == 8 and "" not in dict(looks)
    assert len(set(MARKS)) == 8


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("out.jpg", "must end in .png, .svg or .pdf"),
        ("out", "must end in .png, .svg or .pdf"),
        ("no/out.png", "there is no folder"),
        ("folder.png", "a folder"),
    ],
)
def test_a_figure_that_cannot_be_written_is_refused(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "folder.png").mkdir()
    for call in (check_plot, lambda path: to_file([CHARTS["flat"]], path)):
        with pytest.raises(UsageError, match=said):
            call(tmp_path / path)


def test_an_old_figure_is_kept_if_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"old")
    check_plot(tmp_path / "out.png")  # may be replaced
    to_file([CHARTS["flat"]], tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() != b"old"
    with pytest.raises(TfmError):
        to_file([CHARTS["flat"]], Path("/proc/out.png"))


def test_matplotlib_is_imported_when_a_figure_is_drawn() -> None:
    code = "import sys, tfm.core.chart_file, tfm.core.chart_terminal as t; "
    code += "sys.exit(any(name in sys.modules for name in ('matplotlib', 'numpy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_ticks_of_an_axis_are_written_alike() -> None:
    assert tick_labels([1e10, 3e11, 1e12]) == ["1e10", "3e11", "1e12"]
    assert tick_labels([1e9, 3e10]) == ["1B", "30B"]
