"""Predicted labels: their file, and the confusion matrix."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options as opt
from .render import printable

if TYPE_CHECKING:
    from ..core.task import Prediction

FIELDS = ("item", "label", "predicted", "probability")
MAX_CLASSES = 20  # of a matrix; of more labels, the most frequent confusions are listed
MAX_CONFUSIONS = 10
SHADES = " ░▒▓█"

predictions_option = opt.option(
    "--predictions",
    metavar="FILE",
    help="Write the predicted label of each item: .csv, .jsonl or - (a run with --labels last).",
)


def check_predictions(name: str | None) -> None:
    """UsageError, before the work, if the file of the predictions could not be written after it."""
    from ..core.files import check_output

    if name is not None and name != "-":
        check_output(Path(name), force=True)


def write_predictions(path: Path, names: Iterable[str], found: Sequence[Prediction]) -> None:
    """Writes a row for each item: its name, its label if known, the predicted label and its
    probability. JSON lines if the name ends in .jsonl, else CSV. TfmError if it cannot be
    written."""
    from ..core.files import write_out

    rows = [
        dict(zip(FIELDS, (name, each.label, each.predicted, each.probability), strict=True))
        for name, each in zip(names, found, strict=True)
    ]
    if path.suffix == ".jsonl":
        text = "".join(json.dumps({"schema": 1, **row}) + "\n" for row in rows)
    else:
        out = io.StringIO()
        writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = out.getvalue()
    if str(path) == "-":
        import click

        click.echo(text, nl=False)
    else:
        write_out(path, text.encode())


def confusion(found: Iterable[Prediction]) -> dict[str, Any]:
    """`labels` and `counts`: rows of true labels, columns of predicted ones. Only labels that occur
    are listed, numbers by value."""
    pairs = Counter((each.label, each.predicted) for each in found if each.label is not None)
    labels = sorted(
        {label for pair in pairs for label in pair if label is not None},
        key=lambda label: (0, int(label), "") if label.isdecimal() else (1, 0, label),
    )
    counts = [[pairs[true, predicted] for predicted in labels] for true in labels]
    return {"labels": labels, "counts": counts}


def confusion_text(matrix: dict[str, Any]) -> str:
    """The matrix for people, shaded by the share of each true label; or the most frequent
    confusions of many labels."""
    labels, counts = [printable(label) for label in matrix["labels"]], matrix["counts"]
    if not any(map(sum, counts)):
        return "no item has a label"
    if len(labels) > MAX_CLASSES:
        wrong = [
            (count, labels[i], labels[j])
            for i, row in enumerate(counts)
            for j, count in enumerate(row)
            if i != j and count
        ]
        lines = [f"{a} taken for {b}: {n:,}" for n, a, b in sorted(wrong, reverse=True)]
        more = len(lines) - MAX_CONFUSIONS
        rest = [f"... and {more:,} other confusions"] if more > 0 else []
        return "\n".join([*(lines[:MAX_CONFUSIONS] or ["no confusions"]), *rest])
    width = max(4, *(len(label) for label in labels), *(len(f"{n:,}") for r in counts for n in r))
    head = " ".join(label.rjust(width) + " " for label in labels)
    lines = ["true label, then how often each label was predicted:", " " * width + " " + head]
    for label, row in zip(labels, counts, strict=True):
        total = max(1, sum(row))
        cells = [
            (f"{n:,}" if n else "·").rjust(width) + SHADES[min(4, int(4 * n / total + 0.999))]
            for n in row
        ]
        lines.append(f"{label.rjust(width)} {' '.join(cells)}")
    return "\n".join(line.rstrip() for line in lines)
