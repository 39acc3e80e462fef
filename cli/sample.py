"""`tfm sample`: go on from prompts, or from nothing."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..core.config import SampleConfig, with_fields
from ..core.errors import UsageError
from . import options as opt
from .drawing import Draw, Job, Sampler
from .prompts import Lines, Prompt, one_prompt
from .render import printable, say


@click.command("sample", cls=opt.RunTaskCommand)
@opt.run_argument
@opt.option("-p", "--prompt", metavar="TEXT|@FILE|-", help="What to go on from.")
@opt.option(
    "-n",
    "--draws",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Draws of each prompt.",
)
@opt.option(
    "--length",
    type=click.IntRange(0),
    metavar="N",
    help="Units at most: tokens of text, bytes ...  [default: 256]",
)
@opt.option("--temperature", type=float, help="Below 1: likelier, above 1: wilder.  [default: 1]")
@opt.option("--top-k", type=int, help="Only the k likeliest.")
@opt.option("--top-p", type=float, help="Only the likeliest that hold this probability.")
@opt.option("--min-p", type=float, help="Only what is this fraction as likely as the likeliest.")
@opt.option("--greedy", is_flag=True, help="Always the likeliest.")
@opt.option("--stop", metavar="TEXT", help="End where this appears (it is left out).")
@opt.option("--out", type=click.Path(), metavar="FILE", help="Write there rather than to stdout.")
@opt.option("--stream/--no-stream", default=True, help="Write as it is drawn.  [default: stream]")
@opt.option("--raw", is_flag=True, help="Records of lines: newlines as they are, not as \\n.")
@opt.option("-0", "--null", is_flag=True, help="NUL between prompts, and between records.")
@opt.option("--json-in", is_flag=True, help="Prompts are JSON lines with id and prompt.")
@opt.option("--strict", is_flag=True, help="Refuse a prompt longer than the context.")
@opt.option(
    "--set",
    "settings",
    multiple=True,
    envvar="TFM_SET",
    metavar="sample.FIELD=VALUE",
    help="Any field of sampling.",
)
@opt.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random."
)
@opt.checkpoint_option
@opt.dtype_option("the fastest of those that cost no quality")
@opt.device_option
@opt.runs_option
@opt.json_option
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Draw from RUN (the newest by default): what the model writes goes to stdout.

    With -p one prompt, its continuation verbatim. Without, each line of standard input is a
    prompt and each continuation a line; from a terminal or an empty input, it starts from nothing.
    """
    sets = opt.sets(ctx, flags["settings"])
    fields = {
        name: flags[name]
        for name in ("length", "temperature", "top_k", "top_p", "min_p")
        if flags[name] is not None
    }
    config = with_fields(SampleConfig(), "sample", {**sets["sample"], **fields})
    if "seed" in sets["sample"]:
        raise UsageError("--set sample.seed: use --seed")
    config = replace(config, seed=flags["seed"], greedy=flags["greedy"] or config.greedy)

    from ..core.runs.catalogue import open_run

    run = open_run(flags["run"], Path(flags["runs"]))
    run.check()
    task = run.task()
    own = {f.name: flags[f.name] for f in fields_of(task.SampleOptions)}
    asked = with_fields(
        task.SampleOptions(), "sample", {k: v for k, v in own.items() if v is not None}
    )
    to_file = flags["out"] not in (None, "-")
    if task.binary and not to_file and not as_json and sys.stdout.isatty():
        raise UsageError(f"--task {task.name} writes bytes: give --out FILE, or pipe it on")
    if task.draws_files and flags["draws"] > 1:
        raise UsageError(f"-n: --task {task.name} draws otherwise; see tfm sample RUN --help")
    prompt = one_prompt(flags["prompt"], task.draws_files)  # none: as many as are piped
    lines = Lines(flags["null"], flags["json_in"]) if prompt is None else None

    opt.compile_aside()

    from ..core.ops.device import pick_device

    tokenizer = run.tokenizer()
    model = run.load_model(flags["checkpoint"], pick_device(flags["device"]))
    length_given = flags["length"] is not None or "length" in sets["sample"]
    sampler = Sampler(
        task,
        tokenizer,
        model,
        config,
        asked,
        flags["stop"],
        flags["strict"],
        quiet,
        length_given,
        flags["dtype"],
        opt.compiled(),
    )
    out: BinaryIO = io.BytesIO() if to_file else sys.stdout.buffer
    on_terminal = sys.stdout.isatty() and not to_file
    width = shutil.get_terminal_size().columns

    def show(items: list[Any], sequence: Any) -> None:
        out.flush()
        picture = task.preview(items, sequence, asked, width)
        if picture and sys.stderr.isatty():
            say(picture, quiet)

    def write_job(job: Job, by_line: bool, written: bool = False) -> None:
        items = [draw.item() for draw in job.draws]
        if as_json:
            out.write(b"".join(_json_record(job.prompt, draw, config.seed) for draw in job.draws))
        elif isinstance(items[0], bytes) and (
            flags["null"] or (not task.binary and (by_line or flags["draws"] > 1))
        ):
            for item in items:
                text = printable_bytes(item) if on_terminal else item
                if not flags["raw"] and not flags["null"]:
                    text = text.replace(b"\r", b"\\r").replace(b"\n", b"\\n")
                out.write(text + (b"\0" if flags["null"] else b"\n"))
        elif not written:
            shown = on_terminal and isinstance(items[0], bytes)
            task.write(
                [printable_bytes(i) for i in items] if shown else items, job.sequence, asked, out
            )
        show(items, job.sequence)

    if lines and lines.any():
        for job in sampler.draw_all(lines.take, flags["draws"]):
            write_job(job, by_line=True)
    elif task.draws_files:
        assert prompt is not None
        kept = run.heldout(run.config["final_split"])
        usual = config if length_given else replace(config, length=0)
        items = task.draw(model, tokenizer, prompt.data, kept, usual, asked)
        if as_json:
            out.write(b"".join(json.dumps(item.record()).encode() + b"\n" for item in items))
        else:
            buffer = io.BytesIO()
            task.write(items, None, asked, buffer)
            data = buffer.getvalue()
            out.write(printable_bytes(data) if on_terminal and not task.binary else data)
        show(items, None)
    else:
        prompt = prompt or Prompt(None)
        live = flags["stream"] and not (as_json or flags["stop"] or flags["null"])
        live = live and flags["draws"] == 1
        if on_terminal and live and prompt.data and not quiet:
            say_prompt(prompt.data)
        job = sampler.draw(prompt, flags["draws"], _writer(out, on_terminal) if live else None)
        # what streams nothing, as a picture, is written whole
        write_job(job, False, live and all(draw.data or not draw.ids for draw in job.draws))
        if on_terminal and live:
            click.echo()
    if isinstance(out, io.BytesIO):
        from ..core.files import write_out

        write_out(Path(flags["out"]), out.getvalue())


def say_prompt(data: bytes) -> None:
    """On a terminal the continuation is read behind its prompt; in a pipe it stands alone."""
    click.secho(printable(data.decode("utf-8", "replace")), dim=True, nl=False, err=True)


def _writer(out: BinaryIO, on_terminal: bool) -> Any:
    def write(data: bytes) -> None:
        out.write(printable_bytes(data) if on_terminal else data)
        out.flush()

    return write


def printable_bytes(data: bytes) -> bytes:
    return printable(data.decode("utf-8", "replace")).encode()


def _json_record(prompt: Prompt, draw: Draw, seed: int) -> bytes:
    record = {
        "id": prompt.id,
        "prompt": None if prompt.data is None else prompt.data.decode("utf-8", "replace"),
        "text": draw.data.decode("utf-8", "replace"),
        "tokens": draw.ids,
        "logprobs": draw.logprobs,
        "finish_reason": draw.finish_reason,
        "seed": seed,
    }
    return json.dumps(record).encode() + b"\n"
