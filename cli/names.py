"""Completions of option values and arguments; imports nothing heavy, as a person waits for Tab."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def runs(ctx: click.Context, incomplete: str) -> list[str]:
    """Names of runs, the newest folder first."""
    root = Path(ctx.params.get("runs") or os.environ.get("TFM_RUNS") or "runs")
    try:
        found = [p for p in root.iterdir() if (p / "config.json").exists()]
    except OSError:
        return []
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.name for path in found if path.name[:1] != "."]


def tasks(ctx: click.Context, incomplete: str) -> list[str]:
    from ..core.plugins import names

    return names("tasks")


def tokenizers(ctx: click.Context, incomplete: str) -> list[str]:
    from ..core.plugins import names

    return [*names("tokenizers"), "hf:"]


def archs(ctx: click.Context, incomplete: str) -> Iterable[str]:
    from ..core.architectures import ARCHS

    return ARCHS


def sizes(ctx: click.Context, incomplete: str) -> Iterable[str]:
    from ..core.architectures import SIZES

    return SIZES


def checkpoints(ctx: click.Context, incomplete: str) -> list[str]:
    root = Path(ctx.params.get("runs") or "runs")
    run = ctx.params.get("run") or next(iter(runs(ctx, "")), "")
    folders = [path / "checkpoints" for path in (Path(run), root / run)]
    saved = {p.name.lstrip("0") for f in folders for p in f.glob("[0-9]*")} if run else set()
    return ["last", *sorted(saved, key=int)]


def trackers(ctx: click.Context, incomplete: str) -> Iterable[str]:
    from ..core.trackers.tracker import names

    return names()


def formats(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """The formats of `tfm export`."""
    from ..core.exchange.formats import EXPORTS

    return EXPORTS


COMPLETIONS: Mapping[str, Callable[[click.Context, str], Iterable[str]]] = {
    "task": tasks,
    "tokenizer": tokenizers,
    "arch": archs,
    "size": sizes,
    "resume": runs,
    "init": runs,
    "track": trackers,
    "to": formats,
    "checkpoint": checkpoints,
    "device": lambda ctx, incomplete: ("auto", "cpu", "cuda", "mps"),
}
PATHS = ("data", "valid", "test", "config", "out", "plot", "predictions", "run_name", "runs",
         "init", "resume", "study")  # fmt: skip


def complete_option(
    name: str | None, ctx: click.Context, incomplete: str
) -> list[CompletionItem[str]] | None:
    """Completions of an option's value; None for an option whose values are not known."""
    from click.shell_completion import CompletionItem

    if name in (*PATHS, "prompt") and name not in COMPLETIONS:
        return [CompletionItem(incomplete, type="dir" if name in ("run_name", "runs") else "file")]
    if name is None or name not in COMPLETIONS:
        return None
    return _matching(COMPLETIONS[name](ctx, incomplete), incomplete)


def complete_run(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Names of runs that start with `incomplete`; if there are none, paths."""
    from click.shell_completion import CompletionItem

    return _matching(runs(ctx, incomplete), incomplete) or [CompletionItem(incomplete, type="file")]


def complete_task(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    return _matching(tasks(ctx, incomplete), incomplete)


def complete_kind(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The kinds of package that `tfm new` writes."""
    return _matching(["task"], incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
