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
from collections.abc import Callable
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


def write_wide(path: Path, points: int, form: str, columns: int = 1) -> None:
    """A table of hourly series side by side, with times of a form; "count": 0, 1, 2 ..."""
    import numpy as np
    import pandas as pd

    times = pd.date_range("2000-01-01", periods=points, freq="h")
    values = np.random.default_rng(0).normal(size=(points, columns)).round(6)
    frame = pd.DataFrame(values, columns=[f"value {number}" for number in range(columns)])
    frame.insert(0, "time", np.arange(points) if form == "count" else times.strftime(form))
    frame.to_csv(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    heading()
    folder = workspace()
    write(folder / "small.csv", 2, 50)
    table_ = folder / "table.csv"
    iso = "%Y-%m-%d %H:%M:%S"
    cases: dict[str, Callable[[], None]] = {
        "one series": lambda: write(table_, 1, rows),
        "100 series": lambda: write(table_, 100, rows // 100),
        "20,000 series": lambda: write(table_, 20_000, rows // 20_000),
        "100 series, ids in quotes": lambda: write(table_, 100, rows // 100, quoted=True),
        "8 series side by side": lambda: write_wide(table_, rows, iso, columns=8),
        "31.12.2024 23:00": lambda: write_wide(table_, rows, "%d.%m.%Y %H:%M"),
        "12/31/2024 23:00": lambda: write_wide(table_, rows, "%m/%d/%Y %H:%M"),
        "2024-12-31T23:00:00+01:00": lambda: write_wide(table_, rows, "%Y-%m-%dT%H:%M:%S+01:00"),
        "times that count": lambda: write_wide(table_, rows, "count"),
    }
    lines: list[list[object]] = [["", "tfm, s", "tfm, MB", "pandas, s", "pandas, MB"]]
    for name, make in cases.items():
        make()
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
