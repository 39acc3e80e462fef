"""Runs every verb with files and flags made by hypothesis, for some minutes. Whatever a user gives,
a command must end with an exit code of its own and at most one line of error, never with
"unexpected", a traceback or a signal.

    python tests/harness/fuzz.py [--minutes 10] [--examples N] [--seed 0] [--json]

A failure is reduced by hypothesis to the simplest command that fails in the same way.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import importlib
import io
import json
import lzma
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
import warm
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

CODES = (0, 1, 2, 3, 4, 5)
SECONDS = 60  # a command that takes longer fails
SUFFIXES = (
    *("", ".txt", ".csv", ".jsonl", ".json", ".npy", ".npz", ".png", ".jpg", ".gif", ".parquet"),
    *(".tsf", ".gz", ".zip", ".tar", ".tar.gz", ".toml", ".bin", ".idx3-ubyte", ".ndjson", ".tsv"),
    *(".JSONL", ".xz", ".zst", ".bz2", ".7z", " [1].txt", "*.csv", "::x", "\udcff.txt", "x" * 240),
)
PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    *({"HOME": "/nonexistent"}, {"HOME": "/dev/null"}, {"HOME": ""}, {"XDG_CACHE_HOME": "a.txt"}),
    *({"XDG_CONFIG_HOME": "/proc"}, {"COLUMNS": "3"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}),
    *({"LC_ALL": "C"}, {"TFM_SEED": "x"}, {"TFM_RUNS": "no"}, {"TFM_STOP": "a b"}, {"CC": "no"}),
)
TASKS = ("text", "byte", "image", "series")
FEW = ("-1", "0", "1", "2", "3", "7", "64", "1e9", "0.5", "-0.5", "nan", "inf", "1e-40", "x", "")
SMALL = ("-1", "0", "1", "2", "0.5", "nan", "x", "")  # for what grows time or memory
# options with values that would make a command long, or that would leave the folder
VALUES: dict[str, tuple[str, ...]] = {
    "steps": ("-1", "0", "1", "2", "x"),
    "tokens": ("-1", "0", "1", "64", "x"),
    "budget": ("0", "-1", "0.01s", "x"),
    "size": ("nano", "nan", ""),
    "arch": ("transformer", "llama", "gpt2", "post-ln", "rnn"),
    "context": ("-1", "0", "1", "2", "16", "x"),
    "device": ("auto", "cpu", "cuda", "x"),
    "draws": ("0", "1", "3", "x"),
    "length": ("-1", "0", "1", "5", "x"),
    "paths": ("-1", "0", "1", "3", "x"),
    "horizon": SMALL,
    "history": SMALL,
    "season": SMALL,
    "scale": SMALL,
    "seconds": ("0.01", "0", "x"),
    "pixels": ("3x3", "1", "0", "4x2", "x", "99999x99999"),
    "patch": ("1", "2", "3x1", "0", "x"),
    "stages": SMALL,
    "tokenizer": (
        *("byte", "char", "bpe", "bpe:300", "bpe:1", "patches", "patches:4", "patches:exact"),
        *("bins", "bins:8", "bins:x", "hf:nowhere", "x"),
    ),
    "to": ("hf", "peft", "gguf", "onnx", "x", ""),
    "lora": SMALL,
    "until": ("plateau", "bits_per_byte<9", "nats_per_token<1", "x<1", "x"),
    "checkpoint": ("last", "best", "1", "x"),
    "split": ("valid", "test", "x"),
    "protocol": ("last", "rolling", "x"),
    "task": (*TASKS, "x"),
    "range": ("0,1", "0,255", "-1,1", "1,0", "x"),
    "zone": ("Europe/Berlin", "UTC", "x"),
    "freq": ("D", "h", "MS", "-1", "x"),
    "prompt": ("a", "", "@a.txt", "@no", "-", "a.csv", "p.png", "\udcff"),
    "stop": ("a", "", "\n", "\\n", "\udcff"),
    "temperature": ("1e-320", "1e300", "0", "-1", "nan", "inf", "x"),
    "column": ("text", "label", "y", "no", ""),
    "each": ("stream", "line", "file", "record", "x"),
    "errors": ("strict", "replace", "x"),
}
PATHS = ("data", "valid", "test", "out", "config", "plot", "predictions", "run_name", "runs")
SETS = (
    *("model.layers=1", "model.layers=0", "model.heads=3", "model.width=8", "model.x=1"),
    *("model.positions=learned", "model.norm=none", "model.kv_heads=1", "model.dropout=1"),
    *("model.head_dim=6", "model.qk_norm_weights=true", "model.qkv_bias=true"),
    *("model.rope_scaling=linear:2", "model.rope_scaling=llama3:1", "model.rope_scaling=x"),
    *("model.positions=none", "model.ffn=swiglu", "model.softcap=5", "model.tied=true"),
    *("train.lr=nan", "train.lr=1e9", "train.batch=1", "train.batch=0", "train.dtype=bfloat16"),
    *("train.optimizer=adamw", "train.average=0.9", "train.seed=1", "train.recompute=true", "x=1"),
    *("sample.top_k=1", "sample.temperature=0", "task.levels=2", "task.each=line", "task.x=1", "x"),
)


# -- what commands find --------------------------------------------------------------------------


def make_base(folder: Path) -> dict[str, bytes]:
    """Data and a run of each task in `folder`; the content of the files that are mutated."""
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 5, (24, 4, 4), dtype=np.uint8)
    text = "".join(f"line {n} of some text\n" for n in range(60))
    days = "".join(f"2024-01-{1 + n:02d},{n % 7}\n" for n in range(31))
    packed = io.BytesIO()
    np.savez(packed, x=pixels, y=np.arange(24) % 3)
    drawn = io.BytesIO()
    Image.fromarray(pixels[0] * 60).save(drawn, "PNG")
    records = "".join(json.dumps({"text": f"record {n}", "label": n % 2}) + "\n" for n in range(30))
    lists = "".join(json.dumps({"image": p.tolist(), "label": 1}) + "\n" for p in pixels[:9])
    files = {
        "a.txt": text.encode(),
        "a.csv": b"ds,y\n" + days.encode(),
        "a.npz": packed.getvalue(),
        "p.png": drawn.getvalue(),
        "r.jsonl": records.encode(),
        "i.jsonl": lists.encode(),
        "c.toml": b"seed = 1\n[model]\nlayers = 1\n",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "pics" / "cat").mkdir(parents=True)
    (folder / "pics" / "dog").mkdir()
    for n in range(12):
        at = folder / "pics" / ("cat", "dog")[n % 2] / f"{n}.png"
        Image.fromarray(pixels[n] * 60).save(at)
    data = {"text": "a.txt", "byte": "a.txt", "image": "a.npz", "series": "a.csv"}
    flags = {
        "text": ("--tokenizer", "char"),
        "series": ("--history", 8, "--horizon", 2),
        "image": ("--labels", "last"),
    }
    for task in TASKS:
        args = ("train", "--task", task, "--data", data[task], "--run", f"runs/{task}", "-q")
        small = ("--set", "model.layers=1", "--set", "model.width=32")  # copied for each command
        done = warm.call(
            *(folder, *args, "--steps", 1, "--size", "nano", *small, *flags.get(task, ()))
        )
        if done.code:
            sys.exit(done.err)
    return files


# -- what hypothesis makes -----------------------------------------------------------------------


@st.composite
def contents(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """Any bytes, or a sound file with a few changes."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(("flip", "cut", "insert", "repeat")))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=9))
        elif kind == "repeat":
            data[at:at] = data[at : at + 40]
    return bytes(data)


