"""`tfm decompress`: what `tfm compress` wrote, back as it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..core.errors import DamagedError, DataError, UsageError
from . import options as opt
from .compress import (
    SUFFIX,
    Fingerprint,
    Header,
    arguments,
    force_option,
    open_coder,
    out_option,
    read_whole,
    target_of,
    write_result,
)
from .names import of_run


@click.command("decompress", cls=opt.Command)
@click.argument("names", nargs=-1, metavar="[RUN] FILE", shell_complete=of_run)
@out_option
@force_option
@opt.checkpoint_option
@opt.device_option
@opt.runs_option
@opt.json_option
def command(names: tuple[str, ...], quiet: bool, as_json: bool, **flags: Any) -> None:
    """Bring FILE.tfm back as it was, with the RUN that compressed it (the newest by default)."""
    name, path = arguments(names)
    if path != "-" and not path.endswith(SUFFIX) and flags["out"] is None:
        raise UsageError(f"{path}: does not end in {SUFFIX}; say where to with -o FILE")
    usual = Path(path.removesuffix(SUFFIX)) if path != "-" else None
    target = target_of(flags["out"], usual, flags["force"])
    header, payload = Header.unpack(read_whole(path), path)
    run, tokenizer, model, device = open_coder(flags, name)

    here = asdict(Fingerprint.of(run, flags["checkpoint"], device))
    other = {k: v for k, v in asdict(header.fingerprint).items() if here[k] != v}
    if other:
        what = ", ".join(f"{key} {value} (here {here[key]})" for key, value in other.items())
        raise DataError(f"{path}: was not compressed with {run.path} as it is here: {what}")

    from ..core.ops.device import use_threads
    from ..core.score import arithmetic_coding

    use_threads(header.threads)
    given = arithmetic_coding.item(tokenizer, b"").ids
    support = tokenizer.support(header.ids, {})
    try:
        ids = arithmetic_coding.decode(model, support, given, header.ids, payload)
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from None
    data = tokenizer.decode_bytes(ids)
    if hashlib.sha256(data).digest()[:16] != header.sha256:
        raise DamagedError(f"{path}: damaged, what came out is not what was compressed")
    write_result(target, data)
    if as_json and target is not None:
        click.echo(
            json.dumps(
                {
                    "schema": 1,
                    "run": str(run.path),
                    "file": path,
                    "out": str(target),
                    "bytes": len(data),
                }
            )
        )
