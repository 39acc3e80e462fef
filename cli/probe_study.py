"""`tfm probe --task`: at which distance architectures recall, copy and find a pattern again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import ConfigError
from . import options as opt
from .render import columns, loops_shown
from .study_report import legend, show_charts
from .studying import Session, session

if TYPE_CHECKING:
    from ..core.probe.distance import AtDistance
    from ..core.study.comparison import Comparison, Outcome
    from ..core.study.contestant import Contestant

ARCHS = "transformer,lstm,cnn"
DISTANCES = "64,128,256"


def run(ctx: click.Context, flags: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Trains each architecture on items of many lengths, and prints its accuracy at each."""
    from ..core.probe.distance import at_distance, chart, options_at, training_options, verdict

    if flags["resume"] is None:
        for name, usual in (("arch", ARCHS), ("distance", DISTANCES)):
            flags[name] = usual if flags[name] is None else flags[name]
        _architectures(flags)  # an impossible study is found before its folder is made
        training_options(flags["task"], distances(flags["distance"]))
    with session(ctx, "probe", flags, quiet) as opened:
        asked = opened.flags
        task, lengths = asked["task"], distances(asked["distance"])
        options = training_options(task, lengths)
        (outcome,) = opened.outcomes([_comparison(opened, options)])

        from ..core.ops.device import pick_device

        device = pick_device(asked["device"])
        with loops_shown(quiet):
            found = [
                at_distance(outcome, opened.study.folder, length, options_at(task, length), device)
                for length in lengths
            ]
    record = {
        "schema": 1,
        "study": str(opened.study.folder),
        "task": task,
        "seeds": asked["seeds"],
        "confidence": 0.95,
        "lr_factors": list(opened.factors),
        "trained_on": options,
        "distances": [each.record() for each in found],
        "verdict": verdict(found),
    }
    click.echo(json.dumps(record) if as_json else report(found, outcome))
    show_charts([chart(task, found)], flags["plot"], as_json, quiet)


def distances(text: str) -> list[int]:
    """The lengths of a list such as 64,128,256, in increasing order. ConfigError if it is none."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise ConfigError(f"--distance {text}: must be whole numbers such as 64,128,256")
    return found


def _comparison(opened: Session, options: dict[str, int]) -> Comparison:
    """The architectures, trained with these options of the task; the first one is the reference."""
    everyone = _architectures(opened.flags)
    own = {**opened.request.task_options, **options}
    request = replace(opened.request, task_options=own)
    return opened.comparison("distance", lambda _: (everyone, everyone[0].name), request)


def _architectures(flags: dict[str, Any]) -> list[Contestant]:
    from ..core.study.ladder import architectures

    return architectures(opt.listed(flags["arch"], "--arch"))


def report(found: Sequence[AtDistance], outcome: Outcome) -> str:
    """The accuracies as a table, a row for each distance."""
    names = [each.arch for each in found[0].answers]
    rows = [["distance", *names, "floor"]]
    for at in found:
        count = at.options.get("pairs", 0)
        pairs = f" ({count} pair{'s' if count > 1 else ''})" if count else ""
        cells = ["diverged" if a.accuracy is None else a.accuracy.text() for a in at.answers]
        rows.append([f"{at.distance:,}{pairs}", *cells, f"{at.best_floor:.3f}"])
    lines = [
        f"accuracy on at most {max(at.items for at in found):,} held-out items; 95 % intervals "
        "over items",
        columns(rows, numbers=True),
        "",
        f"trained on items of {found[0].distance:,} to {found[-1].distance:,} tokens",
    ]
    tokens, _, *others = legend(outcome, outcome.rows())
    return "\n".join([*lines, tokens, *others])
