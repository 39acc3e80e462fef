"""`tfm prepare`: tokenizes training data once, into a folder that `tfm train` takes as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..core.errors import UsageError
from . import options as opt
from . import settings
from .render import LoopProgress, say


@click.command("prepare", cls=opt.TaskCommand)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@opt.option("--task", help="text or byte.  [default: guessed from the data]")
@opt.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Training data: files, folders, globs, archives, tables, - (stdin), hf:NAME; repeatable.",
)
@opt.split_options
@opt.option(
    "--init", metavar="RUN", help="Use the tokenizer of a run that training is to start from."
)
@opt.option(
    "-o", "--out", required=True, type=click.Path(), metavar="DIR", help="The folder to write."
)
@opt.option(
    "--shard-size",
    type=opt.Count(),
    default="256M",
    show_default=True,
    metavar="BYTES",
    help="Training data of a shard, in bytes of text.",
)
@opt.runs_option
@opt.json_option
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Read, split and tokenize FILEs (or --data) into a folder that `tfm train` takes as data.

    Training on the folder gives the same run, bit for bit, as training on the data with the same
    flags; it reads only the ids that it needs, and checks each shard once a machine. A command that
    was interrupted goes on after its last complete shard when it is repeated. Prints the path of
    the folder.

    \b
        tfm prepare corpus/*.txt --tokenizer bpe:8192 -o corpus.tfm
        tfm train corpus.tfm --budget 8h
    """
    from ..core.exchange.imported import open_start
    from ..core.plugins import find
    from ..core.train.request import Request
    from ..core.train.write_prepared import write_prepared

    def note(text: str) -> None:
        say(text, quiet)

    init = open_start(flags["init"], Path(flags["runs"]), None) if flags["init"] else None
    if init is not None and settings.origin(ctx, "tokenizer") == "flag":
        raise UsageError("--tokenizer and --init exclude each other: its run has its own")
    if init is not None and flags["task"] not in (None, init.config["task"]):
        raise UsageError(
            f"--task {flags['task']}: --init {init.title} is a {init.config['task']} run"
        )
    if flags["task"]:
        find("tasks", flags["task"])
    given = {
        name: flags[name]
        for name in ctx.meta.get("tfm.task_options", ())
        if flags[name] is not None
    }
    request = Request(
        task=init.config["task"] if init else flags["task"],
        task_options={**settings.sets(ctx, ())["task"], **given},
        data=(*flags["data"], *opt.expanded(flags["files"])),
        init=init,
        **{name: flags[name] for name in ("column", "valid", "test", "holdout", "tokenizer")},
    )
    folder, progress = Path(flags["out"]), LoopProgress(quiet)
    try:
        about = write_prepared(
            request,
            folder,
            flags["shard_size"],
            note,
            lambda done, total: progress.show(done, total, "bytes"),
        )
    finally:
        progress.close()
    if as_json:
        click.echo(json.dumps({"schema": 1, "folder": str(folder), **_facts(about)}))
    else:
        click.echo(folder)


def _facts(about: dict[str, Any]) -> dict[str, Any]:
    """The object for --json: what prepared.json has, shards as sums."""
    shards, unit = about["shards"], f"{about['unit']}s"
    names = ("task", "task_options", "tokenizer", "column", "holdout", "fingerprint", "read")
    sums = {name: sum(each[name] for each in shards) for name in ("sequences", "ids", unit)}
    return {**{name: about[name] for name in names}, **sums, "shards": len(shards)}
