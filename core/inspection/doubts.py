"""What is doubtful about splits: leaks, duplicates, empty items, labels, lengths, unknown ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..display import visible
from ..protocols import Ids
from ..task import DataWarning, Task
from .near_duplicates import NEAR
from .overlap import Overlap
from .tally import Tally

NAMED = 3  # items in a warning
NAME = 40  # characters of a name in a warning
CHANCE_BITS = 40.0  # information in an item, at least, for its repetition to be no coincidence
RUN_SHARE = 0.005  # of held-out ids in runs that the training part has, above which it is told
MIN_UNSEEN = 20  # such ids, at least
LARGE = 50  # ids of an item that is told if it repeats another one
SMALL_SHARE = 0.1  # of items that repeat others, from which smaller ones are told, too
UNSEEN_SHARE = 0.005  # of held-out ids that training never has, above which it is told
CUT_SHARE = 0.06  # of items longer than the context; the default context is the 95th percentile

Names = Callable[[str, Sequence[int]], tuple[str, ...]]  # (split, numbers of items) -> names


class Doubts:
    """names: gives the names of items, at most NAMED."""

    def __init__(self, task: Task, tallies: Mapping[str, Tally], names: Names) -> None:
        self.task, self.tallies, self.names = task, tallies, names
        self.train = tallies["train"]
        self.held = {split: tally for split, tally in tallies.items() if split != "train"}
        share = self.train.counts[self.train.counts > 0] / max(self.train.counts.sum(), 1)
        self.bits = max(float(-(share * np.log2(share)).sum()), 1e-9)  # of an id

    def telling(self, tally: Tally, places: bool) -> npt.NDArray[np.bool_]:
        """(items,) whether an equal item would be no coincidence."""
        least = 1 if places else math.ceil(CHANCE_BITS / self.bits)
        return np.array(tally.sizes) >= least

    def found(self, overlap: Overlap, longest: int | None, refused: bool) -> Iterator[DataWarning]:
        """longest: ids of an item that fit the context; refused: whether longer ones are."""
        if overlap.how != "none":
            yield from self.leaks(overlap)
            for split, tally in self.tallies.items():
                yield from self.duplicates(split, tally, overlap.how == "places")
        for split, tally in self.tallies.items():
            yield from self.degenerate(split, tally)
        yield from self.labels()
        for split, tally in self.held.items():
            yield from self.unseen(split, tally)
        if longest is not None and not self.task.running:
            for split, tally in self.tallies.items():
                yield from self.long(split, tally, longest, refused)

    def _of_items(
        self, kind: str, split: str, numbers: Sequence[int], what: str, advice: str
    ) -> DataWarning:
        total, count = len(self.tallies[split]), len(numbers)
        share = count / max(total, 1)
        return DataWarning(
            kind,
            split,
            count,
            share,
            f"{count:,} of {total:,} items ({percent(share)}) {what}",
            advice,
            self.names(split, numbers),
        )

    def leaks(self, overlap: Overlap) -> Iterator[DataWarning]:
        known = np.unique(self.train.hashes())
        for split, tally in self.held.items():
            same = np.isin(tally.hashes(), known) & self.telling(tally, overlap.how == "places")
            if same.any():
                yield self._of_items(
                    "held_out_in_training",
                    split,
                    np.flatnonzero(same).tolist(),
                    "are in the training part, too",
                    "leave them out of one of the two, or their scores say nothing new",
                )
            near = overlap.near.get(split)
            if near is not None and (close := (near.similarity >= NEAR) & ~same).any():
                numbers = np.flatnonzero(close)
                numbers = numbers[np.argsort(-near.similarity[numbers], kind="stable")]
                low, high = near.similarity[numbers].min(), near.similarity[numbers].max()
                span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
                yield self._of_items(
                    "nearly_in_training",
                    split,
                    numbers.tolist(),
                    f"are nearly equal to training items (Jaccard index {span})",
                    "leave them out of one of the two, or their scores are too good",
                )
            if split in overlap.runs and not same.any():
                yield from self.common_runs(overlap, split)

    def common_runs(self, overlap: Overlap, split: str) -> Iterator[DataWarning]:
        covered = overlap.runs[split].covered()
        share = float(covered.mean()) if len(covered) else 0.0
        if share < RUN_SHARE:
            return
        edges = np.flatnonzero(np.diff(np.concatenate(([0], covered.view(np.int8), [0]))))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        first = np.argsort(-lengths, kind="stable")
        yield DataWarning(
            "runs_in_training",
            split,
            int(covered.sum()),
            share,
            f"{int(covered.sum()):,} of {len(covered):,} tokens ({percent(share)}) are in runs of "
            f"{overlap.run_length} tokens or more that the training part has, too",
            "leave out the copies, or the scores are too good",
            listed(
                [
                    f"{lengths[n]:,} tokens: {self.text(overlap.texts[split][starts[n] :])}"
                    for n in first[:NAMED].tolist()
                ]
            ),
            False,
        )

    def text(self, ids: Ids) -> str:
        """The beginning of some ids, as text."""
        labels = self.task.token_labels(ids[:NAME], self.train.tokenizer)
        return visible("".join(labels))

    def duplicates(self, split: str, tally: Tally, places: bool) -> Iterator[DataWarning]:
        """Large items are told in any case; small ones, such as dates, if there are many."""
        again = tally.repeated()
        large = np.array(tally.sizes)[again] >= (1 if places else LARGE)
        if len(again) < SMALL_SHARE * len(tally):
            again = again[large]
        if len(again):
            yield self._of_items(
                "duplicates",
                split,
                again.tolist(),
                "repeat another one of the split",
                "keep one of each, unless they count more on purpose",
            )

    def degenerate(self, split: str, tally: Tally) -> Iterator[DataWarning]:
        if tally.empty:
            what = "have an empty source or target" if self.task.pairs else "are empty"
            advice = "leave them out, or look why"
            yield self._of_items("empty", split, tally.empty, what, advice)
        if tally.constant:
            what = "are constant: one token, again and again"
            advice = "leave them out, if they mean nothing"
            yield self._of_items("constant", split, tally.constant, what, advice)

    def labels(self) -> Iterator[DataWarning]:
        for split, tally in self.tallies.items():
            if len(tally.labels) == 1 and len(tally) > 1 and split == "train":
                (label,) = tally.labels
                yield DataWarning(
                    "constant_label",
                    split,
                    len(tally),
                    1.0,
                    f"the label is always the same: {visible(label)}",
                    "there is nothing to predict; look how labels are read",
                )
            elif new := [label for label in tally.labels if label not in self.train.labels]:
                count = sum(tally.labels[label] for label in new)
                share = count / max(len(tally), 1)
                yield DataWarning(
                    "unseen_label",
                    split,
                    count,
                    share,
                    f"{count:,} of {len(tally):,} items ({percent(share)}) have labels that no "
                    "training item has",
                    "hold out others, or add such items to the training part",
                    listed([visible(label) for label in new]),
                    False,
                )

    def unseen(self, split: str, tally: Tally) -> Iterator[DataWarning]:
        new = np.flatnonzero((tally.counts > 0) & (self.train.counts == 0))
        for low, high in tally.tokenizer.ordered:  # their neighbours are trained
            new = new[(new < low) | (new >= high)]
        count, total = int(tally.counts[new].sum()), max(int(tally.counts.sum()), 1)
        share = count / total
        if share >= UNSEEN_SHARE and count >= MIN_UNSEEN:
            new = new[np.argsort(-tally.counts[new], kind="stable")]
            labels = self.task.token_labels(new[:NAMED], tally.tokenizer)
            yield DataWarning(
                "unseen_tokens",
                split,
                count,
                share,
                f"{count:,} of {total:,} tokens ({percent(share)}) never occur in training",
                "hold out data of the same kind, or train on such data, too",
                listed([visible(label) for label in labels]),
                False,
            )

    def long(self, split: str, tally: Tally, longest: int, refused: bool) -> Iterator[DataWarning]:
        numbers = np.flatnonzero(np.array(tally.lengths) > longest)
        if not len(numbers) or (not refused and len(numbers) < CUT_SHARE * len(tally)):
            return
        what = "training and scoring refuse them" if refused else "they are cut into pieces"
        yield self._of_items(
            "too_long",
            split,
            numbers.tolist(),
            f"are longer than the context of {longest - 1:,} tokens: {what}",
            "give a longer --context, or shorten them",
        )


def percent(share: float) -> str:
    """5.2 %; the smallest that is shown is 0.1 %."""
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.3g} %"


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """The first names, shortened: paths at their beginning, others at their end."""
    return tuple(map(_shortened, names[:NAMED]))


def _shortened(name: str) -> str:
    if len(name) <= NAME:
        return name
    if name.endswith("”"):
        return f"{name[: NAME - 2]}…”"
    return f"…{name[1 - NAME :]}" if "/" in name else f"{name[: NAME - 1]}…"
