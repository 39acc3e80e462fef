"""How close predicted targets are to the true ones, and trivial predictions to compare with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from .reading import Pairs

METRICS = ("exact", "edits", "chrf", "bleu")
MAX_COMPARED = 10_000  # training pairs that the nearest source is looked for in


def metrics(
    predicted: list[str], true: list[str], names: Sequence[str] = METRICS
) -> dict[str, float | None]:
    """Those of METRICS that `names` has.

    exact: the share of targets that are equal; edits: insertions, deletions and substitutions of
    characters, a true character (Levenshtein 1966); chrf, bleu: of the corpus, 0 to 100 (Popović
    2015, Papineni et al. 2002, by sacrebleu; None where it is not installed)."""
    pairs = list(zip(predicted, true, strict=True))
    characters = sum(map(len, true))
    scores: dict[str, float | None] = {
        "exact": sum(one == other for one, other in pairs) / max(1, len(pairs)),
        "edits": sum(edit_distance(*pair) for pair in pairs) / max(1, characters),
        "chrf": None,
        "bleu": None,
    }
    if "chrf" in names and pairs:
        try:
            import sacrebleu
        except ImportError:
            return scores
        scores["chrf"] = float(sacrebleu.corpus_chrf(predicted, [true]).score)
        scores["bleu"] = float(sacrebleu.corpus_bleu(predicted, [true], force=True).score)
    return {name: scores[name] for name in names}


def edit_distance(one: str, other: str) -> int:
    """The fewest insertions, deletions and substitutions of characters that make one the other."""
    if one == other or not one or not other:
        return 0 if one == other else max(len(one), len(other))
    letters = np.array([ord(c) for c in other])
    steps = np.arange(len(other) + 1)
    row = steps
    for number, letter in enumerate(one, 1):
        # without insertions, which run along the row: the smallest of value - index up to there
        fresh = np.concatenate(
            ([number], np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter))))
        )
        row = np.minimum.accumulate(fresh - steps) + steps
    return int(row[-1])


def baselines(
    train: Pairs | None, held: list[tuple[str, str]], names: Sequence[str], quick: bool
) -> dict[str, float]:
    """The metrics of trivial predictions, as copy_exact ...: the source itself; the most frequent
    training target; the target of the nearest training source, by counts of n-grams of 1 to 3
    characters, the slow one. Without the training pairs, the first alone."""
    sources, true = [s for s, _ in held], [t for _, t in held]
    predictions = {"copy": sources}
    if train is not None:
        ((frequent, _),) = Counter(train.targets).most_common(1)
        predictions["frequent"] = [frequent] * len(true)
        if not quick:
            predictions["nearest"] = _nearest(train, sources)
    return {
        f"{name}_{metric}": value
        for name, predicted in predictions.items()
        for metric, value in metrics(predicted, true, names).items()
        if value is not None
    }


def _nearest(train: Pairs, sources: list[str]) -> list[str]:
    """For each source the target of the training source with the largest cosine of TF-IDF vectors
    of n-grams of characters."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    step = max(1, len(train) // MAX_COMPARED)
    known, targets = train.sources[::step], train.targets[::step]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False)
    try:
        table = vectors.fit_transform(known)
    except ValueError:  # all sources are empty
        return [targets[0]] * len(sources)
    found: list[str] = []
    for start in range(0, len(sources), 256):
        similarity = vectors.transform(sources[start : start + 256]) @ table.T
        best = np.asarray(similarity.argmax(axis=1)).ravel()
        found.extend(targets[int(n)] for n in best)
    return found
