"""`tfm compress` against gzip, bzip2 and xz; every file is decompressed again and compared.

python benchmarks/compress.py [--budget 2m] [--only KIND] [--megabyte]

A byte model is trained on the beginning of each kind of data; then the next 100 kB are compressed.
The general programs have no training data, so `xz, knowing` is the increase of the xz -9e size when
the same bytes are appended to the training data. The size of the model is not counted, but printed.
--megabyte: instead, compress and decompress 1 MB of each kind with a small model.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import sysconfig
import time
from pathlib import Path

from _common import DATA, heading, table, tfm, tfm_json, workspace

SIZE = 100_000  # bytes to compress
KINDS = ("text", "code", "binary", "images", "series")


def pieces(kind: str) -> tuple[bytes, bytes]:
    """(training data, data to compress)."""
    if kind == "text":
        data = (DATA / "text" / "tinyshakespeare.txt").read_bytes()
    elif kind == "code":
        modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        data = b"".join(path.read_bytes() for path in modules)
    elif kind == "binary":
        data = (DATA / "bytes" / "calgary" / "obj2").read_bytes()
    elif kind == "images":
        packed = (DATA / "image" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes()
        data = gzip.decompress(packed)
    else:
        data = (DATA / "timeseries" / "m4_hourly" / "Hourly-train.csv").read_bytes()
    size = min(SIZE, len(data) // 10)
    return data[:-size], data[-size:]


def megabyte(kind: str) -> bytes:
    if kind == "binary":  # obj2 alone is a quarter of the binary data
        names = ("obj1", "obj2", "geo", "pic")
        whole = b"".join((DATA / "bytes" / "calgary" / name).read_bytes() for name in names)
        return (whole + whole)[:1_000_000]
    learned, data = pieces(kind)
    return (learned + data)[-1_000_000:]


def there_and_back(kind: str) -> list[object]:
    folder = workspace()
    (folder / "data").write_bytes(megabyte(kind))
    tfm(
        "train",
        "--task",
        "byte",
        "--data",
        "data",
        "--size",
        "nano",
        "--steps",
        50,
        "--run",
        "run",
        "-q",
        folder=folder,
    )
    began = time.monotonic()
    tfm("compress", "run", "data", "-q", folder=folder)
    there = time.monotonic() - began
    tfm("decompress", "run", "data.tfm", "-o", "back", "-q", folder=folder)
    same = (folder / "back").read_bytes() == (folder / "data").read_bytes()
    if not same:
        raise SystemExit(f"{kind}: did not come back")
    bits = 8 * (folder / "data.tfm").stat().st_size / (folder / "data").stat().st_size
    return [kind, "1,000,000", f"{bits:.3f}", f"{there:.0f}", "the same"]


def xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", default="2m", help="of each training")
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--megabyte", action="store_true", help="there and back, no more")
    args = parser.parse_args()
    heading()
    kinds = [args.only] if args.only else KINDS
    if args.megabyte:
        names = ["there and back", "bytes", "bits per byte", "seconds there", "what came back"]
        table([names, *(there_and_back(kind) for kind in kinds)])
        return
    rows: list[list[object]] = [
        [
            "bits per byte",
            "bytes",
            "gzip -9",
            "bzip2",
            "xz -9e",
            "xz, knowing",
            "tfm",
            "eval --as-coded",
            "seconds there",
            "and back",
            "weights, kB",
        ]
    ]
    for kind in kinds:
        learned, data = pieces(kind)
        folder = workspace()
        (folder / "learned").write_bytes(learned)
        (folder / "data").write_bytes(data)
        tfm(
            "train",
            "--task",
            "byte",
            "--data",
            "learned",
            "--holdout",
            0.01,
            "--budget",
            args.budget,
            "--run",
            "run",
            "-q",
            folder=folder,
        )
        coded = tfm_json("eval", "run", "--data", "data", "--as-coded", folder=folder)
        began = time.monotonic()
        tfm("compress", "run", "data", "-q", folder=folder)
        there = time.monotonic() - began
        began = time.monotonic()
        tfm("decompress", "run", "data.tfm", "-o", "back", "-q", folder=folder)
        back = time.monotonic() - began
        if (folder / "back").read_bytes() != data:
            raise SystemExit(f"{kind}: did not come back")
        weights = max((folder / "run" / "checkpoints").glob("*/model.safetensors"))
        sizes = [
            len(gzip.compress(data, 9)),
            len(bz2.compress(data)),
            xz(data),
            xz(learned + data) - xz(learned),
            (folder / "data.tfm").stat().st_size,
        ]
        bits = [f"{8 * size / len(data):.3f}" for size in sizes]
        rows.append(
            [
                kind,
                f"{len(data):,}",
                *bits,
                f"{coded['bits_per_byte']:.3f}",
                f"{there:.0f}",
                f"{back:.0f}",
                f"{weights.stat().st_size // 1000:,}",
            ]
        )
    table(rows)


if __name__ == "__main__":
    main()
