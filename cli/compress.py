"""`tfm compress`: a file coded by a run's model and a range coder. `decompress` shares this."""

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
from . import kernels
from . import options as opt
from .names import complete_run
from .render import CodingProgress, say

if TYPE_CHECKING:
    from ..core.runs.run import Run

MAGIC = b"tfm\x1a\x02"  # the last byte is the version of the format
FIRST_MAGIC = b"tfm\x1a\x01"  # of files without `code` in their fingerprint, which was torch
NUMBERS = struct.Struct("<HQ16s")  # threads, token count, first bytes of the original's sha256
CHECKSUM = struct.Struct("<I")  # crc32 of the header before it
SUFFIX = ".tfm"


TORCH = "torch"  # the code that computes a model, where it is not that of core/ops/c


@dataclass(frozen=True)
class Fingerprint:
    """Everything that the probabilities depend on, except the number of threads, which
    decompression can set."""

    weights: str
    tokenizer: str
    torch: str
    numpy: str
    device: str
    processor: str
    code: str = TORCH

    @classmethod
    def of(cls, run: Run, checkpoint: str, device: Any, code: str) -> Fingerprint:
        import numpy
        import torch

        from ..core.files import check_files, read_manifest
        from ..core.runs.checkpoints import MODEL, sha256_of
        from ..core.runs.run import BASE

        weights = sha256_of(check_files(run.checkpoint(checkpoint).path), MODEL)
        if base := read_manifest(run.path)["files"].get(BASE):  # adapters alone are no model
            weights = hashlib.sha256(f"{base[1]} {weights}".encode()).hexdigest()
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
            code,
        )


