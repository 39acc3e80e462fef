"""The example domain of docs/new-domain.md on the JSB chorales, in nats per note of the test part.

pip install -e examples/chorales && python benchmarks/chorales.py [--budget 10m]

The published figures beside it (Huang et al. 2019, Music Transformer) are of the validation part,
whole pieces, each note with all before it; here every window of 4 bars starts anew.
"""

from __future__ import annotations

import argparse
import math

from _common import DATA, heading, table, tfm_json, workspace

CHORALES = DATA / "symbolic/Jsb16thSeparated.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="10m")
    args = parser.parse_args()
    heading()
    folder = workspace()
    flags = ("--data", CHORALES, "--budget", args.budget, "--run", "run", "-q")
    scores = tfm_json("train", *flags, folder=folder)
    valid = tfm_json("eval", "run", "--split", "valid", folder=folder)
    rows: list[list[object]] = [["what", "test", "valid"]]
    for name, bits in scores["floor"].items():  # of the part of the final score
        rows.append([name, f"{bits * math.log(2):.3f}", ""])
    rows.append(["tfm", f"{scores['nats_per_note']:.3f}", f"{valid['nats_per_note']:.3f}"])
    table(rows)


if __name__ == "__main__":
    main()
