"""`tfm config`: every setting, its value and where it comes from."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import asdict
from typing import Any

import click

from ..core.config import (
    ModelConfig,
    SampleConfig,
    TrainConfig,
    check_names,
    parse_fields,
    with_fields,
)
from . import options as opt
from . import settings
from .folders import config_file
from .render import columns, say

COMMANDS = ("train", "sample", "eval", "score")  # an option of several counts for the first
FIELDS: dict[str, Any] = {"model": ModelConfig(), "train": TrainConfig(), "sample": SampleConfig()}


@click.command("config", cls=opt.Command)
@opt.json_option
@click.pass_context
def command(ctx: click.Context, quiet: bool, as_json: bool) -> None:
    """Print every setting, its value and its origin: TFM_X, a config file or default.

    A config file sets flags at the top level (`budget = "90s"`) and the fields of `--set` in tables
    such as [model].
    """
    found, path = all_settings(ctx), config_file()
    if as_json:
        files = [] if path is None else [str(path)]
        click.echo(json.dumps({"schema": 1, "files": files, "settings": found}))
        return
    there = path is not None and os.path.exists(path)
    say(f"user config file: {path}{'' if there else ' (not found)'}", quiet)
    rows = [["setting", "value", "origin"]]
    rows += [
        [e["name"], "-" if e["value"] is None else str(e["value"]), e["origin"]] for e in found
    ]
    click.echo(columns(rows))


def all_settings(ctx: click.Context) -> list[dict[str, Any]]:
    """The options of COMMANDS, then the fields of `--set`: name, value and origin of each."""
    found: dict[str, dict[str, Any]] = {}
    for name in COMMANDS:
        other: click.Command = importlib.import_module(f"tfm.cli.{name}").command
        inner = click.Context(other, info_name=name, parent=ctx)
        inner.meta.update(ctx.meta)
        inner.default_map = ctx.default_map
        other_args: list[str] = []
        with settings.located(inner):
            click.Command.parse_args(other, inner, other_args)
        options = {p.name for p in other.params if isinstance(p, click.Option)}
        for option, value in inner.params.items():
            if option in options and option not in ("settings", "as_json", "quiet"):
                shown = option.replace("run_name", "run").replace("_", "-")
                found.setdefault(
                    shown,
                    {
                        "name": shown,
                        "value": list(value) if isinstance(value, tuple) else value,
                        "origin": settings.origin(inner, option),
                    },
                )
    sets = settings.sets(ctx, ())
    for section, config in FIELDS.items():
        values = parse_fields(type(config), section, sets[section])
        if section == "model":  # its numbers must fit the shape of a size, which train chooses
            check_names(values)
            changed = asdict(config) | values
        else:
            changed = asdict(with_fields(config, section, sets[section]))
        for field, value in changed.items():
            origin = ctx.meta["tfm.origins"].get(f"{section}.{field}", "default")
            found[f"{section}.{field}"] = {
                "name": f"{section}.{field}",
                "value": value,
                "origin": origin,
            }
    return list(found.values())
