"""`tfm view`: one pass of a model over an item, as a page or in the terminal."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from . import options as opt
from .prompts import single_prompt
from .render import say

if TYPE_CHECKING:
    from ..core.protocols import Sequence, Tokenizer
    from ..core.runs.run import Run
    from ..core.task import Task

ANSWER = 64  # tokens at most that the model writes itself where the domain expects an answer


@click.command("view", cls=opt.Command)
@opt.run_argument
@opt.part_option
@opt.option(
    "-p", "--prompt", metavar="TEXT|@FILE|-", help="What the model reads; @FILE, - (stdin)."
)
@opt.option(
    "--item",
    type=click.IntRange(1),
    metavar="N",
    help="Or read the Nth item that the run holds out.",
)
@opt.option("--split", help="With --item: valid or test.  [default: that of the final score]")
@opt.option("-o", "--out", metavar="FILE.html", help="Write the page to FILE.  [default: stdout]")
@opt.option("--force", is_flag=True, help="Overwrite FILE.")
@opt.option("--terminal", is_flag=True, help="Show the heart of it here instead of a page.")
@opt.option(
    "--max-mb",
    type=opt.Real(),
    metavar="MB",
    default=5.0,
    show_default=True,
    help="The size of the page: what does not fit is rounded or left out, and named.",
)
@opt.checkpoint_option
@opt.device_option
@opt.runs_option
@opt.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="TFM_JSON",
    help="Print the page's figures as JSON, without tensors.",
)
def command(
    run: str | None,
    part: str | None,
    prompt: str | None,
    item: int | None,
    split: str | None,
    out: str | None,
    force: bool,
    terminal: bool,
    max_mb: float,
    checkpoint: str,
    device: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """See inside RUN (the newest by default) while it reads an item: every tensor, in three
    dimensions, as matrices and block by block, with its true values.

    The page is one file that opens in any browser and needs no network:

    \b
        tfm view RUN -p "To be, or not" -o view.html
        tfm view RUN --item 3 --terminal
    """
    if (prompt is None) == (item is None):
        raise UsageError("-p TEXT or --item N: give one of them, what the model is to read")
    if split is not None and item is None:
        raise UsageError("--split: needs --item")
    if terminal and as_json:
        raise UsageError("--terminal and --json exclude each other")
    if (terminal or as_json) and (out is not None or force):
        shown = "--terminal" if terminal else "--json"
        raise UsageError(f"{shown}: shows no page; omit -o and --force")
    if not (terminal or as_json) and out is None and sys.stdout.isatty():
        raise UsageError("-o FILE.html: where the page is written; or --terminal to see it here")
    if not max_mb > 0:
        raise UsageError(f"--max-mb: must be above 0, got {max_mb:g}")

    from ..core.files import check_output, write_out
    from ..core.runs.catalogue import open_run

    path = None if out in (None, "-") else Path(str(out))
    if path is not None:
        check_output(path, force)
    found = open_run(opt.part_of(run, part), Path(runs))
    found.check()
    task, tokenizer = found.task(), found.tokenizer()

    from ..core.ops.device import pick_device, use_threads

    use_threads(0)
    model = found.load_model(checkpoint, pick_device(device))

    def note(text: str) -> None:
        say(text, quiet)

    if item is not None:
        sequence = _heldout_item(found, tokenizer, model, item, split)
    else:
        sequence = _given(task, tokenizer, model, prompt, note)

    from ..core.view.look import reading
    from ..core.view.packing import Plan
    from ..core.view.page import View

    is_complete = item is not None or len(sequence) > model.config.context
    read = reading(model, tokenizer, sequence, is_complete, answered=task.greedy and item is None)
    facts = {
        "name": found.name,
        "arch": found.config.get("arch"),
        "checkpoint": found.checkpoint(checkpoint).step,
        "created": found.created,
        "item": item,
    }
    view = View(model, task, tokenizer, read, facts)
    if as_json:
        click.echo(json.dumps({"schema": view.data["format"], **view.data}))
        return
    if terminal:
        from .view_terminal import show

        item_shown = None
        if not task.draws_files:
            decoded = tokenizer.decode(sequence.ids, sequence.side)
            width = shutil.get_terminal_size().columns
            item_shown = task.preview([decoded], sequence, task.SampleOptions(), width)
        show(view, item_shown)
        return
    page, plan = view.html(max_mb * 1e6)
    if path is None:
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
        return
    write_out(path, page)
    complete = view.given_up(Plan())
    for sentence in view.given_up(plan):
        if sentence not in complete:
            note(sentence)
    note(f"{path}: {len(page) / 1e6:.1f} MB, {len(read.ids):,} tokens; open it in a browser")


def _heldout_item(
    run: Run, tokenizer: Tokenizer, model: Any, number: int, split: str | None
) -> Sequence:
    """Item `number` of a split, from 1. A running text counts as windows of the context."""
    from ..core.protocols import Sequence
    from ..core.score.likelihood import windows

    context, count = model.config.context, 0
    for sequence in run.heldout(split or run.config["final_split"]):
        whole = model.has_encoder or tokenizer.positions(len(sequence), sequence.side) is not None
        if whole or len(sequence) <= context + 1:
            count += 1
            if count == number:
                return sequence
            continue
        for window in windows(0, len(sequence), context, context):
            count += 1
            if count == number:
                return Sequence(sequence.ids[window.start : window.end])
    raise UsageError(f"--item {number}: this run holds out {count:,} items")


def _given(task: Task, tokenizer: Tokenizer, model: Any, prompt: str | None, note: Any) -> Sequence:
    """What -p gives, with the model's own answer where the domain expects one."""
    from ..core.decode.sampling import clip_prompt

    given = single_prompt(prompt, task.draws_files)
    if given is None or not given.data:
        raise UsageError("-p: is empty; give what the model should read")
    sequence = task.to_read(given.data, tokenizer, note)
    length, context = len(sequence), model.config.context
    is_whole = tokenizer.positions(length, sequence.side) is not None  # it cannot be cut
    if not model.has_encoder and not is_whole and length > context:
        note(f"-p: {length:,} tokens; the last that fit the context of {context:,} are read")
        sequence = clip_prompt(sequence, context)
    return _answered(task, tokenizer, model, sequence) if task.greedy else sequence


def _answered(task: Task, tokenizer: Tokenizer, model: Any, sequence: Sequence) -> Sequence:
    """The sequence with its likeliest continuation, which ends before the end token."""
    from dataclasses import replace

    import numpy as np

    from ..core.config import SampleConfig
    from ..core.decode.search import search_all

    end = task.end_token(tokenizer)
    most = task.new_tokens(sequence, task.SampleOptions()) or ANSWER
    (ids,) = search_all(model, tokenizer, [sequence], SampleConfig(length=most), end)
    answer = list(islice((id for id in ids if id != end), most))
    return replace(sequence, ids=np.concatenate((sequence.ids, answer)).astype(np.int64))
