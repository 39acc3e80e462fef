"""`tfm sample`: continuations of prompts, or samples without a prompt."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..core.config import SampleConfig, with_fields
from ..core.errors import TfmError, UsageError
from . import kernels, settings
from . import options as opt
from .dividing import Divider
from .drawing import Job, Sample, Sampler
from .launch import nproc_option
from .outputs import Output
from .processes import Team, together
from .prompts import Prompt, PromptReader, single_prompt
from .render import loops_shown, printable, say
from .searching import Searcher

RANDOM = ("temperature", "top_k", "top_p", "min_p")  # fields of sampling at random


@click.command("sample", cls=opt.RunTaskCommand)
@opt.run_argument
@opt.part_option
@opt.option("-p", "--prompt", metavar="TEXT|@FILE|-", help="Text to continue; @FILE, - (stdin).")
@opt.option(
    "-n",
    "--draws",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of samples per prompt.",
)
@opt.option(
    "--length",
    type=click.IntRange(0),
    metavar="N",
    help="Maximum length, in tokens (of series: in points).  [default: 256]",
)
@opt.option("--temperature", type=opt.Real(), help="Lower is more predictable.  [default: 1]")
@opt.option("--top-k", type=int, help="Sample from the k most likely tokens only.")
@opt.option(
    "--top-p",
    type=opt.Real(),
    help="Nucleus sampling: the smallest set of tokens with this total probability.",
)
@opt.option(
    "--min-p",
    type=opt.Real(),
    help="Drop tokens less likely than this fraction of the most likely one.",
)
@opt.option("--greedy", is_flag=True, help="Always take the most likely token.")
@opt.option(
    "--beam",
    type=click.IntRange(1),
    metavar="N",
    help="Beam search with N hypotheses: -n of the likeliest continuations, the best first.",
)
@opt.option(
    "--length-penalty",
    type=opt.Real(),
    metavar="A",
    help="With --beam: score by log p / ((5 + length) / 6)^A.  [default: 0]",
)
@click.option(
    "--stop",
    cls=opt.VerbatimOption,
    multiple=True,
    metavar="TEXT",
    help="Stop before this text, which is not written; repeatable. A newline is $'\\n' in a shell.",
)
@opt.option(
    "--out",
    metavar="FILE",
    help="Write to FILE. With {n} in its name, or to a folder, each sample is a file of its own.",
)
@opt.option("--force", is_flag=True, help="Overwrite files that --out names.")
@opt.option(
    "--stream/--no-stream",
    default=True,
    help="Write tokens as they are sampled.  [default: stream]",
)
@opt.option("--raw", is_flag=True, help="Write newlines inside a record as they are, not as \\n.")
@opt.option("-0", "--null", is_flag=True, help="NUL, not newline, ends prompts and records.")
@opt.option("--json-in", is_flag=True, help="Prompts are JSON lines with id and prompt.")
@opt.option("--strict", is_flag=True, help="Reject a prompt longer than the context.")
@opt.option(
    "--set",
    "settings",
    multiple=True,
    envvar="TFM_SET",
    metavar="sample.FIELD=VALUE",
    help="Set any sampling field (`tfm config` lists them).",
)
@opt.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@opt.checkpoint_option
@opt.dtype_option("the fastest without a loss of quality")
@nproc_option("Sample")
@opt.device_option
@opt.runs_option
@opt.json_option
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Sample from RUN (the newest by default), and write the samples to stdout.

    With -p, continue one prompt and write the continuation verbatim. Without -p, each line of
    standard input is a prompt and each continuation is one line of output; from a terminal or an
    empty input, sample without a prompt.
    """
    sets = settings.sets(ctx, flags["settings"])
    fields = {
        name: flags[name]
        for name in ("length", *RANDOM, "beam", "length_penalty")
        if flags[name] is not None
    }
    config = with_fields(SampleConfig(), "sample", {**sets["sample"], **fields})
    if "seed" in sets["sample"]:
        raise UsageError("--set sample.seed: use --seed")
    greedy = flags["greedy"] or flags["beam"] == 1 or config.greedy  # a beam of one is greedy
    config = replace(config, seed=flags["seed"], greedy=greedy)
    chosen = set(RANDOM) & {*fields, *sets["sample"]}
    if "length_penalty" in fields and config.beam == 1:
        raise UsageError("--length-penalty: needs --beam")
    length_is_set = flags["length"] is not None or "length" in sets["sample"]
    with together(flags["nproc"], flags["device"]) as team:
        _sample(team, flags, config, chosen, length_is_set, quiet, as_json)


