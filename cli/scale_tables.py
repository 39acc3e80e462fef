"""The tables and charts of `tfm scale`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.chart import Axis, Chart, Line
from ..core.chart_layout import number
from .render import clock, columns

if TYPE_CHECKING:
    from ..core.study.findings import Findings, Prediction, Trained
    from ..core.study.summary import Estimate

POINTS = 40  # of a fitted line
FEW_STEPS = 50  # of a run: the loss of shorter ones hardly follows a law


def tables(found: Findings, record: dict[str, Any]) -> str:
    """All tables. record: the object of --json."""
    parts = [_runs(found, record), _families(found, record), _law(found, record)]
    if found.prediction is not None:
        parts.append(_prediction(found.prediction, record))
    return "\n\n".join(part for part in parts if part)


def _runs(found: Findings, record: dict[str, Any]) -> str:
    """A row a model; a column for each number of tokens, with the mean loss over seeds."""
    tokens = sorted({run.tokens for run in found.runs}, reverse=True)
    rows = [["model", "parameters", "lr", *(f"{each:,} tokens" for each in tokens), "diverged"]]
    models: dict[str, dict[int, list[Trained]]] = {}
    for runs in by_point(found.runs):
        models.setdefault(runs[0].contestant, {})[runs[0].tokens] = runs
    for name, by_tokens in models.items():
        losses = [[run.loss for run in by_tokens.get(each, ()) if run.loss] for each in tokens]
        diverged = sum(run.loss is None for runs in by_tokens.values() for run in runs)
        one = next(iter(by_tokens.values()))[0]
        edge = "*" if name in record["at_edge"] else " "
        rows.append(
            [
                name,
                f"{one.parameters:,}",
                f"x {one.lr_factor:g}{edge}",
                *(f"{sum(each) / len(each):.4f}" if each else "" for each in losses),
                str(diverged or ""),
            ]
        )
    seeds = "one seed" if record["seeds"] == 1 else f"mean of {record['seeds']} seeds"
    notes = [
        f"held-out {record['loss']}, {seeds}",
        f"parameters: {record['counted']}",
        f"lr: {record['learning_rates']}",
    ]
    if record["at_edge"]:
        notes.append("* at the edge of the sweep: a better one may lie beyond")
    if record["fewest_steps"] < FEW_STEPS:
        notes.append(
            f"the shortest runs have {record['fewest_steps']} steps, in which little is learnt: "
            "with more --tokens or --budget the law would be more certain"
        )
    return "\n".join([columns(rows, numbers=True), *notes])


def by_point(runs: Sequence[Trained]) -> list[list[Trained]]:
    """The runs of each model and number of tokens: they differ by seed."""
    groups: dict[tuple[str, int], list[Trained]] = {}
    for run in runs:
        groups.setdefault((run.contestant, run.tokens), []).append(run)
    return list(groups.values())


def _families(found: Findings, record: dict[str, Any]) -> str:
    rows = [["loss ~ parameters^-slope", "slope", "each doubling of size", "scatter"]]
    for name, each in found.powers.items():
        low, high = each.slope.low, each.slope.high
        doubling = _percent(2 ** -(each.slope.value or 0) - 1)
        if low is not None and high is not None:
            doubling += f" [{_percent(2**-high - 1)}, {_percent(2**-low - 1)}]"
        scatter = "" if each.spread is None else f"{each.spread:.2%}"
        rows.append([name, interval(each.slope), doubling, scatter])
    lines = [f"at {record['tokens']:,} tokens a run", columns(rows, numbers=True)]
    if found.depths:
        changes = ", ".join(
            f"{one} -> {two} layers {change_text(each)}" for one, two, each in found.depths
        )
        lines += [f"loss of the stacked LSTM: {changes}"]
    return "\n".join(lines)


def _law(found: Findings, record: dict[str, Any]) -> str:
    if found.law is None:
        return "no law of parameters and tokens: too few of the transformer's runs ended well"
    names = {
        "E": "E, what no size and no data takes away",
        "alpha": "alpha, exponent of the parameters N",
        "beta": "beta, exponent of the tokens D",
        "A": "A",
        "B": "B",
        "best_size_exponent": "best N ~ compute^a, a",
        "compute_exponent": "loss - E ~ compute^-c, c",
    }
    law = record["law"]
    rows = [["transformer: L = E + A / N^alpha + B / D^beta", "value", "95 % interval"]]
    for key, text in names.items():
        value = law[key]
        low, middle, high = (
            f"{value[end]:.3f}" if key == "E" else number(value[end], 3)
            for end in ("low", "value", "high")
        )
        rows.append([text, middle, f"{low} to {high}"])
    return (
        f"{columns(rows, numbers=True)}\n{law['runs']} runs, noise {law['noise']:.2%} of the loss"
    )


def _prediction(found: Prediction, record: dict[str, Any]) -> str:
    size, best = found.size, found.best
    edge = "; the largest or smallest size that was considered" if best.edge else ""
    few, many = best.parameters.low or 0, best.parameters.high or 0
    rows = [
        [
            f"for {found.factor:g} times the compute of the largest run",
            f"{found.compute:.2e} FLOPs",
        ],
        ["best size", f"{size.parameters:,} parameters [{number(few, 3)} to {number(many, 3)}]"],
        ["", f"{size.layers} layers of width {size.width}{edge}"],
        ["tokens", f"{found.tokens:,}"],
        [f"predicted {record['loss']}", f"{best.loss.value:.4f} [{interval_of(best.loss, 4)}]"],
        ["time in one process here", f"about {clock(found.seconds)}"],
    ]
    if record["check"] is not None:
        loss, inside = record["check"]["loss"], record["check"]["inside"]
        where = "inside" if inside else "outside"
        rows.append(
            [f"measured {record['loss']}", "diverged" if loss is None else f"{loss:.4f}, {where}"]
        )
    return f"{columns(rows)}\nto train it: {record['command']}"


def interval(estimate: Estimate, digits: int = 3) -> str:
    """0.052 [0.047, 0.057]."""
    value = f"{estimate.value:.{digits}f}"
    return value if estimate.low is None else f"{value} [{interval_of(estimate, digits)}]"


def interval_of(estimate: Estimate, digits: int) -> str:
    return f"{estimate.low:.{digits}f}, {estimate.high:.{digits}f}"


def _percent(share: float) -> str:
    return f"{share:+.1%}"


def change_text(change: Estimate) -> str:
    value = _percent(change.value or 0.0)
    if change.low is None or change.high is None:
        return value
    return f"{value} [{_percent(change.low)}, {_percent(change.high)}]"


# -- charts ----------------------------------------------------------------------------------------


def charts(found: Findings, record: dict[str, Any]) -> list[Chart]:
    """Loss against parameters by family; loss against compute, with the law and its prediction."""
    drawn = [_by_parameters(found, record)]
    if found.law is not None and found.prediction is not None:
        drawn.append(_by_compute(found, record))
    return drawn


def verdict(found: Findings) -> str:
    """What the slopes of the families and the depths of the LSTM say."""
    from ..core.study.sizes import TRANSFORMER

    slopes = {name: each.slope for name, each in found.powers.items()}
    ours, decided = slopes.get(TRANSFORMER), dict[str, list[str]]()
    for name, other in slopes.items():
        if ours is not None and name != TRANSFORMER:
            decided.setdefault(_steeper(ours, other), []).append(name)
    parts = [f"{how} against {' and '.join(names)}" for how, names in decided.items() if how]
    text = "; ".join(parts)
    text = f"{text[0].upper()}{text[1:]}. " if text else ""
    said = [f"{name} {_percent(2 ** -(s.value or 0) - 1)}" for name, s in slopes.items()]
    text += f"Loss with each doubling of parameters: {'; '.join(said)}."
    if found.depths:
        one, two, change = found.depths[-1]
        helps = "unknown, with one seed"
        if change.low is not None and change.high is not None:
            helps = "helps" if change.high < 0 else "hurts" if change.low > 0 else "changes nothing"
            helps += " beyond the noise"
        text += f" LSTM of {two} layers rather than {one}: {change_text(change)}, {helps}."
    return text


def _steeper(ours: Estimate, other: Estimate) -> str:
    """Whether it held that ours is the steeper slope, by both intervals; empty without them."""
    if ours.low is None or ours.high is None or other.low is None or other.high is None:
        return ""
    if ours.low > other.high:
        return "held"
    return "did not hold" if ours.high < other.low else "undecided"


def _by_parameters(found: Findings, record: dict[str, Any]) -> Chart:
    import numpy as np

    lines = []
    for name, fitted in found.powers.items():
        groups = by_point(sorted(found.family(name), key=lambda run: run.parameters))
        x = [float(runs[0].parameters) for runs in groups]
        losses = [[run.loss for run in runs if run.loss] for runs in groups]
        lines.append(
            Line(
                name,
                x,
                [sum(each) / len(each) for each in losses],
                [min(each) for each in losses],
                [max(each) for each in losses],
                points=True,
                style="none",
            )
        )
        grid = np.geomspace(x[0], x[-1], POINTS)
        lines.append(Line(name, grid.tolist(), fitted.loss(grid).tolist(), style="dashed"))
    return Chart(
        "Each doubling of size gains a transformer more than an LSTM, wider or deeper",
        f"{verdict(found)} All on {record['tokens']:,} tokens; bars reach from the best to the "
        "worst seed.",
        Axis("parameters without embeddings and head", log=True),
        Axis(f"held-out loss ({record['loss']})", log=True),
        lines,
    )


def _by_compute(found: Findings, record: dict[str, Any]) -> Chart:
    from ..core.study.sizes import TRANSFORMER

    prediction, law = found.prediction, found.law
    assert prediction is not None and law is not None
    lines = []
    mine = [run for run in found.runs if TRANSFORMER in run.families and run.loss]
    for tokens in sorted({run.tokens for run in mine}, reverse=True):
        groups = by_point([run for run in mine if run.tokens == tokens])
        x = [runs[0].flops for runs in groups]
        y = [sum(run.loss or 0.0 for run in runs) / len(runs) for runs in groups]
        lines.append(Line(f"{tokens:,} tokens", x, y, points=True, style="none"))
        sizes = [float(runs[0].parameters) for runs in groups]
        fitted = law.law.loss(sizes, [float(tokens)] * len(sizes)).tolist()
        lines.append(Line(f"{tokens:,} tokens", x, fitted, style="solid"))
    compute, losses = zip(*prediction.frontier, strict=True)
    lines.append(Line("best size, by the law", compute, losses, style="dotted"))
    best = prediction.best.loss
    assert best.value is not None and best.low is not None and best.high is not None
    where = [prediction.compute]
    lines.append(Line("predicted", where, [best.value], [best.low], [best.high], points=True))
    check = record["check"]
    measured = decision = ""
    if check is not None and check["loss"]:
        lines.append(Line("measured", [check["flops"]], [check["loss"]], points=True, style="none"))
        side = "inside" if check["inside"] else "outside"
        decision = "Held. " if check["inside"] else "Did not hold. "
        measured = f" Measured: {check['loss']:.3f}, {side} the interval."
    alpha, beta = record["law"]["alpha"], record["law"]["beta"]
    return Chart(
        "A law fitted to small runs predicts a larger one",
        f"{decision}Exponents: parameters {alpha['value']:.2f} "
        f"[{alpha['low']:.2f}, {alpha['high']:.2f}], tokens {beta['value']:.2f} "
        f"[{beta['low']:.2f}, {beta['high']:.2f}]. Predicted for "
        f"{prediction.factor:g} times the compute: {best.value:.3f} [{interval_of(best, 3)}] with "
        f"{prediction.size.parameters:,} parameters.{measured}",
        Axis("training FLOPs", log=True),
        Axis(f"held-out loss ({record['loss']})", log=True),
        lines,
    )
