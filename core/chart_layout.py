"""Where the values, ticks and names of a chart stand, and how its numbers are written: what the
renderers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .chart import Bars, Chart, Line

HUGE, TINY = 1e300, 1e-290  # larger sizes are cut off, smaller ones count as zero
LOG_TICKS = ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3))  # within a power of ten
MARKS_PER_LINE = 4  # of a line without points
MAX_DATA_TICKS = 8  # an axis with at most as many different values has a tick at each
LARGEST_NAMED = 1e12  # larger numbers are powers of ten rather than M and B


@dataclass(frozen=True)
class Scale:
    """The visible range of an axis, from the data that it shows."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, values: Iterable[float], log: bool) -> Scale:
        """The range of the values, without those that are not finite, or not positive on a
        logarithmic axis. Equal values are given room on both sides; no value gives 1 to 10."""
        finite = (float(v) for v in values if math.isfinite(v))
        shown = [min(HUGE, max(-HUGE, v)) for v in finite if v > TINY or not log]
        low, high = min(shown, default=1.0), max(shown, default=10.0)
        size = max(abs(low), abs(high))
        if high / 2 - low / 2 <= 1e-12 * size:  # the rounding of one value
            low, high = (low / 2, high * 2) if log else (low - size / 2, high + size / 2)
        if size <= TINY:
            low, high = -1.0, 1.0
        return cls(max(low, -HUGE), min(high, HUGE), log)

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end; values beyond are cut off."""
        low, high = self.low, self.high
        if self.log:
            low, high = math.log(low), math.log(high)
            value = math.log(value) if value > 0 else low
        share = (value / 2 - low / 2) / (high / 2 - low / 2)  # halves: a difference may overflow
        return min(1.0, max(0.0, share))

    def ticks(self, count: int) -> list[float]:
        """At most `count` round numbers in the range: powers of ten, or 1, 2, 5 times one."""
        if self.log:
            exponents = range(
                math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1
            )
            stride = max(1, -(-len(exponents) // max(count, 1)))
            every = [10.0**e for e in exponents if e % stride == 0]
            finer = [[m * 10.0**e for m in ms for e in exponents] for ms in LOG_TICKS]
            inside = [
                sorted(tick for tick in choice if self.low <= tick <= self.high)
                for choice in (*finer, every)
            ]
            for least in (3, 2):
                for choice in inside:
                    if least <= len(choice) <= count:
                        return choice
        extent = self.high / 2 - self.low / 2
        power = 10.0 ** math.floor(math.log10(extent))
        for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50):
            step = factor * power
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            if last - first < count:
                break
        return [number * step for number in range(first, last + 1)]


def extent(line: Line) -> list[float]:
    """The values of a line and the ends of their intervals."""
    return [end for ends in (line.y, line.low, line.high) if ends is not None for end in ends]


def bar_extent(bars: Bars) -> list[float]:
    """The values of a set of bars, the ends of their intervals and the reference."""
    columns = (
        bars.values,
        bars.low,
        bars.high,
        () if bars.reference is None else (bars.reference,),
    )
    return [end for ends in columns if ends is not None for end in ends]


def marked(chart: Chart, line: Line) -> list[int]:
    """Which values of a line have a mark: all if it has `points`; or those without a neighbour to
    draw a line to, and a few others of a solid line that is not alone."""
    known = [at for at, ends in enumerate(zip(line.x, line.y, strict=True)) if _finite(*ends)]
    if line.points:
        return known
    near = {*known}
    marks = {at for at in known if line.style == "none" or not near & {at - 1, at + 1}}
    if line.style == "solid" and len(chart.names) > 1:
        step = max(1, len(known) // MARKS_PER_LINE)
        marks.update(known[step * chart.names.index(line.name) // len(chart.names) :: step])
    return sorted(marks)


def intervals(part: Line | Bars) -> list[tuple[int, float, float]]:
    """(index, low, high) of the finite values that have an interval."""
    if part.low is None or part.high is None:
        return []
    values = part.y if isinstance(part, Line) else part.values
    ends = zip(values, part.low, part.high, strict=True)
    return [
        (at, low, high)
        for at, (value, low, high) in enumerate(ends)
        if _finite(value) and not math.isnan(low) and not math.isnan(high)
    ]


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def last_value(lines: Iterable[Line], name: str) -> float:
    """The value at the right end of the lines of a name, beside which the name stands: that of the
    first line if several end there; NaN if there is none."""
    points = (
        (x, y)
        for line in lines
        if line.name == name
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    )
    return max(points, key=lambda point: point[0], default=(0.0, math.nan))[1]


def label_places(chart: Chart, y: Scale, gap: float) -> list[tuple[str, float]]:
    """The label of each name and its height (0 to 1) beside the axes, at least `gap` apart."""
    last = {name: last_value(chart.lines, name) for name in chart.names}
    labels = [f"{name}: no value" if math.isnan(v) else name for name, v in last.items()]
    wanted = [0.0 if math.isnan(value) else y.place(value) for value in last.values()]
    return list(zip(labels, spread(wanted, gap, 1.0), strict=True))


def data_ticks(values: Iterable[float], scale: Scale, count: int) -> list[float]:
    """The values themselves if they are few, as the lengths that were measured; or round ones."""
    own = sorted({float(value) for value in values if scale.low <= value <= scale.high})
    return own if 1 < len(own) <= min(count, MAX_DATA_TICKS) else scale.ticks(count)


def number(value: float, digits: int = 4) -> str:
    """A value in few characters: 1,024, 3.2M, 0.25, 2e-5; digits: the significant ones."""
    if not math.isfinite(value):
        return "no value" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if unit <= abs(value) < LARGEST_NAMED:
            return f"{value / unit:.{digits}g}{name}"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.{max(0, digits - 4)}f}" if value % 1 else f"{value:,.0f}"
    return _general(value, digits)


def _general(value: float, digits: int) -> str:
    """As C's %g, without the zeros of the exponent: 0.25, 2e-5, 3e12."""
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def aligned(values: Sequence[float]) -> list[str]:
    """The numbers with the same decimals, four digits of the largest, if their sizes are alike."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    largest = max(sizes, default=1.0)
    if not 1e-3 <= largest < 1e6 or min(sizes, default=1.0) < largest / 1000:
        return [number(value) for value in values]
    decimals = max(0, 3 - math.floor(math.log10(largest)))
    return [f"{v:,.{decimals}f}" if math.isfinite(v) else number(v) for v in values]


def value_texts(bars: Bars, with_interval: bool) -> list[str]:
    """The value of each bar, and its interval in brackets."""
    low, high = bars.low, bars.high
    if low is None or high is None or not with_interval:
        return aligned(bars.values)
    texts = aligned([*bars.values, *low, *high])
    count = len(bars.names)
    return [
        f"{texts[at]} [{texts[count + at]}, {texts[2 * count + at]}]"
        if all(map(math.isfinite, (bars.values[at], low[at], high[at])))
        else texts[at]
        for at in range(count)
    ]


def wrapped(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Words in lines of at most `width`; a longer word is broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if measure(joined) <= width:
            lines[-1] = joined
            continue
        if measure(word) <= width:
            lines.append(word)
            continue
        for char in joined.removeprefix(lines[-1]):
            if lines[-1] and measure(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return [line.strip() for line in lines if line.strip()]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The numbers with as many digits as tell them apart."""
    write = _general if max(map(abs, ticks), default=0.0) >= LARGEST_NAMED else number
    for digits in range(3, 18):
        labels = [write(tick, digits) for tick in ticks]
        if len(set(labels)) == len(set(ticks)):
            break
    return labels


def spread(places: Sequence[float], gap: float, end: float) -> list[float]:
    """Places from 0 to `end` for labels, at least `gap` apart and close to the given ones."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = [0.0] * len(places)
    last = -gap
    for i in order:
        found[i] = last = max(places[i], last + gap)
    limit = end
    for i in reversed(order):
        found[i] = min(found[i], limit)
        limit = found[i] - gap
    return found
