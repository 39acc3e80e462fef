"""`tfm data`: a few items as the model sees them, counts, and what is doubtful about the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import AnswerNo, UsageError
from . import options as opt
from . import settings
from .data_text import Printed, as_text, colours
from .names import complete_run
from .render import LoopProgress, say
from .tokenize import run_and_files

if TYPE_CHECKING:
    from ..core.inspection.inspect import Domain
    from ..core.train.examine import Examined

OF_RUN = ("mix", "column", "valid", "test", "holdout", "tokenizer", "context")


class DataCommand(opt.TaskCommand):
    """A command whose first argument can be a run, which has a task."""

    def task_options(self, ctx: click.Context, args: list[str]) -> tuple[str, type] | None:
        from ..core.errors import TfmError
        from ..core.plugins import find
        from ..core.runs.catalogue import open_run

        words = tuple(opt.expanded(word) for word in self._files(args))
        root = opt.peek(args, "runs") or (ctx.default_map or {}).get("runs") or "runs"
        try:
            run, _ = run_and_files(words[:1], root)
            if run is not None:
                task = find("tasks", open_run(run, Path(root), whole=True).config["task"])
                return task.name, task.Options
        except (TfmError, OSError, KeyError):
            return None
        return super().task_options(ctx, args)


@click.command("data", cls=DataCommand)
@click.argument("paths", nargs=-1, metavar="[RUN | FILE...]", shell_complete=complete_run)
@opt.option(
    "--task",
    help="text, byte ... (see `tfm tasks`), or a part of RUN.  [default: guessed from the data]",
)
@opt.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Data, as for `tfm train`; with RUN: where its data is now. Repeatable.",
)
@opt.option("--mix", multiple=True, metavar="TASK[:PATH][@WEIGHT]", help="Several domains.")
@opt.split_options
@opt.option("--context", type=opt.Count(), help="Warn of items longer than this, in tokens.")
@opt.option(
    "-n", "--items", type=click.IntRange(0), default=3, show_default=True, help="Items to show."
)
@opt.option(
    "--split",
    type=click.Choice(["train", "valid", "report", "test"]),
    default="train",
    show_default=True,
    help="The split whose items are shown.",
)
@opt.option(
    "--seed", type=click.IntRange(0), help="Show random items.  [default: evenly spaced ones]"
)
@opt.option("--strict", is_flag=True, help="Exit with code 5 if there are warnings.")
@opt.runs_option
@opt.json_option
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Show what a model reads: a few items as tokens, the sizes of the splits, and what is doubtful
    about the data of RUN, of FILEs, or of the task's own data.

    Warnings: held-out items that are in the training part, exactly or nearly; duplicates; empty and
    constant items; a label that is always the same; uneven times; items longer than the context;
    tokens that training never has. Nothing is trained.

    \b
        tfm data notes.txt --tokenizer char
        tfm data RUN --split valid -n 5
        tfm data pictures/ --labels last --strict --json
    """

    def note(text: str) -> None:
        say(text, quiet)

    run, files = run_and_files(opt.expanded(flags["paths"]), flags["runs"])
    if run is not None:
        if files:
            raise UsageError(f"{files[0]}: {run} is a run, with data of its own; omit one of them")
        examined = _of_run(ctx, run, flags)
        source = {"run": run}
    else:
        examined = _of_files(ctx, files, flags, note)
        source = {}
    printed = _inspected(examined, flags, quiet, note)
    warnings = sum(len(each.warnings) for each in printed)
    if as_json:
        click.echo(json.dumps({"schema": 1, **source, **_record(examined, printed)}))
    else:
        columns = shutil.get_terminal_size().columns
        for line in as_text(examined, printed, columns, colours()):
            click.echo(line)
    if flags["strict"] and warnings:
        raise AnswerNo(f"--strict: {warnings} warning{'s' if warnings > 1 else ''}")


# -- reading -------------------------------------------------------------------------------------


def _of_run(ctx: click.Context, run: str, flags: dict[str, Any]) -> Examined:
    """The data of a run. UsageError for flags that would change it."""
    from ..core.runs.catalogue import open_run
    from ..core.train.examine import examine_run

    for name in (*OF_RUN, *ctx.meta.get("tfm.task_options", ())):
        if settings.origin(ctx, name) == "flag":
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} and RUN exclude each other: the run has its own")
    part = flags["task"] if settings.origin(ctx, "task") == "flag" else None
    opened = open_run(opt.part_of(run, part), Path(flags["runs"]), whole=True)
    return examine_run(opened, flags["data"])


def _of_files(ctx: click.Context, files: tuple[str, ...], flags: dict[str, Any], note: Any) -> Any:
    """The data that the flags name, or that the task has."""
    from ..core.plugins import find
    from ..core.train.examine import examine_request
    from ..core.train.request import Request
    from .train_request import check_mix, mix_options

    flags["data"] = (*flags["data"], *files)
    options = {
        name: flags[name]
        for name in ctx.meta.get("tfm.task_options", ())
        if flags[name] is not None
    }
    if flags["mix"]:
        check_mix(flags)
        flags["task"] = "mix"
        options |= mix_options(flags["mix"])
    if flags["task"]:
        find("tasks", flags["task"])
    names = ("task", "data", "column", "valid", "test", "holdout", "tokenizer", "context")
    own = settings.sets(ctx, ())["task"]
    request = Request(task_options={**own, **options}, **{name: flags[name] for name in names})
    notes: list[str] = []
    try:
        examined = examine_request(request, notes.append)
        read = examined.description.lines if examined.description else ()
        notes = [text for text in notes if text not in read]  # stdout has these
        return examined
    finally:
        for text in dict.fromkeys(notes):
            note(text)


def _inspected(examined: Examined, flags: dict[str, Any], quiet: bool, note: Any) -> list[Printed]:
    """What was found in each domain of the data."""
    from ..core.inspection.inspect import domains
    from ..core.inspection.samples import Samples

    parts = domains(examined.domain)
    splits = ("train", *examined.domain.held)
    if flags["split"] not in splits:
        raise UsageError(f"--split {flags['split']}: the data has {', '.join(splits)}")
    found = []
    for name, part in parts.items():
        samples = Samples(flags["items"], flags["split"], flags["seed"])
        findings = _findings(part, examined, samples, quiet)
        if findings.sampled < 1:
            note(f"examined: a random sample of {findings.sampled:.1%} of the training part")
        refused = [examined.refused] if examined.refused and len(parts) == 1 else []
        found.append(Printed(name, part, findings, [*refused, *findings.warnings]))
    return found


def _findings(part: Domain, examined: Examined, samples: Any, quiet: bool) -> Any:
    """What is found in a part, with the progress of reading where it takes a while."""
    from ..core.inspection.inspect import inspect

    progress, size, unit = LoopProgress(quiet), part.train.size, f"{part.task.unit}s"
    try:
        return inspect(
            part,
            examined.context,
            samples,
            lambda fraction: progress.show(int(fraction * size), size, unit),
        )
    finally:
        progress.close()


# -- JSON ----------------------------------------------------------------------------------------


def _record(examined: Examined, printed: list[Printed]) -> dict[str, Any]:
    """The object for --json; of several domains, with one a domain under `parts`."""
    task = examined.domain.task
    read = examined.description.record if examined.description else None
    found: dict[str, Any] = {"task": task.name, "source": examined.source, "read": read}
    if len(printed) == 1 and not printed[0].name:
        return {**found, "tokenizer": examined.tokenizer_spec, **printed[0].record()}
    return {**found, "parts": {each.name: each.record() for each in printed}}
