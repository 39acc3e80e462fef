"""`tfm tasks`: the kinds of data that tfm can model, and their options."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields

import click

from ..core.plugins import find, names
from . import options as opt
from .names import complete_task
from .render import columns


@click.command("tasks", cls=opt.Command)
@click.argument("task", required=False, shell_complete=complete_task)
@opt.json_option
def command(task: str | None, quiet: bool, as_json: bool) -> None:
    """List tasks, or the options of TASK. The options are flags of `tfm train`."""
    chosen = [task] if task else names("tasks")
    found = []
    for name in chosen:
        kind = find("tasks", name)
        options = [
            {
                "name": f.name,
                "default": None if f.default is MISSING else f.default,
                "choices": list(f.metadata.get("choices", ())) or None,
                "help": f.metadata.get("help", ""),
            }
            for f in fields(kind.Options)
        ]
        found.append(
            {
                "task": name,
                "about": kind.about,
                "unit": kind.unit,
                "tokenizer": kind.default_tokenizer,
                "options": options,
            }
        )
    if as_json:
        click.echo(json.dumps({"schema": 1, "tasks": found}))
        return
    rows = [["task", "unit", "tokenizer", ""]]
    rows += [[e["task"], e["unit"], e["tokenizer"], e["about"]] for e in found]
    click.echo(columns(rows))
    if task:
        for entry in found[0]["options"]:
            choices = f" ({', '.join(entry['choices'])})" if entry["choices"] else ""
            flag = entry["name"].replace("_", "-")
            click.echo(f"\n--{flag}  [default: {entry['default']}]{choices}\n    {entry['help']}")