def processor(device: Any) -> str:
    """The model of the processor or GPU, without spaces."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device).replace(" ", "-")
    if device.type != "cpu":
        return str(platform.machine())
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    vendor = vendors[0] if vendors else platform.machine()
    return f"{vendor}-{torch.backends.cpu.get_cpu_capability()}".replace(" ", "-")


@dataclass(frozen=True)
class Header:
    fingerprint: Fingerprint
    threads: int
    tokens: int
    sha256: bytes  # the first 16 bytes of the original's digest

    def pack(self) -> bytes:
        names = " ".join(asdict(self.fingerprint).values()).encode()
        numbers = NUMBERS.pack(self.threads, self.tokens, self.sha256)
        body = MAGIC + bytes([len(names)]) + names + numbers
        return body + CHECKSUM.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes, where: str) -> tuple[Header, bytes]:
        """(header, payload). DataError for a file of another kind or version, DamagedError for a
        damaged header; `where` names the file."""
        if data[: len(MAGIC) - 1] != MAGIC[:-1]:
            raise DataError(f"{where}: not made by tfm compress")
        if data[: len(MAGIC)] not in (MAGIC, FIRST_MAGIC):
            raise DataError(f"{where}: made by another version of tfm; use that one")
        try:
            at = len(MAGIC) + 1
            end = at + data[at - 1]
            names = data[at:end].decode().split(" ")
            last = end + NUMBERS.size
            if CHECKSUM.unpack(data[last : last + CHECKSUM.size]) != (zlib.crc32(data[:last]),):
                raise TypeError
            numbers = NUMBERS.unpack(data[end:last])
            return cls(Fingerprint(*names), *numbers), data[last + CHECKSUM.size :]
        except (IndexError, UnicodeDecodeError, TypeError, struct.error):
            raise DamagedError(f"{where}: its header is damaged") from None


def open_coder(flags: dict[str, Any], name: str | None) -> tuple[Run, Any, Any, Any]:
    """(run, tokenizer, model, device). DataError for a run whose items are not bytes."""
    from ..core.ops.device import pick_device
    from ..core.runs.catalogue import open_run

    run = open_run(name, Path(flags["runs"]))
    run.check()
    tokenizer = run.task().byte_tokenizer(run.tokenizer())
    if tokenizer is None:
        raise DataError(
            f"{run.path}: its tokens cannot encode arbitrary bytes; compress with a run of "
            "--task byte, or of --task text with byte or bpe tokens"
        )
    try:
        tokenizer.ids_of_bytes(b"")
    except DataError as error:
        raise DataError(f"{run.path}: {error}") from None
    device = pick_device(flags["device"])
    return run, tokenizer, run.load_model(flags["checkpoint"], device), device


def predicting(model: Any, code: str | None = None) -> tuple[Any, str]:
    """(the model that the coder calls, the name of the code that computes it): C, which is faster
    than torch, where this machine can compile it and it can compute the model. code: TORCH, for a
    file that was compressed so; None: the fastest."""
    from ..core.decode.native_model import NativeModel, supports

    library = kernels.compiled() if code != TORCH else None
    if library is None or not supports(model):
        return model, TORCH
    return NativeModel(model, library, "float32"), f"c-{Path(library._name).stem.split('-')[1][:8]}"


def run_and_file(names: tuple[str, ...]) -> tuple[str | None, str]:
    """(run, file) from the arguments [RUN] FILE."""
    if not 1 <= len(names) <= 2:
        raise UsageError("expected [RUN] FILE: a run (the newest by default) and one file, or -")
    return (names[0] if len(names) == 2 else None), names[-1]


def read_whole(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def output_path(out: str | None, default: Path | None, force: bool) -> Path | None:
    """The file that the result is written to; None for stdout."""
    from ..core.files import check_output

    if out == "-" or (out is None and default is None):
        if sys.stdout.isatty():
            raise UsageError("the result is binary: use -o FILE, or redirect stdout")
        return None
    path = Path(out) if out is not None else default
    assert path is not None
    check_output(path, force)
    return path


def write_result(path: Path | None, data: bytes) -> None:
    from ..core.files import write_out

    if path is not None:
        write_out(path, data)
        return
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_record(run: Run, file: str, out: Path, data: bytes, **more: int) -> None:
    """The JSON object of `--json`. data: the content of the original file."""
    record = {"schema": 1, "run": str(run.path), "file": file, "out": str(out), "bytes": len(data)}
    click.echo(json.dumps({**record, **more}))


out_option = opt.option("-o", "--out", metavar="FILE", help="Write to FILE; - is stdout.")
force_option = opt.option("--force", is_flag=True, help="Overwrite an existing file.")


@click.command("compress", cls=opt.Command)
@click.argument("names", nargs=-1, metavar="[RUN] FILE", shell_complete=complete_run)
@out_option
@force_option
@opt.checkpoint_option
@opt.device_option
@opt.runs_option
@opt.json_option
def command(names: tuple[str, ...], quiet: bool, as_json: bool, **flags: Any) -> None:
    """Compress FILE with RUN (the newest by default) into FILE.tfm; - compresses stdin to stdout.

    Only the same run, kind of machine, torch and numpy can decompress the result; the file records
    all of them. `tfm eval RUN --data FILE --as-coded` computes the compressed size.
    """
    name, path = run_and_file(names)
    target = output_path(flags["out"], Path(path + SUFFIX) if path != "-" else None, flags["force"])
    data = read_whole(path)
    run, tokenizer, model, device = open_coder(flags, name)

    from ..core.ops.device import use_threads
    from ..core.score import arithmetic_coding

    threads = use_threads(0)
    predictor, code = predicting(model)
    sequence = arithmetic_coding.item(tokenizer, data)
    count = len(sequence) - 1
    if tokenizer.decode_bytes(sequence.ids) != data:
        raise DataError(f"{path}: the tokens of {run.path} do not restore it exactly")
    support = tokenizer.support(count, {})
    with CodingProgress(len(data), quiet) as progress:
        payload = arithmetic_coding.encode(predictor, support, sequence, progress.show)
    fingerprint = Fingerprint.of(run, flags["checkpoint"], device, code)
    header = Header(fingerprint, threads, count, hashlib.sha256(data).digest()[:16])
    packed = header.pack() + payload
    write_result(target, packed)
    if as_json and target is not None:
        print_record(run, path, target, data, compressed=len(packed), tokens=count)
    elif data:
        rate = 8 * len(packed) / len(data)
        say(f"{len(data):,} bytes to {len(packed):,}: {rate:.3f} bits per byte", quiet)
