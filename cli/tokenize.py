"""`tfm tokenize`: items to token ids, by a run's tokenizer or a named one."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..core.data.scratch import is_stream
from ..core.errors import ConfigError, DataError, UsageError
from . import options as opt
from .names import complete_run
from .render import say

if TYPE_CHECKING:
    from ..core.protocols import ByteTokenizer, Tokenizer
    from ..core.task import Task


@dataclass(frozen=True)
class Coder:
    """A tokenizer of lines of bytes or text, or of the items of a task."""

    tokenizer: Tokenizer
    of_bytes: ByteTokenizer | None  # the same tokenizer, if the items are bytes or text
    of_task: Task | None  # None with --tokenizer, which names byte tokenizers only

    @property
    def task(self) -> Task:
        assert self.of_task is not None
        return self.of_task


def open_coder(named: str | None, run: str | None, runs: str) -> Coder:
    """The tokenizer `named` by --tokenizer; None: that of the run. ConfigError if unknown."""
    if named is None:
        from ..core.runs.catalogue import open_run

        opened = open_run(run, Path(runs))
        opened.check()
        task, tokenizer = opened.task(), opened.tokenizer()
        return Coder(tokenizer, task.byte_tokenizer(tokenizer), task)
    from ..core.plugins import names

    if named == "byte":
        from ..tokenizers.byte import SingleByteTokenizer

        return _named(SingleByteTokenizer())
    if named.startswith("hf:") or named.endswith(".json"):
        from ..core.data.hub import look_for
        from ..tokenizers.bpe import BpeTokenizer

        name = named.removeprefix("hf:")
        look_for(name)
        return _named(BpeTokenizer.load(name))
    learned = named.partition(":")[0] in names("tokenizers")
    why = (
        "is learned from data; name a RUN that was trained with it"
        if learned
        else ("known: byte, hf:PATH_OR_NAME, a tokenizer.json, or a RUN's own")
    )
    raise ConfigError(f"--tokenizer {named}: {why}")


def _named(tokenizer: ByteTokenizer) -> Coder:
    return Coder(tokenizer, tokenizer, None)


def run_and_files(paths: tuple[str, ...], runs: str) -> tuple[str | None, tuple[str, ...]]:
    """(run, files): the first argument is a run if it is the path of one, or a name in `runs`."""
    if paths and not is_stream(paths[0]):
        from ..core.runs.catalogue import split_part

        name = split_part(paths[0])[0] or ""
        if name and any(
            os.path.exists(root / name / "config.json") for root in (Path(), Path(runs))
        ):
            return paths[0], paths[1:]
        here = os.path.isdir(paths[0]) or glob.glob(paths[0]) or paths[0].startswith("hf:")
        if not here and not os.path.exists(paths[0]):
            raise UsageError(f"{paths[0]}: no such file, and no such run here or in {runs}/")
    return None, paths


# Does not read TFM_TOKENIZER or `tokenizer` of a config file: those are for training.
tokenizer_option = click.option(
    "--tokenizer",
    "named",
    metavar="NAME",
    help="byte, hf:PATH_OR_NAME or a tokenizer.json, instead of a run's tokenizer.",
)


@click.command("tokenize", cls=opt.Command)
@click.argument("paths", nargs=-1, metavar="[RUN] [FILE]...", shell_complete=complete_run)
@tokenizer_option
@opt.option("--whole", is_flag=True, help="For text: each file is one item, not each line.")
@opt.runs_option
@opt.json_option
def command(
    paths: tuple[str, ...], named: str | None, whole: bool, runs: str, quiet: bool, as_json: bool
) -> None:
    """Print token ids by the tokenizer of RUN (the newest by default), one item per line.

    Items are the lines of text in FILEs or standard input, including their line ends, so that
    `tfm detokenize` restores the same bytes; or the images or series in FILEs. With --json, each
    line is an object with the ids and the side information that decoding images and series needs.
    """
    run, files = (None, paths) if named else run_and_files(paths, runs)
    coder = open_coder(named, run, runs)
    out = sys.stdout.buffer
    if coder.of_bytes is not None:
        for ids in text_ids(coder.of_bytes, files, whole):
            out.write(format_line(ids, {}, as_json))
            out.flush()
        return
    from ..core.data.source import Source

    items = coder.task.items(Source(files or ("-",)))
    items = coder.task.conform(items, coder.tokenizer, lambda text: say(text, quiet))
    for sequence in coder.task.tokenize(items, coder.tokenizer):
        out.write(format_line(sequence.ids, sequence.side, as_json))
        out.flush()


def format_line(ids: Any, side: dict[str, Any], as_json: bool) -> bytes:
    if as_json:
        return json.dumps({"schema": 1, "ids": ids.tolist(), "side": side}).encode() + b"\n"
    return " ".join(map(str, ids.tolist())).encode() + b"\n"


def text_ids(tokenizer: ByteTokenizer, files: tuple[str, ...], whole: bool) -> Iterator[Any]:
    """The ids of each item as it is read, without the begin and end tokens of the model."""
    for name, stream in _streams(files):
        with stream:
            for number, data in enumerate([stream.read()] if whole else stream, 1):
                try:
                    yield _ids(tokenizer, data)
                except (DataError, UnicodeDecodeError):
                    where = name if whole else f"{name}, line {number}"
                    raise DataError(
                        f"{where}: not UTF-8 text, and this tokenizer cannot encode arbitrary "
                        "bytes; use --tokenizer byte"
                    ) from None


def _ids(tokenizer: ByteTokenizer, data: bytes) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return tokenizer.ids_of_bytes(data)
    return tokenizer.tokens(text)


def _streams(files: tuple[str, ...]) -> Iterator[tuple[str, BinaryIO]]:
    for name in files or ("-",):
        try:
            yield (
                ("standard input", sys.stdin.buffer) if name == "-" else (name, open(name, "rb"))
            )
        except OSError as error:
            raise DataError(f"{name}: {error.strerror}") from error
