"""`tfm sample`: go on from prompts, or from nothing."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..core.config import SampleConfig, with_fields
from ..core.errors import DataError, UsageError
from . import options as opt
from .render import printable, say

if TYPE_CHECKING:
    from ..core.model import SequenceModel
    from ..core.protocols import Task, Tokenizer


@dataclass(frozen=True)
class Prompt:
    data: bytes | None  # none: the task's own beginning
    id: str | None = None

    @property
    def key(self) -> str:
        """What randomness hangs on: the id, else the prompt itself."""
        return self.id if self.id is not None else hashlib.sha256(self.data or b"").hexdigest()


@click.command("sample", cls=opt.Command)
@opt.run_argument
@opt.option("-p", "--prompt", metavar="TEXT|@FILE|-", help="What to go on from.")
@opt.option("-n", "--draws", type=click.IntRange(1), default=1, show_default=True,
            help="Draws of each prompt.")
@opt.option("--length", type=click.IntRange(0), metavar="N",
            help="Units at most: tokens of text, bytes ...  [default: 256]")
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
@opt.option("--set", "settings", multiple=True, envvar="TFM_SET", metavar="sample.FIELD=VALUE",
            help="Any field of sampling.")
@opt.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@opt.checkpoint_option
@opt.device_option
@opt.runs_option
@opt.json_option
@click.pass_context
def command(ctx: click.Context, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Draw from RUN (the newest by default): what the model writes goes to stdout.

    With -p one prompt, its continuation verbatim. Without, each line of standard input is a
    prompt and each continuation a line; from a terminal or an empty input, it starts from nothing.
    """
    fields = {
        name: flags[name] for name in ("length", "temperature", "top_k", "top_p", "min_p")
        if flags[name] is not None
    }  # fmt: skip
    config = with_fields(SampleConfig(), "sample", opt.sets(ctx, flags["settings"])["sample"])
    config = with_fields(config, "sample", {**fields, "seed": flags["seed"]})
    if flags["greedy"]:
        config = with_fields(config, "sample", {"greedy": True})

    from ..core.run import open_run

    run = open_run(flags["run"], Path(flags["runs"]))
    task = run.task()
    if task.binary and not flags["out"] and not as_json and sys.stdout.isatty():
        raise UsageError(f"--task {task.name} writes bytes: give --out FILE, or pipe it on")
    prompts, by_line = _prompts(flags)

    from ..core.device import pick_device

    tokenizer = run.tokenizer()
    model = run.load_model(flags["checkpoint"], pick_device(flags["device"]))
    sampler = Sampler(task, tokenizer, model, config, flags["stop"], flags["strict"], quiet)
    out: BinaryIO = sys.stdout.buffer
    on_terminal = sys.stdout.isatty() and not flags["out"]
    if flags["out"] and flags["out"] != "-":
        out = io.BytesIO()
    for prompt in prompts:
        records = by_line or flags["draws"] > 1 or as_json or flags["null"]
        live = not records and flags["stream"] and not flags["stop"]
        if on_terminal and not records and prompt.data and not quiet:
            click.secho(printable(prompt.data.decode("utf-8", "replace")), dim=True, nl=False, err=True)
        draws = sampler.draws(prompt, flags["draws"], _writer(out, on_terminal) if live else None)
        for draw in draws:
            if as_json:
                out.write(_json_record(prompt, draw, config.seed))
            elif records and not task.binary:
                text = printable_bytes(draw.data) if on_terminal else draw.data
                if not flags["raw"] and not flags["null"]:
                    text = text.replace(b"\r", b"\\r").replace(b"\n", b"\\n")
                out.write(text + (b"\0" if flags["null"] else b"\n"))
            elif not live:
                task.write(printable_bytes(draw.data) if on_terminal else draw.data, out)
            out.flush()
        if on_terminal and not records:
            click.echo()
    if isinstance(out, io.BytesIO):
        from ..core.run import write_durably

        try:
            write_durably(Path(flags["out"]), out.getvalue())
        except OSError as error:
            raise DataError(f"--out {flags['out']}: {error.strerror}") from error


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


# -- drawing -------------------------------------------------------------------------------------


@dataclass
class Draw:
    """One continuation as it grows."""

    drawn: Any
    stop: bytes | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    data: bytes = b""
    finish_reason: str | None = None

    def feed(self, id: int, logprob: float, is_end: bool) -> bytes:
        """Takes the next id; gives the bytes that are new."""
        if self.finish_reason:
            return b""
        self.ids.append(id)
        self.logprobs.append(logprob)
        if is_end:
            return self.close("end")
        return self._add(self.drawn.feed(id))

    def close(self, reason: str) -> bytes:
        if self.finish_reason:
            return b""
        new = self._add(self.drawn.rest())
        self.finish_reason = self.finish_reason or reason
        return new

    def _add(self, new: bytes) -> bytes:
        self.data += new
        if self.stop:
            at = self.data.find(self.stop, max(0, len(self.data) - len(new) - len(self.stop)))
            if at >= 0:
                self.data, self.finish_reason = self.data[:at], "stop"
        return new


class Sampler:
    """A model and how to draw from it."""

    def __init__(
        self, task: Task, tokenizer: Tokenizer, model: SequenceModel, config: SampleConfig,
        stop: str | None = None, strict: bool = False, quiet: bool = True,
    ) -> None:  # fmt: skip
        self.task, self.tokenizer, self.model, self.config = task, tokenizer, model, config
        self.stop = stop.encode() if stop else None
        self.strict, self.quiet = strict, quiet

    def draws(self, prompt: Prompt, count: int, write: Any = None) -> list[Draw]:
        """`count` continuations; with `write`, bytes go there as soon as they are certain."""
        from ..core.sample import generate

        sequence = self.task.prompt(prompt.data, self.tokenizer)
        context = self.model.config.context
        if len(sequence) > context:
            if self.strict:
                raise DataError(
                    f"the prompt has {len(sequence)} tokens, the context {context}; shorten it, "
                    "or leave --strict away to keep its end"
                )
            say(f"the prompt has {len(sequence)} tokens: only the last of them fit "
                f"the context of {context}", self.quiet)  # fmt: skip
        end = self.task.ends(self.tokenizer)
        draws = [Draw(self.task.drawn(self.tokenizer, sequence), self.stop) for _ in range(count)]
        steps = generate(
            self.model, self.tokenizer, sequence, self.config, count, prompt.key, end
        )
        reason = "end"  # where ids run out, nothing further was legal
        position = 0
        for position, step in enumerate(steps, 1):
            for draw, id, logprob in zip(draws, step.ids, step.logprobs, strict=True):
                new = draw.feed(id, logprob, id == end)
                if write and new:
                    write(new)
            if all(draw.finish_reason for draw in draws):
                break
        if position == self.config.length:
            reason = "length"
        for draw in draws:
            new = draw.close(reason)
            if write and new:
                write(new)
        return draws


def draw_text(task: Task, tokenizer: Tokenizer, model: SequenceModel, length: int) -> str | None:
    """A short sample as text, or none where it is no text."""
    sampler = Sampler(task, tokenizer, model, SampleConfig(length=length))
    data = sampler.draws(Prompt(None), 1)[0].data
    if task.binary:
        try:
            return data[: len(data) - 3].decode()
        except UnicodeDecodeError:
            return None
    return data.decode("utf-8", "replace")
