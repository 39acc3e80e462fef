"""Windows of series as training rows."""

from __future__ import annotations

import numpy as np

from ...core.data.keyed_random import key, mix
from ...core.errors import DataError
from ...core.protocols import Array, Batch, Floats, Ids
from ...tokenizers._covariates import Covariates
from ...tokenizers._scales import Values
from ...tokenizers.bins import FIRST_BIN_ID, BinsTokenizer
from .collection import MIXED_POINTS, Collection

JITTER = 0.15  # largest random change of a window's log scale, and of its location in scales
MIX_PROBABILITY = 0.5  # that a training window is mixed with another
UNKNOWN_PROBABILITY = 0.1  # of a training window without known covariates in its horizon
HISTORY_WEIGHT = 0.2  # the loss weight of a history point; a point of the horizon has 1


class Windows:
    """Training rows: every window of `history` points and the horizon after it. Windows of shorter
    series have a shorter history and are padded at their end. Where the files have weights, each
    row is a random window of a file, which is chosen with a probability proportional to its weight,
    and an epoch is as many rows as there are windows. In small data sets half of the
    windows are random convex combinations of two normalised windows (TSMixup, Ansari et al. 2024,
    algorithm 1). The normalisation of each window is shifted and rescaled at random by up to
    `JITTER` scales, so that neighbouring bins share training signal."""

    def __init__(
        self, train: Collection, tokenizer: BinsTokenizer | None, history: int, seed: int = 0
    ) -> None:
        self.tokenizer, self.history, self.horizon = tokenizer, history, train.horizon
        self.seed = seed
        self.context = history + train.horizon
        lengths = np.array([len(one) for one in train.series], np.int64)
        for min_history in (min(history, train.season + 1), 1):
            counts = np.maximum(lengths - train.horizon - min_history + 1, 0)
            if counts.any():
                break
        else:
            raise DataError(
                f"--data {train.about}: need at least {train.horizon + 1} points in a series, got "
                f"{lengths.max()}; lower --horizon"
            )
        self.min_history, self.window_ends = min_history, np.cumsum(counts)
        self.season = train.season
        self.file_ends, self.shares = _files(train, counts)
        self.seasons = np.array([one.season or train.season for one in train.series], np.int64)
        self.values = np.concatenate([one.values for one in train.series])
        self.offsets = np.concatenate(([0], np.cumsum(lengths)))
        self.codes: dict[str, Values] = {}  # of the covariates, beside `values`
        for one in tokenizer.covariates.each if tokenizer else ():
            columns = [series.columns[one.name][: len(series)] for series in train.series]
            self.codes[one.name] = np.concatenate([one.codes(column) for column in columns])

    def __len__(self) -> int:
        return int(self.window_ends[-1])

    def rows(self, indices: Ids) -> tuple[Values, Ids]:
        """(B, context) values, padded with NaN at the end, and (B,) lengths of their histories."""
        at, history = self._places(indices)
        values = self.values[at]
        length = (history + self.horizon)[:, None]
        return np.where(np.arange(self.context) < length, values, np.nan), history

    def _places(self, indices: Ids) -> tuple[Ids, Ids]:
        """(B, context) the places of the points in `values`, and (B,) lengths of histories."""
        window, series = self._window_of(indices), self._series_of(indices)
        within = window - np.where(series > 0, self.window_ends[series - 1], 0)
        known = within + self.min_history  # points before the horizon
        history = np.minimum(known, self.history)
        at = (self.offsets[series] + known - history)[:, None] + np.arange(self.context)
        return np.minimum(at, len(self.values) - 1), history

    def _series_of(self, indices: Ids) -> Ids:
        """(B,) the numbers of the series."""
        return np.searchsorted(self.window_ends, self._window_of(indices), side="right")

    def _window_of(self, indices: Ids) -> Ids:
        """(B,) the number of the window that each row is."""
        if not len(self.shares):
            return indices % len(self)
        at = self._uniform(indices, "file")
        file = np.minimum(np.searchsorted(self.shares, at, side="right"), len(self.shares) - 1)
        first = np.where(file > 0, self.file_ends[file - 1], 0)
        count = self.file_ends[file] - first
        return first + (self._uniform(indices, "window") * count).astype(np.int64)

    def seasons_of(self, indices: Ids) -> Ids | None:
        """(B,) the season of each window; None if it is that of the collection for all."""
        if (self.seasons == self.season).all():
            return None
        found: Ids = self.seasons[self._series_of(indices)]
        return found

    def _features(self, indices: Ids, covariates: Covariates) -> Floats:
        """(B, 1 + context, features) of the covariates. In a part of the windows nothing is known
        of the horizon, so that the model can also forecast without."""
        at, history = self._places(indices)
        unknown = (self._uniform(indices, "unknown") < UNKNOWN_PROBABILITY)[:, None]
        unknown = unknown & (np.arange(self.context) >= history[:, None])
        codes = {}
        for one in covariates.each:
            own = self.codes[one.name][at]
            codes[one.name] = np.where(unknown, np.nan, own) if one.kind == "known" else own
        return covariates.rows(codes, history)

    def batch(self, indices: Ids) -> Batch[Array]:
        if self.tokenizer is None:
            raise ValueError("windows without a tokenizer have no ids")
        values, history = self.rows(indices)
        covariates = self.tokenizer.covariates
        features = self._features(indices, covariates) if covariates.each else None
        if len(self.values) <= MIXED_POINTS:
            at, others, share = self._mix_windows(indices, values, history, self.tokenizer)
            if features is not None and len(at):
                theirs, part = self._features(others, covariates), share[..., None]
                features[at] = (1 - part) * features[at] + part * theirs
        size, shift = (2 * self._uniform(indices, name) - 1 for name in ("size", "shift"))
        scales = self.tokenizer.scales(values, history, self.seasons_of(indices))
        scales = scales.perturbed(JITTER * size, JITTER * shift)
        ids = self.tokenizer.encode_rows(values, scales)
        weight = (ids >= FIRST_BIN_ID).astype(np.float32)
        # history weighs less: the normalisation, computed from its end, leaks its later values
        weight[np.arange(weight.shape[1]) <= history[:, None]] *= HISTORY_WEIGHT
        weight[:, 0] = 0
        weight[scales.scale == 0] = 0  # a constant history has only one legal bin
        support = FIRST_BIN_ID, self.tokenizer.vocab_size
        return Batch(ids, weight, support=support, features=features)

    def _mix_windows(
        self, indices: Ids, values: Values, history: Ids, tokenizer: BinsTokenizer
    ) -> tuple[Ids, Ids, Values]:
        """Mixes about half of the windows, in place, with others of equal length: the numbers of
        these rows, the windows that they are mixed with, and the share (rows, 1) of each."""
        others = (self._uniform(indices, "other") * len(self)).astype(np.int64)
        other_values, other_history = self.rows(others)
        seasons, other_seasons = self.seasons_of(indices), self.seasons_of(others)
        scales = [
            tokenizer.scales(values, history, seasons),
            tokenizer.scales(other_values, other_history, other_seasons),
        ]
        mixed = (self._uniform(indices, "mixed") < MIX_PROBABILITY) & (history == other_history)
        if seasons is not None and other_seasons is not None:
            mixed &= seasons == other_seasons
        for each in scales:
            mixed &= each.scale > 0
        at = np.flatnonzero(mixed)
        share = self._uniform(indices[at], "share")[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            ours, theirs = (
                (window[at] - each.location[at, None]) / each.scale[at, None]
                for window, each in zip((values, other_values), scales, strict=True)
            )
            values[at] = (1 - share) * ours + share * theirs
        return at, others[at], share

    def _uniform(self, indices: Ids, name: str) -> Values:
        """(B,) random numbers in [0, 1), keyed by the index of the window."""
        return mix(indices, key(self.seed, name)) / 2.0**64


def _files(train: Collection, counts: Ids) -> tuple[Ids, Values]:
    """(the number of windows up to the end of each file, the cumulative shares of the files), both
    empty without weights. counts: windows of each series. DataError where the weights do not fit
    the files."""
    if not train.weights:
        return np.empty(0, np.int64), np.empty(0)
    windows = np.bincount([one.file for one in train.series], counts, len(train.weights))
    weights = np.where(windows > 0, train.weights, 0.0)
    if not weights.any():
        raise DataError(f"--data {train.about}: no windows in any file with a weight above 0")
    return np.cumsum(windows).astype(np.int64), np.cumsum(weights / weights.sum())
