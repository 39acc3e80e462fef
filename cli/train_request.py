"""What the flags of `tfm train` ask for: a request and a deadline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from . import settings
from .main import COMMAND_START

if TYPE_CHECKING:
    from ..core.train.request import Deadline, Request


def deadline_of(ctx: click.Context, flags: dict[str, Any]) -> Deadline | None:
    """The end of the time budget; None if --steps or --tokens sets the length of training."""
    chosen = settings.one_of(ctx, ("budget", "steps", "tokens"))
    for name in ("budget", "steps", "tokens"):
        if name != chosen:
            flags[name] = None
    if chosen in ("steps", "tokens"):
        return None
    from ..core.train.request import DEFAULT_BUDGET, Deadline

    flags["budget"] = flags["budget"] or DEFAULT_BUDGET
    return Deadline(COMMAND_START + flags["budget"])


def request_of(ctx: click.Context, flags: dict[str, Any]) -> Request:
    """The request that the flags describe. Unknown names fail here, before torch is imported."""
    from ..core.architectures import model_config
    from ..core.config import check_names
    from ..core.exchange.formats import importer
    from ..core.exchange.imported import open_start
    from ..core.plugins import find
    from ..core.train.early_stopping import bound_of

    sets = settings.sets(ctx, flags["settings"])
    check_names(sets["model"])
    model_config(flags["arch"], flags["size"] or "tiny")
    if flags["mix"]:
        check_mix(flags)
        flags["task"] = "mix"
    if flags["task"]:
        find("tasks", flags["task"])
    if not flags["data"] and not flags["init"]:
        find("tasks", flags["task"] or "text").prefetch()
    task_options = {
        name: flags[name]
        for name in ctx.meta.get("tfm.task_options", ())
        if flags[name] is not None
    }
    task_options |= mix_options(flags["mix"])
    for name in ("save_every", "patience", "until", "lora"):
        if flags[name] is not None:
            sets["train"][name] = flags[name]
    bound_of(str(sets["train"].get("until") or "plateau"))
    if "seed" in sets["train"] or "steps" in sets["train"]:
        raise UsageError("--set train.seed and train.steps: use --seed and --steps")
    init = None
    if flags["init"]:
        foreign = importer(flags["init"]) is not None
        context = flags["context"] if foreign else None
        init = open_start(flags["init"], Path(flags["runs"]), context)
        for name in ("tokenizer", "size", "arch", *(() if foreign else ("context",))):
            if settings.origin(ctx, name) == "flag":
                raise UsageError(f"--{name} and --init exclude each other: its run has its own")
        if flags["task"] not in (None, "mix", init.config["task"]):
            raise UsageError(
                f"--task {flags['task']}: --init {init.title} is a {init.config['task']} run"
            )
    from ..core.train.request import Request

    return Request(
        task=init.config["task"] if init and not flags["mix"] else flags["task"],
        task_options={**sets["task"], **task_options},
        data=flags["data"],
        column=flags["column"],
        valid=flags["valid"],
        test=flags["test"],
        holdout=flags["holdout"],
        tokenizer=flags["tokenizer"],
        arch=init.config["arch"] if init else flags["arch"],
        size=init.config["size"] if init else flags["size"],
        context=flags["context"],
        budget=flags["budget"],
        steps=flags["steps"],
        tokens=flags["tokens"],
        seed=flags["seed"],
        device=flags["device"],
        nproc=flags["nproc"],
        shard=flags["shard"] and flags["nproc"] > 1,
        init=init,
        sets=sets,
    )


def mix_options(mix: tuple[str, ...]) -> dict[str, object]:
    """The options of the task that --mix gives; none without it. UsageError for a newline."""
    if not mix:
        return {}
    from ..tasks._mix.parts import lasting

    if any("\n" in spec for spec in mix):
        raise UsageError("--mix: a newline in it; give each part by a --mix of its own")
    return {"parts": "\n".join(map(lasting, mix)) or "\n"}


def check_mix(flags: dict[str, Any]) -> None:
    """UsageError for flags that name the data of one domain."""
    for name in ("data", "column", "valid", "test"):
        if flags[name]:
            raise UsageError(f"--{name} and --mix exclude each other: a part names its own data")
    if flags["task"] not in (None, "mix"):
        raise UsageError(f"--task {flags['task']} and --mix exclude each other")
