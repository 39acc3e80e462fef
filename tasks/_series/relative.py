"""Scores relative to seasonal naive, over all windows and as a mean over series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.protocols import Ids
from .cases import Case
from .metrics import Sums, ratios

RELATIVE = ("mase", "wql")  # the scores that are also given relative to seasonal naive


def series_of(cases: Sequence[Case]) -> tuple[list[str], Ids]:
    """(ids of the series, the number of each case's series among them (cases,))."""
    number: dict[str, int] = {}
    names = [str(case.side.get("id")) for case in cases]
    found = np.array([number.setdefault(name, len(number)) for name in names], np.int64)
    return list(number), found


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def relative(own: Sums, naive: Sums, series: Ids) -> dict[str, float]:
    """`mase_ratio`, `wql_ratio`: the score divided by that of seasonal naive on the same windows.
    `mase_ratio_gmean`, `wql_ratio_gmean`, of several series: the geometric mean over the series of
    that ratio (Davydenko & Fildes 2013), without those whose seasonal naive score is 0 or
    undefined. series (windows,): the number of the series of each window, from 0. NaN where
    nothing can be compared."""
    found: dict[str, float] = {}
    of_all, naive_of_all = own.scores(), naive.scores()
    for name in RELATIVE:
        found[f"{name}_ratio"] = float(np.divide(of_all[name], naive_of_all[name] or np.nan))
    if series.max() == 0:
        return found
    each, naive_each = ratios(own.by_window, series), ratios(naive.by_window, series)
    for name in RELATIVE:
        kept = naive_each[name] > 0  # False for NaN
        logs = np.log(each[name][kept] / naive_each[name][kept])
        found[f"{name}_ratio_gmean"] = float(np.exp(logs.mean())) if kept.any() else np.nan
    return found
