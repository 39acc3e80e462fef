"""`tfm decompress`: restores a file that `tfm compress` wrote."""

from __future__ import annotations

import hashlib
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
    force_option,
    open_coder,
    out_option,
    output_path,
    predicting,
    print_record,
    read_whole,
    run_and_file,
    write_result,
)
from .names import complete_run
from .render import CodingProgress


@click.command("decompress", cls=opt.Command)
@click.argument("names", nargs=-1, metavar="[RUN] FILE", shell_complete=complete_run)
@out_option
@force_option
@opt.checkpoint_option
@opt.device_option
@opt.runs_option
@opt.json_option
def command(names: tuple[str, ...], quiet: bool, as_json: bool, **flags: Any) -> None:
    """Restore FILE from FILE.tfm, with the RUN that compressed it (the newest by default)."""
    name, path = run_and_file(names)
    if path != "-" and not path.endswith(SUFFIX) and flags["out"] is None:
        raise UsageError(f"{path}: does not end in {SUFFIX}; name the output with -o FILE")
    default = Path(path.removesuffix(SUFFIX)) if path != "-" else None
    target = output_path(flags["out"], default, flags["force"])
    header, payload = Header.unpack(read_whole(path), path)
    run, tokenizer, model, device = open_coder(flags, name)

    predictor, code = predicting(model, header.fingerprint.code)
    here = asdict(Fingerprint.of(run, flags["checkpoint"], device, code))
    different = {k: v for k, v in asdict(header.fingerprint).items() if here[k] != v}
    if different:
        listed = ", ".join(f"{key} {value} (here {here[key]})" for key, value in different.items())
        raise DataError(f"{path}: was compressed with another run, machine or torch: {listed}")

    from ..core.ops.device import use_threads
    from ..core.score import arithmetic_coding

    use_threads(header.threads)
    prefix = arithmetic_coding.item(tokenizer, b"").ids
    support = tokenizer.support(header.tokens, {})
    try:
        with CodingProgress(header.tokens, quiet, "tokens") as progress:
            ids = arithmetic_coding.decode(
                predictor, support, prefix, header.tokens, payload, progress.show
            )
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from None
    data = tokenizer.decode_bytes(ids)
    if hashlib.sha256(data).digest()[:16] != header.sha256:
        raise DamagedError(f"{path}: damaged, the restored data differs from the original")
    write_result(target, data)
    if as_json and target is not None:
        print_record(run, path, target, data)
