"""`tfm compress` and `tfm decompress`: a file through a run's model and a range coder."""

from __future__ import annotations

import hashlib
import json
import platform
import struct
import sys
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import DamagedError, DataError, UsageError
from . import options as opt
from .names import of_run
from .render import say

if TYPE_CHECKING:
    from ..core.runs.run import Run

MAGIC = b"tfm\x1a\x01"  # the last byte is the format's version
NUMBERS = struct.Struct("<HQ16s")  # threads, ids, the beginning of the original's sha256
CHECK = struct.Struct("<I")  # crc32 of what comes before
SUFFIX = ".tfm"


@dataclass(frozen=True)
class Fingerprint:
    """All that the probabilities depend on, but for the number of threads, which can be chosen."""

    weights: str
    tokenizer: str
    torch: str
    numpy: str
    device: str
    processor: str

    @classmethod
    def of(cls, run: Run, checkpoint: str, device: Any) -> Fingerprint:
        import numpy
        import torch

        from ..core.files import check_files

        weights = check_files(run.checkpoint(checkpoint).path)["files"]["model.safetensors"][1]
        digest = hashlib.sha256()
        for path in sorted(run.path.glob("tokenizer.*")):
            digest.update(path.read_bytes())
        return cls(
            weights[:16],
            digest.hexdigest()[:8],
            torch.__version__,
            numpy.__version__,
            device.type,
            processor(device),
        )


def processor(device: Any) -> str:
    """What kind it is, in one word."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device).replace(" ", "-")
    if device.type != "cpu":
        return str(platform.machine())
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    maker = vendors[0] if vendors else platform.machine()
    return f"{maker}-{torch.backends.cpu.get_cpu_capability()}".replace(" ", "-")


@dataclass(frozen=True)
class Header:
    fingerprint: Fingerprint
    threads: int
    ids: int
    sha256: bytes  # of what was compressed, its first 16 bytes

    def pack(self) -> bytes:
        names = " ".join(asdict(self.fingerprint).values()).encode()
        numbers = NUMBERS.pack(self.threads, self.ids, self.sha256)
        body = MAGIC + bytes([len(names)]) + names + numbers
        return body + CHECK.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes, where: str) -> tuple[Header, bytes]:
        """The header, and what stands behind it."""
        if data[: len(MAGIC) - 1] != MAGIC[:-1]:
            raise DataError(f"{where}: not made by tfm compress")
        if data[: len(MAGIC)] != MAGIC:
            raise DataError(f"{where}: made by another version of tfm; use that one")
        try:
            at = len(MAGIC) + 1
            end = at + data[at - 1]
            names = data[at:end].decode().split(" ")
            last = end + NUMBERS.size
            if CHECK.unpack(data[last : last + CHECK.size]) != (zlib.crc32(data[:last]),):
                raise TypeError
            numbers = NUMBERS.unpack(data[end:last])
            return cls(Fingerprint(*names), *numbers), data[last + CHECK.size :]
        except (IndexError, UnicodeDecodeError, TypeError, struct.error):
            raise DamagedError(f"{where}: its header is damaged") from None


def open_coder(flags: dict[str, Any], name: str | None) -> tuple[Run, Any, Any, Any]:
    """(run, tokenizer, model, device) for coding. DataError where bytes are not its items."""
    from ..core.ops.device import pick_device
    from ..core.runs.catalogue import open_run

    run = open_run(name, Path(flags["runs"]))
    run.check()
    tokenizer = run.task().byte_tokenizer(run.tokenizer())
    if tokenizer is None:
        raise DataError(
            f"{run.path}: its tokens are not those of arbitrary bytes; compress with a run of "
            "--task byte, or of --task text with byte or bpe tokens"
        )
    try:
        tokenizer.ids_of_bytes(b"")
    except DataError as error:
        raise DataError(f"{run.path}: {error}") from None
    device = pick_device(flags["device"])
    return run, tokenizer, run.load_model(flags["checkpoint"], device), device


def arguments(names: tuple[str, ...]) -> tuple[str | None, str]:
    """(run, file) of [RUN] FILE."""
    if not 1 <= len(names) <= 2:
        raise UsageError("give [RUN] FILE: a run (the newest by default) and one file, or -")
    return (names[0] if len(names) == 2 else None), names[-1]


def read_whole(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def target_of(out: str | None, usual: Path | None, force: bool) -> Path | None:
    """Where the result goes, none for stdout."""
    if out == "-" or (out is None and usual is None):
        if sys.stdout.isatty():
            raise UsageError("the result is binary: give -o FILE, or pipe it on")
        return None
    path = Path(out) if out is not None else usual
    assert path is not None
    if path.exists() and path.is_file() and not force:
        raise UsageError(f"{path}: exists already; --force replaces it")
    return path


def write_result(path: Path | None, data: bytes) -> None:
    from ..core.files import write_out

    if path is not None:
        write_out(path, data)
        return
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


out_option = opt.option("-o", "--out", metavar="FILE", help="Write there; - is stdout.")
force_option = opt.option("--force", is_flag=True, help="Replace a file that is there.")


@click.command("compress", cls=opt.Command)
@click.argument("names", nargs=-1, metavar="[RUN] FILE", shell_complete=of_run)
@out_option
@force_option
@opt.checkpoint_option
@opt.device_option
@opt.runs_option
@opt.json_option
def command(names: tuple[str, ...], quiet: bool, as_json: bool, **flags: Any) -> None:
    """Compress FILE with RUN (the newest by default) into FILE.tfm; - is stdin, to stdout.

    What comes out can be read by the same run on the same kind of machine and torch alone: the
    file says which. `tfm eval RUN --data FILE --as-coded` says what it comes to.
    """
    name, path = arguments(names)
    target = target_of(flags["out"], Path(path + SUFFIX) if path != "-" else None, flags["force"])
    data = read_whole(path)
    run, tokenizer, model, device = open_coder(flags, name)

    from ..core.ops.device import use_threads
    from ..core.score import arithmetic_coding

    threads = use_threads(0)
    sequence = arithmetic_coding.item(tokenizer, data)
    count = len(sequence) - 1
    if tokenizer.decode_bytes(sequence.ids) != data:
        raise DataError(f"{path}: does not come back exactly from the tokens of {run.path}")
    payload = arithmetic_coding.encode(model, tokenizer.support(count, {}), sequence)
    fingerprint = Fingerprint.of(run, flags["checkpoint"], device)
    header = Header(fingerprint, threads, count, hashlib.sha256(data).digest()[:16])
    packed = header.pack() + payload
    write_result(target, packed)
    if as_json and target is not None:
        click.echo(
            json.dumps(
                {
                    "schema": 1,
                    "run": str(run.path),
                    "file": path,
                    "out": str(target),
                    "bytes": len(data),
                    "compressed": len(packed),
                    "tokens": count,
                }
            )
        )
    elif data:
        share = 8 * len(packed) / len(data)
        say(f"{len(data):,} bytes to {len(packed):,}: {share:.3f} bits per byte", quiet)
