"""`tfm detokenize`: token ids to items, the inverse of `tfm tokenize`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import DataError, UsageError
from . import options as opt
from .render import printable
from .tokenize import Coder, open_coder, tokenizer_option

if TYPE_CHECKING:
    from ..core.protocols import Sequence


@click.command("detokenize", cls=opt.Command)
@opt.run_argument
@tokenizer_option
@opt.runs_option
@opt.json_option
def command(run: str | None, named: str | None, runs: str, quiet: bool, as_json: bool) -> None:
    """Decode lines of token ids from standard input by the tokenizer of RUN (the newest by
    default).

    A line has ids separated by spaces, or an object as `tfm tokenize --json` prints it. Text is
    restored byte for byte, with nothing between items; images become one PNG, series CSV. With
    --json each text is an object.
    """
    if named and run:
        raise UsageError("RUN and --tokenizer exclude each other; use one")
    coder = open_coder(named, run, runs)
    out = sys.stdout.buffer
    if coder.of_bytes is not None:
        for _, ids, _ in read_ids(coder):
            data = coder.of_bytes.decode_bytes(ids)
            if as_json:
                record = {"schema": 1, "text": data.decode("utf-8", "replace")}
                data = json.dumps(record).encode() + b"\n"
            elif out.isatty():
                data = printable(data.decode("utf-8", "replace")).encode()
            out.write(data)
            out.flush()
        return
    if as_json:
        raise UsageError(f"--json: for text only; --task {coder.task.name} has its own format")
    if coder.task.binary and out.isatty():
        raise UsageError(f"--task {coder.task.name} writes binary data: redirect it to a file")
    coder.task.write_decoded(_items(coder), coder.tokenizer, out)
    out.flush()


def read_ids(coder: Coder) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """(line number, ids, side information) of each line of standard input. DataError for a line
    that is not valid, with its number."""
    import numpy as np

    size = coder.tokenizer.vocab_size
    for number, line in enumerate(sys.stdin.buffer, 1):
        where = f"standard input, line {number}"
        side: Any = {}
        try:
            if line.lstrip().startswith(b"{"):
                record = json.loads(line)
                listed, side = record["ids"], record.get("side", {})
                if (
                    not isinstance(listed, list)
                    or not isinstance(side, dict)
                    or (not all(type(id) is int for id in listed))
                ):
                    raise ValueError
            else:
                listed = [int(word) for word in line.split()]
            wrong = next((id for id in listed if not 0 <= id < size), None)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(
                f"{where}: must be ids separated by spaces, or an object with `ids` and `side` "
                "as tfm tokenize --json prints it"
            ) from None
        if wrong is not None:
            raise DataError(
                f"{where}: {wrong} is not an id of this tokenizer; its ids are 0 to {size - 1}"
            )
        yield number, np.array(listed, np.int64), side


def _items(coder: Coder) -> Iterator[tuple[Any, Sequence]]:
    """(item, the sequence that it is decoded from) of each line."""
    from ..core.protocols import Sequence

    for number, ids, side in read_ids(coder):
        try:
            yield coder.tokenizer.decode(ids, side), Sequence(ids, side=side)
        except (KeyError, ValueError, TypeError, IndexError):
            raise DataError(
                f"standard input, line {number}: these ids need the side information that "
                "tfm tokenize --json prints"
            ) from None
