"""`tfm ablate`: what each change of an architecture is worth, on the user's data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import ConfigError, UsageError
from . import options as opt
from .render import columns
from .study_options import data_options, study_options
from .study_report import estimate_text, factor_text, legend, memory_text, show_charts
from .studying import Session, lasting, session

if TYPE_CHECKING:
    from ..core.chart import Chart
    from ..core.study.comparison import Comparison, Outcome
    from ..core.study.contestant import Contestant
    from ..core.study.plan import Shapes

STEPS_CLAIM = "Each change of the transformer since 2017 lowers the loss"
LADDER_CLAIM = "Today's transformer learns more from the same tokens than what came before it"


@click.command("ablate", cls=opt.TaskCommand)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@opt.option(
    "--grid",
    multiple=True,
    metavar="FIELD=A,B",
    help="Compare all combinations of values: model.ffn=relu,swiglu; repeatable.",
)
@opt.option("--arch", metavar="NAME,NAME...", help="Compare these architectures.")
@opt.option(
    "--tasks",
    metavar="TASK[:PATH],...",
    help="Train on each of several domains: text:a.txt,image:digits/,series:b.csv.",
)
@opt.option("--size", default="nano", show_default=True, help="nano, tiny, small, base, large.")
@opt.option(
    "--equal-time/--no-equal-time",
    default=True,
    help="Train once more for as long as the reference takes.  [default: equal-time]",
)
@data_options
@study_options
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Compare configurations on FILEs: by default the transformer of 2017, each change since then,
    and the architectures before it.

    All contestants have the same parameters within 2 % (embeddings included), train on the same
    tokens, and get their learning rate from the same small sweep. The table has the held-out score
    with a 95 % interval over seeds.
    """
    if flags["resume"] is None:
        _check(flags)
    with session(ctx, "ablate", flags, quiet) as opened:
        asked = opened.flags
        if asked["tasks"]:
            outcomes = opened.outcomes([_on_task(opened, *each) for each in asked["tasks"]])
            record, charts, text = _versatility(outcomes)
        else:
            comparison = opened.comparison(
                "comparison",
                lambda shapes: _contestants(asked, shapes.prepared.tokenizer.axes),
                equal_time=asked["equal_time"],
            )
            (outcome,) = opened.outcomes([comparison])
            record, charts, text = _ablation(outcome)
    record = {"schema": 1, "study": str(opened.study.folder), **record}
    click.echo(json.dumps(record) if as_json else text)
    show_charts(charts, flags["plot"], as_json, quiet)


def _check(flags: dict[str, Any]) -> None:
    """UsageError for flags that exclude each other, ConfigError for unknown names in them."""
    if flags["grid"] and flags["tasks"]:
        raise UsageError("--grid and --tasks exclude each other")
    if flags["tasks"] is not None:
        for name in ("files", "data", "task", "column", "valid", "test", "tokenizer"):
            if flags[name]:
                flag = "FILE" if name == "files" else f"--{name}"
                raise UsageError(f"{flag} and --tasks exclude each other: each task has its own")
        flags["tasks"] = _parsed_tasks(flags["tasks"])
    _contestants(flags)


def _parsed_tasks(text: str) -> list[tuple[str, str]]:
    """(task, path or "") of each TASK[:PATH]."""
    from ..core.plugins import find

    found = []
    for part in opt.listed(text, "--tasks"):
        task, _, path = part.partition(":")
        if not task:
            raise ConfigError(f"--tasks {text}: must be TASK:PATH, separated by commas")
        find("tasks", task)
        (path,) = lasting([opt.expanded(path)]) if path else ("",)
        found.append((task, path))
    names = [task for task, _ in found]
    if len(set(found)) < len(names):
        raise ConfigError(f"--tasks {text}: a task twice")
    return found


def _contestants(flags: Mapping[str, Any], axes: int = 1) -> tuple[list[Contestant], str]:
    """The contestants, and the name of the one that the others are compared with. axes: of a
    position."""
    from ..core.study import ladder

    names = [] if flags["arch"] is None else opt.listed(flags["arch"], "--arch")
    if flags["grid"]:
        if len(names) > 1:
            raise UsageError(f"--arch {flags['arch']}: with --grid, one architecture")
        everyone = ladder.grid(flags["grid"], *(names or [ladder.DEFAULT]))
        return everyone, everyone[0].name
    if names or flags["tasks"]:
        everyone = ladder.architectures(names or [ladder.DEFAULT])
        return everyone, everyone[0].name
    return ladder.ladder(axes), ladder.DEFAULT


