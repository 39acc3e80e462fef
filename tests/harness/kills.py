"""Kills a training with SIGKILL at random moments, resumes it, and compares it with a run that was
not interrupted: the weights bit for bit, and the log without its timings.

    python tests/harness/kills.py [--kills 1000] [--signal KILL|TERM|INT] [--seed 0] [--json]

Each process is real and is killed at a random moment: while it reads data, creates the run, trains,
saves, deletes older checkpoints or scores. After a kill no checkpoint may be lost, at most the
steps of one save interval may be missing, and every run must finish in the end. SIGTERM and SIGINT
must lose no step, and end the process without an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import warm

STEPS, EVERY = 40, 3
TRAIN = (
    *("train", "--task", "text", "--data", "../data.txt", "--tokenizer", "byte", "--steps", STEPS),
    *("--size", "nano", "--run", "run", "--save-every", EVERY, "--set", "train.batch=4"),
    *("--set", "model.dropout=0.1", "--set", "model.layers=1", "--set", "train.eval_every=10"),
    *("--context", 32),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1")
    with warm.workspace() as root:
        number = signal.Signals[f"SIG{asked.signal}"]
        report = kill(root, asked.kills, number, random.Random(asked.seed))
    if asked.json:
        print(json.dumps(report))
        return
    from _common import heading, table

    heading()
    table([("", ""), *((name, value) for name, value in report.items() if name != "killed while")])
    table([("killed while", "times"), *report["killed while"].items()])


def kill(root: Path, kills: int, number: signal.Signals, draw: random.Random) -> dict[str, Any]:
    warm.warm()
    from helpers import prose

    (root / "data.txt").write_text(prose(4000))
    for name in ("first", "whole"):
        (root / name).mkdir()
    warm.call(root / "first", *TRAIN, "-q")  # what it has compiled is there for every other life
    began = time.perf_counter()
    done = warm.call(root / "whole", *TRAIN, "-q")
    if done.code:
        sys.exit(done.err)
    life = done.seconds
    expected = outcome(root / "whole/run")

    report: dict[str, Any] = dict.fromkeys(
        (
            "kills",
            "runs finished",
            "weights identical",
            "logs identical",
            "runs lost",
            "checkpoints lost",
            "most steps lost",
            "lives that ended by themselves",
        ),
        0,
    )
    phases: Counter[str] = Counter()
    while report["kills"] < kills:
        folder = root / f"chain-{report['runs finished']}"
        folder.mkdir()
        finished, saved = False, 0
        while not finished:
            if state(folder / "run") == "done":  # killed after the last word
                finished = True
                break
            left = report["kills"] < kills
            pid = take_up(folder)
            began_life = time.perf_counter()
            if left:
                least = 0 if number == signal.SIGKILL else 0.01  # in tfm, and not yet forking
                time.sleep(draw.uniform(least, 0.6 * life))
                os.kill(pid, number)
            end = warm.ended(pid, folder, began_life)
            if end.code == -number and "Error" not in end.err:
                report["kills"] += 1
                before, (saved, lost) = saved, progress(folder / "run")
                phases[phase(end.err, folder / "run")] += 1
                report["checkpoints lost"] += saved < before
                report["most steps lost"] = max(report["most steps lost"], lost)
            elif end.code:
                report["runs lost"] += 1
                print(end.err, file=sys.stderr)
                break
            else:
                finished = True
                report["lives that ended by themselves"] += 1
        weights, log = outcome(folder / "run") if finished else (b"", [])
        report["runs finished"] += finished
        report["weights identical"] += weights == expected[0]
        report["logs identical"] += log == expected[1]
        shutil.rmtree(folder)
    report["save interval"] = EVERY
    report["seconds"] = round(time.perf_counter() - began, 1)
    return {**report, "killed while": dict(phases.most_common())}


def take_up(folder: Path) -> int:
    """The run as it is, or from its beginning where it was killed before it was there."""
    if (folder / "run").exists():
        return warm.start(folder, "train", "--resume", "run", "--save-every", EVERY)
    return warm.start(folder, *TRAIN)


def state(path: Path) -> str:
    from tfm.core.runs.run import Run

    return str(Run(path).status()["state"]) if path.exists() else "none"


def progress(path: Path) -> tuple[int, int]:
    """(the last step saved whole, how many logged steps lie behind it)."""
    from tfm.core.files import check_files
    from tfm.core.runs.run import Run

    if not path.exists():
        return 0, 0
    run = Run(path)
    newest = run.checkpoints()[-1:]
    for checkpoint in newest:
        check_files(checkpoint.path)
    saved = newest[0].step if newest else 0
    return saved, max([e["step"] - saved for e in run.log()], default=0)


def phase(said: str, path: Path) -> str:
    if not path.exists():
        return "starting" if not said else "preparing a run"
    if "resuming from" not in said and "parameters" not in said:
        return "taking a run up"
    if list((path / "checkpoints").glob(".new-*")):
        return "saving"
    newest = (path / f"checkpoints/{STEPS:06d}").exists()
    return "scoring at the end" if newest else "training"


def outcome(path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The last weights and the log without what is time."""
    from helpers import log_without_times, saved_weights

    return saved_weights(path, STEPS), log_without_times(path)


if __name__ == "__main__":
    main()
