"""`tfm runs`: lists all runs, newest last."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ..core.errors import TfmError
from ..core.plugins import find
from . import options as opt
from .render import columns, say


@click.command("runs", cls=opt.Command)
@opt.runs_option
@opt.json_option
def command(runs: str, quiet: bool, as_json: bool) -> None:
    """List runs, newest last, with their state and score."""
    from ..core.runs.catalogue import all_runs, unreadable_runs

    for _, problem in unreadable_runs(Path(runs)):
        say(f"left out: {problem}", quiet)
    found = [summary(run) for run in all_runs(Path(runs))]
    if as_json:
        click.echo(json.dumps({"schema": 1, "runs": found}))
        return
    if not found:
        say(f"no runs in {runs}/ yet; start with: tfm train --task text", quiet)
        return
    rows = [["run", "task", "size", "step", "score", "state"]]
    for entry in found:
        score = f"{entry['score']:.3f} bits/{entry['unit']}" if entry["score"] is not None else "-"
        if entry["headline"]:
            score = ", ".join(f"{name} {value:.4g}" for name, value in entry["headline"].items())
        rows.append(
            [
                entry["run"],
                entry["task"],
                entry["size"],
                f"{entry['step']}/{entry['steps']}",
                score,
                entry["state"],
            ]
        )
    click.echo(columns(rows))
    for entry in found:
        if entry["resume"]:
            say(f"resume with: {entry['resume']}", quiet)


def summary(run: Any) -> dict[str, Any]:
    """One entry of `tfm runs --json`."""
    about = {
        "run": str(run.path),
        "task": run.config.get("task"),
        "size": run.config.get("size"),
        "created": run.created,
        "steps": run.config.get("train", {}).get("steps"),
    }
    try:
        status = run.status()
    except TfmError as error:
        state = f"damaged: {error}"
        about |= {"state": state, "step": 0, "unit": None, "score": None}
        return {**about, "headline": {}, "resume": None}
    scores = (status["final"] or {}).get("scores", {})
    unit = scores.get("unit")
    about["steps"] = status["steps"]
    unfinished = status["state"] in ("interrupted", "empty")
    return {
        **about,
        "resume": f"tfm train --resume {quote(str(run.path))}" if unfinished else None,
        "state": status["state"],
        "step": status["step"],
        "unit": unit,
        "score": scores.get(f"bits_per_{unit}"),
        "headline": {n: scores[n] for n in _headline(run) if scores.get(n) is not None},
    }


def _headline(run: Any) -> tuple[str, ...]:
    """The main metrics of a run's task; none if its package is not installed any more."""
    try:
        return tuple(find("tasks", run.config["task"]).headline)
    except (TfmError, KeyError):
        return ()
