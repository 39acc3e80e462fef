"""Peak anonymous memory of a training with a time budget, on a large file and a small one.

    python benchmarks/big_file.py [--megabytes 1000] [--budget 80s]

The file is real prose (the standard library's sources), repeated with its lines in a new order each
time, so that it does not repeat exactly. Linux only: memory is RssAnon of /proc, every 50 ms.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from _common import heading, table, workspace


def write(path: Path, size: int) -> None:
    lines: list[bytes] = []
    for source in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        lines += source.read_bytes().decode("utf-8", "ignore").encode().splitlines(keepends=True)
    order = random.Random(0)
    with path.open("wb") as out:
        while out.tell() < size:
            order.shuffle(lines)
            out.write(b"".join(lines))
        out.truncate(size)


def anonymous(pid: int) -> int:
    """Anonymous memory of a process in kilobytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(x.split()[1]) for x in status.splitlines() if x.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--budget", default="80s")
    args = parser.parse_args()
    heading()
    rows: list[list[object]] = [["file, MB", "seconds", "peak anonymous memory, MB"]]
    for megabytes in args.megabytes:
        folder = workspace()
        write(folder / "big.txt", megabytes * 10**6)
        began, peak = time.monotonic(), 0
        command = [sys.executable, "-m", "tfm", "train", "--data", "big.txt", "--task", "text"]
        process = subprocess.Popen(
            [*command, "--budget", args.budget], cwd=folder, stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.05)
        assert process.returncode == 0
        rows.append([f"{megabytes:,}", f"{time.monotonic() - began:.1f}", f"{peak / 1000:,.0f}"])
        shutil.rmtree(folder)
    table(rows)


if __name__ == "__main__":
    main()
