"""How well `tfm train --budget` keeps its time: seconds from the start of the process to its exit.

    python benchmarks/budget.py [--budgets 3 5 8 20] [--beside 0] [--after 0]
                                [--only text series]

Each command is a process of its own, with nothing else running, or with `--beside` processes that
are always busy, from `--after` of the budget on (0.5: from its half). A first run, which fills the
caches of the system, is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

from _common import heading, table

COMMANDS = {
    "text": ("--task", "text"),
    "byte": ("--task", "byte"),
    "image": ("--task", "image"),
    "image, labels last": ("--task", "image", "--labels", "last"),
    "series": ("--task", "series"),
}


def seconds(
    folder: str, flags: tuple[str, ...], budget: float, beside: int = 0, after: float = 0
) -> float:
    """The wall time of one training, with its progress and its sample."""
    command = [sys.executable, "-m", "tfm", "train", *flags, "--budget", f"{budget}s"]
    busy = f"import time\ntime.sleep({after * budget})\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(beside)]
    began = time.monotonic()
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.monotonic() - began
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budgets", type=float, nargs="+", default=[3, 5, 8, 20])
    parser.add_argument("--beside", type=int, default=0)
    parser.add_argument("--after", type=float, default=0.0)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    asked = parser.parse_args()
    heading()
    rows = [("seconds taken", *(f"--budget {b:g}s" for b in asked.budgets))]
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            flags = COMMANDS[name]
            seconds(folder, flags, asked.budgets[0])
            load = asked.beside, asked.after
            times = [seconds(folder, flags, budget, *load) for budget in asked.budgets]
            rows.append((name, *(f"{value:.2f}" for value in times)))
    table(rows)


if __name__ == "__main__":
    main()
