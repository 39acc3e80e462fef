"""Fine-tuning a model of another program against training one from scratch, in the same time: bits
per byte of a held-out text.

python benchmarks/finetune.py FILE.gguf [--budget 10m] [--data wikitext-2] [--context 256]

The model as it is; fine-tuned for the budget by AdamW at several learning rates and with the
settings of a training from scratch (Muon); and models of several sizes trained from scratch for
the budget, with tfm's defaults. All read the same training text, and all are scored on the first
--kilobytes of the same test text. Bits per byte are those of the tokenizer's own segmentation, and
the tokenizer must restore the test text: `tfm eval` gives none for one that cannot restore every
text, such as that of SmolLM2, which has no token for 21 control characters and invalid bytes.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from _common import DATA, heading, table, tfm, tfm_json, workspace

from tfm.core.runs.run import Run

TEXTS = {  # training text, test text; of one file, the last tenth is the test text
    "wikitext-2": ("text/wikitext-2/train.txt.gz", "text/wikitext-2/test.txt"),
    "tinyshakespeare": ("text/tinyshakespeare.txt", None),
}
RATES = (1e-5, 3e-5, 1e-4)  # peak learning rates of AdamW
FROM_SCRATCH = ("--set", "train.optimizer=muon", "--set", "train.weight_decay=0.5")
SIZES = ("tiny", "small")


def texts(name: str, kilobytes: int, folder: Path) -> tuple[Path, Path]:
    """The files of training text and test text."""
    train, test = TEXTS[name]
    source, path = DATA / train, folder / "test.txt"
    if test is not None:
        path.write_bytes(whole((DATA / test).read_bytes(), kilobytes))
        return source, path
    text = source.read_bytes()
    cut = len(text) * 9 // 10
    (folder / "train.txt").write_bytes(text[:cut])
    path.write_bytes(whole(text[cut:], kilobytes))
    return folder / "train.txt", path


def whole(text: bytes, kilobytes: int) -> bytes:
    """The first kilobytes of UTF-8 text, without a character that is cut."""
    return text[: kilobytes << 10].decode(errors="ignore").encode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf", type=Path, metavar="FILE.gguf")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--data", choices=TEXTS, default="wikitext-2")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--kilobytes", type=int, default=100, help="of the test text")
    parser.add_argument("--batch", type=int, default=4, help="rows of a step of fine-tuning")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--no-muon", action="store_true")
    args = parser.parse_args()
    heading()
    folder = workspace()
    data, test = texts(args.data, args.kilobytes, folder)
    tfm("import", args.gguf.resolve(), "--run", "imported", "--context", args.context,
        folder=folder)  # fmt: skip
    rows: list[list[object]] = [["model", "bits per byte", "steps", "seconds"]]

    def score(name: str, run: str, seconds: float | None) -> None:
        found: dict[str, Any] = tfm_json("eval", run, "--data", test, folder=folder)
        steps = f"{found['step']:,}" if seconds is not None else ""
        shown = "" if seconds is None else f"{seconds:.0f}"
        tokenizer, text = Run(folder / run).tokenizer(), test.read_text(errors="replace")
        if tokenizer.decode(tokenizer.encode(text).ids, {}) != text:
            raise SystemExit(f"{name}: its tokenizer does not restore the test text")
        bits = found["nll"] / math.log(2) / found["units"]
        rows.append([name, f"{bits:.4f}", steps, shown])
        table(rows[:1] + rows[-1:])

    score(f"{args.gguf.stem} as it is", "imported", None)
    contenders: dict[str, list[object]] = {}
    start: list[object] = ["--init", "imported", "--set", f"train.batch={args.batch}"]
    for rate in args.rates:
        contenders[f"fine-tuned, AdamW at {rate:g}"] = [*start, "--set", f"train.adam_lr={rate}"]
    if not args.no_muon:
        contenders["fine-tuned, Muon as from scratch"] = [*start, *FROM_SCRATCH]
    for size in args.sizes:
        contenders[f"from scratch, --size {size}"] = ["--task", "text", "--size", size]
    for number, (name, flags) in enumerate(contenders.items()):
        began = time.perf_counter()
        tfm("train", "--data", data, *flags, "--budget", args.budget, "--run", f"run-{number}",
            "-q", folder=folder)  # fmt: skip
        score(name, f"run-{number}", time.perf_counter() - began)
    table(rows)


if __name__ == "__main__":
    main()
