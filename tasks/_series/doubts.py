"""What is doubtful about series, for `tfm data`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from ...core.inspection.doubts import CHANCE_BITS, RUN_SHARE, listed, percent
from ...core.inspection.near_duplicates import perplexity
from ...core.inspection.runs_in_common import RUN, RunIndex
from ...core.protocols import Ids
from ...core.protocols import Sequence as Window
from ...core.task import DataWarning
from ...tokenizers._scales import Values
from .collection import Collection as SeriesCollection
from .windows import held_out_values

MIN_RUN = 12  # points of a run in common, at least


def doubts(
    train: SeriesCollection, held: Mapping[str, Collection[Window]]
) -> Iterator[DataWarning]:
    """Series that are constant, that repeat another, or whose times were uneven; windows with a
    constant history; held-out values that stand in the training part."""
    yield from _times(train)
    names = [one.id for one in train.series]
    constant = [n for n, one in enumerate(train.series) if _is_constant(one.values)]
    if constant:
        yield _of_series(
            "constant", constant, names, "never change", "leave them out, if they mean nothing"
        )
    first: dict[bytes, int] = {}
    again = [
        number
        for number, one in enumerate(train.series)
        if number not in constant and first.setdefault(one.values.tobytes(), number) != number
    ]
    if again:
        yield _of_series("duplicates", again, names, "repeat another series", "keep one of each")
    for split, windows in held.items():
        flat = [window for window in windows if window.side.get("scale") == 0]
        if flat:
            share = len(flat) / len(windows)
            yield DataWarning(
                "constant",
                split,
                len(flat),
                share,
                f"{len(flat):,} of {len(windows):,} windows ({percent(share)}) have a constant "
                "history: their forecast is that constant",
                "give a longer --history, or leave these series out",
                listed(list(dict.fromkeys(str(window.side["id"]) for window in flat))),
                False,
            )
        yield from _leaks(train, split, list(windows))


def _is_constant(values: Values) -> bool:
    known = values[np.isfinite(values)]
    return len(known) == 0 or bool((known == known[0]).all())


def _of_series(
    kind: str, numbers: Sequence[int], names: Sequence[str], what: str, advice: str
) -> DataWarning:
    share = len(numbers) / len(names)
    message = f"{len(numbers):,} of {len(names):,} series ({percent(share)}) {what}"
    found = listed([names[n] for n in numbers])
    return DataWarning(kind, "train", len(numbers), share, message, advice, found)


def _times(train: SeriesCollection) -> Iterator[DataWarning]:
    """What --resample changed, and the series that --skip-bad left out."""
    record = train.description.record if train.description else {}
    files = record.get("files", ())
    points = max(record.get("points", 1), 1)
    for kind, key, what in (
        ("gaps", "filled", "steps without a point were marked as missing"),
        ("repeated_times", "averaged", "points share a step with another: they were averaged"),
    ):
        count = sum(file[key] for file in files)
        if count:
            named = listed([file["file"] for file in files if file[key]])
            advice = "look whether the times are right"
            message = f"{count:,} {what}"
            yield DataWarning(kind, "train", count, count / points, message, advice, named, False)


def _leaks(train: SeriesCollection, split: str, windows: list[Window]) -> Iterator[DataWarning]:
    """Runs of held-out values that stand in the training part, of this or of another series. Runs
    are so long that chance does not make them; values that stay the same count for none."""
    parts = [(name, values) for name, values in held_out_values(windows) if len(values)]
    if not parts:
        return
    known = [one.values for one in train.series]
    everything = np.concatenate([*known, *(values for _, values in parts)])
    _, ids = np.unique(everything, return_inverse=True)
    ids = ids.astype(np.int64)
    stays = np.append(False, everything[1:] == everything[:-1]) | np.isnan(everything)
    ids[stays] = len(everything) + np.flatnonzero(stays)  # equal to no other
    ends = np.cumsum([len(values) for values in known])
    bits = math.log2(perplexity([np.unique(ids[~stays], return_inverse=True)[1]]))
    length = math.ceil((CHANCE_BITS + math.log2(len(everything))) / bits)
    length = max(MIN_RUN, min(length, RUN))
    held_ends = np.cumsum([len(values) for _, values in parts])
    index = RunIndex(_separated(ids[ends[-1] :], held_ends, -1), length)
    index.add(_separated(ids[: ends[-1]], ends, -1 - len(parts)))
    pieces = np.split(index.covered(), held_ends[:-1] + np.arange(len(parts) - 1))
    found = [(int(piece.sum()), name) for piece, (name, _) in zip(pieces, parts, strict=True)]
    counts, total = sum(count for count, _ in found), int(held_ends[-1])
    share = counts / total
    if share >= RUN_SHARE:
        found.sort(key=lambda each: -each[0])
        yield DataWarning(
            "runs_in_training",
            split,
            counts,
            share,
            f"{counts:,} of {total:,} held-out points ({percent(share)}) are in runs of {length} "
            "values or more that the training part has, too",
            "leave out series that are copies, shifted or not, of others",
            listed([name for count, name in found if count]),
            False,
        )


def _separated(ids: Ids, ends: Ids, mark: int) -> Ids:
    """The ids of series, of which each ends at one of `ends`, with an id of its own between any
    two: `mark`, and the numbers below it."""
    return np.insert(ids, ends[:-1], mark - np.arange(len(ends) - 1))
