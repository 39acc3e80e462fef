"""`tfm sample`: go on from prompts, or from nothing."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..core.config import SampleConfig, with_fields
from ..core.errors import DataError, UsageError
from ..core.protocols import DrawsWhole
from . import options as opt
from .drawing import Draw, Prompt, Sampler
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
@opt.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@opt.checkpoint_option
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
        name: flags[name] for name in ("length", "temperature", "top_k", "top_p", "min_p")
        if flags[name] is not None
    }  # fmt: skip
    config = with_fields(SampleConfig(), "sample", {**sets["sample"], **fields})
    config = replace(config, seed=flags["seed"], greedy=flags["greedy"] or config.greedy)

    from ..core.run import open_run

    run = open_run(flags["run"], Path(flags["runs"]))
    task = run.task()
    own = {f.name: flags[f.name] for f in fields_of(task.SampleOptions)}
    asked = with_fields(
        task.SampleOptions(), "sample", {k: v for k, v in own.items() if v is not None}
    )
    to_file = flags["out"] not in (None, "-")
    if task.binary and not to_file and not as_json and sys.stdout.isatty():
        raise UsageError(f"--task {task.name} writes bytes: give --out FILE, or pipe it on")
    whole = isinstance(task, DrawsWhole)
    if whole and flags["draws"] > 1:
        raise UsageError(f"-n: --task {task.name} draws otherwise; see tfm sample RUN --help")
    prompts, by_line = _whole_prompt(flags) if whole else _prompts(flags)

    from ..core.device import pick_device

    tokenizer = run.tokenizer()
    model = run.load_model(flags["checkpoint"], pick_device(flags["device"]))
    length_given = flags["length"] is not None or "length" in sets["sample"]
    sampler = Sampler(
        task, tokenizer, model, config, asked, flags["stop"], flags["strict"], quiet, length_given
    )
    out: BinaryIO = io.BytesIO() if to_file else sys.stdout.buffer
    on_terminal = sys.stdout.isatty() and not to_file
    for prompt in prompts:
        if whole:
            kept = run.heldout(run.config["final_split"])
            usual = config if length_given else replace(config, length=0)
            items = task.draw(model, tokenizer, prompt.data, kept, usual, asked)
            if as_json:
                out.write(b"".join(json.dumps(item.record()).encode() + b"\n" for item in items))
            else:
                written = io.BytesIO()
                task.write(items, None, asked, written)
                data = written.getvalue()
                out.write(printable_bytes(data) if on_terminal and not task.binary else data)
            out.flush()
            picture = task.preview(items, None, asked, shutil.get_terminal_size().columns)
            if picture and sys.stderr.isatty():
                say(picture, quiet)
            continue
        as_records = not task.binary and (by_line or flags["draws"] > 1 or flags["null"])
        live = not as_records and not as_json and flags["stream"] and not flags["stop"]
        live = live and flags["draws"] == 1
        if on_terminal and live and prompt.data and not quiet:
            say_prompt(prompt.data)
        draws = sampler.draws(prompt, flags["draws"], _writer(out, on_terminal) if live else None)
        items = [draw.item() for draw in draws]
        if as_json:
            for draw in draws:
                out.write(_json_record(prompt, draw, config.seed))
        elif as_records:
            for item in items:
                text = printable_bytes(item) if on_terminal else item
                if not flags["raw"] and not flags["null"]:
                    text = text.replace(b"\r", b"\\r").replace(b"\n", b"\\n")
                out.write(text + (b"\0" if flags["null"] else b"\n"))
        elif not sampler.streamed(draws, live):
            shown = [printable_bytes(item) for item in items] if (
                on_terminal and isinstance(items[0], bytes)
            ) else items  # fmt: skip
            task.write(shown, sampler.sequence, asked, out)
        out.flush()
        picture = task.preview(items, sampler.sequence, asked, shutil.get_terminal_size().columns)
        if picture and sys.stderr.isatty():
            say(picture, quiet)
        if on_terminal and live:
            click.echo()
    if isinstance(out, io.BytesIO):
        from ..core.files import write_durably

        path = Path(flags["out"])
        try:
            if path.exists() and not path.is_file():  # a device or a pipe is not replaced
                path.write_bytes(out.getvalue())
            else:
                write_durably(path, out.getvalue())
        except OSError as error:
            raise DataError(f"--out {flags['out']}: {error.strerror}") from error


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


# -- prompts -------------------------------------------------------------------------------------


def _prompts(flags: dict[str, Any]) -> tuple[Iterator[Prompt], bool]:
    """The prompts, and whether they come by line."""
    given = flags["prompt"]
    if given == "-":
        return iter([Prompt(sys.stdin.buffer.read())]), False
    if given is not None and given.startswith("@"):
        try:
            return iter([Prompt(Path(given[1:]).read_bytes())]), False
        except OSError as error:
            raise DataError(f"-p {given}: {error.strerror}") from error
    if given is not None:
        return iter([Prompt(given.encode("utf-8", "surrogateescape"))]), False
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return iter([Prompt(None)]), False
    lines = _records(sys.stdin.buffer, b"\0" if flags["null"] else b"\n")
    first = next(lines, None)
    if first is None:
        return iter([Prompt(None)]), False

    def all_of_them() -> Iterator[Prompt]:
        number = 0
        for line in _chain(first, lines):
            number += 1
            yield _json_prompt(line, number) if flags["json_in"] else Prompt(line)

    return all_of_them(), True


def _whole_prompt(flags: dict[str, Any]) -> tuple[Iterator[Prompt], bool]:
    """For a task whose prompt is a file: -p FILE, @FILE or -, or all that is piped."""
    given = flags["prompt"]
    if given is None and sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty():
        return iter([Prompt(sys.stdin.buffer.read() or None)]), False
    if given is not None and given != "-":
        try:
            return iter([Prompt(Path(given.removeprefix("@")).read_bytes())]), False
        except OSError as error:
            raise DataError(f"-p {given}: {error.strerror}") from error
    return _prompts(flags) if given else (iter([Prompt(None)]), False)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _records(stream: BinaryIO, end: bytes) -> Iterator[bytes]:
    """What lies between `end`s, as it arrives."""
    if end == b"\n":
        for line in stream:
            yield line.removesuffix(b"\n").removesuffix(b"\r")
        return
    left = b""
    while block := stream.read(1 << 16):
        *whole, left = (left + block).split(end)
        yield from whole
    if left:
        yield left


def _json_prompt(line: bytes, number: int) -> Prompt:
    try:
        record = json.loads(line)
        data = record["prompt"].encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"standard input, line {number}: must be a JSON object with a text `prompt`"
        ) from error
    return Prompt(data, None if record.get("id") is None else str(record["id"]))
