"""Every command of docs/claims.md, with its table and its figure.

python benchmarks/claims.py [NAME ...] [--out claims] [--budget 10m]

Each command takes about `--budget` on two cores that do nothing else. A table is written to
OUT/NAME.txt, its JSON to OUT/NAME.json, its figure to OUT/NAME.png; the runs stay in OUT/NAME. A
study that was interrupted continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from _common import DATA, heading

from tfm.core.architectures import SIZES, model_config
from tfm.core.model.sequence_model import on_meta
from tfm.core.study.sizes import transformer

TEXT = DATA / "text/tinyshakespeare.txt"
OF_TEXT = (TEXT, "--task", "text", "--tokenizer", "char")
# handwritten digits of scikit-learn: scoring all of MNIST's would take most of the budget
DOMAINS = f"text:{TEXT},image,series:{DATA / 'timeseries/ETTh1.csv'}"
SHORT = ("--arch", "transformer,lstm,cnn", "--distance", "8,16,32", "--lr", 1)
COMMANDS: dict[str, tuple[object, ...]] = {
    "ladder": ("ablate", *OF_TEXT),
    "warmup": (
        *("ablate", *OF_TEXT, "--arch", "post-ln", "--no-equal-time", "--size", "tiny"),
        *("--grid", "model.norm_position=pre,post", "--grid", "train.warmup=0,0.02"),
    ),
    "glu": (
        *("ablate", *OF_TEXT, "--no-equal-time"),
        *("--grid", "model.ffn=relu,gelu,reglu,geglu,swiglu,relu2"),
    ),
    "tasks": ("ablate", "--tasks", DOMAINS, "--arch", "transformer,lstm,cnn"),
    "recall": (
        *("probe", "--task", "recall", "--arch", "transformer,lstm,cnn"),
        *("--distance", "64,128,256", "--set", "task.vocabulary=300", "--lr", 1),
    ),
    "copy": ("probe", "--task", "copy", *SHORT),
    "induction": ("probe", "--task", "induction", *SHORT),
    "scale": ("scale", *OF_TEXT, "--check"),
}
SYMBOLS = 80  # of the text, about
LENGTHS = "64,128,256,512,1024,2048,4096"
BENCH = ("bench", "--context", LENGTHS, "--arch", "transformer,lstm,cnn", "--seconds", 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of the commands; default: all")
    parser.add_argument("--out", type=Path, default=Path("claims"))
    parser.add_argument("--budget", default="10m")
    args = parser.parse_args()
    known = [*COMMANDS, "runs", "planner", "bench"]
    unknown = set(args.names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    heading()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or known:
        if name == "runs":
            look(args.out)
        elif name == "planner":
            compare_sizes(args.out)
        else:
            show(name, args.out, args.budget)


def show(name: str, out: Path, budget: str) -> None:
    """Runs a command (the bench), or begins or continues a study, then prints what it printed."""
    study, plot = out / name, ("--plot", out / f"{name}.png")
    if name == "bench":
        first: tuple[object, ...] = (*BENCH, *plot)
        again = None
    else:
        verb = COMMANDS[name][0]
        again = (verb, "--resume", study)
        first = (*COMMANDS[name], "--budget", budget, "--study", study, *plot)
        if (study / "study.json").exists():
            first = (*again, *plot)
    print(f"\n## {name}\n\ntfm {' '.join(map(str, first))}\n", flush=True)
    began = time.monotonic()
    text = tfm(first)
    print(text, f"\n{time.monotonic() - began:.0f} s", flush=True)
    (out / f"{name}.txt").write_text(text)
    if again is not None:  # from the same results, without training
        (out / f"{name}.json").write_text(json.dumps(json.loads(tfm((*again, "--json"))), indent=1))


def look(out: Path) -> None:
    """What two models of the ladder make of their context."""
    ladder = json.loads((out / "ladder.json").read_text())
    for row in ladder["contestants"]:
        name = row["contestant"]
        if name in ("transformer", "lstm"):
            run = next(run for run in row["runs"] if "equal-time" not in run)
            command = ("probe", out / "ladder" / run, "--items", 200)
            print(f"\n## {name}\n\ntfm {' '.join(map(str, command))}\n", flush=True)
            text = tfm((*command, "--plot", out / f"probe-{name}.png"))
            print(text, flush=True)
            (out / f"probe-{name}.txt").write_text(text)


def compare_sizes(out: Path) -> None:
    """The size that `scale` predicts beside those that the planner of --budget chooses from, at
    the same training FLOPs."""
    prediction = json.loads((out / "scale.json").read_text())["prediction"]
    shapes = {size: SIZES[size] for size in ("nano", "tiny")}
    best = transformer(prediction["layers"], prediction["width"]).sets["model"]
    shapes["predicted"] = {name: int(str(value)) for name, value in best.items()}
    rows = [("size", "parameters of the blocks", "tokens", "bits per byte, two seeds")]
    for name, shape in shapes.items():
        config = model_config("transformer", "nano", **shape, vocab_size=SYMBOLS, context=64)
        model = on_meta(config)
        tokens = round(prediction["compute"] / model.flops_per_token())
        fields = [x for field in shape.items() for x in ("--set", "model.{}={}".format(*field))]
        scores = []
        for seed in range(2):
            run = ("--run", out / f"planner-{name}-{seed}", "--seed", seed, "--json", "-q")
            asked = ("train", "--data", *OF_TEXT, *fields, "--tokens", tokens, *run)
            scores.append(f"{json.loads(tfm(asked))['bits_per_byte']:.3f}")
        rows.append((name, f"{model.blocks_parameter_count():,}", f"{tokens:,}", ", ".join(scores)))
    print("\n".join(" | ".join(row) for row in rows), flush=True)


def tfm(command: tuple[object, ...]) -> str:
    words = [sys.executable, "-m", "tfm", *map(str, command)]
    return subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout


if __name__ == "__main__":
    main()