# flags without which a verb takes minutes, or does nothing; studies read their data as train does
QUICKLY = {
    "bench": ["--seconds", "0.01", "--size", "nano"],
    "probe": ["--items", "4"],
    "prepare": ["--out", "tokens"],
    "ablate": ["--resume", "runs/text"],
    "scale": ["--resume", "runs/text"],
}


@st.composite
def commands(draw: st.DrawFn, files: dict[str, bytes]) -> dict[str, Any]:
    """A verb, its arguments and options, files of its own, and standard input."""
    from tfm.cli.main import COMMANDS
    from tfm.cli.options import task_flags
    from tfm.core.plugins import find

    made = {}
    for n in range(draw(st.integers(0, 2))):
        suffix, data = draw(st.sampled_from(SUFFIXES)), draw(contents(list(files.values())))
        pack = PACKERS.get(suffix) if draw(st.booleans()) else None
        made[f"f{n}{suffix}"] = pack(data) if pack else data
    paths = [*files, *made, "pics", "pics/*/*.png", "-", "no", ".", "runs/text", "runs/image"]
    runs = [f"runs/{task}" for task in TASKS]
    verb = draw(st.sampled_from(list(COMMANDS)))
    command: click.Command = importlib.import_module(f"tfm.cli.{verb}").command
    task = draw(st.sampled_from(TASKS))
    params = [p for p in command.params if isinstance(p, click.Option)]
    kind = find("tasks", task)
    if verb == "train":
        params += task_flags(task, kind.Options)
    if verb == "sample":
        params += task_flags(task, kind.SampleOptions)
    args: list[str] = [verb]
    for param in command.params:
        if isinstance(param, click.Argument):
            many = draw(st.integers(0, 2)) if param.nargs == -1 else 1
            takes_run = param.name in ("run", "a", "b", "names")
            pool = runs if takes_run and draw(st.booleans()) else [*runs, *paths, *TASKS]
            if param.name == "source":
                pool = [*pool, "hf:", "hf:no/where", *(f"hf:{path}" for path in pool)]
            args += [draw(st.sampled_from(pool)) for _ in range(many)]
    if verb == "train":
        args += ["--task", task, "--size", "nano"] if draw(st.booleans()) else ["--size", "nano"]
        if draw(st.booleans()):
            args += ["--data", draw(st.sampled_from(paths))]
        else:
            data = {"image": "a.npz", "series": "a.csv"}.get(task, "a.txt")
            args += ["--data", data]
        args += ["--steps", "1"]
    args += QUICKLY.get(verb, [])
    known = {name for name in args if name.startswith("--")}
    for param in draw(st.lists(st.sampled_from(params), max_size=4, unique_by=lambda p: p.name)):
        flag = max(param.opts, key=len)
        if flag in known or param.name in ("debug",):
            continue
        args.append(flag)
        if param.is_flag:
            continue
        args.append(draw(value_of(param, paths, runs)))
    rarely = st.sampled_from((False, False, False, True))
    return {
        "args": args,
        "files": made,
        "stdin": draw(contents(list(files.values()))),
        "env": draw(st.sampled_from(ENVIRONMENTS)) if draw(rarely) else {},
        "closed": draw(st.sets(st.sampled_from((0, 1, 2)))) if draw(rarely) else set(),
    }


