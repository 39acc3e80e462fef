"""`tfm tokenize`: items to ids, as a run's tokenizer or a named one sees them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..core.errors import ConfigError, DataError, UsageError
from . import options as opt
from .names import of_run

if TYPE_CHECKING:
    from ..core.protocols import ByteTokenizer, Tokenizer
    from ..core.task import Task


@dataclass(frozen=True)
class Coder:
    """A tokenizer: of bytes, whose lines are taken one by one, or of the items of a task."""

    tokenizer: Tokenizer
    of_bytes: ByteTokenizer | None  # the same, where items are bytes or text
    of_task: Task | None  # None where the tokenizer was named: those are all of bytes

    @property
    def task(self) -> Task:
        assert self.of_task is not None
        return self.of_task


def open_coder(named: str | None, run: str | None, runs: str) -> Coder:
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
        from ..tokenizers.bpe import BpeTokenizer

        return _named(BpeTokenizer.load(named.removeprefix("hf:")))
    learned = named.partition(":")[0] in names("tokenizers")
    why = (
        "is learned from data; give a RUN that was trained with it"
        if learned
        else ("known: byte, hf:PATH_OR_NAME, a tokenizer.json, or a RUN's own")
    )
    raise ConfigError(f"--tokenizer {named}: {why}")


def _named(tokenizer: ByteTokenizer) -> Coder:
    return Coder(tokenizer, tokenizer, None)


def run_and_files(paths: tuple[str, ...], runs: str) -> tuple[str | None, tuple[str, ...]]:
    """The first argument is the run where it is one: its path, or its name below `runs`."""
    if paths and paths[0] != "-":
        if any((root / paths[0] / "config.json").exists() for root in (Path(), Path(runs))):
            return paths[0], paths[1:]
        if not Path(paths[0]).exists():
            raise UsageError(f"{paths[0]}: no such file, and no such run here or in {runs}/")
    return None, paths


# Not TFM_TOKENIZER, nor `tokenizer` of a config file: they say what to train with.
tokenizer_option = click.option(
    "--tokenizer",
    "named",
    metavar="NAME",
    help="byte, hf:PATH_OR_NAME or a tokenizer.json, rather than a run's.",
)


@click.command("tokenize", cls=opt.Command)
@click.argument("paths", nargs=-1, metavar="[RUN] [FILE]...", shell_complete=of_run)
@tokenizer_option
@opt.option("--whole", is_flag=True, help="Of text: a file is an item, rather than a line.")
@opt.runs_option
@opt.json_option
def command(
    paths: tuple[str, ...], named: str | None, whole: bool, runs: str, quiet: bool, as_json: bool
) -> None:
    """Print the ids of items, one item a line, by the tokenizer of RUN (the newest by default).

    Items are the lines of text in FILEs or standard input, their line ends included, so that
    `tfm detokenize` gives the same bytes back; or the pictures or series in FILEs. With --json
    each line is an object that also has the side information that pictures and series need.
    """
    run, files = (None, paths) if named else run_and_files(paths, runs)
    coder = open_coder(named, run, runs)
    out = sys.stdout.buffer
    if coder.of_bytes is not None:
        for ids in text_ids(coder.of_bytes, files, whole):
            out.write(line_of(ids, {}, as_json))
            out.flush()
        return
    from ..core.data.source import Source

    items = coder.task.items(Source(files or ("-",)))
    for sequence in coder.task.tokenize(items, coder.tokenizer):
        out.write(line_of(sequence.ids, sequence.side, as_json))
        out.flush()


def line_of(ids: Any, side: dict[str, Any], as_json: bool) -> bytes:
    if as_json:
        return json.dumps({"schema": 1, "ids": ids.tolist(), "side": side}).encode() + b"\n"
    return " ".join(map(str, ids.tolist())).encode() + b"\n"


def text_ids(tokenizer: ByteTokenizer, files: tuple[str, ...], whole: bool) -> Iterator[Any]:
    """Ids of each item as it comes; the begin and end tokens that a model sees are not among
    them."""
    for name, stream in _streams(files):
        with stream:
            for number, data in enumerate([stream.read()] if whole else stream, 1):
                try:
                    yield _ids(tokenizer, data)
                except (DataError, UnicodeDecodeError):
                    place = name if whole else f"{name}, line {number}"
                    raise DataError(
                        f"{place}: not UTF-8 text, and these tokens do not stand for arbitrary "
                        "bytes; --tokenizer byte does"
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
