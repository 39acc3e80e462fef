"""MNIST with patch tokens: the likelihood of binarised digits, and label accuracy.

python benchmarks/mnist.py [--budget 15m] [--only likelihood|labels] [--mnist DIR]

likelihood: nats per image of the test set, stochastically binarised (x ~ Bernoulli(p / 255), one
fixed sample per image), trained on 98 % of the other 60,000, binarised anew in each epoch. Compared
with PixelRNN's table (Diagonal BiLSTM 79.20, DRAW 80.97), which uses another random binarisation: a
difference of about a nat.
labels: accuracy of the label predicted after the pixels, compared with other classifiers of the
same pixels and Table 1 of Bai et al. 2018 (LSTM 87.2, TCN 99.0, one pixel per step).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import DATA, heading, table, tfm, tfm_json, workspace

LIKELIHOOD = ("--binarise", "stochastic", "--labels", "none")
LABELS = ("--labels", "last", "--augment", "shift")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", default="15m", help="of each of the two")
    parser.add_argument("--only", choices=("likelihood", "labels"))
    parser.add_argument("--mnist", type=Path, default=DATA / "image" / "mnist")
    parser.add_argument("flags", nargs="*", help="more flags of tfm train, behind --")
    args = parser.parse_args()
    heading()
    rows: list[list[object]] = [["what", "tfm", "goal", "floor", "reference"]]
    if args.only != "labels":
        scores = run(args.mnist, args.budget, [*LIKELIHOOD, *args.flags])
        floor = scores["floor"]["histogram"] * 784 * 0.6931471805599453
        rows.append(
            [
                "nats an image, binarised",
                f"{scores['nats_per_image']:.2f}",
                "<= 90",
                f"{floor:.1f} (per-pixel histogram)",
                "79.20 (Diagonal BiLSTM)",
            ]
        )
    if args.only != "likelihood":
        scores = run(args.mnist, args.budget, [*LABELS, *args.flags])
        floors = [
            f"{scores['floor'][f'{name}_accuracy']:.1%} ({name})"
            for name in ("majority", "logistic", "neighbours")
        ]
        rows.append(
            [
                "labels right",
                f"{scores['accuracy']:.2%}",
                ">= 98 %",
                ", ".join(floors),
                "99.0 % (TCN)",
            ]
        )
    table(rows)


def run(mnist: Path, budget: str, flags: list[str]) -> dict[str, Any]:
    """Trains, and returns the scores on the full test set."""
    folder = workspace()
    path = tfm(
        "train",
        "--task",
        "image",
        "--data",
        mnist / "train-images-idx3-ubyte.gz",
        "--test",
        mnist / "t10k-images-idx3-ubyte.gz",
        "--holdout",
        0.02,
        "--budget",
        budget,
        "--run",
        "mnist",
        *flags,
        folder=folder,
    )
    print(f"{folder / path}: {' '.join(flags)}")
    return tfm_json("eval", path, folder=folder)


if __name__ == "__main__":
    main()
