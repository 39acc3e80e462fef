"""The flags that `ablate`, `probe` and `scale` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ..core.errors import ConfigError
from . import options as opt

CLUSTERS = ("slurm", "local")

_DATA = (
    opt.option("--task", help="text, byte ... (see `tfm tasks`).  [default: guessed from data]"),
    opt.option("--data", multiple=True, metavar="PATH", help="Data, as for tfm train; repeatable."),
    opt.option("--column", help="The column of a table that holds the items."),
    opt.option("--valid", multiple=True, metavar="PATH", help="Validation data (else of --data)."),
    opt.option("--test", multiple=True, metavar="PATH", help="Data for the scores."),
    opt.option(
        "--holdout",
        type=opt.Real(0, 0.9, min_open=True),
        metavar="FRACTION",
        help="Fraction of the data to hold out.  [default: 0.1]",
    ),
    opt.option("--tokenizer", metavar="NAME", help="byte, char, bpe, bpe:SIZE ..."),
    opt.option("--context", type=opt.Count(), help="Context length in tokens."),
    opt.option(
        "--set",
        "settings",
        multiple=True,
        envvar="TFM_SET",
        metavar="SECTION.FIELD=VALUE",
        help="Set a field for all runs: model.layers=6, train.optimizer=adamw.",
    ),
)
_STUDY = (
    opt.option("--tokens", type=opt.Count(), help="Training tokens of a run, instead of a budget."),
    opt.option(
        "--budget",
        type=opt.Duration(),
        metavar="TIME",
        help="Wall time of the whole study, such as 2m or 1h.  [default: 10m]",
    ),
    opt.option(
        "--seeds",
        type=click.IntRange(1),
        default=3,
        show_default=True,
        metavar="N",
        help="Runs that are scored, each with a seed of its own.",
    ),
    opt.option(
        "--lr",
        "lr_factors",
        envvar="TFM_LR",
        default="0.3,1,3",
        show_default=True,
        metavar="F,F...",
        help="Factors of the architecture's learning rates that are tried, and beyond where the "
        "last is the best; one: no sweep.",
    ),
    opt.option(
        "--jobs",
        type=click.IntRange(1),
        metavar="N",
        help="Runs that train at a time.  [default: one a core; one on a GPU]",
    ),
    opt.option(
        "--cluster",
        type=click.Choice(CLUSTERS),
        help="Submit runs through submitit: to Slurm, or to this machine.",
    ),
    opt.option("--study", metavar="DIR", help="The study's folder.  [default: studies/TIME-VERB]"),
    opt.option("--resume", metavar="DIR", help="Continue a study that was interrupted."),
    opt.option("--plot", metavar="FILE", help="Draw the figure into FILE: .png, .svg or .pdf."),
    opt.device_option,
    opt.json_option,
)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of `tfm train` that say what the data is, and --set."""
    return _decorated(command, _DATA)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of all studies, --json and --device among them."""
    return _decorated(command, _STUDY)


def _decorated(command: Callable[..., Any], options: Sequence[Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """The positive numbers of a list such as 0.3,1,3, each once. ConfigError names the flag."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < float("inf") for number in found):
        raise ConfigError(f"{flag} {text}: must be positive numbers such as 0.3,1,3")
    if len(set(found)) < len(found):
        raise ConfigError(f"{flag} {text}: a number twice")
    return tuple(found)
