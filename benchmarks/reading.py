"""Time and memory of reading tables of series with a million rows, beside pandas.

python benchmarks/reading.py [--rows 1000000]

Each table is read in a process of its own (Linux only). The memory is what the process has more at
its peak than before it reads, with the libraries imported. pandas parses the times and does no
more: it looks for no roles of columns, no frequency and no gaps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from _common import heading, table, workspace

READ = """
import json, sys, time
from pathlib import Path
import numpy, pandas, pyarrow.csv
from tfm.core.data.source import Source
from tfm.tasks._series.reader import read
from tfm.tasks._series.reading import Columns
read(Source((sys.argv[2],)), Columns())
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
before, began = peak(), time.perf_counter()
if sys.argv[3] == "tfm":
    found = len(read(Source((sys.argv[1],)), Columns()).series)
else:
    found = len(pandas.read_csv(sys.argv[1], parse_dates=["time"]))
print(json.dumps([time.perf_counter() - began, peak() - before, found]))
"""


def write(path: Path, series: int, points: int, quoted: bool = False) -> None:
    """A table of `series` hourly series, one below another."""
    import numpy as np
    import pandas as pd

    times = pd.date_range("2000-01-01", periods=points, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    values = np.random.default_rng(0).normal(size=(series, points)).round(6)
    with path.open("w") as file:
        file.write("id,time,value\n")
        for number in range(series):
            name = f'"series {number}"' if quoted else f"series {number}"
            rows = zip(times, values[number], strict=True)
            file.writelines(f"{name},{time},{value}\n" for time, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    heading()
    folder = workspace()
    write(folder / "small.csv", 2, 50)
    cases = {
        "one series": (1, rows, False),
        "100 series": (100, rows // 100, False),
        "20,000 series": (20_000, rows // 20_000, False),
        "100 series, ids in quotes": (100, rows // 100, True),
    }
    lines: list[list[object]] = [["", "tfm, s", "tfm, MB", "pandas, s", "pandas, MB"]]
    for name, (series, points, quoted) in cases.items():
        write(folder / "table.csv", series, points, quoted)
        figures: list[object] = []
        for reader in ("tfm", "pandas"):
            done = subprocess.run(
                [sys.executable, "-c", READ, "table.csv", "small.csv", reader],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, megabytes, _ = json.loads(done.stdout)
            figures += [f"{seconds:.2f}", f"{megabytes:.0f}"]
        lines.append([name, *figures])
    print(f"{rows:,} rows\n")
    table(lines)


if __name__ == "__main__":
    main()
