"""Makes the N-th call of each kind of file-system call fail while a checkpoint is saved, for every
N: by SIGKILL, ENOSPC or EIO, injected by strace.

    python tests/harness/inject.py [--fault kill|ENOSPC|EIO] [--what save|train] [--json]

`save` locks a run, appends a line to its log, saves a checkpoint and deletes an older one. `train`
is a whole `tfm train` of two steps. After each fault the newest checkpoint must be the previous or
the new one, complete, with the right weights. An error must be one line that names a path, with
exit code 1 (3 if a file of the run could not be read). The next save must succeed.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import warm

# the calls that a full or a broken disk can fail; a kill can come at any call
ENOSPC = ("write", "pwrite64", "openat", "mkdir", "rename", "fsync", "ftruncate", "fallocate")
EIO = (*ENOSPC, "read", "unlink", "unlinkat", "rmdir", "getdents64", "newfstatat", "close", "utime")
TRAIN = (
    *("train", "--task", "text", "--data", "data.txt", "--tokenizer", "byte", "--steps", 2),
    *("--size", "nano", "--run", "run", "--save-every", 1, "--set", "train.batch=2"),
    *("--set", "model.layers=1", "--context", 32, "-q"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", choices=["kill", "ENOSPC", "EIO"], action="append")
    parser.add_argument("--what", choices=["save", "train"], default="save")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    warm.warm()
    with warm.workspace() as root:
        kind = Save if asked.what == "save" else Train
        reports = {
            f: Injection(root, kind(root)).all(f) for f in asked.fault or ["kill", "ENOSPC", "EIO"]
        }
    if asked.json:
        print(json.dumps(reports))
        return
    from _common import heading, table

    heading()
    names = list(dict.fromkeys(name for report in reports.values() for name in report["calls"]))
    rows = [
        [f, *(r["calls"].get(n, "") for n in names), r["faults"], len(r["wrong"])]
        for f, r in reports.items()
    ]
    table([["each call made to fail", *names, "faults", "broken promises"], *rows])
    for fault, report in reports.items():
        print(*(f"{fault}: {line}" for line in report["wrong"]), sep="\n")


class Save:
    """A run with two checkpoints, of which the third save deletes one."""

    skip = ()

    def __init__(self, root: Path) -> None:
        from dataclasses import asdict

        import torch
        from helpers import FakeTokenizer, save_checkpoint, saved_weights

        from tfm.core.config import ModelConfig, TrainConfig
        from tfm.core.model.sequence_model import SequenceModel
        from tfm.core.runs.run import Run
        from tfm.core.train.optim import make_optimizers

        shape = ModelConfig(vocab_size=7, layers=1, width=8, heads=2, context=8)
        about = {"task": "byte", "model": asdict(shape), "train": asdict(TrainConfig(steps=3))}
        self.ready = root / "ready"
        self.ready.mkdir(exist_ok=True)
        shutil.rmtree(self.ready / "run", ignore_errors=True)
        run = Run.create(self.ready / "run", about, FakeTokenizer(7), {})
        torch.manual_seed(0)
        self.model = SequenceModel(shape)
        self.optimizers = make_optimizers(self.model, TrainConfig())
        for step in (1, 2):
            save_checkpoint(run, step, self.model, self.optimizers)
        self.weights = saved_weights(run.path, 2)

    def work(self) -> None:
        from helpers import save_checkpoint

        from tfm.core.runs.run import Run

        run = Run(Path("run"))
        run.lock()
        run.append_log({"step": 3, "loss": 1.0})
        save_checkpoint(run, 3, self.model, self.optimizers)
        run.unlock()

    def wrong(self, folder: Path, ended_well: bool) -> str:
        """What is broken in what is left behind."""
        from helpers import save_checkpoint, saved_weights

        from tfm.core.errors import TfmError
        from tfm.core.files import check_files
        from tfm.core.runs.run import Run

        try:
            run = Run(folder / "run")
            run.check()
            entries = run.log()
            newest = run.checkpoint()
            check_files(newest.path)
        except TfmError as error:
            return str(error)
        if newest.step not in (2, 3) or (ended_well and newest.step != 3):
            return f"the newest checkpoint is that of step {newest.step}"
        if saved_weights(run.path, newest.step) != self.weights:
            return "other weights"
        if ended_well and len(entries) != 1:
            return "no line in the log"
        run.cut(newest.step)
        save_checkpoint(run, 4, self.model, self.optimizers)
        left = {p.name for p in (run.path / "checkpoints").iterdir()}
        if not {"000004"} < left or any(not name.isdigit() for name in left) or len(left) > 2:
            return f"after the next save there are {sorted(left)}"
        return ""


class Train:
    """A whole command, from its first call to its last."""

    skip = ("openat",)  # hundreds, of Python's and torch's own files

    def __init__(self, root: Path) -> None:
        from helpers import prose

        self.ready = root / "ready-train"
        self.ready.mkdir(exist_ok=True)
        (self.ready / "data.txt").write_text(prose(2000))

    def work(self) -> None:
        from tfm.cli.main import main

        sys.argv = ["tfm", *map(str, TRAIN)]
        main()

    def wrong(self, folder: Path, ended_well: bool) -> str:
        """What is broken in what is left behind: a run that opens and is gone on with, or none."""
        from tfm.core.errors import TfmError
        from tfm.core.files import check_files
        from tfm.core.runs.run import Run

        if not (folder / "run").exists():
            return "no run" if ended_well else ""
        try:
            run = Run(folder / "run")
            run.check()
            run.log()
            for checkpoint in run.checkpoints()[-2:]:
                check_files(checkpoint.path)
        except TfmError as error:
            return str(error)
        return ""


class Injection:
    def __init__(self, root: Path, what: Save | Train) -> None:
        self.root, self.what, self.number = root, what, 0

    def all(self, fault: str) -> dict[str, Any]:
        """Every call of every kind, once each."""
        calls = {"kill": None, "ENOSPC": ENOSPC, "EIO": EIO}[fault]
        made = self.count()
        report: dict[str, Any] = {"calls": {}, "faults": 0, "wrong": []}
        for name in sorted(made):
            if calls is not None and (name not in calls or name in self.what.skip):
                continue
            for nth in range(1, 10_000):
                hit, wrong = self.once(fault, name, nth)
                if not hit:
                    break
                report["faults"] += 1
                report["calls"][name] = nth
                report["wrong"] += [f"{name} {nth}: {wrong}"] if wrong else []
        return report

    def count(self) -> Counter[str]:
        """The calls of one that nothing disturbs."""
        folder, _, trace = self.traced(["-e", "trace=%file,%desc"])
        shutil.rmtree(folder)
        return Counter(re.findall(r"^(?:\d+ +)?(\w+)\(", trace, re.M))

    def once(self, fault: str, name: str, nth: int) -> tuple[bool, str]:
        """(whether there was an N-th call, what it broke)."""
        how = "signal=SIGKILL" if fault == "kill" else f"error={fault}"
        folder, end, trace = self.traced(
            ["-e", f"trace={name}", "-e", f"inject={name}:{how}:when={nth}"]
        )
        hit = end.code == -signal.SIGKILL if fault == "kill" else "(INJECTED)" in trace
        wrong = ""
        if hit and _counts(fault, name, trace):
            if fault != "kill" and end.code:
                lines = end.err.splitlines()
                if end.code not in (1, 3) or not lines or "Traceback" in end.err:
                    wrong = f"exit {end.code}: {end.err.strip()[-300:]}"
                elif not self.named(lines[-1], trace):
                    wrong = f"names no path: {end.last}"
                elif len(lines) > 1:
                    wrong = f"says more than a line: {end.err}"
            wrong = wrong or self.what.wrong(folder, end.code == 0)
        shutil.rmtree(folder)
        return hit, wrong

    @staticmethod
    def named(line: str, trace: str) -> bool:
        """Whether a line names the place; standard output only where that is what failed."""
        if "standard output" in line:
            return any("write(1," in x for x in trace.splitlines() if "(INJECTED)" in x)
        return re.match(r"Error: [^:]*(run|cache|data\.txt)", line) is not None

    def traced(self, options: list[str]) -> tuple[Path, warm.Ended, str]:
        """A fork that works once strace watches it: (its folder, how it ended, the trace)."""
        self.number += 1
        folder = self.root / f"try-{self.number}"
        shutil.copytree(self.what.ready, folder)
        gate = mmap.mmap(-1, 2)  # [the fork is ready, strace watches]: read without a call
        child = warm.fork(folder, lambda: _when(gate, self.what.work))
        while not gate[0]:
            time.sleep(0.0005)
        output = self.root / "trace"
        tracer = subprocess.Popen(
            ["strace", "-f", "-q", "-o", output, *options, "-p", str(child)], stderr=subprocess.PIPE
        )
        status = Path(f"/proc/{child}/status")
        while "TracerPid:\t0\n" in status.read_text():
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
                sys.exit(f"strace: {(tracer.communicate()[1] or b'').decode()}")
            time.sleep(0.0005)
        gate[1] = 1
        end = warm.ended(child, folder, time.perf_counter())
        tracer.communicate()
        return folder, end, output.read_text(errors="replace")


def _counts(fault: str, name: str, trace: str) -> bool:
    """Not where a file is only read for which there is no space, nor of torch's and Python's own
    files: what they make of that is theirs."""
    injected = next((line for line in trace.splitlines() if "(INJECTED)" in line), "")
    if name != "openat" or fault == "kill":
        return True
    own = re.search(r'AT_FDCWD, "(?!/(?!dev/shm|tmp/tfm))', injected) is not None
    return own and (fault != "ENOSPC" or "O_CREAT" in injected)


def _when(gate: mmap.mmap, work: Callable[[], object]) -> None:
    from tfm.cli.main import handle_error

    gate[0] = 1
    while not gate[1]:
        time.sleep(0.0005)
    try:
        work()
    except Exception as error:
        code = handle_error(error)
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
