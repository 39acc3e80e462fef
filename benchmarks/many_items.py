"""Time and memory of short trainings on many files, many lines, and text without spaces.

    python benchmarks/many_items.py [--files 100000] [--megabytes 400]

Memory is the peak of resident memory, as the system counts it for the process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _common import heading, table, workspace

WORDS = "the of a model sequence token attention layer norm head loss data".split()


def files(folder: Path, count: int) -> None:
    """Files of some 350 bytes, a thousand in each subfolder."""
    draw = random.Random(0)
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"data/{number // 1000:04}").mkdir(parents=True)
        text = " ".join(draw.choices(WORDS, k=60)) + "\n"
        (folder / f"data/{number // 1000:04}/{number}.txt").write_text(text)


def lines(folder: Path, megabytes: int) -> None:
    """Lines of 3 to 10 words of a made vocabulary of 5,000."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(5000)]
    with (folder / "data").open("w") as out:
        while out.tell() < megabytes * 10**6:
            some = (" ".join(draw.choices(words, k=draw.randint(3, 10))) for _ in range(20_000))
            out.write("\n".join(some) + "\n")


def unbroken(folder: Path, megabytes: int, letters: str) -> None:
    """Random letters without a space or a line end."""
    (folder / "data").write_text("".join(random.Random(0).choices(letters, k=megabytes << 20)))


def trained(folder: Path, *flags: object) -> list[object]:
    """(seconds, megabytes, steps) of a training on `data`."""
    command = [sys.executable, "-m", "tfm", "train", "--data", "data", "--task", "text"]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, *map(str, flags), "--size", "nano", "-q", "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    scale = 1 if sys.platform == "darwin" else 1024
    return [
        f"{time.monotonic() - began:.1f}",
        f"{usage.ru_maxrss * scale / 1e6:,.0f}",
        f"{json.loads(out)['step']:,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--megabytes", type=int, default=400)
    args = parser.parse_args()
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    heading()
    rows: list[list[object]] = [["data", "flags", "seconds", "peak memory, MB", "steps"]]
    folder = workspace()
    files(folder, args.files)
    for flags in (("--steps", 2), ("--steps", 2, "--each", "file")):
        shown = " ".join(map(str, flags))
        rows.append([f"{args.files:,} files", shown, *trained(folder, *flags)])
    shutil.rmtree(folder / "data")
    lines(folder, args.megabytes)
    each = ("--steps", 2, "--each", "line")
    shown = " ".join(map(str, each))
    rows.append([f"{args.megabytes} MB of lines", shown, *trained(folder, *each)])
    for letters, kind in (("0123456789", "digits"), ("ACGT", "letters of a genome")):
        for megabytes in (1, 8):
            unbroken(folder, megabytes, letters)
            found = trained(folder, "--budget", "20s")
            rows.append([f"{megabytes} MB of {kind}, one line", "--budget 20s", *found])
    shutil.rmtree(folder)
    table(rows)


if __name__ == "__main__":
    main()
