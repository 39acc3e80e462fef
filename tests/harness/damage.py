"""Damages each file of a run in many ways, then runs a command that uses it. The command must
report the damage in one line, with exit code 3, before it uses the file.

    python tests/harness/damage.py [--copies 2000] [--seed 0] [--json]

The kinds of damage, at random places: a flipped bit, a truncated end, bytes copied from elsewhere,
a page of zeros. The lines of the log are checked one by one. An incomplete last line, as a kill
leaves it, is skipped; any other damaged line is reported. A checkpoint of some 100 MB is damaged
too, to measure time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import warm

KINDS = ("flip", "truncate", "splice", "zeros")
TRAIN = (
    *("train", "--task", "text", "--data", "data.txt", "--tokenizer", "char", "--steps", 4),
    *("--size", "nano", "--run", "run", "--save-every", 4, "--set", "train.batch=4", "-q"),
)
USE = ("sample", "run", "-p", "a", "--length", 1, "-q")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--copies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    warm.warm()
    from helpers import prose

    with warm.workspace() as root:
        (root / "data.txt").write_text(prose(4000))
        trained = warm.call(root, *TRAIN)
        if trained.code:
            sys.exit(trained.err)
        report = damage(root, asked.copies, random.Random(asked.seed))
        if not asked.json:
            large = large_file(root)
    if asked.json:
        print(json.dumps(report))
        return
    from _common import heading, table

    heading()
    head = ("file", *KINDS, "told", "tail not read", "used unnoticed", "slowest (s)")
    names = (*KINDS, "told", "tails", "unnoticed", "seconds")
    table([head, *((f, *(r.get(n, 0) for n in names)) for f, r in report["files"].items())])
    print(*report["wrong"], sep="\n")
    table([("a checkpoint's largest file", ""), *large.items()])


def damage(root: Path, copies: int, draw: random.Random) -> dict[str, Any]:
    run = root / "run"
    entries = log_of(run)
    files = sorted(p for p in run.rglob("*") if p.is_file() and not p.name.startswith("lock"))
    found: dict[str, Any] = defaultdict(lambda: defaultdict(int))
    wrong: list[str] = []
    for number in range(copies):
        file, kind = files[number % len(files)], KINDS[number // len(files) % len(KINDS)]
        name = file.relative_to(run).as_posix()
        sound = file.read_bytes()
        file.write_bytes(damaged(sound, kind, draw))
        is_log = name == "log.jsonl"
        end = warm.call(root, *(("info", "run") if is_log else USE))
        row = found[name]
        row[kind] += 1
        row["seconds"] = round(max(row["seconds"], end.seconds), 2)
        lines = end.err.splitlines()
        if end.code == 3 and len(lines) == 1 and lines[0].startswith("Error: ") and not end.out:
            row["told"] += 1
        elif is_log and end.code == 0 and entries[: len(log_of(run))] == log_of(run):
            row["tails"] += 1
        else:
            row["unnoticed"] += 1
            wrong.append(f"{name}, {kind}: exit {end.code}: {end.err[-300:]}")
        file.write_bytes(sound)
    end = warm.call(root, *USE)
    if end.code:
        wrong.append(f"the sound run: {end.err}")
    return {"files": found, "wrong": wrong, "copies": copies}


def log_of(run: Path) -> list[dict[str, Any]]:
    from tfm.core.runs.run import Run

    return Run(run).log()


def damaged(sound: bytes, kind: str, draw: random.Random) -> bytes:
    """Other bytes than `sound`, always."""
    size = len(sound)
    while size:
        at = draw.randrange(size)
        if kind == "flip":
            other = sound[:at] + bytes([sound[at] ^ 1 << draw.randrange(8)]) + sound[at + 1 :]
        elif kind == "truncate":
            other = sound[:at]
        elif kind == "splice":
            start, length = draw.randrange(size), draw.randint(1, 64)
            other = sound[:at] + sound[start : start + length] + sound[at + length :]
        else:
            page = at // 4096 * 4096
            zeros = bytes(min(4096, size - page))
            other = sound[:page] + zeros + sound[page + 4096 :]
        if other != sound:
            return other
        kind = "flip" if kind == "zeros" else kind  # zeros already
    return b"\0"


def large_file(root: Path) -> dict[str, object]:
    """Seconds and memory until the last bit of some 100 MB is told to be damaged."""
    import torch
    from helpers import save_checkpoint

    from tfm.core.architectures import model_config
    from tfm.core.model.sequence_model import SequenceModel
    from tfm.core.runs.run import Run

    run = Run(root / "run")
    model = SequenceModel(model_config("transformer", "base", vocab_size=run_vocabulary(run)))
    config = {**run.config, "model": asdict(model.config)}
    del config["format"], config["created"]
    kept = {split: list(run.heldout(split)) for split in ("valid",)}
    large = Run.create(root / "large", config, run.tokenizer(), kept)
    with torch.no_grad():
        saved = save_checkpoint(large, 1, model)
    file = saved.path / "model.safetensors"
    with file.open("r+b") as bits:
        bits.seek(-1, os.SEEK_END)
        last = bits.read(1)[0]
        bits.seek(-1, os.SEEK_END)
        bits.write(bytes([last ^ 1]))

    def work() -> None:
        from tfm.cli.main import main

        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        status = Path("/proc/self/status").read_text().splitlines()
        resident = next(line.split()[1] for line in status if line.startswith("VmRSS"))
        (root / "resident").write_text(resident)
        sys.argv = ["tfm", "sample", "large", "-p", "a", "--length", "1", "-q"]
        main()

    began = time.perf_counter()
    end = warm.ended(warm.fork(root, work), root, began)
    grown = end.kilobytes - int((root / "resident").read_text())
    return {
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "said": end.last,
        "exit code": end.code,
        "seconds": round(end.seconds, 2),
        "megabytes of memory on the way": round(grown / 1e3, 1),
    }


def run_vocabulary(run: Any) -> int:
    return int(run.config["model"]["vocab_size"])


if __name__ == "__main__":
    main()