def _on_task(opened: Session, task: str, path: str) -> Comparison:
    """The comparison of the versatility table on one domain."""
    everyone, reference = _contestants(opened.flags)
    request = replace(opened.request, task=task, data=(path,) if path else (), task_options={})
    tasks = [list(each) for each in opened.flags["tasks"]]
    alone = [name for name, _ in tasks].count(task) == 1
    label = task if alone else f"{task}-{tasks.index([task, path]) + 1}"

    def contestants(_: Shapes) -> tuple[Sequence[Contestant], str]:
        named = [replace(each, name=f"{label} {each.name}") for each in everyone]
        return named, f"{label} {reference}"

    share = 1 / len(opened.flags["tasks"])
    return opened.comparison(f"comparison {label}", contestants, request, share=share)


# -- the tables ----------------------------------------------------------------------------------


def _ablation(outcome: Outcome) -> tuple[dict[str, Any], list[Chart], str]:
    from ..core.study.report import claim, difference_chart, step_chart, step_verdict, verdict

    planned, rows = outcome.comparison, outcome.rows()
    unit = outcome.score_unit
    is_ladder = any(row["after"] for row in rows)
    table = [
        [
            *("contestant", "parameters", "lr", unit, "change", "difference", "tokens/s"),
            *("memory", "equal time"),
        ]
    ]
    for row in rows:
        timed = row["equal_time_score"]
        same = row["score"] if row["equal_time_tokens"] is None else timed
        table.append(
            [
                row["contestant"],
                f"{row['parameters']:,}",
                factor_text(row),
                estimate_text(row["score"]),
                estimate_text(row["change"], signed=True),
                estimate_text(row["difference"], signed=True),
                f"{row['tokens_per_second']:,.0f}",
                memory_text(row["peak_bytes"]),
                ""
                if timed is None and row["equal_time_tokens"] is not None
                else estimate_text(same),
            ]
        )
    empty = {n for n in range(len(table[0])) if not any(line[n] for line in table[1:])}
    if all(row["equal_time_score"] is None for row in rows):
        empty.add(len(table[0]) - 1)
    table = [[cell for n, cell in enumerate(line) if n not in empty] for line in table]
    record = {
        "unit": unit,
        "reference": planned.reference,
        "tokens": planned.tokens,
        "seeds": planned.seeds,
        "confidence": 0.95,
        "lr_factors": list(planned.factors),
        "floor": dict(planned.floor),
        "contestants": rows,
        "verdict": verdict(outcome, rows),
        "step_verdict": step_verdict(outcome, rows) if is_ladder else None,
    }
    lines = legend(outcome, rows)
    title, charts = claim(outcome), []
    if is_ladder:
        to = f"change: to the row before; difference: to {planned.reference}"
        title, lines = LADDER_CLAIM, [to, *lines]
        charts = [step_chart(outcome, rows, STEPS_CLAIM)]
    charts.append(difference_chart(outcome, rows, title))
    return record, charts, "\n".join([columns(table, numbers=True), "", *lines])


def _versatility(outcomes: Sequence[Outcome]) -> tuple[dict[str, Any], list[Chart], str]:
    from ..core.study.report import against_floor, floor_chart, floor_verdict

    table = [["task", "contestant", "lr", "score", "", "best baseline", "", "runs of"]]
    found = []
    for outcome in outcomes:
        rows = against_floor(outcome)
        found.append({"task": outcome.comparison.request.task, "contestants": rows})
        for row in rows:
            baseline = row["floor"]
            table.append(
                [
                    str(outcome.comparison.request.task),
                    row["contestant"].partition(" ")[2],
                    factor_text(row),
                    estimate_text(row["score"]),
                    row["metric"],
                    "" if baseline is None else f"{baseline:.4g}",
                    row["floor_name"] or "",
                    f"{row['tokens']:,} tokens",
                ]
            )
    said = floor_verdict(outcomes)
    every = [line for o in outcomes for line in legend(o, o.rows())]
    text = "\n".join([columns(table), "", *dict.fromkeys(every)])
    return {"tasks": found, "verdict": said}, [floor_chart(outcomes, said)], text
