"""`tfm export`: a run's model in the format of another program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from . import options as opt
from .names import complete_run
from .render import say


@click.command("export", cls=opt.Command)
@click.argument("run", shell_complete=complete_run)
@click.argument("out", type=click.Path(path_type=Path))
@opt.option("--to", required=True, metavar="FORMAT", help="hf, peft, gguf or onnx.")
@opt.option("--dtype", metavar="TYPE", help="Of the weights.  [default: float32]")
@opt.checkpoint_option
@opt.runs_option
@opt.json_option
def command(
    run: str,
    out: Path,
    to: str,
    dtype: str | None,
    checkpoint: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the model of RUN to OUT for another program.

    hf is a folder that transformers loads, peft one with the adapters of `train --lora`, gguf a
    file for llama.cpp, onnx a folder for onnxruntime; see docs/exchange.md. Prints OUT on stdout.
    """
    from ..core.exchange.formats import EXPORTS, check_export, export
    from ..core.runs.catalogue import open_run

    dtype = check_export(to, dtype)
    opened = open_run(run, Path(runs))
    load = opened.load_trained if EXPORTS[to].adapters else opened.load_model
    about = export(to, opened, load(checkpoint).eval(), out, dtype)
    notes: Any = about.get("notes", ())
    if as_json:
        click.echo(json.dumps({"schema": 1, "format": to, "path": str(out), **about}))
    else:
        told = {k: v for k, v in about.items() if k not in ("files", "notes") and v is not None}
        say(", ".join(f"{key} {value}" for key, value in told.items()), quiet)
        for line in notes:
            say(line, quiet)
        click.echo(out)