def _sample(
    team: Team,
    flags: dict[str, Any],
    config: SampleConfig,
    chosen: set[str],
    length_is_set: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """`tfm sample` in the leading process. chosen: the fields of random sampling that are set."""
    from ..core.runs.catalogue import open_run

    try:
        run = open_run(opt.part_of(flags["run"], flags["part"]), Path(flags["runs"]))
    except UsageError as error:
        if flags["run"] is None:
            raise
        raise UsageError(f"{error}; a prompt is given with -p TEXT or -p @FILE") from None
    run.check()
    task = run.task()
    if task.greedy and not chosen:
        config = replace(config, greedy=True)
    options = opt.task_options_of(task.SampleOptions, "sample", flags)
    out = Output(flags["out"], task, as_json, options, flags["force"])
    if task.binary and not as_json and out.on_terminal:
        raise UsageError(f"--task {task.name} writes binary data: use --out FILE or a pipe")
    if task.draws_files and flags["draws"] > 1:
        raise UsageError(f"-n: not for --task {task.name}; see tfm sample RUN --help")
    _check_stops(flags["stop"], task.binary, quiet)
    prompt = single_prompt(flags["prompt"], task.draws_files)
    reader = PromptReader(flags["null"], flags["json_in"]) if prompt is None else None

    kernels.compile_in_background()

    from ..core.ops.device import pick_device

    tokenizer = run.tokenizer()
    if task.draws_files:
        kernels.use_kernels()
    team.tell(run, flags["checkpoint"], kernels=task.draws_files)
    model = run.load_model(flags["checkpoint"], pick_device(team.device))
    plain = Divider if team.peers.size > 1 else Sampler
    sampler = (Searcher if config.beam > 1 else plain)(
        task,
        tokenizer,
        model,
        config,
        options,
        flags["stop"],
        flags["strict"],
        quiet,
        length_is_set,
        flags["dtype"],
        kernels.compiled(),
    )
    if isinstance(sampler, Searcher):
        sampler.check(flags["draws"], chosen)
    width = shutil.get_terminal_size().columns

    def show(items: list[Any], sequence: Any) -> None:
        out.stream.flush()
        preview = task.preview(items, sequence, options, width)
        if preview and sys.stderr.isatty():
            say(preview, quiet)

    def write_job(job: Job, by_line: bool, live: bool = False) -> None:
        """live: what could be decoded while sampling is written."""
        items = [sample.item() for sample in job.samples]
        records = [
            {**_record(job.prompt, sample, config.seed), **task.record(item)}
            for sample, item in zip(job.samples, items, strict=True)
        ]
        if task.file_types and not job.length:
            raise UsageError("nothing to draw: the prompt is complete, or --length is 0")
        if out.separate:
            out.add(items, job.sequence, records)
        elif as_json:
            out.stream.write(b"".join(json.dumps(each).encode() + b"\n" for each in records))
        elif isinstance(items[0], bytes) and (
            flags["null"] or (not task.binary and (by_line or flags["draws"] > 1))
        ):
            for item in items:
                text = printable_bytes(item) if out.on_terminal else item
                if not flags["raw"] and not flags["null"]:
                    text = text.replace(b"\r", b"\\r").replace(b"\n", b"\\n")
                out.stream.write(text + (b"\0" if flags["null"] else b"\n"))
        elif not live or any(each.ids and not each.data for each in job.samples):
            escape = out.on_terminal and isinstance(items[0], bytes)
            shown = [printable_bytes(item) for item in items] if escape else items
            task.write(shown, job.sequence, options, out.stream)
        show(items, job.sequence)

    with team.lead(model, tokenizer, task):
        if reader and reader.has_prompt():
            for job in sampler.sample_all(reader.take, flags["draws"]):
                write_job(job, by_line=True)
        elif task.draws_files:
            assert prompt is not None
            heldout = run.heldout(run.config["final_split"])
            config = config if length_is_set else replace(config, length=0)

            def note(text: str) -> None:
                say(text, quiet)

            with loops_shown(quiet):
                items = task.draw(model, tokenizer, prompt.data, heldout, config, options, note)
            if as_json:
                out.stream.write(
                    b"".join(json.dumps(each.record()).encode() + b"\n" for each in items)
                )
            else:
                buffer = io.BytesIO()
                task.write(items, None, options, buffer)
                data = buffer.getvalue()
                escape = out.on_terminal and not task.binary
                out.stream.write(printable_bytes(data) if escape else data)
            out.stream.flush()
        else:
            prompt = prompt or Prompt(None)
            live = flags["stream"] and not (
                as_json or flags["stop"] or flags["null"] or out.separate
            )
            live = live and flags["draws"] == 1
            if out.on_terminal and live and prompt.data and not quiet:
                say_prompt(prompt.data)
            writer = _writer(out.stream, out.on_terminal) if live else None
            job = sampler.sample(prompt, flags["draws"], writer)
            write_job(job, False, live)
            if out.on_terminal and live:
                click.echo()
    out.close()
    if task.draws_files:  # pictures come last: what they lack must not cost the data
        try:
            task.plot(items, options)
        except TfmError as error:
            say(f"warning: no plot: {error}", quiet)
        show(items, None)


def _check_stops(stops: tuple[str, ...], binary: bool, quiet: bool) -> None:
    """UsageError for a stop that no text can contain; a note on one that is an escape elsewhere."""
    for stop in stops:
        if not binary and any("\udc80" <= c <= "\udcff" for c in stop):
            raise UsageError(f"--stop {stop!r}: not UTF-8 text, so that no sample can contain it")
        if re.fullmatch(r"(\\[nrt0])+", stop):
            say(f"--stop {stop} is a backslash and a letter; in a shell write $'{stop}'", quiet)


def say_prompt(data: bytes) -> None:
    """Prints the prompt on stderr, so that a pipe receives the continuation only."""
    click.secho(printable(data.decode("utf-8", "replace")), dim=True, nl=False, err=True)


def _writer(out: BinaryIO, on_terminal: bool) -> Any:
    def write(data: bytes) -> None:
        out.write(printable_bytes(data) if on_terminal else data)
        out.flush()

    return write


def printable_bytes(data: bytes) -> bytes:
    return printable(data.decode("utf-8", "replace")).encode()


def _record(prompt: Prompt, sample: Sample, seed: int) -> dict[str, Any]:
    record = {
        "id": prompt.id,
        "prompt": None if prompt.data is None else prompt.data.decode("utf-8", "replace"),
        "text": sample.data.decode("utf-8", "replace"),
        "tokens": sample.ids,
        "logprobs": sample.logprobs,
        "finish_reason": sample.finish_reason,
        "seed": seed,
    }
    return record if sample.score is None else {**record, "score": sample.score}