def value_of(param: click.Option, paths: list[str], runs: list[str]) -> st.SearchStrategy[str]:
    if param.name in ("init", "resume"):
        return st.sampled_from([*runs, "no", "a.txt", "hf:no", "hf:a/b", "no.gguf", ""])
    if param.name in PATHS:
        return st.sampled_from([*paths, "new", "new.png", "new.npz", "x-{n}.png", "no/new", "new/"])
    if param.name == "settings":
        return st.sampled_from(SETS)
    if param.name in VALUES:
        return st.sampled_from(VALUES[param.name])
    if isinstance(param.type, click.Choice):
        return st.sampled_from([*map(str, param.type.choices), "x"])
    return st.one_of(st.sampled_from(FEW), st.text(max_size=5).filter(lambda t: "\0" not in t))


# -- the run -------------------------------------------------------------------------------------


class Broken(AssertionError):
    pass


def fuzz(minutes: float, examples: int | None, seed: int) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    failures: list[str] = []
    until = time.monotonic() + 60 * minutes
    with warm.workspace() as root:
        base = root / "base"
        base.mkdir()
        warm.warm()
        files = make_base(base)
        work = root / "work"
        simplest: list[str] = []  # the last failure, which hypothesis makes simpler and simpler

        def run(command: dict[str, Any]) -> None:
            if time.monotonic() > until:
                return
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(base, work)
            for name, data in command["files"].items():
                (work / name).write_bytes(data)
            args = command["args"]
            began = time.perf_counter()
            scratch = root / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            env = {"TMPDIR": str(scratch), **command["env"]}
            child = warm.start(
                work, *args, stdin=command["stdin"], env=env, closed=command["closed"]
            )
            signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
            signal.alarm(SECONDS)
            done = warm.ended(child, work, began)
            signal.alarm(0)
            counts[args[0]] += 1
            codes[done.code] += 1
            told = [line for line in done.err.splitlines() if line.startswith("Error: ")]
            wrong = (
                done.code not in CODES
                or "unexpected" in done.err
                or "Traceback" in done.err
                or (len(told) != (done.code != 0) and 2 not in command["closed"])
            )
            left = [str(path) for path in scratch.iterdir()]
            left += [
                str(path) for path in work.rglob(".*") if path.name not in (".in", ".out", ".err")
            ]
            if wrong or left:
                how = {key: command[key] for key in ("env", "closed") if command[key]}
                failure = f"tfm {args} {how or ''}: exit {done.code} after {done.seconds:.0f} s"
                failure += f"\n{done.err}" + (f"files left: {left}" if left else "")
                simplest[:] = [failure]
                raise Broken(failure)

        number = 0
        while time.monotonic() < until and (examples is None or not number):
            amount = examples or 200
            test = given(commands(files))(run)
            test = seeded(seed + number)(test)
            test = settings(
                max_examples=amount,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
                print_blob=False,
                report_multiple_bugs=False,
            )(test)
            try:
                test()
            except (Broken, HypothesisException):  # the latter where the time ran out
                print(simplest[0], file=sys.stderr, flush=True)
                failures.append(simplest[0])
            number += 1
    return {
        "commands": sum(counts.values()),
        "verbs": dict(sorted(counts.items())),
        "exit codes": dict(sorted(codes.items())),
        "failures": failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--examples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1")
    report = fuzz(asked.minutes, asked.examples, asked.seed)
    if asked.json:
        print(json.dumps(report))
        return
    from _common import heading, table

    heading()
    table([("", ""), ("commands", report["commands"]), ("failures", len(report["failures"]))])
    table([("exit code", "times"), *report["exit codes"].items()])
    table([("verb", "times"), *report["verbs"].items()])
    for failure in report["failures"]:
        print("\n" + failure)


if __name__ == "__main__":
    main()
