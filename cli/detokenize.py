"""`tfm detokenize`: ids back to what they stand for."""

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
    """Turn lines of ids on standard input back into items, by the tokenizer of RUN.

    A line is ids separated by spaces, or an object as `tfm tokenize --json` prints it; either is
    recognised. Text comes back byte for byte, one item behind the other with nothing between;
    pictures as one PNG, series as CSV. With --json each text is an object.
    """
    if named and run:
        raise UsageError("RUN and --tokenizer exclude each other; give one")
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
        raise UsageError(f"--json: of text alone; --task {coder.task.name} writes its own format")
    if coder.task.binary and out.isatty():
        raise UsageError(f"--task {coder.task.name} writes bytes: redirect them to a file")
    coder.task.write_decoded(_items(coder), out)
    out.flush()


def read_ids(coder: Coder) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """(line number, ids, side information) of standard input. DataError names the line."""
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
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{where}: must be ids separated by spaces, or an object with `ids` and `side` "
                "as tfm tokenize --json prints it"
            ) from None
        if wrong is not None:
            raise DataError(
                f"{where}: {wrong} is no id of this tokenizer: they are 0 to {size - 1}"
            )
        yield number, np.array(listed, np.int64), side


def _items(coder: Coder) -> Iterator[tuple[Any, Sequence]]:
    """Each item, and the sequence that it is decoded from."""
    from ..core.protocols import Sequence

    for number, ids, side in read_ids(coder):
        try:
            yield coder.tokenizer.decode(ids, side), Sequence(ids, side=side)
        except (KeyError, ValueError, TypeError, IndexError):
            raise DataError(
                f"standard input, line {number}: these ids need the side information that "
                "tfm tokenize --json prints"
            ) from None
