"""`tfm import`: a model of another program becomes a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import options as opt
from .render import say


@click.command("import", cls=opt.Command)
@click.argument("source")
@opt.option(
    "--run",
    "run_name",
    envvar="TFM_RUN",
    metavar="DIR",
    help="The run's directory.  [default: runs/TIME-text]",
)
@opt.option(
    "--context",
    type=opt.Count(),
    help="Context length in tokens.  [default: the model's own, at most 2048]",
)
@opt.runs_option
@opt.json_option
def command(
    source: str, run_name: str | None, context: int | None, runs: str, quiet: bool, as_json: bool
) -> None:
    """Make a run of SOURCE, a model of another program. Nothing in it is executed.

    SOURCE is hf:DIR (a folder with config.json, *.safetensors and tokenizer.json), hf:NAME of the
    Hugging Face hub, or FILE.gguf; see docs/exchange.md. Prints the run's path on stdout.
    """
    from ..core.exchange.imported import import_run
    from .folders import default_paths

    path = Path(run_name) if run_name else next(default_paths(Path(runs), "text"))
    run = import_run(opt.expanded(source), path, context)
    about, config = run.config["imported"], run.model_config()
    say(
        f"imported {about['source']}: {about['class']}, {config.layers} layers of width "
        f"{config.width}, context {config.context:,}, vocabulary {config.vocab_size:,}",
        quiet,
    )
    for line in about.get("notes", ()):
        say(line, quiet)
    record = {"schema": 1, "run": str(run.path), "model": run.config["model"], **about}
    click.echo(json.dumps(record) if as_json else run.path)
