"""The charts of what `tfm probe RUN` found, each with a claim and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..chart import Axis, Chart, Heatmap, Line
from ..chart_layout import number
from .attention import HeadAttention
from .estimate import Estimate
from .position import PositionLoss
from .report import NEAR, Findings

LOSS = "loss (nats per token)"
HEADS = Axis("head")
LAYERS = Axis("layer")


def charts(found: Findings) -> list[Chart]:
    """Loss by position and influence by distance; for a model with attention the distance, the
    entropy and the contribution of each head."""
    drawn = [position_chart(found), influence_chart(found)]
    if found.attention:
        drawn += [distance_chart(found), entropy_chart(found), head_chart(found)]
    return drawn


def position_chart(found: Findings) -> Chart:
    points = found.positions
    low, high = _ends([p.loss for p in points])
    centres = [math.sqrt(p.first * p.last) for p in points]
    line = Line("held-out loss", centres, [p.loss.value for p in points], low, high, points=True)
    x = Axis("tokens read before the predicted one", log=True)
    return Chart("The context helps", position_verdict(points), x, Axis(LOSS), [line])


def position_verdict(points: Sequence[PositionLoss]) -> str:
    first, last = points[0], points[-1]
    best = min(points, key=lambda p: p.loss.value)
    said = (
        f"Loss {number(first.loss.value, 3)} nats per token after {_span(first)}, "
        f"{number(last.loss.value, 3)} after {_span(last)}"
    )
    if first.loss.low is None or last.loss.high is None:
        return f"{said}; from one window, so that nothing is certain."
    if last.loss.high < first.loss.low:
        return f"{said}: it falls. Lowest after {_span(best)}."
    return f"{said}: the intervals overlap, so that no gain is shown."


def _span(point: PositionLoss) -> str:
    span = f"{point.first}" if point.first == point.last else f"{point.first} to {point.last}"
    return f"{span} token{'' if point.last == 1 else 's'}"


def influence_chart(found: Findings) -> Chart:
    """On a logarithmic scale, which has no place for an influence that is exactly 0."""
    measured = found.influences.by_distance
    seen = [i for i in measured if i.kl.value > 0]
    x = Axis("distance of the replaced token (tokens)", log=True)
    y = Axis("change of the prediction (KL divergence, nats)", log=True)
    lines = []
    if seen:
        low, high = _ends([i.kl for i in seen])
        at = [float(i.distance) for i in seen]
        lines.append(Line("one token replaced", at, [i.kl.value for i in seen], low, high, True))
        if found.influences.floor > 0:
            floor = [found.influences.floor] * 2
            lines.append(Line("noise floor (rounding)", [at[0], at[-1]], floor, style="dashed"))
    title, verdict = "Distant tokens move the prediction", influence_verdict(found)
    return Chart(title, verdict, x, y, lines or [Line("no influence", [], [])])


def influence_verdict(found: Findings) -> str:
    own, field = found.influences, found.sample.model.receptive_field()
    far, near = own.farthest(), own.farthest(NEAR)
    if not own.by_distance or far is None:
        return "No replaced token moves the prediction."
    first, last = own.by_distance[0], own.by_distance[-1]
    said = (
        f"Replacing the token at distance {first.distance} moves the prediction by "
        f"{number(first.kl.value, 3)} nats. It is moved by more than {NEAR:.0%} of that up to "
        f"distance {near or first.distance}, and by more than rounding up to distance {far}"
    )
    if far == last.distance:
        return f"{said}, the longest that was measured."
    beyond = [i for i in own.by_distance if i.distance > far]
    if field is not None and all(i.kl.value == 0 for i in beyond):
        return f"{said}; by exactly 0 beyond, as the receptive field has {field} tokens."
    return f"{said}."


def distance_chart(found: Findings) -> Chart:
    def distance(head: HeadAttention) -> float:
        return math.nan if head.distance is None else head.distance.value

    values = _of_heads(found, distance)
    even = [distance(layer.even) for layer in found.attention.values()]
    verdict = (
        f"Mean distance {_range(values)} tokens by head; even attention would have {_range(even)}."
    )
    return _heatmap("Heads attend at several distances", verdict, found, distance, "tokens")


def entropy_chart(found: Findings) -> Chart:
    def entropy(head: HeadAttention) -> float:
        return head.entropy.value

    values = _of_heads(found, entropy)
    even = [entropy(layer.even) for layer in found.attention.values()]
    verdict = f"Entropy {_range(values)} nats by head; even attention would have {_range(even)}."
    return _heatmap("Some heads focus, others spread", verdict, found, entropy, "nats")


def head_chart(found: Findings) -> Chart:
    layers = {name: layer for name, layer in found.ablation.layers.items() if layer.heads}
    values = [[head.off.value for head in layer.heads] for layer in layers.values()]
    return Chart(
        "Many heads are better than one",
        head_verdict(found),
        HEADS,
        LAYERS,
        [_padded(values, list(layers), "nats per token")],
    )


def head_verdict(found: Findings) -> str:
    """Of one head against all."""
    own = found.ablation
    rises = [head.off.value for layer in own.layers.values() for head in layer.heads]
    said = f"Switched off, one head raises the loss by {_range(rises)} nats per token."
    if own.one_head is not None:
        said += f" With the best head alone in each layer it rises by {own.one_head.text()}"
        said += f", without any head by {own.no_heads.text()}." if own.no_heads else "."
        if own.one_head.low is not None:
            held = own.one_head.low > 0
            said += " All heads are better." if held else " More heads are no better."
    elif own.no_heads is not None:
        said += f" Each layer has one head; without any it rises by {own.no_heads.text()}."
    return said


def _ends(estimates: Sequence[Estimate]) -> tuple[list[float] | None, list[float] | None]:
    """The ends of the intervals, None if one has no interval."""
    low = [e.low for e in estimates if e.low is not None]
    high = [e.high for e in estimates if e.high is not None]
    return (low, high) if len(low) == len(high) == len(estimates) else (None, None)


def _of_heads(found: Findings, value: Callable[[HeadAttention], float]) -> list[float]:
    return [value(head) for layer in found.attention.values() for head in layer.heads]


def _range(values: Sequence[float]) -> str:
    """0.12 to 3.4, of the values that are there."""
    shown = [value for value in values if not math.isnan(value)]
    if not shown:
        return "no"
    low, high = (number(end, 3) for end in (min(shown), max(shown)))
    return low if low == high else f"{low} to {high}"


def _heatmap(
    title: str, verdict: str, found: Findings, value: Callable[[HeadAttention], float], label: str
) -> Chart:
    values = [[value(head) for head in layer.heads] for layer in found.attention.values()]
    return Chart(title, verdict, HEADS, LAYERS, [_padded(values, list(found.attention), label)])


def _padded(values: list[list[float]], rows: list[str], label: str) -> Heatmap:
    """Rows of different lengths, filled up with gaps."""
    count = max(map(len, values))
    full = [[*row, *[math.nan] * (count - len(row))] for row in values]
    return Heatmap(full, rows, [str(number) for number in range(count)], label)
