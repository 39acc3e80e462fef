"""`tfm info`: a run's settings, data, model and loss curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options as opt
from .render import columns, curve
from .training import score_line

if TYPE_CHECKING:
    from ..core.config import ModelConfig


def _layers(config: ModelConfig) -> str:
    """What the layers are, apart from their number and width."""
    parts = [] if config.mixers == "attention" else [config.mixers]
    if config.encoder_layers:
        parts.append(f"an encoder of {config.encoder_layers}")
    if config.uses("heads"):
        parts.append(f"{config.heads} head{'s' if config.heads > 1 else ''}")
    return "".join(f"{part}, " for part in parts)


def _receptive_field(model: ModelConfig) -> str:
    """What a hidden state depends on, where that is not all positions before it."""
    from ..core.model.sequence_model import on_meta

    if model.window or "conv" in model.mixers:
        field = on_meta(model).receptive_field()
        return "" if field is None else f", receptive field {field}"
    return ""


@click.command("info", cls=opt.Command)
@opt.run_argument
@opt.runs_option
@opt.json_option
def command(run: str | None, runs: str, quiet: bool, as_json: bool) -> None:
    """Show settings, data, model, loss curve and score of RUN (the newest by default)."""
    from ..core.runs.catalogue import open_run

    opened = open_run(run, Path(runs), whole=True)
    status = opened.status()
    saved = [c.step for c in opened.checkpoints()]
    config = opened.config
    if as_json:
        click.echo(
            json.dumps(
                {
                    "schema": 1,
                    "run": str(opened.path),
                    **config,
                    "status": status,
                    "checkpoints": saved,
                }
            )
        )
        return
    model, train, data = config["model"], config["train"], config["data"]
    shape = opened.model_config()
    adapters = f"adapters of rank {train['lora']}, " if train.get("lora") else ""
    rows = [
        ["run", opened.title],
        ["state", f"{status['state']}, step {status['step']:,} of {status['steps']:,}"],
        ["command", f"tfm {' '.join(config['argv'])}"],
        ["created", f"{config['created']} with tfm {config['tfm']}"],
        ["data", data["about"]],
        ["tokenizer", f"{config['tokenizer']['spec']}, {shape.vocab_size:,} ids"],
        [
            "model",
            f"{config['arch']} {config['size']}: {model['layers']} layers of "
            f"width {model['width']}, {_layers(shape)}context {model['context']}"
            f"{_receptive_field(shape)}",
        ],
        [
            "training",
            f"batch {train['batch']} x {train['accumulate']}, {train['optimizer']}, "
            f"{adapters}"
            f"lr {train['lr' if train['optimizer'] == 'muon' else 'adam_lr']}, "
            f"{train['dtype']}, {train['threads']} threads",
        ],
        ["checkpoints", ", ".join(map(str, saved)) or "none"],
    ]
    if "imported" in config:  # by settings that are not known
        rows = [row for row in rows if row[0] != "training"]
    click.echo(columns(rows))
    losses = [e["loss"] for e in opened.log() if e.get("loss") is not None]
    chart = curve(losses)
    if chart:
        click.echo(f"\n{chart}\nloss in nats per token over {len(losses):,} steps")
    if status["final"]:
        scores = status["final"]["scores"]
        click.echo("\n" + score_line(scores["unit"], scores))
